/*
 * A guest with a virtio block device over MMIO, for tests: its registers, and a driver's side of each queue.
 * Whatever should not fail aborts.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "tests/support/queue_driver.h"
#include "tests/support/virtio_guest.h"

#define BLOCK_GUEST_QUEUES_MAX 4
#define BLOCK_GUEST_RING       64
#define BLOCK_GUEST_TABLES     128      /* indirect tables of each queue, of 16 descriptors */
#define BLOCK_GUEST_DATA       0x60000u /* from here on the guest's RAM is free */
#define BLOCK_GUEST_DATA_END   0x100000u
#define BLOCK_GUEST_REGISTERS  0xFEB01000u

/* Registers. */
enum {
    BLOCK_GUEST_STATUS = 0x070,
    BLOCK_GUEST_QUEUE_SEL = 0x030,
    BLOCK_GUEST_QUEUE_NOTIFY = 0x050,
    BLOCK_GUEST_QUEUE_RESET = 0x0C0,
    BLOCK_GUEST_CONFIG = 0x100,
};

struct disk;
struct event_loop;
struct virtio_block;
struct virtio_mmio;

struct block_guest {
    struct virtio_guest guest;
    struct virtio_block *block;
    struct virtio_mmio *mmio;
    unsigned queue_count;
    int irq_fd;
    struct queue_driver drivers[BLOCK_GUEST_QUEUES_MAX];
};

void block_guest_create(struct block_guest *guest, struct disk *disk, unsigned queue_count,
                        struct event_loop *const *loops);
void block_guest_destroy(struct block_guest *guest);

void *block_guest_memory(struct block_guest *guest, uint64_t address);

uint32_t block_guest_get(struct block_guest *guest, unsigned offset);
void block_guest_set(struct block_guest *guest, unsigned offset, uint32_t value);
uint64_t block_guest_offered(struct block_guest *guest);

/* Negotiates these features and VERSION_1, sets all queues up and starts the device. */
void block_guest_start(struct block_guest *guest, uint64_t features);

/* Sets one queue up, as at the start. */
void block_guest_enable(struct block_guest *guest, unsigned queue, uint64_t features);

/* Resets it, and has the drivers forget what is out. */
void block_guest_reset(struct block_guest *guest);

/* Offers a chain, in indirect table number `token` if `indirect`, and kicks if the device wants to be. False
 * where the ring is full. */
bool block_guest_offer(struct block_guest *guest, unsigned queue, unsigned token,
                       const struct queue_driver_buffer *buffers, unsigned count, bool indirect);
