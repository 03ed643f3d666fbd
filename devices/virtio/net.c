#include "devices/virtio/net.h"

#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/net_internal.h"

#define BIT(number) ((uint64_t)1 << (number))

static struct virtio_net *net_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_net, device);
}

/* ---- Features: VIRTIO 1.2, section 5.1.3 ---- */

/* What drivers and devices can do for each other depends on what the backend can do. */
static const struct {
    unsigned offload, host, guest;
} offload_features[] = {
    {NET_OFFLOAD_CHECKSUM, VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM},
    {NET_OFFLOAD_TSO4, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4},
    {NET_OFFLOAD_TSO6, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO6},
    {NET_OFFLOAD_ECN, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_GUEST_ECN},
};

/* Section 5.1.3.1: with `feature` goes at least one of the others. */
static const struct {
    unsigned feature;
    uint64_t required;
} requirements[] = {
    {VIRTIO_NET_F_GUEST_TSO4, BIT(VIRTIO_NET_F_GUEST_CSUM)},
    {VIRTIO_NET_F_GUEST_TSO6, BIT(VIRTIO_NET_F_GUEST_CSUM)},
    {VIRTIO_NET_F_GUEST_ECN, BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6)},
    {VIRTIO_NET_F_HOST_TSO4, BIT(VIRTIO_NET_F_CSUM)},
    {VIRTIO_NET_F_HOST_TSO6, BIT(VIRTIO_NET_F_CSUM)},
    {VIRTIO_NET_F_HOST_ECN, BIT(VIRTIO_NET_F_HOST_TSO4) | BIT(VIRTIO_NET_F_HOST_TSO6)},
    {VIRTIO_NET_F_CTRL_RX, BIT(VIRTIO_NET_F_CTRL_VQ)},
    {VIRTIO_NET_F_CTRL_RX_EXTRA, BIT(VIRTIO_NET_F_CTRL_VQ)},
    {VIRTIO_NET_F_CTRL_VLAN, BIT(VIRTIO_NET_F_CTRL_VQ)},
    {VIRTIO_NET_F_CTRL_MAC_ADDR, BIT(VIRTIO_NET_F_CTRL_VQ)},
    {VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, BIT(VIRTIO_NET_F_CTRL_VQ)},
    {VIRTIO_NET_F_GUEST_ANNOUNCE, BIT(VIRTIO_NET_F_CTRL_VQ)},
    {VIRTIO_NET_F_MQ, BIT(VIRTIO_NET_F_CTRL_VQ)},
};

bool net_features_fit(uint64_t features)
{
    for (unsigned i = 0; i < ARRAY_SIZE(requirements); i++) {
        if (features & BIT(requirements[i].feature) && !(features & requirements[i].required))
            return false;
    }
    return true;
}

unsigned net_guest_offloads(uint64_t features)
{
    unsigned offloads = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(offload_features); i++)
        offloads |= features & BIT(offload_features[i].guest) ? offload_features[i].offload : 0;
    return offloads;
}

static uint64_t offered_features(const struct virtio_net *net)
{
    uint64_t offered = BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_MRG_RXBUF) | BIT(VIRTIO_NET_F_STATUS) |
                       BIT(VIRTIO_NET_F_CTRL_VQ) | BIT(VIRTIO_NET_F_CTRL_RX) |
                       BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) | BIT(VIRTIO_NET_F_CTRL_VLAN) |
                       BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE);
    for (unsigned i = 0; i < ARRAY_SIZE(offload_features); i++) {
        if (net->backend->offloads & offload_features[i].offload)
            offered |= BIT(offload_features[i].host) | BIT(offload_features[i].guest) |
                       BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    }
    if (net->pair_count > 1)
        offered |= BIT(VIRTIO_NET_F_MQ);
    if (net->mtu)
        offered |= BIT(VIRTIO_NET_F_MTU);
    return offered;
}

static bool accepts(struct virtio_device *device, uint64_t features)
{
    return net_features_fit(features);
}

/* ---- Configuration space: VIRTIO 1.2, section 5.1.4 ---- */

static void read_config(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
    struct virtio_net *net = net_of(device);
    uint16_t status = net->backend->link_up ? VIRTIO_NET_S_LINK_UP : 0;
    if (net->announce)
        status |= VIRTIO_NET_S_ANNOUNCE;
    struct virtio_net_config config = {
        .status = htole16(status),
        .max_virtqueue_pairs = htole16((uint16_t)net->pair_count),
        .mtu = htole16(net->mtu),
    };
    memcpy(config.mac, net->mac, sizeof(config.mac));
    memcpy(data, (const char *)&config + offset, size);
}

void virtio_net_announce(struct virtio_net *net)
{
    pthread_mutex_lock(&net->device.lock);
    if (virtio_has_feature(&net->device, VIRTIO_NET_F_GUEST_ANNOUNCE))
        net->announce = true;
    pthread_mutex_unlock(&net->device.lock);
    virtio_config_changed(&net->device);
}

/* What is behind a link that has come back may not know the guest. */
static void link_changed(void *opaque)
{
    struct virtio_net *net = opaque;
    if (net->backend->link_up)
        virtio_net_announce(net);
    else
        virtio_config_changed(&net->device);
}

/* ---- Life ---- */

/* A driver that cannot say which frames it wants is given all, and one that has not been told the address is
 * not held to it. Section 5.1.6.5.2. */
static void init_settings(struct virtio_net *net)
{
    const struct virtio_device *device = &net->device;
    bool filters = virtio_has_feature(device, VIRTIO_NET_F_CTRL_RX);
    net->snapshots[0] = (struct net_settings){
        .mac = net_mac_key(net->mac),
        .mtu = virtio_has_feature(device, VIRTIO_NET_F_MTU) ? net->mtu : 0,
        .offloads = net_guest_offloads(device->features),
        .pairs = 1,
        .all_unicast = !filters || !virtio_has_feature(device, VIRTIO_NET_F_MAC),
        .all_multicast = !filters,
        .only_vlans = virtio_has_feature(device, VIRTIO_NET_F_CTRL_VLAN),
    };
    net->settings = &net->snapshots[0];
}

static int start(struct virtio_device *device, struct error *err)
{
    struct virtio_net *net = net_of(device);
    init_settings(net);
    int result = net_backend_set_offloads(net->backend, net_guest_offloads(device->features));
    if (result < 0)
        return error_set_errno(err, -result, "virtio-net: cannot set the offloads of its host interface");
    result = net_backend_use_queues(net->backend, 1);
    if (result < 0)
        return error_set_errno(err, -result,
                               "virtio-net: cannot leave all to one queue of its host interface");
    return 0;
}

static void reset(struct virtio_device *device)
{
    struct virtio_net *net = net_of(device);
    net->announce = false;
    memcpy(net->mac, net->first_mac, sizeof(net->mac));
    net_backend_set_offloads(net->backend, 0);
    net_backend_use_queues(net->backend, 1);
}

/* ---- Queues: VIRTIO 1.2, section 5.1.2 ---- */

enum role {
    RECEIVE,
    TRANSMIT,
    CONTROL,
    NONE
};

/* Without MQ, the control queue is where the second pair would begin. */
static enum role role_of(const struct virtio_net *net, unsigned index)
{
    unsigned pairs = virtio_has_feature(&net->device, VIRTIO_NET_F_MQ) ? net->pair_count : 1;
    if (index < 2 * pairs)
        return index % 2 ? TRANSMIT : RECEIVE;
    return index == 2 * pairs && virtio_has_feature(&net->device, VIRTIO_NET_F_CTRL_VQ) ? CONTROL : NONE;
}

static void serve(struct net_pair *pair, enum role role)
{
    if (role == RECEIVE && pair->receiver.ring)
        net_receive(pair);
    if (role == TRANSMIT && pair->transmitter.ring && !pair->transmitter.full)
        net_transmit(pair);
}

static void readable(void *opaque, unsigned queue)
{
    serve(opaque, RECEIVE);
}

static void writable(void *opaque, unsigned queue)
{
    struct net_pair *pair = opaque;
    pair->transmitter.full = false;
    serve(pair, TRANSMIT);
}

void net_pair_watch(struct net_pair *pair)
{
    bool input = pair->receiver.ring && pair->wants_input;
    bool output = pair->transmitter.ring && pair->transmitter.full;
    if (input == pair->watches_input && output == pair->watches_output)
        return;
    pair->watches_input = input;
    pair->watches_output = output;
    net_backend_watch(pair->net->backend, pair->index, input, output);
}

static int start_backend(struct net_pair *pair, struct error *err)
{
    static const struct net_queue_events events = {.readable = readable, .writable = writable};
    if (pair->backend_started)
        return 0;
    int result = net_backend_start(pair->net->backend, pair->index, pair->loop, &events, pair);
    if (result < 0)
        return error_set_errno(err, -result, "virtio-net: cannot start queue %u of its host interface",
                               pair->index);
    pair->backend_started = true;
    pair->watches_input = pair->watches_output = false;
    return 0;
}

static void start_queue(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    struct virtio_net *net = net_of(device);
    enum role role = role_of(net, index);
    if (role != RECEIVE && role != TRANSMIT)
        return;
    struct net_pair *pair = &net->pairs[index / 2];
    struct net_receiver *rx = &pair->receiver;
    struct error err;
    pair->queues++;
    if (start_backend(pair, &err) < 0) {
        virtio_queue_broke(device, index, &err);
        return;
    }
    if (role == TRANSMIT) {
        pair->transmitter = (struct net_transmitter){.ring = ring};
        return;
    }
    rx->ring = ring;
    rx->ring_size = virtio_queue_get_setup(device, index).size;
    rx->expected = 1;
    rx->waiting = 0;
}

static void kicked(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    struct virtio_net *net = net_of(device);
    enum role role = role_of(net, index);
    if (role == CONTROL)
        net_control(net, index, ring);
    else if (role != NONE)
        serve(&net->pairs[index / 2], role);
}

/* Nothing is under way between callbacks. */
static void stop_queue(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    struct virtio_net *net = net_of(device);
    enum role role = role_of(net, index);
    if (role == RECEIVE || role == TRANSMIT) {
        struct net_pair *pair = &net->pairs[index / 2];
        if (role == RECEIVE)
            pair->receiver.ring = NULL;
        else
            pair->transmitter = (struct net_transmitter){.ring = NULL};
        if (pair->backend_started)
            net_pair_watch(pair);
        if (--pair->queues == 0 && pair->backend_started) {
            net_backend_stop(net->backend, pair->index);
            pair->backend_started = false;
        }
    }
    virtio_queue_stopped(device, index);
}

/* ---- Creation ---- */

static int create_pairs(struct virtio_net *net, const struct virtio_net_setup *setup, struct error *err)
{
    net->pairs = calloc(net->pair_count, sizeof(*net->pairs));
    if (!net->pairs)
        return error_set(err, ENOMEM, "not enough memory for a network device");
    for (unsigned i = 0; i < net->pair_count; i++) {
        net->pairs[i].net = net;
        net->pairs[i].index = i;
        net->pairs[i].loop = setup->loops[i];
    }
    return 0;
}

static int init_device(struct virtio_net *net, const struct virtio_net_setup *setup, struct error *err)
{
    static const struct virtio_device_ops ops = {
        .name = "virtio-net",
        .id = VIRTIO_ID_NET,
        .read_config = read_config,
        .accepts = accepts,
        .start = start,
        .reset = reset,
        .start_queue = start_queue,
        .kicked = kicked,
        .stop_queue = stop_queue,
    };
    struct event_loop *loops[2 * NET_QUEUES_MAX + 1];
    unsigned count = 2 * net->pair_count;
    for (unsigned i = 0; i < count; i++)
        loops[i] = setup->loops[i / 2];
    loops[count] = setup->loops[0];
    struct virtio_device_config device = {
        .ops = &ops,
        .log = setup->log,
        .space = setup->space,
        .queue_count = count + 1,
        .queue_size_max = NET_RING_SIZE,
        .loops = loops,
    };
    net->device.offered = offered_features(net);
    net->device.config_size = offsetof(struct virtio_net_config, speed);
    return virtio_device_init(&net->device, &device, err);
}

int virtio_net_create(const struct virtio_net_setup *setup, struct virtio_net **out, struct error *err)
{
    struct virtio_net *net = calloc(1, sizeof(*net));
    if (!net)
        return error_set(err, ENOMEM, "not enough memory for a network device");
    net->backend = setup->backend;
    net->pair_count = setup->backend->queue_count;
    net->mtu = setup->mtu ? setup->mtu : setup->backend->mtu;
    memcpy(net->first_mac, setup->mac, sizeof(net->first_mac));
    memcpy(net->mac, setup->mac, sizeof(net->mac));
    int result = create_pairs(net, setup, err);
    if (result == 0)
        result = init_device(net, setup, err);
    if (result < 0) {
        free(net->pairs);
        free(net);
        return result;
    }
    net_backend_set_link_callback(net->backend, link_changed, net);
    *out = net;
    return 0;
}

struct virtio_device *virtio_net_device(struct virtio_net *net)
{
    return &net->device;
}

void virtio_net_destroy(struct virtio_net *net)
{
    if (!net)
        return;
    net_backend_set_link_callback(net->backend, NULL, NULL);
    virtio_device_destroy(&net->device);
    free(net->pairs);
    free(net);
}
