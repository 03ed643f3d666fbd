/*
 * Virtio devices over MMIO, as a driver in user mode sees them: polled split queues (VIRTIO 1.2,
 * sections 2.7, 3.1 and 4.2).
 *
 * A queue's descriptors are its user's: chains are put together in `descriptors` and handed over by the index
 * of the first one.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define VIRTIO_QUEUE_SIZE   64

#define VIRTIO_F_VERSION_1  (1ull << 32)

#define VIRTIO_NEEDS_RESET  0x40 /* of the status */

#define VIRTIO_BUFFER_NEXT  1 /* flags of a descriptor */
#define VIRTIO_BUFFER_WRITE 2

struct virtio_device {
    uint64_t base;
    uint32_t irq;
    uint64_t features; /* that were negotiated */
};

struct virtio_descriptor {
    uint64_t address;
    uint32_t size;
    uint16_t flags;
    uint16_t next;
};

struct virtio_available {
    uint16_t flags, index;
    uint16_t ring[VIRTIO_QUEUE_SIZE];
    uint16_t used_event;
};

struct virtio_used {
    uint16_t flags, index;
    struct {
        uint32_t id, written;
    } ring[VIRTIO_QUEUE_SIZE];
    uint16_t available_event;
};

struct virtio_queue {
    struct virtio_descriptor descriptors[VIRTIO_QUEUE_SIZE] __attribute__((aligned(16)));
    struct virtio_available available;
    struct virtio_used used __attribute__((aligned(4)));
    struct virtio_device *device;
    unsigned number;
    uint16_t seen; /* of the used ring */
};

/* Finds the `index`-th device of the kind `id` in the device tree, in the order of addresses. */
bool virtio_find(uint32_t id, unsigned index, struct virtio_device *device);

/* Resets the device and negotiates those of the features `wanted` that it offers. False if it refuses them.
 */
bool virtio_negotiate(struct virtio_device *device, uint64_t wanted);

/* Sets up queue `number`, which is zeroed. False if the device has none, or a smaller one. */
bool virtio_queue_setup(struct virtio_device *device, unsigned number, struct virtio_queue *queue);

/* The driver is ready. */
void virtio_start(struct virtio_device *device);

uint32_t virtio_status(const struct virtio_device *device);

/* 32 bits of its configuration space, at a multiple of 4. */
uint32_t virtio_config(const struct virtio_device *device, uint32_t offset);

/* Has its interrupts arrive at this CPU as `vector`. */
void virtio_interrupt(const struct virtio_device *device, uint8_t vector);

/* Whether it has interrupted since the last call, which ends the interrupt. At any CPL. */
bool virtio_acknowledge(const struct virtio_device *device);

/* Hands over the chain that begins with the descriptor `head`, and kicks. */
void virtio_queue_put(struct virtio_queue *queue, uint16_t head);

/* Takes a chain that has come back: false if there is none. */
bool virtio_queue_take(struct virtio_queue *queue, uint32_t *head, uint32_t *written);
