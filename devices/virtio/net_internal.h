/*
 * What the parts of the network device share: net.c has the device and the life of its queues, net_receive.c
 * and net_transmit.c move frames, net_control.c carries out commands, net_settings.c says which frames the
 * driver wants.
 *
 * Settings. Those in force are one of two snapshots; the control queue fills in the other one and makes it
 * the one in force. Receiving looks at them from the beginning of a batch to its end, with no lock: before a
 * command is answered, the control queue waits until each batch that may have begun with the old ones is
 * over, so what follows the answer is as it says, and the old snapshot is free. Such a batch waits for
 * nothing.
 */
#pragma once

#include <limits.h>
#include <stdbool.h>

#include "devices/net/net_backend.h"
#include "devices/virtio/device.h"
#include "devices/virtio/net.h"
#include "devices/virtio/net_settings.h"
#include "devices/virtio/queue.h"

struct error;

#define NET_RING_SIZE  256 /* entries of each queue */

/*
 * What one callback does at most, in bytes; each frame counts as so many more. So a queue that always has
 * something to do does not keep its loop from everything else.
 */
#define NET_BUDGET     (1 << 20)
#define NET_BATCH      32 /* frames after which the driver is interrupted if it wants to be */
#define NET_FRAME_COST (1 << 12)

struct net_receiver {
    struct virtqueue *ring; /* NULL: not started, or broken */
    /* Taken and not yet used, in order. Only within a callback; put back at its end. */
    struct virtqueue_chain *chains[NET_RING_SIZE];
    unsigned count;
    unsigned ring_size;
    uint64_t room;     /* bytes in them */
    uint32_t expected; /* so many bytes of buffers are taken for a frame that is yet to come */
    struct iovec iov[IOV_MAX];
    _Atomic unsigned reading;  /* odd while the settings are in use */
    uint32_t waiting;          /* bytes of a frame, all in `spill`, for which there are too few buffers */
    char spill[NET_FRAME_MAX]; /* what of a frame does not fit into the chains that were taken */
};

struct net_transmitter {
    struct virtqueue *ring; /* NULL: not started, or broken */
    bool full;              /* the backend has no room */
};

/* Both are its loop's, but for `reading`. */
struct net_pair {
    struct virtio_net *net;
    unsigned index;
    struct event_loop *loop;
    unsigned queues; /* that are started */
    bool backend_started;
    bool wants_input; /* to be called when there are frames */
    bool watches_input, watches_output;
    struct net_receiver receiver;
    struct net_transmitter transmitter;
};

struct virtio_net {
    struct virtio_device device;
    struct net_backend *backend;
    uint8_t first_mac[VIRTIO_NET_MAC_SIZE]; /* after a reset */
    uint8_t mac[VIRTIO_NET_MAC_SIZE];       /* guarded by the device's lock */
    uint16_t mtu;                           /* 0: not known */
    _Atomic bool announce;                  /* the driver has yet to */
    _Atomic(struct net_settings *) settings;
    struct net_settings snapshots[2];
    unsigned pair_count;
    struct net_pair *pairs;
};

/* Receives and sends what there is, within bounds. On the pair's loop, while the queue is started. */
void net_receive(struct net_pair *pair);
void net_transmit(struct net_pair *pair);

/* Has the backend call for what the pair waits for. */
void net_pair_watch(struct net_pair *pair);

/* Carries out commands. On the control queue's loop. */
void net_control(struct virtio_net *net, unsigned index, struct virtqueue *ring);

/* What the driver can do itself, as it says with these features; whether none lacks one that it requires. */
unsigned net_guest_offloads(uint64_t features);
bool net_features_fit(uint64_t features);

static inline unsigned net_receive_queue(const struct net_pair *pair)
{
    return 2 * pair->index;
}

static inline unsigned net_transmit_queue(const struct net_pair *pair)
{
    return 2 * pair->index + 1;
}
