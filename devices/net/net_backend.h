/*
 * Where a network device's frames go and come from on the host: a tap interface (net/tap.h), a socket of
 * passt (net/passt.h). One kind of backend is one file that fills in `struct net_backend_ops`; network
 * devices (virtio/net.h) know only this.
 *
 * A backend has one or more queues, each of which carries frames both ways and is used by one event loop at a
 * time. Frames move in batches, in calls that do not block: whoever is told that there is nothing, or no
 * room, asks to be woken (net_backend_watch()) and tries again then. No memory of the caller's is used after
 * a call has returned, so nothing is ever under way.
 *
 * A frame begins with a header of NET_HEADER_SIZE bytes, `struct virtio_net_hdr_v1` in little-endian order,
 * which says what is left to be done to it: a checksum, cutting it into segments. A backend without offloads
 * writes zeroes there, and ignores what it is given. Its field num_buffers is the device's to fill in. Then
 * comes the Ethernet frame, without its checksum.
 *
 * Threads. Starting, stopping, watching, sending and receiving on a queue are for the thread of the loop that
 * it was started on. All else is for one thread at a time, and safe beside the queues. The callback of links
 * is called on the loop of the backend's configuration.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct event_loop;
struct net_backend;

#define NET_HEADER_SIZE 12
#define NET_FRAME_MAX   (NET_HEADER_SIZE + 65550) /* header, Ethernet header, the largest packet of IP */
#define NET_QUEUES_MAX  16

/* What the receiver of a frame can do with it, so that its sender need not. Bits. */
enum net_offloads {
    NET_OFFLOAD_CHECKSUM = 1 << 0,
    NET_OFFLOAD_TSO4 = 1 << 1,
    NET_OFFLOAD_TSO6 = 1 << 2,
    NET_OFFLOAD_ECN = 1 << 3, /* of TSO */
    NET_OFFLOAD_USO4 = 1 << 4,
    NET_OFFLOAD_USO6 = 1 << 5,
};

/* One frame, in pieces. */
struct net_frame {
    const struct iovec *iov;
    unsigned iov_count; /* up to IOV_MAX */
    uint32_t length;    /* bytes of it, header included; set by receiving, and by who sends it */
};

struct net_queue_events {
    /* There may be frames to receive, or room to send, as was watched for. On the queue's loop. */
    void (*readable)(void *opaque, unsigned queue);
    void (*writable)(void *opaque, unsigned queue);
};

struct net_backend_ops {
    void (*destroy)(struct net_backend *backend);
    int (*start)(struct net_backend *backend, unsigned queue, struct event_loop *loop,
                 const struct net_queue_events *events, void *opaque);
    void (*stop)(struct net_backend *backend, unsigned queue);
    void (*watch)(struct net_backend *backend, unsigned queue, bool input, bool output);
    unsigned (*receive)(struct net_backend *backend, unsigned queue, struct net_frame *frames,
                        unsigned count);
    unsigned (*send)(struct net_backend *backend, unsigned queue, const struct net_frame *frames,
                     unsigned count);
    int (*set_offloads)(struct net_backend *backend, unsigned offloads); /* NULL where there are none */
    int (*use_queues)(struct net_backend *backend, unsigned count);      /* NULL where there is only one */
};

/* Embedded first in its kind of backend. What a device reads of it does not change once it is made. */
struct net_backend {
    const struct net_backend_ops *ops;
    unsigned queue_count; /* 1 to NET_QUEUES_MAX */
    unsigned offloads;    /* what it can do with frames that are sent; and so what it can be told of */
    uint16_t mtu;         /* of its interface; 0: not known */
    uint8_t mac[6];       /* an address for the guest, where nobody chose one, that is nobody else's there */
    _Atomic bool link_up;
    void (*link_changed)(void *opaque); /* set by net_backend_set_link_callback() */
    void *link_opaque;
};

/* Frees it and what it has open. No queue is started. NULL is allowed. */
static inline void net_backend_destroy(struct net_backend *backend)
{
    if (backend)
        backend->ops->destroy(backend);
}

/* `changed` is called whenever link_up has. Before any queue is started. */
static inline void net_backend_set_link_callback(struct net_backend *backend, void (*changed)(void *opaque),
                                                 void *opaque)
{
    backend->link_changed = changed;
    backend->link_opaque = opaque;
}

/* Serves `queue` on this loop from now on; nothing is watched for yet. 0 or -ENOMEM. */
static inline int net_backend_start(struct net_backend *backend, unsigned queue, struct event_loop *loop,
                                    const struct net_queue_events *events, void *opaque)
{
    return backend->ops->start(backend, queue, loop, events, opaque);
}

/* No callback comes any more; frames stay where they are. */
static inline void net_backend_stop(struct net_backend *backend, unsigned queue)
{
    backend->ops->stop(backend, queue);
}

/* What the queue's callbacks are wanted for from now on; they come for as long as it holds. */
static inline void net_backend_watch(struct net_backend *backend, unsigned queue, bool input, bool output)
{
    backend->ops->watch(backend, queue, input, output);
}

/*
 * Receives up to `count` frames, each into its pieces, in order; says how many, and sets their lengths. Less
 * than `count`: there are no more. What does not fit into a frame's pieces is cut off; with less than
 * NET_FRAME_MAX bytes in each, offer no offloads. While the link is down there are none.
 */
static inline unsigned net_backend_receive(struct net_backend *backend, unsigned queue,
                                           struct net_frame *frames, unsigned count)
{
    return backend->ops->receive(backend, queue, frames, count);
}

/*
 * Sends frames in order, and says how many were taken; less than `count`: there is no room for more. Frames
 * that cannot be sent at all (too short, too long, with a header that makes no sense, the link is down) are
 * taken, and lost, as on a wire.
 */
static inline unsigned net_backend_send(struct net_backend *backend, unsigned queue,
                                        const struct net_frame *frames, unsigned count)
{
    return backend->ops->send(backend, queue, frames, count);
}

/* What the guest can do with frames that it receives: within what the backend has. 0 or -errno. Any thread.
 */
static inline int net_backend_set_offloads(struct net_backend *backend, unsigned offloads)
{
    return backend->ops->set_offloads ? backend->ops->set_offloads(backend, offloads) : 0;
}

/* Frames for the guest are spread over the first `count` queues only. 0 or -errno. Any thread. */
static inline int net_backend_use_queues(struct net_backend *backend, unsigned count)
{
    return backend->ops->use_queues ? backend->ops->use_queues(backend, count) : 0;
}
