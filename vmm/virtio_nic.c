#include "vmm/virtio_nic.h"

#include <string.h>

#include "devices/virtio/net.h"
#include "vmm/backends.h"
#include "vmm/config.h"
#include "vmm/io_threads.h"
#include "vmm/virtio_devices.h"

static void destroy(void *opaque)
{
    virtio_net_destroy(opaque);
}

int virtio_nic_create(const struct virtio_environment *environment, unsigned index, struct virtio_unit *unit,
                      struct error *err)
{
    const struct config_net *config = &environment->config->nets[index];
    struct event_loop *loops[NET_QUEUES_MAX];
    for (unsigned i = 0; i < config->queues; i++)
        loops[i] = io_threads_next(environment->threads);
    struct virtio_net_setup setup = {
        .backend = environment->backends->nets[index],
        .mtu = config->mtu,
        .log = environment->log,
        .space = environment->space,
        .loops = loops,
    };
    memcpy(setup.mac, config->has_mac ? config->mac : setup.backend->mac, sizeof(setup.mac));
    struct virtio_net *net;
    int result = virtio_net_create(&setup, &net, err);
    if (result == 0)
        *unit = (struct virtio_unit){virtio_net_device(net), destroy, net};
    return result;
}
