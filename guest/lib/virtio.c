#include "guest/lib/virtio.h"

#include "guest/lib/boot.h"
#include "guest/lib/io.h"

typedef bool next_device(uint64_t *place, uint32_t *id, struct virtio_device *device);

/* Passes over `*index` devices of the kind, and takes the next. */
static bool find(next_device *next, uint32_t wanted, unsigned *index, struct virtio_device *device)
{
    uint64_t place = 0;
    uint32_t id;

    while (next(&place, &id, device)) {
        if (id == wanted && (*index)-- == 0)
            return true;
    }
    return false;
}

bool virtio_find(uint32_t id, unsigned index, struct virtio_device *device)
{
    return find(virtio_mmio_next, id, &index, device) || find(virtio_pci_next, id, &index, device);
}

void virtio_reset(const struct virtio_device *device)
{
    device->transport->set_status(device, 0);
    while (device->transport->status(device) != 0)
        ;
}

bool virtio_negotiate(struct virtio_device *device, uint64_t wanted)
{
    const struct virtio_transport *transport = device->transport;
    uint8_t status = VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER;

    virtio_reset(device);
    transport->set_status(device, VIRTIO_ACKNOWLEDGE);
    transport->set_status(device, status);
    device->features = transport->offered(device, 0) | (uint64_t)transport->offered(device, 1) << 32;
    device->features &= wanted;
    transport->accept(device, 0, device->features);
    transport->accept(device, 1, device->features >> 32);
    status |= VIRTIO_FEATURES_OK;
    transport->set_status(device, status);
    return transport->status(device) == status;
}

uint64_t virtio_ring_features(void)
{
    return (argument_is("ring", "packed", false) ? VIRTIO_F_RING_PACKED : 0) |
           (argument_is("event", "yes", true) ? VIRTIO_F_EVENT_IDX : 0) |
           (argument_is("indirect", "yes", false) ? VIRTIO_F_INDIRECT : 0);
}

bool virtio_queue_setup(struct virtio_device *device, unsigned number, uint16_t size, struct virtqueue *queue)
{
    uint16_t most = device->transport->queue_size_max(device, number);

    if (most > VIRTQUEUE_SIZE_MAX)
        most = VIRTQUEUE_SIZE_MAX;
    if (most == 0)
        return false;
    queue->number = number;
    virtqueue_begin(queue, size < most ? size : most, device->features);
    return device->transport->enable_queue(device, queue);
}

void virtio_start(struct virtio_device *device)
{
    device->transport->set_status(device, virtio_status(device) | VIRTIO_DRIVER_OK);
}

uint8_t virtio_status(const struct virtio_device *device)
{
    return device->transport->status(device);
}

uint32_t virtio_config(const struct virtio_device *device, uint32_t offset)
{
    return mmio_read32(device->config + offset);
}

bool virtio_interrupt(struct virtio_device *device, uint8_t vector)
{
    return device->transport->interrupt(device, vector);
}

bool virtio_acknowledge(const struct virtio_device *device)
{
    return device->transport->acknowledge(device);
}
