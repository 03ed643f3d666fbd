/*
 * A network backend for tests, in memory: frames that a test puts in are received by the device, and those
 * that the device sends are kept for the test. Whatever breaks the promises of devices/net/net_backend.h
 * aborts. The functions here may be called on any thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "devices/net/net_backend.h"

#define FAKE_NET_QUEUES_MAX 4
#define FAKE_NET_ROOM_MAX   (~0u)

struct event_source;
struct fake_net;

struct fake_frame {
    struct fake_frame *next;
    uint32_t length;
    uint8_t data[];
};

struct fake_frames {
    struct fake_frame *first, **end;
    unsigned count;
};

struct fake_queue {
    struct fake_net *net;
    unsigned index;
    int wake_fd;
    unsigned accesses; /* by the device, on its loop: unguarded, so that a wrong thread is found */
    /* While it is started: */
    struct event_loop *loop;
    struct event_source *wake;
    const struct net_queue_events *events;
    void *opaque;
    /* Guarded by the lock: */
    bool started, watches_input, watches_output;
    struct fake_frames input, output;
    unsigned room; /* for so many frames more */
    unsigned calls, largest_batch;
};

struct fake_net {
    struct net_backend backend;
    pthread_mutex_t lock;
    struct fake_queue queues[FAKE_NET_QUEUES_MAX];
    /* As the device has set them: */
    _Atomic unsigned guest_offloads, used_queues;
    /* What the next calls return: */
    _Atomic int start_result, offloads_result, queues_result;
};

/* With room for any number of frames, and its link up. */
void fake_net_create(struct fake_net *net, unsigned queues, unsigned offloads, uint16_t mtu);
void fake_net_destroy(struct fake_net *net);

/* A frame for the guest, header included. */
void fake_net_put(struct fake_net *net, unsigned queue, const void *data, uint32_t length);

/* Frames that the device has not received yet. */
unsigned fake_net_waiting(struct fake_net *net, unsigned queue);

/* The next frame that the guest has sent, cut to `size`. Returns its length; 0: there is none. */
uint32_t fake_net_take(struct fake_net *net, unsigned queue, void *data, uint32_t size);

/* So many frames more are taken from the guest. */
void fake_net_set_room(struct fake_net *net, unsigned queue, unsigned frames);

/* How often the queue's callbacks have been called. */
unsigned fake_net_calls(struct fake_net *net, unsigned queue);

/* Changes the link and tells the device, on this thread. */
void fake_net_set_link(struct fake_net *net, bool up);
