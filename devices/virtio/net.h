/*
 * A virtio network device on a backend (net/net_backend.h).
 *
 * Each pair of queues, receiving and sending, is served by one event loop, the control queue by one of
 * these. Frames are received straight into the guest's buffers and sent straight out of them.
 *
 * Offered: mergeable receive buffers; checksums and segmentation, both ways, as far as the backend has them;
 * several pairs of queues, where the backend has them; a control queue for receive modes, the MAC address and
 * filters, VLANs, offloads, the number of pairs in use, and announcements; an MTU; the state of the link.
 *
 * A frame that makes no sense is dropped, a command that makes no sense is answered with an error; neither
 * harms its queue. Frames that come while the guest offers no buffer wait in the backend; one for which it
 * offers too few mergeable buffers waits here, unless they are all that its ring can hold. A frame that the
 * driver has not asked for, that is longer than the MTU agreed upon, that needs an offload which it has not
 * accepted, or that does not fit into a buffer which has to hold all of it, is dropped, and its buffers serve
 * the next.
 *
 * What the specification leaves open: a driver with CTRL_RX gets frames for its own address and broadcasts
 * until it asks for others, one without it gets all. A promiscuous driver gets all VLANs. Where a table of
 * addresses has no room for what the driver sets, all addresses of that kind are let in. What is left in
 * transmit queues of pairs that are no longer in use is sent. When the link comes back the driver is asked to
 * announce itself.
 *
 * Specification: VIRTIO 1.2, section 5.1.
 */
#pragma once

#include <stdint.h>

struct address_space;
struct error;
struct event_loop;
struct log;
struct net_backend;
struct virtio_device;
struct virtio_net;

#define VIRTIO_NET_MAC_SIZE 6
#define VIRTIO_NET_MTU_MIN  68 /* VIRTIO 1.2, section 5.1.4.1 */
#define VIRTIO_NET_MTU_MAX  65535

struct virtio_net_setup {
    struct net_backend *backend; /* borrowed, as is the rest; has one queue for each pair */
    uint8_t mac[VIRTIO_NET_MAC_SIZE];
    uint16_t mtu; /* told to the driver; 0: that of the backend, if it has one */
    const struct log *log;
    struct address_space *space;
    struct event_loop *const *loops; /* one for each pair of queues */
};

/* -errno with a message. */
int virtio_net_create(const struct virtio_net_setup *setup, struct virtio_net **net, struct error *err);

/* For its transport. */
struct virtio_device *virtio_net_device(struct virtio_net *net);

/* Asks the driver to tell the network where it is (section 5.1.6.5.4): after a migration. Any thread. */
void virtio_net_announce(struct virtio_net *net);

/* Stops all queues and frees the device. Its transport is gone. NULL is allowed. */
void virtio_net_destroy(struct virtio_net *net);
