/*
 * The driver's side of a virtqueue, for tests: written from VIRTIO 1.2, sections 2.7 and 2.8, as literally
 * and as simply as can be, and sharing no code with the device's side. Ring memory is accessed as a driver on
 * another thread must.
 *
 * One thread at a time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QUEUE_DRIVER_MAX  1024 /* entries */
#define QUEUE_DRIVER_NONE (~0u)

struct queue_driver_config {
    uint8_t *memory; /* host memory of guest address 0 */
    uint16_t size;
    uint64_t descriptors, driver, device;
    bool packed, event_idx, in_order;
    uint16_t start; /* split: the first index, as if so many chains had been before */
};

struct queue_driver_buffer {
    uint64_t address;
    uint32_t length;
    bool writable;
};

/* A chain that the device has. */
struct queue_driver_chain {
    bool out;
    unsigned token, count;
    uint16_t descriptors[QUEUE_DRIVER_MAX]; /* split: of the ring; packed: how many, no more */
};

struct queue_driver {
    struct queue_driver_config config;
    struct queue_driver_chain *chains; /* by first descriptor or buffer id */
    uint16_t free[QUEUE_DRIVER_MAX];   /* descriptors or buffer ids, the next last */
    unsigned free_count;               /* split: of them; packed: descriptors of the ring */
    unsigned free_ids;                 /* packed */
    uint16_t order[QUEUE_DRIVER_MAX];  /* ids in the order in which they were offered */
    unsigned order_first, order_count;
    uint16_t avail, used;       /* indices; packed: in the ring */
    bool avail_wrap, used_wrap; /* packed */
    unsigned added; /* split: chains; packed: descriptors, since the last look at what the device wants */
    bool failed;    /* the device has broken the rules */
};

/* Begins with empty rings. */
void queue_driver_init(struct queue_driver *driver, const struct queue_driver_config *config);
void queue_driver_free(struct queue_driver *driver);

/*
 * Offers `count` buffers as one chain, of which those from number `indirect` on (QUEUE_DRIVER_NONE: none) go
 * into an indirect table at address `table`. False if the ring has no room.
 */
bool queue_driver_offer(struct queue_driver *driver, unsigned token,
                        const struct queue_driver_buffer *buffers, unsigned count, unsigned indirect,
                        uint64_t table);

/* Whether the device wants to be kicked for what was offered since the last call. */
bool queue_driver_must_kick(struct queue_driver *driver);

/* Takes back a chain that the device has used; false if there is none. */
bool queue_driver_collect(struct queue_driver *driver, unsigned *token, uint32_t *written);

/* Asks for no interrupts; for one when the next chain comes back; and with EVENT_IDX, when the chain or
 * (packed) descriptor of the ring after `skip` others does. Returns whether a chain is there already. */
void queue_driver_mask(struct queue_driver *driver);
bool queue_driver_unmask(struct queue_driver *driver, unsigned skip);

/*
 * Whether a device that has just put back `count` chains (packed: so many descriptors of the ring), the last
 * of them the one before position `used` and wrap counter `wrap`, owes an interrupt.
 */
bool queue_driver_is_owed(const struct queue_driver *driver, uint16_t used, bool wrap, unsigned count);
