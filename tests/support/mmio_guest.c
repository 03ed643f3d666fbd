#include "tests/support/mmio_guest.h"

#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "devices/virtio/mmio.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"

#define RINGS       0x1000
#define RING_STRIDE 0xA000
#define RING_DRIVER 0x800
#define RING_DEVICE 0x1000
#define RING_TABLES 0x2000
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

void mmio_guest_create(struct mmio_guest *guest)
{
    *guest = (struct mmio_guest){.queue_count = 0};
    virtio_guest_create(&guest->guest);
    must((guest->irq_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) >= 0);
}

void mmio_guest_plug(struct mmio_guest *guest, struct virtio_device *device, unsigned queue_count)
{
    must(queue_count <= MMIO_GUEST_QUEUES_MAX);
    guest->queue_count = queue_count;
    must(virtio_mmio_create(guest->guest.memory, device, guest->irq_fd, &guest->mmio, NULL) == 0);
    virtio_guest_map(&guest->guest, MMIO_GUEST_REGISTERS, virtio_mmio_region(guest->mmio));
}

static void forget_rings(struct mmio_guest *guest)
{
    for (unsigned i = 0; i < guest->queue_count; i++)
        queue_driver_free(&guest->drivers[i]);
    memset(guest->drivers, 0, sizeof(guest->drivers));
}

void mmio_guest_unplug(struct mmio_guest *guest)
{
    virtio_guest_unmap(&guest->guest, virtio_mmio_region(guest->mmio));
    virtio_mmio_destroy(guest->mmio);
    forget_rings(guest);
}

void mmio_guest_destroy(struct mmio_guest *guest)
{
    virtio_guest_destroy(&guest->guest);
    close(guest->irq_fd);
}

void *mmio_guest_memory(struct mmio_guest *guest, uint64_t address)
{
    return (char *)guest->guest.block->host + address;
}

uint32_t mmio_guest_get(struct mmio_guest *guest, unsigned offset)
{
    uint32_t value = 0;
    must(address_space_read(guest->guest.space, MMIO_GUEST_REGISTERS + offset, &value, sizeof(value)) == 0);
    return value;
}

void mmio_guest_set(struct mmio_guest *guest, unsigned offset, uint32_t value)
{
    must(address_space_write(guest->guest.space, MMIO_GUEST_REGISTERS + offset, &value, sizeof(value)) == 0);
}

uint64_t mmio_guest_offered(struct mmio_guest *guest)
{
    uint64_t features = 0;
    for (unsigned half = 0; half < 2; half++) {
        mmio_guest_set(guest, DEVICE_FEATURES_SEL, half);
        features |= (uint64_t)mmio_guest_get(guest, DEVICE_FEATURES) << 32 * half;
    }
    return features;
}

static void set_address(struct mmio_guest *guest, unsigned offset, uint64_t address)
{
    mmio_guest_set(guest, offset, (uint32_t)address);
    mmio_guest_set(guest, offset + 4, (uint32_t)(address >> 32));
}

void mmio_guest_enable(struct mmio_guest *guest, unsigned queue, uint64_t features)
{
    uint64_t base = RINGS + (uint64_t)queue * RING_STRIDE;
    struct queue_driver_config config = {
        .memory = mmio_guest_memory(guest, 0),
        .size = MMIO_GUEST_RING,
        .descriptors = base,
        .driver = base + RING_DRIVER,
        .device = base + RING_DEVICE,
        .packed = features >> VIRTIO_F_RING_PACKED & 1,
        .event_idx = features >> VIRTIO_RING_F_EVENT_IDX & 1,
        .in_order = features >> VIRTIO_F_IN_ORDER & 1,
    };
    queue_driver_free(&guest->drivers[queue]);
    queue_driver_init(&guest->drivers[queue], &config);
    mmio_guest_set(guest, MMIO_GUEST_QUEUE_SEL, queue);
    mmio_guest_set(guest, QUEUE_NUM, config.size);
    set_address(guest, QUEUE_DESC, config.descriptors);
    set_address(guest, QUEUE_DRIVER, config.driver);
    set_address(guest, QUEUE_DEVICE, config.device);
    mmio_guest_set(guest, QUEUE_READY, 1);
}

void mmio_guest_start(struct mmio_guest *guest, uint64_t features)
{
    features |= (uint64_t)1 << VIRTIO_F_VERSION_1;
    for (unsigned half = 0; half < 2; half++) {
        mmio_guest_set(guest, DRIVER_FEATURES_SEL, half);
        mmio_guest_set(guest, DRIVER_FEATURES, (uint32_t)(features >> 32 * half));
    }
    mmio_guest_set(guest, MMIO_GUEST_STATUS, NEGOTIATED);
    for (unsigned i = 0; i < guest->queue_count; i++)
        mmio_guest_enable(guest, i, features);
    mmio_guest_set(guest, MMIO_GUEST_STATUS, NEGOTIATED | VIRTIO_CONFIG_S_DRIVER_OK);
    must(mmio_guest_get(guest, MMIO_GUEST_STATUS) == (NEGOTIATED | VIRTIO_CONFIG_S_DRIVER_OK));
}

void mmio_guest_reset(struct mmio_guest *guest)
{
    mmio_guest_set(guest, MMIO_GUEST_STATUS, 0);
    must(mmio_guest_get(guest, MMIO_GUEST_STATUS) == 0);
    forget_rings(guest);
}

bool mmio_guest_offer(struct mmio_guest *guest, unsigned queue, unsigned token,
                      const struct queue_driver_buffer *buffers, unsigned count, bool indirect)
{
    uint64_t tables = RINGS + (uint64_t)queue * RING_STRIDE + RING_TABLES;
    struct queue_driver *driver = &guest->drivers[queue];
    must(token < MMIO_GUEST_TABLES && (!indirect || count <= TABLE_SIZE / 16));
    if (!queue_driver_offer(driver, token, buffers, count, indirect ? 0 : QUEUE_DRIVER_NONE,
                            tables + (uint64_t)token * TABLE_SIZE))
        return false;
    if (queue_driver_must_kick(driver))
        mmio_guest_set(guest, MMIO_GUEST_QUEUE_NOTIFY, queue);
    return true;
}
