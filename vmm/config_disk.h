/*
 * The value of --disk: an image and what the guest gets of it,
 * "PATH[,ro][,queues=N][,cache=MODE][,serial=TEXT]". A comma that belongs to the path or the serial number is
 * written twice.
 */
#pragma once

#include <stdbool.h>

#include "devices/block/disk.h"

struct error;

#define CONFIG_DISK_QUEUES_MAX 16
#define CONFIG_DISK_SERIAL_MAX 20 /* bytes; all that virtio has room for */

/* Strings are owned. */
struct config_disk {
    char *path;
    bool readonly;
    unsigned queues; /* 1 to CONFIG_DISK_QUEUES_MAX */
    enum disk_cache cache;
    char serial[CONFIG_DISK_SERIAL_MAX + 1];
};

/*
 * Fills `disk` from `text`. A relative path is taken relative to `folder`; NULL is the current directory.
 * Returns 0, -EINVAL with a message, or -ENOMEM; `disk` holds nothing then. Any thread.
 */
int config_disk_parse(struct config_disk *disk, const char *text, const char *folder, struct error *err);

void config_disk_free(struct config_disk *disk);
