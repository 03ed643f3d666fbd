/*
 * What the two halves of the tap backend, opening (tap_open.c) and moving frames (tap.c), share.
 */
#pragma once

#include <linux/if.h>
#include <stdbool.h>

#include "base/error.h"
#include "devices/net/net_backend.h"
#include "devices/net/tap.h"

/* Of one descriptor. But for `fd` it belongs to the queue's loop. */
struct tap_queue {
    int fd;
    struct event_loop *loop; /* NULL: not started */
    struct event_source *source;
    const struct net_queue_events *events;
    void *opaque;
    unsigned index;
    bool output; /* `writable` is wanted */
    bool gone;   /* the interface is: nothing will come any more */
    struct tap *tap;
};

struct tap {
    struct net_backend backend;
    struct event_loop *loop;
    const struct log *log;
    char name[IFNAMSIZ];
    bool bare;       /* frames have no header in the kernel */
    unsigned opened; /* queues that have a descriptor */
    unsigned used;   /* the first so many of them are attached */
    int end_fd;      /* an eventfd: a queue has found that the interface is gone */
    struct event_source *end;
    struct tap_queue queues[NET_QUEUES_MAX];
};

/* Opens and attaches all of the configuration's queues; fills in `name`, `bare` and `backend`. -errno with a
 * message. */
int tap_attach(struct tap *tap, const struct tap_config *config, struct error *err);

/* Closes the descriptors. */
void tap_detach(struct tap *tap);

/* Tells the kernel which offloads the guest takes. 0 or -errno. */
int tap_set_offloads(const struct tap *tap, unsigned offloads);
