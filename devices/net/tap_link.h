/*
 * What the kernel tells about a network interface (rtnetlink(7), RTM_GETLINK), as far as it matters to
 * whoever wants to use it as a tap.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct tap_link {
    bool tap; /* an interface of /dev/net/tun that carries Ethernet frames; else the next three are unknown */
    bool packet_info; /* frames begin with `struct tun_pi` */
    bool multi_queue; /* several descriptors may be attached */
    bool in_use;      /* a descriptor is; not known of one that lasts and has one queue */
    bool up;
    uint32_t mtu;
    uint8_t mac[6];
};

/* Looks for interface `name` in the thread's network namespace. 0, -ENODEV if there is none, or -errno. */
int tap_link_find(const char *name, struct tap_link *link);
