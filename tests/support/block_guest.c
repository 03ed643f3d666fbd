#include "tests/support/block_guest.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio/block.h"
#include "devices/virtio/mmio.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"

#define RINGS       0x10000
#define RING_STRIDE 0x14000
#define RING_DRIVER 0x2000
#define RING_DEVICE 0x4000
#define RING_TABLES 0x8000
#define TABLE_SIZE  256

enum {
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_NUM = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_DESC = 0x080,
    QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0A0,
    NEGOTIATED = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
};

static void must(bool holds)
{
    if (!holds)
        abort();
}

void block_guest_create(struct block_guest *guest, struct disk *disk, unsigned queue_count,
                        struct event_loop *const *loops)
{
    *guest = (struct block_guest){.queue_count = queue_count};
    virtio_guest_create(&guest->guest);
    struct virtio_block_config config = {
        .disk = disk,
        .serial = "godwit-disk",
        .space = guest->guest.space,
        .queue_count = queue_count,
        .loops = loops,
    };
    must(queue_count <= BLOCK_GUEST_QUEUES_MAX);
    must((guest->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) >= 0);
    must(virtio_block_create(&config, &guest->block, NULL) == 0);
    must(virtio_mmio_create(guest->guest.memory, virtio_block_device(guest->block), guest->irq_fd,
                            &guest->mmio, NULL) == 0);
    virtio_guest_map(&guest->guest, BLOCK_GUEST_REGISTERS, virtio_mmio_region(guest->mmio));
}

static void forget_rings(struct block_guest *guest)
{
    for (unsigned i = 0; i < guest->queue_count; i++)
        queue_driver_free(&guest->drivers[i]);
    memset(guest->drivers, 0, sizeof(guest->drivers));
}

void block_guest_destroy(struct block_guest *guest)
{
    virtio_guest_unmap(&guest->guest, virtio_mmio_region(guest->mmio));
    virtio_mmio_destroy(guest->mmio);
    virtio_block_destroy(guest->block);
    forget_rings(guest);
    virtio_guest_destroy(&guest->guest);
    close(guest->irq_fd);
}

void *block_guest_memory(struct block_guest *guest, uint64_t address)
{
    return (char *)guest->guest.block->host + address;
}

uint32_t block_guest_get(struct block_guest *guest, unsigned offset)
{
    uint32_t value = 0;
    must(address_space_read(guest->guest.space, BLOCK_GUEST_REGISTERS + offset, &value, sizeof(value)) == 0);
    return value;
}

void block_guest_set(struct block_guest *guest, unsigned offset, uint32_t value)
{
    must(address_space_write(guest->guest.space, BLOCK_GUEST_REGISTERS + offset, &value, sizeof(value)) == 0);
}

uint64_t block_guest_offered(struct block_guest *guest)
{
    uint64_t features = 0;
    for (unsigned half = 0; half < 2; half++) {
        block_guest_set(guest, DEVICE_FEATURES_SEL, half);
        features |= (uint64_t)block_guest_get(guest, DEVICE_FEATURES) << 32 * half;
    }
    return features;
}

static void set_address(struct block_guest *guest, unsigned offset, uint64_t address)
{
    block_guest_set(guest, offset, (uint32_t)address);
    block_guest_set(guest, offset + 4, (uint32_t)(address >> 32));
}

void block_guest_enable(struct block_guest *guest, unsigned queue, uint64_t features)
{
    uint64_t base = RINGS + (uint64_t)queue * RING_STRIDE;
    struct queue_driver_config config = {
        .memory = block_guest_memory(guest, 0),
        .size = BLOCK_GUEST_RING,
        .descriptors = base,
        .driver = base + RING_DRIVER,
        .device = base + RING_DEVICE,
        .packed = features >> VIRTIO_F_RING_PACKED & 1,
        .event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1,
        .in_order = features >> VIRTIO_F_IN_ORDER & 1,
    };
    queue_driver_free(&guest->drivers[queue]);
    queue_driver_init(&guest->drivers[queue], &config);
    block_guest_set(guest, BLOCK_GUEST_QUEUE_SEL, queue);
    block_guest_set(guest, QUEUE_NUM, config.size);
    set_address(guest, QUEUE_DESC, config.descriptors);
    set_address(guest, QUEUE_DRIVER, config.driver);
    set_address(guest, QUEUE_DEVICE, config.device);
    block_guest_set(guest, QUEUE_READY, 1);
}

void block_guest_start(struct block_guest *guest, uint64_t features)
{
    features |= (uint64_t)1 << VIRTIO_F_VERSION_1;
    for (unsigned half = 0; half < 2; half++) {
        block_guest_set(guest, DRIVER_FEATURES_SEL, half);
        block_guest_set(guest, DRIVER_FEATURES, (uint32_t)(features >> 32 * half));
    }
    block_guest_set(guest, BLOCK_GUEST_STATUS, NEGOTIATED);
    for (unsigned i = 0; i < guest->queue_count; i++)
        block_guest_enable(guest, i, features);
    block_guest_set(guest, BLOCK_GUEST_STATUS, NEGOTIATED | VIRTIO_CONFIG_S_DRIVER_OK);
    must(block_guest_get(guest, BLOCK_GUEST_STATUS) == (NEGOTIATED | VIRTIO_CONFIG_S_DRIVER_OK));
}

void block_guest_reset(struct block_guest *guest)
{
    block_guest_set(guest, BLOCK_GUEST_STATUS, 0);
    must(block_guest_get(guest, BLOCK_GUEST_STATUS) == 0);
    forget_rings(guest);
}

bool block_guest_offer(struct block_guest *guest, unsigned queue, unsigned token,
                       const struct queue_driver_buffer *buffers, unsigned count, bool indirect)
{
    uint64_t tables = RINGS + (uint64_t)queue * RING_STRIDE + RING_TABLES;
    struct queue_driver *driver = &guest->drivers[queue];
    must(token < BLOCK_GUEST_TABLES && (!indirect || count <= TABLE_SIZE / 16));
    if (!queue_driver_offer(driver, token, buffers, count, indirect ? 0 : QUEUE_DRIVER_NONE,
                            tables + (uint64_t)token * TABLE_SIZE))
        return false;
    if (queue_driver_must_kick(driver))
        block_guest_set(guest, BLOCK_GUEST_QUEUE_NOTIFY, queue);
    return true;
}
