/*
 * Virtqueues, the driver's side, for programs in user mode: split and packed rings, with EVENT_IDX and
 * indirect tables where these were negotiated (VIRTIO 1.2, sections 2.7 and 2.8).
 *
 * A chain is handed over with a token, a number of the user's below VIRTQUEUE_SIZE_MAX, by which it is known
 * when it comes back. Handing over, kicking and interrupts are apart, so that one kick serves a batch.
 *
 * A queue is used by one CPU, on which its interrupts are not handled while it is. The rings are public: a
 * program that wants to break the rules writes them by itself.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define VIRTQUEUE_SIZE_MAX      256
#define VIRTQUEUE_CHAIN_MAX     4

#define VIRTQUEUE_NEXT          1 /* flags of a descriptor */
#define VIRTQUEUE_WRITE         2
#define VIRTQUEUE_INDIRECT      4
#define VIRTQUEUE_AVAILABLE     0x0080 /* packed */
#define VIRTQUEUE_USED          0x8000

#define VIRTQUEUE_EVENT_ENABLE  0 /* flags of an event area of a packed ring */
#define VIRTQUEUE_EVENT_DISABLE 1
#define VIRTQUEUE_EVENT_AT      2

#define VIRTQUEUE_WRAP          0x8000 /* in a position of a packed ring: the wrap counter */

/* A piece of a chain. Those that the device reads come before those that it writes. */
struct virtqueue_buffer {
    const void *data;
    uint32_t size;
    bool write; /* by the device */
};

struct virtqueue_descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t third, fourth; /* split: flags and next; packed: id and flags */
};

/* The driver area of a split ring. Where the other side is to notify lies behind as many entries as there
 * are.
 */
struct virtqueue_available {
    uint16_t flags, index;
    uint16_t ring[VIRTQUEUE_SIZE_MAX + 1];
};

struct virtqueue_used_entry {
    uint32_t id, written;
};

struct virtqueue_used {
    uint16_t flags, index;
    struct virtqueue_used_entry ring[VIRTQUEUE_SIZE_MAX + 1];
};

/* Either of the event areas of a packed ring. */
struct virtqueue_event {
    uint16_t position, flags;
};

/* Zeroed before virtqueue_begin(). */
struct virtqueue {
    struct virtqueue_descriptor descriptors[VIRTQUEUE_SIZE_MAX] __attribute__((aligned(16)));
    union {
        struct virtqueue_available available;
        struct virtqueue_event driver_event;
    } __attribute__((aligned(4)));
    union {
        struct virtqueue_used used;
        struct virtqueue_event device_event;
    } __attribute__((aligned(4)));
    struct virtqueue_descriptor tables[VIRTQUEUE_SIZE_MAX][VIRTQUEUE_CHAIN_MAX] __attribute__((aligned(16)));
    /* Private from here on. */
    unsigned number;
    uint16_t size;
    bool packed, event_idx, indirect;
    uint64_t notify; /* where a kick is written */
    bool notify_wide;
    uint16_t next, seen; /* positions: of the next chain to hand over, and to take */
    uint16_t kicked;     /* where the last kick was decided on */
    uint16_t left, free; /* entries of the ring; the first id that is not in use */
    struct {
        uint16_t token, next;
        uint8_t entries;
    } ids[VIRTQUEUE_SIZE_MAX];
    uint64_t kicks; /* that were sent; public */
};

/* Prepares a zeroed queue of `size` entries: a power of two up to VIRTQUEUE_SIZE_MAX. */
void virtqueue_begin(struct virtqueue *queue, uint16_t size, uint64_t features);

/* Hands a chain of 1 to VIRTQUEUE_CHAIN_MAX buffers over. False, and nothing is done, where there is no room.
 */
bool virtqueue_add(struct virtqueue *queue, const struct virtqueue_buffer *buffers, unsigned count,
                   uint16_t token);

/* Kicks for what was handed over since the last call, if the device wants that. */
void virtqueue_kick(struct virtqueue *queue);

/* Takes a chain that has come back: false if there is none. */
bool virtqueue_take(struct virtqueue *queue, uint16_t *token, uint32_t *written);

/*
 * Asks for an interrupt for the next chain that comes back, or to leave interrupts out, as is so at first.
 * After asking, returns whether a chain has come back already, for which there may be none.
 */
bool virtqueue_set_interrupts(struct virtqueue *queue, bool wanted);
