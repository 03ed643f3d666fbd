#include "vmm/virtio_disk.h"

#include "devices/virtio/block.h"
#include "vmm/backends.h"
#include "vmm/config.h"
#include "vmm/io_threads.h"
#include "vmm/virtio_devices.h"

_Static_assert(CONFIG_DISK_SERIAL_MAX == VIRTIO_BLOCK_SERIAL_MAX, "a serial number that virtio has room for");

static void destroy(void *opaque)
{
    virtio_block_destroy(opaque);
}

int virtio_disk_create(const struct virtio_environment *environment, unsigned index, struct virtio_unit *unit,
                       struct error *err)
{
    const struct config_disk *disk = &environment->config->disks[index];
    struct event_loop *loops[CONFIG_DISK_QUEUES_MAX];
    for (unsigned i = 0; i < disk->queues; i++)
        loops[i] = io_threads_next(environment->threads);
    const struct virtio_block_config config = {
        .disk = environment->backends->disks[index],
        .serial = disk->serial,
        .log = environment->log,
        .space = environment->space,
        .queue_count = disk->queues,
        .loops = loops,
    };
    struct virtio_block *block;
    int result = virtio_block_create(&config, &block, err);
    if (result == 0)
        *unit = (struct virtio_unit){virtio_block_device(block), destroy, block};
    return result;
}
