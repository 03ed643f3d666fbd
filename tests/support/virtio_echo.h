/*
 * A virtio device for tests: gives back in the second half of each chain what is in the first. It can be told
 * to hold chains until they are released, as a disk would that takes its time, and it counts what is done to
 * it. Whatever breaks virtio/device.h's promises aborts.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>

#include "base/event_loop.h"
#include "devices/virtio/device.h"

#define ECHO_ID          42
#define ECHO_CONFIG_SIZE 10
#define ECHO_QUEUES_MAX  8
#define ECHO_HELD_MAX    64

struct echo;
struct echo_queue {
    struct echo *echo;
    unsigned index;
    struct event_loop *loop;
    int release_fd;
    struct event_request release; /* a read of it, while chains are held */
    eventfd_t released;
    struct virtqueue *ring; /* NULL: it is not started */
    struct virtqueue_chain *held[ECHO_HELD_MAX];
    unsigned held_count;
    bool stopping;
};

struct echo {
    struct virtio_device device;
    struct echo_queue queues[ECHO_QUEUES_MAX];
    uint8_t config[ECHO_CONFIG_SIZE]; /* written by the driver */
    _Atomic bool late;                /* chains are held, also beyond stop_queue, until they are released */
    _Atomic int start_result;
    _Atomic bool started; /* between start and reset */
    _Atomic unsigned starts, resets, queue_starts, queue_stops, breaks;
    _Atomic unsigned held; /* chains, of all queues */
};

struct echo_config {
    struct address_space *space;
    const struct log *log;
    unsigned queue_count;
    uint16_t queue_size_max;
    struct event_loop *const *loops;
};

void echo_create(struct echo *echo, const struct echo_config *config);

/* Releases what a queue holds, or what it is to hold next. Any thread. */
void echo_release(struct echo *echo, unsigned index);

void echo_destroy(struct echo *echo);
