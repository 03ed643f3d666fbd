/*
 * What a machine's devices stand on in the host: disk images. They are opened, and locked, before the machine
 * is made and closed after it, so a guest that resets gets a new machine on the same backends, and nobody
 * takes an image away meanwhile.
 *
 * Made and freed by the machine's thread, while the event loop does not run.
 */
#pragma once

#include "vmm/config.h"

struct disk;
struct error;

/* Zeroed, it has none open. To be read only by others. */
struct backends {
    struct disk *disks[CONFIG_DISKS_MAX]; /* one for each of the configuration's */
};

/* Opens what the configuration names; locks it, unless the machine is only looked at. -errno with a message;
 * backends_close() in every case. */
int backends_open(struct backends *backends, const struct config *config, struct error *err);

/* No machine uses them. */
void backends_close(struct backends *backends);
