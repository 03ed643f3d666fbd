/* Virtio devices over MMIO: VIRTIO 1.2, section 4.2. */
#include <libfdt.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/io.h"
#include "guest/lib/string.h"
#include "guest/lib/tree.h"
#include "guest/lib/virtio.h"

#define MAGIC               0x74726976
#define VERSION             2

#define REG_MAGIC           0x000
#define REG_VERSION         0x004
#define REG_DEVICE_ID       0x008
#define REG_DEVICE_FEATURES 0x010
#define REG_DEVICE_SELECT   0x014
#define REG_DRIVER_FEATURES 0x020
#define REG_DRIVER_SELECT   0x024
#define REG_QUEUE_SELECT    0x030
#define REG_QUEUE_SIZE_MAX  0x034
#define REG_QUEUE_SIZE      0x038
#define REG_QUEUE_READY     0x044
#define REG_QUEUE_NOTIFY    0x050
#define REG_INTERRUPTS      0x060
#define REG_ACKNOWLEDGE     0x064
#define REG_STATUS          0x070
#define REG_DESCRIPTORS     0x080
#define REG_AVAILABLE       0x090
#define REG_USED            0x0a0
#define REG_CONFIG          0x100

static uint32_t get(const struct virtio_device *device, uint32_t offset)
{
    return mmio_read32(device->base + offset);
}

static void set(const struct virtio_device *device, uint32_t offset, uint32_t value)
{
    mmio_write32(device->base + offset, value);
}

static void set_address(const struct virtio_device *device, uint32_t offset, const void *address)
{
    set(device, offset, (uint64_t)address);
    set(device, offset + 4, (uint64_t)address >> 32);
}

static uint8_t status(const struct virtio_device *device)
{
    return get(device, REG_STATUS);
}

static void set_status(const struct virtio_device *device, uint8_t value)
{
    set(device, REG_STATUS, value);
}

static uint32_t offered(const struct virtio_device *device, unsigned half)
{
    set(device, REG_DEVICE_SELECT, half);
    return get(device, REG_DEVICE_FEATURES);
}

static void accept(const struct virtio_device *device, unsigned half, uint32_t features)
{
    set(device, REG_DRIVER_SELECT, half);
    set(device, REG_DRIVER_FEATURES, features);
}

static uint16_t queue_size_max(const struct virtio_device *device, unsigned number)
{
    set(device, REG_QUEUE_SELECT, number);
    return get(device, REG_QUEUE_READY) ? 0 : get(device, REG_QUEUE_SIZE_MAX);
}

static bool enable_queue(const struct virtio_device *device, struct virtqueue *queue)
{
    queue->notify = device->base + REG_QUEUE_NOTIFY;
    queue->notify_wide = true;
    set(device, REG_QUEUE_SELECT, queue->number);
    set(device, REG_QUEUE_SIZE, queue->size);
    set_address(device, REG_DESCRIPTORS, queue->descriptors);
    set_address(device, REG_AVAILABLE, &queue->available);
    set_address(device, REG_USED, &queue->used);
    set(device, REG_QUEUE_READY, 1);
    return get(device, REG_QUEUE_READY) == 1;
}

static bool interrupt(struct virtio_device *device, uint8_t vector)
{
    ioapic_route(device->irq, vector, lapic_id(), false);
    return true;
}

static bool acknowledge(const struct virtio_device *device)
{
    uint32_t causes = get(device, REG_INTERRUPTS);

    set(device, REG_ACKNOWLEDGE, causes);
    return causes != 0;
}

static const struct virtio_transport mmio = {
    .name = "mmio",
    .status = status,
    .set_status = set_status,
    .offered = offered,
    .accept = accept,
    .queue_size_max = queue_size_max,
    .enable_queue = enable_queue,
    .interrupt = interrupt,
    .acknowledge = acknowledge,
};

/* Takes what is at `base`, if that is before what was found up to now and not before `low`. */
static void consider(uint64_t low, uint64_t base, uint32_t irq, struct virtio_device *found)
{
    struct virtio_device device = {.transport = &mmio, .base = base, .config = base + REG_CONFIG, .irq = irq};

    if (base >= low && (!found->base || base < found->base) && get(&device, REG_MAGIC) == MAGIC &&
        get(&device, REG_VERSION) == VERSION)
        *found = device;
}

static void search_tree(uint64_t low, struct virtio_device *found)
{
    const void *tree = boot_tree();
    struct tree_range range;
    uint32_t irq;

    for (int node = tree_find("virtio,mmio"); node >= 0;
         node = fdt_node_offset_by_compatible(tree, node, "virtio,mmio")) {
        if (tree_range(node, 0, &range) && tree_cell(node, "interrupts", 0, &irq))
            consider(low, range.start, irq, found);
    }
}

static void search_arguments(uint64_t low, struct virtio_device *found)
{
    static const char name[] = "virtio_mmio.device=";
    const char *text = boot_arguments();

    for (; *text; text++) {
        size_t length = sizeof(name) - 1;
        if (memcmp(text, name, strnlen(text, length)) || strnlen(text, length) < length)
            continue;
        for (text += length; *text && *text != ' ' && *text != '@';)
            text++;
        if (*text == '@') {
            char *end;
            uint64_t base = strtoul(text + 1, &end, 0);
            if (*end == ':')
                consider(low, base, strtoul(end + 1, &end, 0), found);
            text = end - 1;
        }
    }
}

bool virtio_mmio_next(uint64_t *place, uint32_t *id, struct virtio_device *device)
{
    *device = (struct virtio_device){0};
    if (boot_tree())
        search_tree(*place, device);
    else
        search_arguments(*place, device);
    if (!device->base)
        return false;
    *place = device->base + 1;
    *id = get(device, REG_DEVICE_ID);
    return true;
}
