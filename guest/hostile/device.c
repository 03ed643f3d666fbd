#include "guest/hostile/device.h"

#include "guest/lib/io.h"
#include "guest/lib/virtio.h"

#define MMIO_NOTIFY    0x50
#define MMIO_SIZE      0x200
#define PCI_SIZE       60
#define CONFIG_SIZE    0x100
#define PCI_QUEUES_MAX 1024 /* notify registers that are sure to lie in the BAR */

/* A register, VIRTIO 1.2, sections 4.2.2 and 4.1.4.3. */
struct place {
    uint16_t mmio, pci;
    uint8_t pci_width;
};

static const struct place DEVICE_SELECT = {0x014, 0x00, 4}, DEVICE_FEATURES = {0x010, 0x04, 4},
                          DRIVER_SELECT = {0x024, 0x08, 4}, DRIVER_FEATURES = {0x020, 0x0c, 4},
                          STATUS = {0x070, 0x14, 1}, QUEUE_SELECT = {0x030, 0x16, 2},
                          QUEUE_SIZE_MAX = {0x034, 0x18, 2}, QUEUE_SIZE = {0x038, 0x18, 2},
                          QUEUE_ENABLE = {0x044, 0x1c, 2}, QUEUE_RESET = {0x0c0, 0x3a, 2};

/* Of the low halves of addresses; the high ones follow. */
static const struct place AREAS[] = {{0x080, 0x20, 4}, {0x090, 0x28, 4}, {0x0a0, 0x30, 4}};

static uint32_t get(const struct device *device, struct place place)
{
    uint64_t address = device->registers + (device->pci ? place.pci : place.mmio);

    if (device->pci && place.pci_width == 1)
        return mmio_read8(address);
    return device->pci && place.pci_width == 2 ? mmio_read16(address) : mmio_read32(address);
}

static void set(const struct device *device, struct place place, uint32_t value)
{
    uint64_t address = device->registers + (device->pci ? place.pci : place.mmio);

    if (device->pci && place.pci_width == 1)
        mmio_write8(address, value);
    else if (device->pci && place.pci_width == 2)
        mmio_write16(address, value);
    else
        mmio_write32(address, value);
}

static uint64_t offered(const struct device *device)
{
    uint64_t high;

    set(device, DEVICE_SELECT, 1);
    high = get(device, DEVICE_FEATURES);
    set(device, DEVICE_SELECT, 0);
    return high << 32 | get(device, DEVICE_FEATURES);
}

bool device_find(uint32_t kind, unsigned index, struct device *device)
{
    struct virtio_device found;

    if (!virtio_find(kind, index, &found))
        return false;
    *device = (struct device){
        .pci = found.notify != 0,
        .registers = found.base,
        .config = found.config,
        .function = found.function,
        .notify = found.notify,
        .notify_step = found.notify_step,
    };
    device->offered = offered(device);
    return true;
}

uint64_t device_sectors(const struct device *device)
{
    return mmio_read32(device->config) | (uint64_t)mmio_read32(device->config + 4) << 32;
}

uint32_t device_number(const struct device *device, uint32_t number)
{
    return device->pci ? (uint16_t)number : number;
}

uint32_t device_status(const struct device *device)
{
    return get(device, STATUS);
}

void device_set_status(const struct device *device, uint32_t status)
{
    set(device, STATUS, status);
}

void device_accept(const struct device *device, uint64_t features)
{
    for (unsigned half = 0; half < 2; half++) {
        set(device, DRIVER_SELECT, half);
        set(device, DRIVER_FEATURES, features >> 32 * half);
    }
}

void device_select(const struct device *device, uint32_t queue)
{
    set(device, QUEUE_SELECT, queue);
}

uint32_t device_queue_size_max(const struct device *device)
{
    return get(device, QUEUE_SIZE_MAX);
}

void device_set_queue_size(const struct device *device, uint32_t size)
{
    set(device, QUEUE_SIZE, size);
}

void device_set_queue_areas(const struct device *device, uint64_t descriptors, uint64_t driver,
                            uint64_t area_of_device)
{
    const uint64_t addresses[] = {descriptors, driver, area_of_device};

    for (unsigned i = 0; i < 3; i++) {
        struct place high = {AREAS[i].mmio + 4, AREAS[i].pci + 4, 4};
        set(device, AREAS[i], addresses[i]);
        set(device, high, addresses[i] >> 32);
    }
}

void device_enable_queue(const struct device *device)
{
    set(device, QUEUE_ENABLE, 1);
}

bool device_queue_enabled(const struct device *device)
{
    return get(device, QUEUE_ENABLE);
}

void device_reset_queue(const struct device *device)
{
    set(device, QUEUE_RESET, 1);
}

void device_disable_queue(const struct device *device)
{
    if (device->pci)
        device_reset_queue(device);
    else
        set(device, QUEUE_ENABLE, 0);
}

void device_notify(const struct device *device, uint32_t queue)
{
    if (device->pci)
        mmio_write16(device->notify + queue % PCI_QUEUES_MAX * device->notify_step, queue);
    else
        mmio_write32(device->registers + MMIO_NOTIFY, queue);
}

struct span device_registers(const struct device *device)
{
    return (struct span){device->registers, device->pci ? PCI_SIZE : MMIO_SIZE};
}

struct span device_config(const struct device *device)
{
    return (struct span){device->config, CONFIG_SIZE};
}
