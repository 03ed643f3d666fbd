/* Virtio devices over PCI: VIRTIO 1.2, section 4.1. Interrupts are MSI-X: entry 0 of the table, for all
 * queues. */
#include "guest/lib/io.h"
#include "guest/lib/virtio.h"

#define VENDOR              0x1af4
#define DEVICE_FIRST        0x1040
#define DEVICE_LAST         0x107f

/* Capabilities: what they are about, in which BAR, where in it. */
#define CAPABILITY_KIND     0 /* in the highest byte */
#define CAPABILITY_BAR      4
#define CAPABILITY_OFFSET   8
#define CAPABILITY_STEP     16

#define KIND_COMMON         1
#define KIND_NOTIFY         2
#define KIND_DEVICE         4

/* The common configuration. */
#define REG_DEVICE_SELECT   0x00
#define REG_DEVICE_FEATURES 0x04
#define REG_DRIVER_SELECT   0x08
#define REG_DRIVER_FEATURES 0x0c
#define REG_STATUS          0x14
#define REG_QUEUE_SELECT    0x16
#define REG_QUEUE_SIZE      0x18
#define REG_QUEUE_VECTOR    0x1a
#define REG_QUEUE_ENABLE    0x1c
#define REG_QUEUE_NOTIFY    0x1e
#define REG_DESCRIPTORS     0x20
#define REG_DRIVER_AREA     0x28
#define REG_DEVICE_AREA     0x30

#define NO_VECTOR           0xffff

static uint8_t status(const struct virtio_device *device)
{
    return mmio_read8(device->base + REG_STATUS);
}

static void set_status(const struct virtio_device *device, uint8_t value)
{
    mmio_write8(device->base + REG_STATUS, value);
}

static uint32_t offered(const struct virtio_device *device, unsigned half)
{
    mmio_write32(device->base + REG_DEVICE_SELECT, half);
    return mmio_read32(device->base + REG_DEVICE_FEATURES);
}

static void accept(const struct virtio_device *device, unsigned half, uint32_t features)
{
    mmio_write32(device->base + REG_DRIVER_SELECT, half);
    mmio_write32(device->base + REG_DRIVER_FEATURES, features);
}

static uint16_t queue_size_max(const struct virtio_device *device, unsigned number)
{
    mmio_write16(device->base + REG_QUEUE_SELECT, number);
    return mmio_read16(device->base + REG_QUEUE_ENABLE) ? 0 : mmio_read16(device->base + REG_QUEUE_SIZE);
}

static void set_address(const struct virtio_device *device, uint32_t offset, const void *address)
{
    mmio_write32(device->base + offset, (uint64_t)address);
    mmio_write32(device->base + offset + 4, (uint64_t)address >> 32);
}

static bool enable_queue(const struct virtio_device *device, struct virtqueue *queue)
{
    uint64_t base = device->base;

    mmio_write16(base + REG_QUEUE_SELECT, queue->number);
    mmio_write16(base + REG_QUEUE_SIZE, queue->size);
    mmio_write16(base + REG_QUEUE_VECTOR, device->by_msix ? 0 : NO_VECTOR);
    if (device->by_msix && mmio_read16(base + REG_QUEUE_VECTOR) != 0)
        return false;
    set_address(device, REG_DESCRIPTORS, queue->descriptors);
    set_address(device, REG_DRIVER_AREA, &queue->available);
    set_address(device, REG_DEVICE_AREA, &queue->used);
    queue->notify = device->notify + (uint64_t)mmio_read16(base + REG_QUEUE_NOTIFY) * device->notify_step;
    mmio_write16(base + REG_QUEUE_ENABLE, 1);
    return mmio_read16(base + REG_QUEUE_ENABLE) == 1;
}

static bool interrupt(struct virtio_device *device, uint8_t vector)
{
    device->by_msix = pci_msix(device->function, 0, vector);
    return device->by_msix;
}

/* An MSI ends by itself. */
static bool acknowledge(const struct virtio_device *device)
{
    return true;
}

static const struct virtio_transport pci = {
    .name = "pci",
    .status = status,
    .set_status = set_status,
    .offered = offered,
    .accept = accept,
    .queue_size_max = queue_size_max,
    .enable_queue = enable_queue,
    .interrupt = interrupt,
    .acknowledge = acknowledge,
};

static void take_capability(struct virtio_device *device, unsigned at)
{
    struct pci_function function = device->function;
    uint64_t bar = pci_bar(function, pci_read(function, at + CAPABILITY_BAR) & 0xff);
    uint64_t address = bar + pci_read(function, at + CAPABILITY_OFFSET);
    unsigned kind = pci_read(function, at + CAPABILITY_KIND) >> 24;

    if (!bar)
        return;
    if (kind == KIND_COMMON && !device->base) {
        device->base = address;
    } else if (kind == KIND_NOTIFY && !device->notify) {
        device->notify = address;
        device->notify_step = pci_read(function, at + CAPABILITY_STEP);
    } else if (kind == KIND_DEVICE && !device->config) {
        device->config = address;
    }
}

/* Fills in where the structures are: for each, the first capability that tells of it. */
static void read_capabilities(struct virtio_device *device)
{
    unsigned at = 0;

    while ((at = pci_capability(device->function, PCI_CAPABILITY_VENDOR, at)))
        take_capability(device, at);
}

static bool is_virtio(struct pci_function function, uint32_t *id)
{
    uint32_t ids = pci_read(function, PCI_VENDOR), device = ids >> 16;

    *id = device - DEVICE_FIRST;
    return (ids & 0xffff) == VENDOR && device >= DEVICE_FIRST && device <= DEVICE_LAST;
}

bool virtio_pci_next(uint64_t *place, uint32_t *id, struct virtio_device *device)
{
    struct pci_function function;

    for (; *place < 256; ++*place) {
        function = (struct pci_function){*place};
        if (!pci_next(&function))
            return false;
        *place = function.slot;
        if (!is_virtio(function, id))
            continue;
        *device = (struct virtio_device){.transport = &pci, .function = function};
        read_capabilities(device);
        pci_enable(function);
        if (device->base && device->notify && device->config && ++*place)
            return true;
    }
    return false;
}
