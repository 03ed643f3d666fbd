/*
 * What the two halves of a disk image share: disk_open.c opens and measures, image.c serves requests.
 */
#pragma once

#include "devices/block/disk.h"

#define ZEROES_SIZE ((size_t)1 << 20)

struct disk {
    int fd;
    bool direct, ignores_flushes;
    uint64_t size; /* when it was opened */
    struct disk_geometry geometry;
    uint32_t buffer_alignment; /* of each piece of memory, address and size */
    void *zeroes;              /* ZEROES_SIZE of them, read-only */
    /* What its file system turned out not to have. */
    _Atomic bool no_holes, no_zero_ranges;
};
