/*
 * A virtio block device on a disk image (block/disk.h).
 *
 * Each queue is served by its event loop alone; as many requests are under way as its ring has room for.
 * Requests may be laid out in any way (the header, the data and the status byte need no descriptors of their
 * own). A request that makes no sense is answered with an error and harms neither its queue nor others; one
 * without room for an answer is given back without.
 *
 * Offered: several queues, flushes, a cache that the driver can switch to write-through, discards where the
 * disk has them, writes of zeroes, the disk's block sizes, a serial number. Without FLUSH a write is complete
 * when it is stable.
 *
 * Specification: VIRTIO 1.2, section 5.2.
 */
#pragma once

#include <stdint.h>

struct address_space;
struct disk;
struct error;
struct event_loop;
struct log;
struct virtio_block;
struct virtio_device;

#define VIRTIO_BLOCK_SERIAL_MAX 20

struct virtio_block_config {
    struct disk *disk;  /* borrowed, as is the rest; it says whether the device is read-only */
    const char *serial; /* up to VIRTIO_BLOCK_SERIAL_MAX bytes; NULL: empty */
    const struct log *log;
    struct address_space *space;
    unsigned queue_count;
    struct event_loop *const *loops; /* one for each queue */
};

/* -errno with a message. */
int virtio_block_create(const struct virtio_block_config *config, struct virtio_block **block,
                        struct error *err);

/* For its transport. */
struct virtio_device *virtio_block_device(struct virtio_block *block);

/* Cancels what is under way, waits for it and frees the device. Its transport is gone. NULL is allowed. */
void virtio_block_destroy(struct virtio_block *block);
