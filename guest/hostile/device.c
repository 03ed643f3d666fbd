#include "guest/hostile/device.h"

#include "guest/lib/io.h"
#include "guest/lib/virtio.h"

#define ID_BLOCK            2

#define REG_DEVICE_FEATURES 0x010
#define REG_DEVICE_SELECT   0x014
#define REG_DRIVER_FEATURES 0x020
#define REG_DRIVER_SELECT   0x024
#define REG_QUEUE_SELECT    0x030
#define REG_QUEUE_SIZE_MAX  0x034
#define REG_QUEUE_SIZE      0x038
#define REG_QUEUE_READY     0x044
#define REG_QUEUE_NOTIFY    0x050
#define REG_STATUS          0x070
#define REG_DESCRIPTORS     0x080
#define REG_DRIVER          0x090
#define REG_DEVICE          0x0a0
#define REG_QUEUE_RESET     0x0c0
#define REG_CONFIG          0x100
#define REG_END             0x200

static uint32_t get(const struct device *device, uint32_t offset)
{
    return mmio_read32(device->registers + offset);
}

static void set(const struct device *device, uint32_t offset, uint32_t value)
{
    mmio_write32(device->registers + offset, value);
}

static void set_address(const struct device *device, uint32_t offset, uint64_t address)
{
    set(device, offset, address);
    set(device, offset + 4, address >> 32);
}

bool device_find(unsigned index, struct device *device)
{
    struct virtio_device found;

    if (!virtio_find(ID_BLOCK, index, &found))
        return false;
    device->registers = found.base;
    set(device, REG_DEVICE_SELECT, 1);
    device->offered = (uint64_t)get(device, REG_DEVICE_FEATURES) << 32;
    set(device, REG_DEVICE_SELECT, 0);
    device->offered |= get(device, REG_DEVICE_FEATURES);
    return true;
}

uint64_t device_sectors(const struct device *device)
{
    return get(device, REG_CONFIG) | (uint64_t)get(device, REG_CONFIG + 4) << 32;
}

uint32_t device_status(const struct device *device)
{
    return get(device, REG_STATUS);
}

void device_set_status(const struct device *device, uint32_t status)
{
    set(device, REG_STATUS, status);
}

void device_accept(const struct device *device, uint64_t features)
{
    for (unsigned half = 0; half < 2; half++) {
        set(device, REG_DRIVER_SELECT, half);
        set(device, REG_DRIVER_FEATURES, features >> 32 * half);
    }
}

void device_select(const struct device *device, uint32_t queue)
{
    set(device, REG_QUEUE_SELECT, queue);
}

uint32_t device_queue_size_max(const struct device *device)
{
    return get(device, REG_QUEUE_SIZE_MAX);
}

void device_set_queue_size(const struct device *device, uint32_t size)
{
    set(device, REG_QUEUE_SIZE, size);
}

void device_set_queue_areas(const struct device *device, uint64_t descriptors, uint64_t driver,
                            uint64_t area_of_device)
{
    set_address(device, REG_DESCRIPTORS, descriptors);
    set_address(device, REG_DRIVER, driver);
    set_address(device, REG_DEVICE, area_of_device);
}

void device_enable_queue(const struct device *device)
{
    set(device, REG_QUEUE_READY, 1);
}

bool device_queue_enabled(const struct device *device)
{
    return get(device, REG_QUEUE_READY);
}

void device_reset_queue(const struct device *device)
{
    set(device, REG_QUEUE_RESET, 1);
}

void device_disable_queue(const struct device *device)
{
    set(device, REG_QUEUE_READY, 0);
}

void device_notify(const struct device *device, uint32_t queue)
{
    set(device, REG_QUEUE_NOTIFY, queue);
}

struct span device_registers(const struct device *device)
{
    return (struct span){device->registers, REG_END};
}

struct span device_config(const struct device *device)
{
    return (struct span){device->registers + REG_CONFIG, REG_END - REG_CONFIG};
}
