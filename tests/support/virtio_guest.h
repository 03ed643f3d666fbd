/*
 * A guest's side of virtio for tests: RAM from address 0 with split rings in it, and what a driver does with
 * them. It is written from the specification's section 2.7 alone and knows nothing of the device's code.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/memory.h"
#include "memory/region.h"

#define VIRTIO_GUEST_RAM     (1u << 20)
#define DRIVER_RING_SIZE_MAX 256
#define DRIVER_BUFFER_SIZE   256 /* of each half of a chain */

struct address_space;
struct ram_block;

struct virtio_guest {
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root, ram;
    struct address_space *space;
};

void virtio_guest_create(struct virtio_guest *guest);

/* Everything but RAM is unmapped and destroyed. */
void virtio_guest_destroy(struct virtio_guest *guest);

/* Maps and unmaps a region. */
void virtio_guest_map(struct virtio_guest *guest, uint64_t address, struct memory_region *region);
void virtio_guest_unmap(struct virtio_guest *guest, struct memory_region *region);

/* A driver's side of one queue. Each chain is a buffer to read from and one to write to. */
struct driver_ring {
    struct virtio_guest *guest;
    uint16_t size;
    uint64_t descriptors, driver, device, buffers; /* addresses */
    uint16_t offered, taken;
};

/* An empty ring in the guest's RAM; `index` (0 to 6) says where. */
void driver_ring_init(struct driver_ring *ring, struct virtio_guest *guest, unsigned index, uint16_t size);

/* Offers a chain with `size` bytes (up to DRIVER_BUFFER_SIZE) to read and as much room. At most size / 2 may
 * be out. */
void driver_offer(struct driver_ring *ring, const void *data, uint32_t size);

/* Takes back the chain that was used next: false if there is none. In `data`, of DRIVER_BUFFER_SIZE bytes,
 * what the device has written, which are `*size` bytes. */
bool driver_take(struct driver_ring *ring, void *data, uint32_t *size);
