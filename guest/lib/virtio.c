#include "guest/lib/virtio.h"

#include <libfdt.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/io.h"
#include "guest/lib/tree.h"

#define MAGIC               0x74726976
#define VERSION             2
#define DEVICES_MAX         32

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

#define ACKNOWLEDGE         1
#define DRIVER              2
#define DRIVER_OK           4
#define FEATURES_OK         8

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

/* Whether the node is a device of this kind, at an address from `low` on. */
static bool is_candidate(int node, uint32_t id, uint64_t low, struct virtio_device *device)
{
    struct tree_range range;

    if (!tree_range(node, 0, &range) || range.start < low || !tree_cell(node, "interrupts", 0, &device->irq))
        return false;
    device->base = range.start;
    return get(device, REG_MAGIC) == MAGIC && get(device, REG_VERSION) == VERSION &&
           get(device, REG_DEVICE_ID) == id;
}

static bool find_next(uint32_t id, uint64_t low, struct virtio_device *found)
{
    const void *tree = boot_tree();
    bool any = false;

    for (int node = tree_find("virtio,mmio"); node >= 0;
         node = fdt_node_offset_by_compatible(tree, node, "virtio,mmio")) {
        struct virtio_device device = {0};
        if (!is_candidate(node, id, low, &device) || (any && device.base > found->base))
            continue;
        *found = device;
        any = true;
    }
    return any;
}

bool virtio_find(uint32_t id, unsigned index, struct virtio_device *device)
{
    uint64_t low = 0;

    for (unsigned i = 0; i <= index; i++) {
        if (!find_next(id, low, device))
            return false;
        low = device->base + 1;
    }
    return true;
}

static uint64_t offered_features(const struct virtio_device *device)
{
    uint64_t low;

    set(device, REG_DEVICE_SELECT, 0);
    low = get(device, REG_DEVICE_FEATURES);
    set(device, REG_DEVICE_SELECT, 1);
    return low | (uint64_t)get(device, REG_DEVICE_FEATURES) << 32;
}

bool virtio_negotiate(struct virtio_device *device, uint64_t wanted)
{
    set(device, REG_STATUS, 0);
    set(device, REG_STATUS, ACKNOWLEDGE);
    set(device, REG_STATUS, ACKNOWLEDGE | DRIVER);
    device->features = offered_features(device) & wanted;
    set(device, REG_DRIVER_SELECT, 0);
    set(device, REG_DRIVER_FEATURES, device->features);
    set(device, REG_DRIVER_SELECT, 1);
    set(device, REG_DRIVER_FEATURES, device->features >> 32);
    set(device, REG_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    return get(device, REG_STATUS) == (ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

bool virtio_queue_setup(struct virtio_device *device, unsigned number, struct virtio_queue *queue)
{
    queue->device = device;
    queue->number = number;
    set(device, REG_QUEUE_SELECT, number);
    if (get(device, REG_QUEUE_READY) || get(device, REG_QUEUE_SIZE_MAX) < VIRTIO_QUEUE_SIZE)
        return false;
    set(device, REG_QUEUE_SIZE, VIRTIO_QUEUE_SIZE);
    set_address(device, REG_DESCRIPTORS, queue->descriptors);
    set_address(device, REG_AVAILABLE, &queue->available);
    set_address(device, REG_USED, &queue->used);
    set(device, REG_QUEUE_READY, 1);
    return get(device, REG_QUEUE_READY) == 1;
}

void virtio_start(struct virtio_device *device)
{
    set(device, REG_STATUS, get(device, REG_STATUS) | DRIVER_OK);
}

uint32_t virtio_status(const struct virtio_device *device)
{
    return get(device, REG_STATUS);
}

uint32_t virtio_config(const struct virtio_device *device, uint32_t offset)
{
    return get(device, REG_CONFIG + offset);
}

void virtio_interrupt(const struct virtio_device *device, uint8_t vector)
{
    ioapic_route(device->irq, vector, lapic_id(), false);
}

bool virtio_acknowledge(const struct virtio_device *device)
{
    uint32_t causes = get(device, REG_INTERRUPTS);

    set(device, REG_ACKNOWLEDGE, causes);
    return causes != 0;
}

void virtio_queue_put(struct virtio_queue *queue, uint16_t head)
{
    uint16_t index = queue->available.index;

    queue->available.ring[index % VIRTIO_QUEUE_SIZE] = head;
    __atomic_store_n(&queue->available.index, (uint16_t)(index + 1), __ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&queue->used.flags, __ATOMIC_SEQ_CST))
        set(queue->device, REG_QUEUE_NOTIFY, queue->number);
}

bool virtio_queue_take(struct virtio_queue *queue, uint32_t *head, uint32_t *written)
{
    unsigned slot = queue->seen % VIRTIO_QUEUE_SIZE;

    if (__atomic_load_n(&queue->used.index, __ATOMIC_ACQUIRE) == queue->seen)
        return false;
    *head = queue->used.ring[slot].id;
    *written = queue->used.ring[slot].written;
    queue->seen++;
    return true;
}
