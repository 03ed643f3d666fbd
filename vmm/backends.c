#include "vmm/backends.h"

#include <errno.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/block/disk.h"
#include "devices/net/net_backend.h"
#include "devices/net/nowhere.h"
#include "devices/net/passt.h"
#include "devices/net/tap.h"

static int open_disk(const struct config *config, unsigned index, struct disk **disk, struct error *err)
{
    const struct config_disk *row = &config->disks[index];
    const struct disk_config image = {row->path, row->readonly, row->cache, config_looks_only(config)};
    return disk_open(&image, disk, err);
}

static int open_net(const struct config_net *net, struct event_loop *loop, const struct log *log,
                    struct net_backend **backend, struct error *err)
{
    const struct passt_config passt = {net->name, loop, log};
    const struct tap_config tap = {
        .name = net->kind == CONFIG_NET_TAP ? net->name : NULL,
        .fds = net->fds,
        .queues = net->queues,
        .mtu = net->mtu,
        .loop = loop,
        .log = log,
    };
    return net->kind == CONFIG_NET_PASST ? passt_open(&passt, backend, err) : tap_open(&tap, backend, err);
}

static int look_at_net(const struct config_net *net, struct net_backend **backend, struct error *err)
{
    *backend = net_nowhere_create(net->queues);
    return *backend ? 0 : error_set(err, ENOMEM, "not enough memory for a network card");
}

int backends_open(struct backends *backends, const struct config *config, struct event_loop *loop,
                  const struct log *log, struct error *err)
{
    int result = 0;
    for (unsigned i = 0; i < config->disk_count && result == 0; i++)
        result = error_prefix(err, open_disk(config, i, &backends->disks[i], err), "--disk");
    for (unsigned i = 0; i < config->net_count && result == 0; i++) {
        struct net_backend **net = &backends->nets[i];
        result = config_looks_only(config) ? look_at_net(&config->nets[i], net, err)
                                           : open_net(&config->nets[i], loop, log, net, err);
        error_prefix(err, result, "--net");
    }
    return result;
}

void backends_close(struct backends *backends)
{
    for (unsigned i = 0; i < ARRAY_SIZE(backends->disks); i++) {
        disk_close(backends->disks[i]);
        backends->disks[i] = NULL;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(backends->nets); i++) {
        net_backend_destroy(backends->nets[i]);
        backends->nets[i] = NULL;
    }
}
