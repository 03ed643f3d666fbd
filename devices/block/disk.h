/*
 * Disk images: raw files and block devices, read and written through an event loop's io_uring.
 *
 * Requests are given to the loop that serves them, so one disk can be used by several loops at the same time
 * and has no lock of its own in the data path. Order among requests under way is the guest's business, as
 * with every disk; a flush covers the writes that were completed before it.
 *
 * Cache modes: `writeback` uses the host's page cache and flushes when the guest does; `none` bypasses it
 * (O_DIRECT: the image's own block size is what the guest is told, and unaligned buffers go through a bounce
 * buffer of up to 64 KiB for each request under way); `unsafe` ignores flushes. An image that can be written
 * is locked (an open file description lock) against every other use, a read-only one against writers.
 *
 * Requests are made of whole blocks. What the file system or the disk cannot do by itself is done with what
 * there is: zeroes are written where it cannot make them, discards, which are only hints, are left out.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/event_loop.h"

struct error;
struct disk;

#define DISK_SECTOR_SIZE 512

enum disk_cache {
    DISK_CACHE_WRITEBACK,
    DISK_CACHE_NONE,
    DISK_CACHE_UNSAFE,
};

struct disk_config {
    const char *path;
    bool readonly;
    enum disk_cache cache;
    bool look_only; /* it is measured alone: neither locked nor written, and may be in use elsewhere */
};

/* What the guest should know. */
struct disk_geometry {
    uint64_t sectors;       /* of DISK_SECTOR_SIZE */
    uint32_t block_size;    /* logical, 512 to 4096 */
    uint32_t physical_size; /* a multiple of it, or equal */
    uint32_t optimal_size;  /* 0: unknown */
    bool readonly, discards;
    uint32_t discard_granularity;
};

/*
 * Opens and locks an image. -errno with a message that names the file: missing, a directory, empty or not
 * whole blocks, locked by another (who, where /proc tells; devices/block/disk_lock.h), not writable, O_DIRECT
 * not supported there. May wait for a second.
 */
int disk_open(const struct disk_config *config, struct disk **disk, struct error *err);

/* No request is under way. NULL is allowed. */
void disk_close(struct disk *disk);

const struct disk_geometry *disk_geometry(const struct disk *disk);

enum disk_operation {
    DISK_READ,
    DISK_WRITE,
    DISK_FLUSH,
    DISK_DISCARD,
    DISK_WRITE_ZEROES,
};

/* A place in the memory of a request. Private. */
struct disk_cursor {
    struct iovec piece; /* what is left of an iovec that was not moved as a whole */
    const struct iovec *iov;
    unsigned count;
};

/*
 * One request. Embedded in its owner, who fills in the first part and keeps it and the buffers until `done`
 * (on the loop's thread) is called with 0 or -errno: -EINVAL for what lies outside of the image or is not
 * whole blocks, -EROFS, -ENOSPC where its file system is full, -ECANCELED, -EIO for a short read (the file
 * was truncated) and other failures.
 */
struct disk_request {
    enum disk_operation operation;
    uint64_t offset, length; /* bytes; of discards and zeroes, and of the iovecs together */
    const struct iovec *iov; /* of reads and writes; the bytes may change at any time */
    unsigned iov_count;
    bool unmap; /* DISK_WRITE_ZEROES: the blocks may be given back */
    void (*done)(struct disk_request *request, int result);

    struct event_request io; /* private from here on */
    struct disk *disk;
    struct event_loop *loop;
    uint64_t moved;
    struct disk_cursor cursor;
    char *bounce;
    int mode; /* of fallocate(2) */
    int result;
    bool cancelled;
};

/* Starts a request. On the loop's thread. Never calls `done` before it returns. */
void disk_submit(struct disk *disk, struct event_loop *loop, struct disk_request *request);

/* Tries to end a request that is under way early. `done` is called in every case. On the loop's thread. */
void disk_cancel(struct disk_request *request);
