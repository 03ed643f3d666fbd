#include "tests/support/virtio_guest.h"

#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "memory/address_space.h"
#include "memory/ram_block.h"

#define RING_STRIDE  0x20000
#define RING_FIRST   0x10000
#define RING_DRIVER  0x2000
#define RING_DEVICE  0x4000
#define RING_BUFFERS 0x8000

static void must(bool holds)
{
    if (!holds)
        abort();
}

void virtio_guest_create(struct virtio_guest *guest)
{
    *guest = (struct virtio_guest){.memory = memory_create()};
    must(guest->memory);
    must(ram_block_create("ram", VIRTIO_GUEST_RAM, 0, &guest->block, NULL) == 0);
    must(memory_region_init_container(&guest->root, guest->memory, "memory", MEMORY_SIZE_MAX, NULL) == 0);
    must(memory_region_init_ram(&guest->ram, guest->memory, "ram", guest->block, 0, VIRTIO_GUEST_RAM, NULL) ==
         0);
    must(address_space_create(guest->memory, "memory", &guest->root, &guest->space, NULL) == 0);
    virtio_guest_map(guest, 0, &guest->ram);
}

void virtio_guest_destroy(struct virtio_guest *guest)
{
    virtio_guest_unmap(guest, &guest->ram);
    address_space_destroy(guest->space);
    memory_region_destroy(&guest->ram);
    memory_region_destroy(&guest->root);
    memory_destroy(guest->memory);
    ram_block_destroy(guest->block);
}

void virtio_guest_map(struct virtio_guest *guest, uint64_t address, struct memory_region *region)
{
    must(memory_region_add_subregion(&guest->root, address, region, 0, NULL) == 0);
}

void virtio_guest_unmap(struct virtio_guest *guest, struct memory_region *region)
{
    must(memory_region_remove_subregion(region, NULL) == 0);
    memory_synchronize(guest->memory);
}

static void *host(const struct driver_ring *ring, uint64_t address)
{
    return (char *)ring->guest->block->host + address;
}

void driver_ring_init(struct driver_ring *ring, struct virtio_guest *guest, unsigned index, uint16_t size)
{
    uint64_t base = RING_FIRST + (uint64_t)index * RING_STRIDE;
    must(size <= DRIVER_RING_SIZE_MAX && base + RING_STRIDE <= VIRTIO_GUEST_RAM);
    *ring = (struct driver_ring){.guest = guest,
                                 .size = size,
                                 .descriptors = base,
                                 .driver = base + RING_DRIVER,
                                 .device = base + RING_DEVICE,
                                 .buffers = base + RING_BUFFERS};
    memset(host(ring, base), 0, RING_BUFFERS);
}

static uint64_t out_buffer(const struct driver_ring *ring, unsigned slot)
{
    return ring->buffers + (uint64_t)slot * 2 * DRIVER_BUFFER_SIZE;
}

void driver_offer(struct driver_ring *ring, const void *data, uint32_t size)
{
    unsigned slot = ring->offered % (ring->size / 2u);
    uint16_t head = (uint16_t)(slot * 2);
    uint64_t out = out_buffer(ring, slot);
    struct vring_desc *descriptors = host(ring, ring->descriptors);
    struct vring_avail *avail = host(ring, ring->driver);
    must(size <= DRIVER_BUFFER_SIZE && (uint16_t)(ring->offered - ring->taken) < ring->size / 2);
    memcpy(host(ring, out), data, size);
    descriptors[head] = (struct vring_desc){out, size, VRING_DESC_F_NEXT, head + 1};
    descriptors[head + 1] = (struct vring_desc){out + DRIVER_BUFFER_SIZE, size, VRING_DESC_F_WRITE, 0};
    avail->ring[ring->offered % ring->size] = head;
    __atomic_store_n(&avail->idx, ++ring->offered, __ATOMIC_RELEASE);
}

bool driver_take(struct driver_ring *ring, void *data, uint32_t *size)
{
    const struct vring_used *used = host(ring, ring->device);
    if (__atomic_load_n(&used->idx, __ATOMIC_ACQUIRE) == ring->taken)
        return false;
    const struct vring_used_elem *element = &used->ring[ring->taken++ % ring->size];
    must(element->id % 2 == 0 && element->id < ring->size && element->len <= DRIVER_BUFFER_SIZE);
    *size = element->len;
    memcpy(data, host(ring, out_buffer(ring, element->id / 2) + DRIVER_BUFFER_SIZE), element->len);
    return true;
}
