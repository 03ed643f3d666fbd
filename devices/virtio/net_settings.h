/*
 * What a driver of a network device has asked for of the frames that it receives: which ones, for whom, and
 * what may be left to be done to them. The control queue changes it, receiving obeys it.
 *
 * Specification: VIRTIO 1.2, sections 5.1.6.4.1 and 5.1.6.5.1 to 5.1.6.5.3.
 */
#pragma once

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>

#define NET_MAC_SIZE  6
#define NET_VLANS     4096
#define NET_MACS_MAX  64 /* of a table; with more, all of their kind are let in */
#define NET_ETHERNET  14 /* bytes of its header */
#define NET_VLAN_SIZE 4  /* bytes that a tag adds to it */

struct net_macs {
    unsigned count;
    bool overflown;
    uint64_t macs[NET_MACS_MAX]; /* net_mac_key() */
};

struct net_settings {
    uint64_t mac;      /* net_mac_key() of the device's address */
    uint32_t mtu;      /* packets that are longer are not wanted, unless they are to be cut; 0: any length */
    unsigned offloads; /* enum net_offloads: what the driver can do itself */
    unsigned pairs;    /* the first so many pairs of queues receive */
    bool promiscuous, all_multicast, all_unicast, no_multicast, no_unicast, no_broadcast;
    bool only_vlans; /* of frames with a tag, those in `vlans` */
    struct net_macs unicast, multicast;
    uint64_t vlans[NET_VLANS / 64];
};

/* How a frame begins, as in memory. */
struct net_head {
    struct virtio_net_hdr_v1 header;
    uint8_t destination[NET_MAC_SIZE], source[NET_MAC_SIZE];
    uint16_t type; /* big-endian, as is the tag */
    uint16_t tag;
};

/* An address as one number. */
uint64_t net_mac_key(const uint8_t mac[NET_MAC_SIZE]);

/* Whether a frame of `length` bytes, header included, that begins like this is to be delivered; what is
 * beyond its length in `head` is zero. */
bool net_settings_want(const struct net_settings *settings, const struct net_head *head, uint32_t length);
