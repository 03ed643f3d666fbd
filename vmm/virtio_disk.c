#include "vmm/virtio_disk.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "devices/virtio/block.h"
#include "devices/virtio/device.h"
#include "devices/virtio/mmio.h"
#include "vmm/config_disk.h"
#include "vmm/io_threads.h"
#include "vmm/irqfd.h"

_Static_assert(CONFIG_DISK_SERIAL_MAX == VIRTIO_BLOCK_SERIAL_MAX, "a serial number that virtio has room for");

struct virtio_disk {
    struct virtio_block *device;
    struct virtio_mmio *registers;
    struct irqfd irqfd;
};

static int create_device(struct virtio_disk *disk, const struct virtio_disk_config *config, struct error *err)
{
    struct event_loop *loops[CONFIG_DISK_QUEUES_MAX];
    for (unsigned i = 0; i < config->disk->queues; i++)
        loops[i] = io_threads_next(config->threads);
    const struct virtio_block_config block = {
        .disk = config->image,
        .serial = config->disk->serial,
        .log = config->log,
        .space = config->space,
        .queue_count = config->disk->queues,
        .loops = loops,
    };
    return virtio_block_create(&block, &disk->device, err);
}

static int build(struct virtio_disk *disk, const struct virtio_disk_config *config, struct error *err)
{
    int result = irqfd_init(&disk->irqfd, config->vm, config->irq, err);
    if (result == 0)
        result = create_device(disk, config, err);
    if (result == 0)
        result = virtio_mmio_create(config->memory, virtio_block_device(disk->device), disk->irqfd.fd,
                                    &disk->registers, err);
    return result;
}

int virtio_disk_create(const struct virtio_disk_config *config, struct virtio_disk **out, struct error *err)
{
    struct virtio_disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return error_set(err, ENOMEM, "not enough memory for a disk");
    int result = build(disk, config, err);
    if (result < 0) {
        virtio_disk_destroy(disk);
        return result;
    }
    *out = disk;
    return 0;
}

struct memory_region *virtio_disk_region(struct virtio_disk *disk)
{
    return virtio_mmio_region(disk->registers);
}

int virtio_disk_connect(struct virtio_disk *disk, struct error *err)
{
    return irqfd_connect(&disk->irqfd, err);
}

void virtio_disk_stop(struct virtio_disk *disk)
{
    virtio_set_status(virtio_block_device(disk->device), 0);
}

void virtio_disk_destroy(struct virtio_disk *disk)
{
    if (!disk)
        return;
    virtio_mmio_destroy(disk->registers);
    virtio_block_destroy(disk->device);
    irqfd_release(&disk->irqfd);
    free(disk);
}
