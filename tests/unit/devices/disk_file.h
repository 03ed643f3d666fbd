/*
 * Temporary files as disk images, for tests.
 */
#pragma once

#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "devices/block/disk.h"

struct disk_file {
    char path[64];
    int fd;
};

static inline void disk_file_create(struct disk_file *file, uint64_t size)
{
    /* Not in a tmpfs, which may lack direct I/O. */
    snprintf(file->path, sizeof(file->path), "/var/tmp/godwit-disk-XXXXXX");
    file->fd = mkostemp(file->path, O_CLOEXEC);
    cr_assert_geq(file->fd, 0);
    cr_assert_eq(ftruncate(file->fd, (off_t)size), 0);
}

static inline void disk_file_destroy(struct disk_file *file)
{
    close(file->fd);
    unlink(file->path);
}

static inline struct disk *disk_file_open(const struct disk_file *file, enum disk_cache cache, bool readonly)
{
    struct disk_config config = {.path = file->path, .cache = cache, .readonly = readonly};
    struct disk *disk;
    struct error err = {0};
    cr_assert_eq(disk_open(&config, &disk, &err), 0, "%s", err.message);
    return disk;
}
