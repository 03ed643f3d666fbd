#include "devices/virtio/mmio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#define VIRTIO_MMIO_NO_LEGACY
#include <linux/virtio_mmio.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>

#include "base/error.h"
#include "devices/virtio/device.h"
#include "memory/memory.h"
#include "memory/region.h"

#define MAGIC            0x74726976 /* "virt" */
#define VERSION          2
#define VENDOR           0x54574447 /* "GDWT" */

/* Linux's header has no name for it yet. */
#define MMIO_QUEUE_RESET 0x0C0

struct virtio_mmio {
    struct memory_region region;
    struct virtio_device *device;
    int irq_fd;
    _Atomic uint32_t device_features_sel, driver_features_sel, queue_sel;
    _Atomic uint32_t interrupt_status;
};

static void interrupt(struct virtio_mmio *mmio, uint32_t cause)
{
    mmio->interrupt_status |= cause;
    eventfd_write(mmio->irq_fd, 1);
}

static void interrupt_queue(void *opaque, unsigned index)
{
    interrupt(opaque, VIRTIO_MMIO_INT_VRING);
}

static void interrupt_config(void *opaque)
{
    interrupt(opaque, VIRTIO_MMIO_INT_CONFIG);
}

static uint32_t offered_features(struct virtio_mmio *mmio)
{
    uint32_t half = mmio->device_features_sel;
    return half <= 1 ? (uint32_t)(virtio_offered_features(mmio->device) >> 32 * half) : 0;
}

static uint32_t read_register(struct virtio_mmio *mmio, uint64_t offset)
{
    struct virtio_device *device = mmio->device;
    uint32_t queue = mmio->queue_sel;
    switch (offset) {
    case VIRTIO_MMIO_MAGIC_VALUE:
        return MAGIC;
    case VIRTIO_MMIO_VERSION:
        return VERSION;
    case VIRTIO_MMIO_DEVICE_ID:
        return device->ops->id;
    case VIRTIO_MMIO_VENDOR_ID:
        return VENDOR;
    case VIRTIO_MMIO_DEVICE_FEATURES:
        return offered_features(mmio);
    case VIRTIO_MMIO_QUEUE_NUM_MAX:
        return virtio_queue_size_max(device, queue);
    case VIRTIO_MMIO_QUEUE_READY:
        return virtio_queue_get_setup(device, queue).enabled;
    case MMIO_QUEUE_RESET:
        return virtio_queue_get_setup(device, queue).resetting;
    case VIRTIO_MMIO_INTERRUPT_STATUS:
        return mmio->interrupt_status;
    case VIRTIO_MMIO_STATUS:
        return virtio_get_status(device);
    case VIRTIO_MMIO_SHM_LEN_LOW:
    case VIRTIO_MMIO_SHM_LEN_HIGH:
    case VIRTIO_MMIO_SHM_BASE_LOW:
    case VIRTIO_MMIO_SHM_BASE_HIGH:
        return UINT32_MAX;
    case VIRTIO_MMIO_CONFIG_GENERATION:
        return virtio_config_generation(device);
    default:
        return 0;
    }
}

/* A size that does not fit is no size. */
static void set_queue_size(struct virtio_mmio *mmio, uint32_t size)
{
    struct virtio_queue_setup setup = virtio_queue_get_setup(mmio->device, mmio->queue_sel);
    setup.size = size <= UINT16_MAX ? (uint16_t)size : 0;
    virtio_queue_set_setup(mmio->device, mmio->queue_sel, &setup);
}

static void set_half(uint64_t *address, bool high, uint32_t value)
{
    unsigned shift = high ? 32 : 0;
    *address = (*address & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
}

static void set_queue_address(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    uint32_t queue = mmio->queue_sel;
    struct virtio_queue_setup setup = virtio_queue_get_setup(mmio->device, queue);
    bool high = offset & 4;
    if (offset < VIRTIO_MMIO_QUEUE_AVAIL_LOW)
        set_half(&setup.descriptors, high, value);
    else if (offset < VIRTIO_MMIO_QUEUE_USED_LOW)
        set_half(&setup.driver, high, value);
    else
        set_half(&setup.device, high, value);
    virtio_queue_set_setup(mmio->device, queue, &setup);
}

static void set_queue_ready(struct virtio_mmio *mmio, uint32_t value)
{
    if (value == 1)
        virtio_queue_enable(mmio->device, mmio->queue_sel);
    else if (value == 0)
        virtio_queue_disable(mmio->device, mmio->queue_sel);
}

static void set_status(struct virtio_mmio *mmio, uint32_t value)
{
    if (value > UINT8_MAX)
        return;
    virtio_set_status(mmio->device, (uint8_t)value);
    if (value != 0)
        return;
    mmio->interrupt_status = 0;
    mmio->device_features_sel = 0;
    mmio->driver_features_sel = 0;
    mmio->queue_sel = 0;
}

static void write_register(struct virtio_mmio *mmio, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_MMIO_DEVICE_FEATURES_SEL:
        mmio->device_features_sel = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES_SEL:
        mmio->driver_features_sel = value;
        break;
    case VIRTIO_MMIO_DRIVER_FEATURES:
        virtio_accept_features(mmio->device, mmio->driver_features_sel, value);
        break;
    case VIRTIO_MMIO_QUEUE_SEL:
        mmio->queue_sel = value;
        break;
    case VIRTIO_MMIO_QUEUE_NUM:
        set_queue_size(mmio, value);
        break;
    case VIRTIO_MMIO_QUEUE_READY:
        set_queue_ready(mmio, value);
        break;
    case MMIO_QUEUE_RESET:
        if (value == 1)
            virtio_queue_reset(mmio->device, mmio->queue_sel);
        break;
    case VIRTIO_MMIO_QUEUE_NOTIFY:
        virtio_queue_kick(mmio->device, value);
        break;
    case VIRTIO_MMIO_INTERRUPT_ACK:
        mmio->interrupt_status &= ~value;
        break;
    case VIRTIO_MMIO_STATUS:
        set_status(mmio, value);
        break;
    case VIRTIO_MMIO_QUEUE_DESC_LOW:
    case VIRTIO_MMIO_QUEUE_DESC_HIGH:
    case VIRTIO_MMIO_QUEUE_AVAIL_LOW:
    case VIRTIO_MMIO_QUEUE_AVAIL_HIGH:
    case VIRTIO_MMIO_QUEUE_USED_LOW:
    case VIRTIO_MMIO_QUEUE_USED_HIGH:
        set_queue_address(mmio, offset, value);
        break;
    default:
        break;
    }
}

static uint64_t region_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_mmio *mmio = opaque;
    if (offset < VIRTIO_MMIO_CONFIG)
        return read_register(mmio, offset);
    uint64_t value = 0;
    virtio_read_config(mmio->device, (uint32_t)offset - VIRTIO_MMIO_CONFIG, &value, size);
    return value;
}

static void region_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_mmio *mmio = opaque;
    if (offset < VIRTIO_MMIO_CONFIG)
        write_register(mmio, offset, (uint32_t)value);
    else
        virtio_write_config(mmio->device, (uint32_t)offset - VIRTIO_MMIO_CONFIG, &value, size);
}

static bool accepts(void *opaque, uint64_t offset, unsigned size, bool is_write)
{
    return offset >= VIRTIO_MMIO_CONFIG || size == sizeof(uint32_t);
}

static int add_ioeventfds(struct virtio_mmio *mmio, struct error *err)
{
    int result = 0;
    memory_transaction_begin(mmio->region.memory);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX && result == 0; i++) {
        int fd = virtio_queue_kick_fd(mmio->device, i);
        if (fd < 0)
            break;
        result = memory_region_add_ioeventfd(&mmio->region, VIRTIO_MMIO_QUEUE_NOTIFY, sizeof(uint32_t), true,
                                             i, fd, err);
    }
    int committed = memory_transaction_commit(mmio->region.memory, result ? NULL : err);
    return result ? result : committed;
}

int virtio_mmio_create(struct memory *memory, struct virtio_device *device, int irq_fd,
                       struct virtio_mmio **out, struct error *err)
{
    static const struct memory_region_ops region_ops = {
        .read = region_read,
        .write = region_write,
        .valid = {.min = 1, .max = 4},
        .impl = {.min = 1, .max = 4},
        .accepts = accepts,
    };
    static const struct virtio_transport_ops transport_ops = {
        .interrupt_queue = interrupt_queue,
        .interrupt_config = interrupt_config,
    };
    struct virtio_mmio *mmio = calloc(1, sizeof(*mmio));
    if (!mmio)
        return error_set(err, ENOMEM, "not enough memory for the registers of %s", device->ops->name);
    mmio->device = device;
    mmio->irq_fd = irq_fd;
    int result = memory_region_init_mmio(&mmio->region, memory, device->ops->name, &region_ops, mmio,
                                         VIRTIO_MMIO_REGION_SIZE, err);
    if (result == 0)
        result = add_ioeventfds(mmio, err);
    if (result < 0) {
        memory_region_destroy(&mmio->region);
        free(mmio);
        return result;
    }
    virtio_set_transport(device, &transport_ops, mmio);
    *out = mmio;
    return 0;
}

struct memory_region *virtio_mmio_region(struct virtio_mmio *mmio)
{
    return &mmio->region;
}

void virtio_mmio_destroy(struct virtio_mmio *mmio)
{
    if (!mmio)
        return;
    virtio_set_status(mmio->device, 0);
    virtio_set_transport(mmio->device, NULL, NULL);
    memory_region_destroy(&mmio->region);
    free(mmio);
}
