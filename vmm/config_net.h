/*
 * The value of --net: what a network card leads to and what the guest gets of it,
 * "tap=NAME|fd=N[:N...]|passt=PATH[,mac=MAC][,mtu=N][,queues=N]". A comma that belongs to the path is written
 * twice.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "devices/net/net_backend.h"
#include "devices/virtio/net.h"

struct error;

enum config_net_kind {
    CONFIG_NET_TAP,
    CONFIG_NET_FDS, /* descriptors of a tap, which godwit was started with */
    CONFIG_NET_PASST,
};

/* Strings are owned. */
struct config_net {
    enum config_net_kind kind;
    char *name;              /* of the interface, or the path of the socket; NULL with descriptors */
    int fds[NET_QUEUES_MAX]; /* one for each queue */
    unsigned queues;         /* 1 to NET_QUEUES_MAX */
    bool has_mac;            /* otherwise it is the backend's to suggest */
    uint8_t mac[VIRTIO_NET_MAC_SIZE];
    uint16_t mtu; /* VIRTIO_NET_MTU_MIN or more; 0: that of the backend */
};

/*
 * Fills `net` from `text`. A relative path is taken relative to `folder`; NULL is the current directory.
 * Returns 0, -EINVAL with a message, or -ENOMEM; `net` holds nothing then. Any thread.
 */
int config_net_parse(struct config_net *net, const char *text, const char *folder, struct error *err);

/* Refuses what two cards of one machine cannot share: 0, or -EINVAL with a message. Any thread. */
int config_net_compare(const struct config_net *net, const struct config_net *other, struct error *err);

void config_net_free(struct config_net *net);
