/*
 * A guest with a virtio device over MMIO, for tests: its registers, and a driver's side of each queue.
 * Whatever should not fail aborts.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/queue_driver.h"
#include "tests/support/virtio_guest.h"

#define MMIO_GUEST_QUEUES_MAX 9
#define MMIO_GUEST_RING       64
#define MMIO_GUEST_TABLES     128      /* indirect tables of each queue, of 16 descriptors */
#define MMIO_GUEST_DATA       0x60000u /* from here on the guest's RAM is free */
#define MMIO_GUEST_DATA_END   0x100000u
#define MMIO_GUEST_REGISTERS  0xFEB01000u

/* Registers. */
enum {
    MMIO_GUEST_STATUS = 0x070,
    MMIO_GUEST_QUEUE_SEL = 0x030,
    MMIO_GUEST_QUEUE_NOTIFY = 0x050,
    MMIO_GUEST_QUEUE_RESET = 0x0C0,
    MMIO_GUEST_CONFIG = 0x100,
};

struct virtio_device;
struct virtio_mmio;

struct mmio_guest {
    struct virtio_guest guest;
    struct virtio_mmio *mmio;
    unsigned queue_count;
    int irq_fd; /* signalled for each interrupt */
    struct queue_driver drivers[MMIO_GUEST_QUEUES_MAX];
};

/* RAM and nothing else; then a device that has been made with `guest.space`. It is unplugged before it is
 * destroyed. */
void mmio_guest_create(struct mmio_guest *guest);
void mmio_guest_plug(struct mmio_guest *guest, struct virtio_device *device, unsigned queue_count);
void mmio_guest_unplug(struct mmio_guest *guest);
void mmio_guest_destroy(struct mmio_guest *guest);

void *mmio_guest_memory(struct mmio_guest *guest, uint64_t address);

uint32_t mmio_guest_get(struct mmio_guest *guest, unsigned offset);
void mmio_guest_set(struct mmio_guest *guest, unsigned offset, uint32_t value);
uint64_t mmio_guest_offered(struct mmio_guest *guest);

/* Negotiates these features and VERSION_1, sets all queues up and starts the device. */
void mmio_guest_start(struct mmio_guest *guest, uint64_t features);

/* Sets one queue up, as at the start. */
void mmio_guest_enable(struct mmio_guest *guest, unsigned queue, uint64_t features);

/* Resets it, and has the drivers forget what is out. */
void mmio_guest_reset(struct mmio_guest *guest);

/* Offers a chain, in indirect table number `token` if `indirect`, and kicks if the device wants to be. False
 * where the ring is full. */
bool mmio_guest_offer(struct mmio_guest *guest, unsigned queue, unsigned token,
                      const struct queue_driver_buffer *buffers, unsigned count, bool indirect);
