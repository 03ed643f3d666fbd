/*
 * The control queue: VIRTIO 1.2, section 5.1.6.5.
 */
#include <endian.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/net_internal.h"

#define BIT(number) ((uint64_t)1 << (number))

#define HEADER_SIZE sizeof(struct virtio_net_ctrl_hdr)
#define COUNT_SIZE  sizeof(uint32_t) /* of a table of addresses, before them */
#define ANY_SIZE    SIZE_MAX

/* Commands at a time. */
#define TAKE_MAX    64

/* What the driver may change by GUEST_OFFLOADS_SET. */
#define OFFLOAD_FEATURES                                                                                     \
    (BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6) |            \
     BIT(VIRTIO_NET_F_GUEST_ECN))

/* A command, as it is carried out. */
struct command {
    struct virtio_net *net;
    const struct virtqueue_chain *chain;
    uint8_t number;             /* of its class */
    size_t size;                /* of its data */
    struct net_settings *after; /* as they are to be then */
};

static void read_data(const struct command *command, size_t offset, void *data, size_t size)
{
    virtqueue_read(command->chain, HEADER_SIZE + offset, data, size);
}

/* ---- The commands. Each has as much data as it says below, and returns whether it worked ---- */

static bool set_mode(struct command *command)
{
    struct net_settings *after = command->after;
    bool *const modes[] = {
        [VIRTIO_NET_CTRL_RX_PROMISC] = &after->promiscuous,
        [VIRTIO_NET_CTRL_RX_ALLMULTI] = &after->all_multicast,
        [VIRTIO_NET_CTRL_RX_ALLUNI] = &after->all_unicast,
        [VIRTIO_NET_CTRL_RX_NOMULTI] = &after->no_multicast,
        [VIRTIO_NET_CTRL_RX_NOUNI] = &after->no_unicast,
        [VIRTIO_NET_CTRL_RX_NOBCAST] = &after->no_broadcast,
    };
    uint8_t on;
    read_data(command, 0, &on, sizeof(on));
    *modes[command->number] = on != 0;
    return true;
}

/* Reads the table at `*offset` and goes on behind it. False if it has no room there. */
static bool read_macs(const struct command *command, size_t *offset, struct net_macs *macs)
{
    uint32_t count;
    if (command->size - *offset < COUNT_SIZE)
        return false;
    read_data(command, *offset, &count, COUNT_SIZE);
    *offset += COUNT_SIZE;
    count = le32toh(count);
    if (count > (command->size - *offset) / NET_MAC_SIZE)
        return false;
    macs->overflown = count > NET_MACS_MAX;
    macs->count = macs->overflown ? 0 : count;
    for (unsigned i = 0; i < macs->count; i++) {
        uint8_t mac[NET_MAC_SIZE];
        read_data(command, *offset + (size_t)i * NET_MAC_SIZE, mac, sizeof(mac));
        macs->macs[i] = net_mac_key(mac);
    }
    *offset += (size_t)count * NET_MAC_SIZE;
    return true;
}

static bool set_mac_table(struct command *command)
{
    size_t offset = 0;
    return read_macs(command, &offset, &command->after->unicast) &&
           read_macs(command, &offset, &command->after->multicast) && offset == command->size;
}

static bool set_mac(struct command *command)
{
    struct virtio_net *net = command->net;
    uint8_t mac[NET_MAC_SIZE];
    read_data(command, 0, mac, sizeof(mac));
    if (mac[0] & 1) /* that of a group */
        return false;
    pthread_mutex_lock(&net->device.lock);
    memcpy(net->mac, mac, sizeof(mac));
    pthread_mutex_unlock(&net->device.lock);
    command->after->mac = net_mac_key(mac);
    return true;
}

static bool set_vlan(struct command *command)
{
    uint16_t vlan;
    read_data(command, 0, &vlan, sizeof(vlan));
    vlan = le16toh(vlan);
    if (vlan >= NET_VLANS)
        return false;
    if (command->number == VIRTIO_NET_CTRL_VLAN_ADD)
        command->after->vlans[vlan / 64] |= BIT(vlan % 64);
    else
        command->after->vlans[vlan / 64] &= ~BIT(vlan % 64);
    return true;
}

static bool acknowledge_announcement(struct command *command)
{
    command->net->announce = false;
    return true;
}

static bool set_pairs(struct command *command)
{
    struct virtio_net *net = command->net;
    uint16_t pairs;
    read_data(command, 0, &pairs, sizeof(pairs));
    pairs = le16toh(pairs);
    if (pairs < VIRTIO_NET_CTRL_MQ_VQ_PAIRS_MIN || pairs > net->pair_count ||
        net_backend_use_queues(net->backend, pairs) < 0)
        return false;
    command->after->pairs = pairs;
    return true;
}

/* Those that the driver has accepted, or some of them. */
static bool set_offloads(struct command *command)
{
    struct virtio_net *net = command->net;
    uint64_t features;
    read_data(command, 0, &features, sizeof(features));
    features = le64toh(features);
    if (features & ~(net->device.features & OFFLOAD_FEATURES) || !net_features_fit(features) ||
        net_backend_set_offloads(net->backend, net_guest_offloads(features)) < 0)
        return false;
    command->after->offloads = net_guest_offloads(features);
    return true;
}

static const struct {
    uint8_t class, first, last; /* numbers */
    unsigned feature;
    size_t size; /* of its data */
    bool (*carry_out)(struct command *command);
} commands[] = {
    {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_CTRL_RX_ALLMULTI, VIRTIO_NET_F_CTRL_RX, 1,
     set_mode},
    {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_ALLUNI, VIRTIO_NET_CTRL_RX_NOBCAST, VIRTIO_NET_F_CTRL_RX_EXTRA, 1,
     set_mode},
    {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_F_CTRL_RX,
     ANY_SIZE, set_mac_table},
    {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, VIRTIO_NET_CTRL_MAC_ADDR_SET,
     VIRTIO_NET_F_CTRL_MAC_ADDR, NET_MAC_SIZE, set_mac},
    {VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, VIRTIO_NET_CTRL_VLAN_DEL, VIRTIO_NET_F_CTRL_VLAN, 2,
     set_vlan},
    {VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_ANNOUNCE_ACK,
     VIRTIO_NET_F_GUEST_ANNOUNCE, 0, acknowledge_announcement},
    {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_F_MQ, 2,
     set_pairs},
    {VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET,
     VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, 8, set_offloads},
};

/* ---- Settings ---- */

/* Until no batch is under way that may have begun before now. */
static void wait_for_receivers(struct virtio_net *net)
{
    for (unsigned i = 0; i < net->pair_count; i++) {
        unsigned seen = net->pairs[i].receiver.reading;
        while (seen % 2 && net->pairs[i].receiver.reading == seen)
            sched_yield();
    }
}

/* A pair that is in use from now on looks for frames. */
static void put_in_force(struct virtio_net *net, struct net_settings *after)
{
    unsigned before = ((struct net_settings *)net->settings)->pairs;
    net->settings = after;
    wait_for_receivers(net);
    for (unsigned i = 0; i < net->pair_count && before != after->pairs; i++)
        virtio_queue_kick(&net->device, net_receive_queue(&net->pairs[i]));
}

static bool carry_out(struct command *command, uint8_t class)
{
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++) {
        if (class == commands[i].class && command->number >= commands[i].first &&
            command->number <= commands[i].last)
            return virtio_has_feature(&command->net->device, commands[i].feature) &&
                   (commands[i].size == ANY_SIZE || commands[i].size == command->size) &&
                   commands[i].carry_out(command);
    }
    return false;
}

static uint8_t answer(struct virtio_net *net, const struct virtqueue_chain *chain)
{
    struct virtio_net_ctrl_hdr header;
    if (virtqueue_read(chain, 0, &header, HEADER_SIZE) < HEADER_SIZE)
        return VIRTIO_NET_ERR;
    struct net_settings *before = net->settings;
    struct command command = {
        .net = net,
        .chain = chain,
        .number = header.cmd,
        .size = chain->out_bytes - HEADER_SIZE,
        .after = &net->snapshots[before == net->snapshots],
    };
    *command.after = *before;
    if (!carry_out(&command, header.class))
        return VIRTIO_NET_ERR;
    put_in_force(net, command.after);
    return VIRTIO_NET_OK;
}

/* One without room for the answer is not carried out. */
static void take_command(struct virtio_net *net, struct virtqueue *ring, struct virtqueue_chain *chain)
{
    uint8_t status;
    if (chain->in_bytes < sizeof(status)) {
        virtqueue_push(ring, chain, 0);
        return;
    }
    status = answer(net, chain);
    virtqueue_write(chain, 0, &status, sizeof(status));
    virtqueue_push(ring, chain, sizeof(status));
}

void net_control(struct virtio_net *net, unsigned index, struct virtqueue *ring)
{
    struct virtqueue_chain *chain;
    struct error err;
    unsigned taken = 0;
    int result = 1;
    while (taken++ < TAKE_MAX && (result = virtqueue_pop(ring, &chain, &err)) > 0)
        take_command(net, ring, chain);
    virtio_queue_interrupt(&net->device, index);
    if (result < 0)
        virtio_queue_broke(&net->device, index, &err);
    else if (result > 0)
        virtio_queue_kick(&net->device, index);
}
