/*
 * Disk images: raw files and block devices, read and written through an event loop's io_uring.
 *
 * Requests are given to the loop that serves them, so one image can be used by several loops at the same time
 * and has no lock of its own in the data path. Order among requests under way is the guest's business, as
 * with every disk; a flush covers the writes that were completed before it.
 *
 * Cache modes: `writeback` uses the host's page cache and flushes when the guest does; `none` bypasses it
 * (O_DIRECT: the image's own block size is what the guest is told, and unaligned buffers go through a bounce
 * buffer); `unsafe` ignores flushes. An image that can be written is locked (an open file description lock)
 * against every other process that uses it, a read-only one against writers.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/event_loop.h"

struct error;
struct image;

#define IMAGE_SECTOR_SIZE 512

enum image_cache {
    IMAGE_CACHE_WRITEBACK,
    IMAGE_CACHE_NONE,
    IMAGE_CACHE_UNSAFE,
};

struct image_config {
    const char *path;
    bool readonly;
    enum image_cache cache;
};

/* What the guest should know. */
struct image_geometry {
    uint64_t sectors;       /* of IMAGE_SECTOR_SIZE */
    uint32_t block_size;    /* logical, 512 to 4096 */
    uint32_t physical_size; /* a multiple of it, or equal */
    uint32_t optimal_size;  /* 0: unknown */
    bool discards, writes_zeroes;
    uint32_t discard_granularity;
};

/*
 * Opens and locks an image. -errno with a message that names the file: missing, a directory, empty or not
 * whole sectors, locked by another (who, where /proc tells), not writable, O_DIRECT not supported there.
 */
int image_open(const struct image_config *config, struct image **image, struct error *err);

/* No request is under way. NULL is allowed. */
void image_close(struct image *image);

const struct image_geometry *image_geometry(const struct image *image);

enum image_operation {
    IMAGE_READ,
    IMAGE_WRITE,
    IMAGE_FLUSH,
    IMAGE_DISCARD,
    IMAGE_WRITE_ZEROES,
};

/*
 * One request. Embedded in its owner, who fills in the first part and keeps it and the buffers until `done`
 * (on the loop's thread) is called with 0 or -errno: -EINVAL for what lies outside of the image, -EROFS,
 * -ENOSPC where its file system is full, -EIO for a short read (the file was truncated) and other failures.
 */
struct image_request {
    enum image_operation operation;
    uint64_t offset, length; /* bytes; of discards and zeroes, and of the iovecs together */
    const struct iovec *iov;
    unsigned iov_count;
    bool unmap; /* IMAGE_WRITE_ZEROES: the blocks may be given back */
    void (*done)(struct image_request *request, int result);

    struct event_request io; /* private from here on */
    struct image *image;
    struct event_loop *loop;
    struct iovec *rest;
    void *bounce;
    uint64_t moved;
};

/* Starts a request. On the loop's thread. Never calls `done` before it returns. */
void image_submit(struct image *image, struct event_loop *loop, struct image_request *request);
