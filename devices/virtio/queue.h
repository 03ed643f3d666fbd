/*
 * Virtqueues, the device's side: how buffers that a driver offers reach a device and come back.
 *
 * One walk serves all devices and both layouts, split and packed, with indirect descriptors, EVENT_IDX and
 * IN_ORDER. All of a queue's memory is the guest's and hostile: each field is read once, checked, and used
 * from the copy. A queue that breaks the rules (a loop, an index that jumps, memory that is not RAM, an
 * empty or too long chain, a nested indirect table, a write-only part before a read-only one) is broken:
 * virtqueue_pop() says so once with a message, from then on the queue is silent, and its device asks for a
 * reset (virtio/device.h). Nothing else comes to harm.
 *
 * What the specification leaves open: each area of the rings, and each indirect table, must be one piece of
 * host memory, as any is that lies within one RAM block; buffers need not be. An indirect table has at most
 * VIRTQUEUE_SIZE_MAX descriptors, and may have more than the ring. A buffer of no length is left out,
 * wherever it points to; a chain of nothing else is empty. Buffer ids of packed rings are below the queue's
 * size.
 *
 * A chain is the buffers of one request as host memory, in two halves: what the device reads and what it
 * writes. It holds the view of memory that it was found in, so a commit does not hurt it, until it is pushed
 * or dropped; the bytes written are marked dirty then. The queue itself holds a view while chains are out,
 * and once it has been looked at (popped from, or kicks declined) until it is found empty, the last chain is
 * put back, or an interrupt is decided on; it takes another when one has been published. memory_synchronize()
 * waits for all of them, so a device that waits for something that may never come (input) does not keep a
 * chain meanwhile, but puts it back.
 *
 * A queue belongs to one thread at a time: the vCPU that configures it while it is not enabled, the thread of
 * its event loop from then on until it is reset. No call blocks.
 *
 * Specification: Virtual I/O Device (VIRTIO) Version 1.2, sections 2.6 to 2.9.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct address_space;
struct error;
struct virtqueue;

#define VIRTQUEUE_SIZE_MAX 1024 /* entries; split queues use powers of two */

/* What the driver has set up. */
struct virtqueue_config {
    const char *name; /* for errors; borrowed */
    struct address_space *space;
    uint16_t size;
    uint64_t descriptors, driver, device; /* addresses of the three areas */
    bool packed, event_idx, indirect, in_order;
};

/* Buffers of one request. Bytes beyond 2^32 - 1 in either half make a chain invalid. */
struct virtqueue_chain {
    const struct iovec *out; /* the device reads these; the guest can change their contents at any time */
    const struct iovec *in;  /* the device writes these */
    unsigned out_count, in_count;
    uint32_t out_bytes, in_bytes;
    /*
     * What is marked dirty of the second half, from its first byte on: at least what virtqueue_write() has
     * written and virtqueue_push() says. A device that writes `in` by itself and may have written more than
     * it tells the driver, as when a read fails halfway, makes it so many.
     */
    uint32_t touched;
};

/* -EINVAL with a message for a size or an alignment that the specification does not allow; -ENOMEM. */
int virtqueue_create(const struct virtqueue_config *config, struct virtqueue **queue, struct error *err);

/* Every chain must have been pushed or dropped. NULL is allowed. */
void virtqueue_destroy(struct virtqueue *queue);

/*
 * Takes the next chain: 1 with `*chain`, which stays the queue's and is valid until it is pushed or dropped;
 * 0 when there is none; -EPROTO, and a message the first time, for a broken queue; -ENOMEM.
 */
int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain **chain, struct error *err);

/*
 * Gives a chain back to the driver, and tells it that `written` bytes of the second half, from the first on,
 * have been written. Chains may come back in any order; with IN_ORDER the driver sees them in the order in
 * which they were taken.
 */
void virtqueue_push(struct virtqueue *queue, struct virtqueue_chain *chain, uint32_t written);

/*
 * As virtqueue_push() of each of them in turn (`written` NULL: nothing in any), but the driver sees none
 * before it sees all: what a frame in several buffers needs (VIRTIO 1.2, section 5.1.6.4.1), and less work.
 */
void virtqueue_push_all(struct virtqueue *queue, struct virtqueue_chain *const *chains,
                        const uint32_t *written, unsigned count);

/* Forgets a chain that the driver will not see again: at a reset, or where the queue is broken. With IN_ORDER
 * none of those that are out is seen again. */
void virtqueue_drop(struct virtqueue *queue, struct virtqueue_chain *chain);

/* Puts the last chain taken back in front of the queue, as if it had not been taken. */
void virtqueue_unpop(struct virtqueue *queue, struct virtqueue_chain *chain);

/* Whether the driver wants to be interrupted for what was pushed since the last call. A device calls it after
 * each batch that it has pushed. */
bool virtqueue_wants_interrupt(struct virtqueue *queue);

/*
 * Asks the driver for kicks, as is so at first, or to leave them out while the device looks by itself. After
 * asking for them, returns whether there is something to pop (a chain, or the message of a broken queue), for
 * which there may be no kick. Where kicks are wanted virtqueue_pop() too asks before it says that there is no
 * chain; so a device that goes on until then misses none.
 */
bool virtqueue_set_kicks(struct virtqueue *queue, bool wanted);

/* Whether there is something to pop (a chain, or the message of a broken queue), without asking for a kick:
 * for a device that looks by itself while kicks are declined. */
bool virtqueue_peek(struct virtqueue *queue);

bool virtqueue_broken(const struct virtqueue *queue);

/*
 * Where the device is in the rings, for PCI's and vhost's queue state and for migration: the index (and, for
 * packed rings, the wrap counter in bit 15) of the next chain to take, and of the next to give back. Only
 * while no chain is out, and the driver has been interrupted if it wants to be. A position that no ring of
 * this size has breaks the queue.
 */
void virtqueue_get_position(const struct virtqueue *queue, uint16_t *next_avail, uint16_t *next_used);
void virtqueue_set_position(struct virtqueue *queue, uint16_t next_avail, uint16_t next_used);

/* Copies between the halves of a chain and plain memory, from `offset` bytes on. Return how many bytes there
 * were. */
size_t virtqueue_read(const struct virtqueue_chain *chain, size_t offset, void *data, size_t size);
size_t virtqueue_write(struct virtqueue_chain *chain, size_t offset, const void *data, size_t size);
