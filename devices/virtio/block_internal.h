/*
 * What the two halves of the block device share: block.c has the device and the life of its queues,
 * block_request.c carries out requests.
 */
#pragma once

#include <linux/virtio_blk.h>
#include <stdbool.h>

#include "base/event_loop.h"
#include "devices/block/disk.h"
#include "devices/virtio/block.h"
#include "devices/virtio/device.h"
#include "devices/virtio/queue.h"

/* Of one discard or write of zeroes: ranges, and sectors of each. */
#define RANGES_MAX          16
#define DISCARD_SECTORS_MAX (1u << 22)
#define ZEROES_SECTORS_MAX  (1u << 18)

struct block_queue;

/* Made when needed, kept until the device is destroyed. */
struct block_request {
    struct disk_request io;
    struct block_queue *queue;
    struct virtqueue_chain *chain; /* NULL: free */
    struct block_request *next, *next_free;
    struct virtio_blk_discard_write_zeroes ranges[RANGES_MAX]; /* the host's byte order */
    unsigned range, range_count;                               /* what is yet to be done of them */
    bool flush;                                                /* is yet to be done, as the last step */
    struct iovec *iov; /* the data, where it does not begin and end with those of the chain */
    unsigned iov_capacity;
};

/* Its loop's. */
struct block_queue {
    struct virtio_block *block;
    unsigned index;
    struct event_loop *loop;
    struct virtqueue *ring; /* while it is started */
    struct block_request *requests, *free_requests;
    unsigned under_way; /* requests of the disk */
    bool stopping;
    struct event_task interrupt; /* once for a batch of answers */
};

struct virtio_block {
    struct virtio_device device;
    struct disk *disk;
    char serial[VIRTIO_BLOCK_SERIAL_MAX];
    struct virtio_blk_config config; /* but for `wce` */
    _Atomic bool writeback;          /* as the driver has switched it */
    struct block_queue queues[VIRTIO_QUEUES_MAX];
};

/* Carries out a chain and gives it back, at once or later. */
void block_request_begin(struct block_queue *queue, struct virtqueue_chain *chain);

/* Gives up whatever is under way: chains are dropped, and virtio_queue_stopped() is called. */
void block_requests_stop(struct block_queue *queue);

void block_requests_free(struct block_queue *queue);
