#include "devices/virtio/net_settings.h"

#include <endian.h>
#include <linux/if_ether.h>
#include <string.h>

#include "devices/net/net_backend.h"

#define BROADCAST 0xFFFFFFFFFFFFu
#define VLAN_ID   0xFFF /* in a tag */

uint64_t net_mac_key(const uint8_t mac[NET_MAC_SIZE])
{
    uint64_t key = 0;
    memcpy(&key, mac, NET_MAC_SIZE);
    return key;
}

static bool has_mac(const struct net_macs *macs, uint64_t mac)
{
    if (macs->overflown)
        return true;
    for (unsigned i = 0; i < macs->count; i++) {
        if (macs->macs[i] == mac)
            return true;
    }
    return false;
}

static bool wants_destination(const struct net_settings *settings, const struct net_head *head)
{
    uint64_t mac = net_mac_key(head->destination);
    if (mac == BROADCAST)
        return !settings->no_broadcast;
    if (head->destination[0] & 1)
        return !settings->no_multicast && (settings->all_multicast || has_mac(&settings->multicast, mac));
    return !settings->no_unicast &&
           (settings->all_unicast || mac == settings->mac || has_mac(&settings->unicast, mac));
}

static bool wants_tag(const struct net_settings *settings, const struct net_head *head)
{
    unsigned vlan = be16toh(head->tag) & VLAN_ID;
    return !settings->only_vlans || head->type != htobe16(ETH_P_8021Q) ||
           settings->vlans[vlan / 64] >> vlan % 64 & 1;
}

/* The offloads that it takes to receive such a frame. All bits: it is of no kind that a driver can receive.
 */
static unsigned needed_offloads(const struct virtio_net_hdr_v1 *header)
{
    unsigned needed = header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM ? NET_OFFLOAD_CHECKSUM : 0;
    if (header->gso_type & VIRTIO_NET_HDR_GSO_ECN)
        needed |= NET_OFFLOAD_ECN;
    switch (header->gso_type & ~VIRTIO_NET_HDR_GSO_ECN) {
    case VIRTIO_NET_HDR_GSO_NONE:
        return needed;
    case VIRTIO_NET_HDR_GSO_TCPV4:
        return needed | NET_OFFLOAD_TSO4;
    case VIRTIO_NET_HDR_GSO_TCPV6:
        return needed | NET_OFFLOAD_TSO6;
    default:
        return ~0u;
    }
}

static bool is_too_long(const struct net_settings *settings, const struct net_head *head, uint32_t length)
{
    uint32_t headers = NET_HEADER_SIZE + NET_ETHERNET;
    if (head->type == htobe16(ETH_P_8021Q))
        headers += NET_VLAN_SIZE;
    else if (head->type == htobe16(ETH_P_8021AD)) /* with another one inside */
        headers += 2 * NET_VLAN_SIZE;
    return settings->mtu && head->header.gso_type == VIRTIO_NET_HDR_GSO_NONE &&
           length > headers + settings->mtu;
}

bool net_settings_want(const struct net_settings *settings, const struct net_head *head, uint32_t length)
{
    if (length < NET_HEADER_SIZE + NET_ETHERNET || is_too_long(settings, head, length) ||
        needed_offloads(&head->header) & ~settings->offloads)
        return false;
    return settings->promiscuous || (wants_tag(settings, head) && wants_destination(settings, head));
}
