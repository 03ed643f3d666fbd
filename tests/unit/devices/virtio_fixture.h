/*
 * What the tests of virtio share: the echo device (tests/support/virtio_echo.h) with four queues on two I/O
 * threads, rings in guest RAM, and an eventfd that is signalled for each interrupt.
 */
#pragma once

#include <criterion/criterion.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/io_thread.h"
#include "tests/support/virtio_echo.h"
#include "tests/support/virtio_guest.h"

#define QUEUES      4
#define RING_SIZE   16
#define RING_MAX    64

#define BIT(number) ((uint64_t)1 << (number))
#define VERSION_1   BIT(VIRTIO_F_VERSION_1)
#define ACKNOWLEDGE VIRTIO_CONFIG_S_ACKNOWLEDGE
#define DRIVER      VIRTIO_CONFIG_S_DRIVER
#define FEATURES_OK VIRTIO_CONFIG_S_FEATURES_OK
#define DRIVER_OK   VIRTIO_CONFIG_S_DRIVER_OK
#define NEEDS_RESET VIRTIO_CONFIG_S_NEEDS_RESET
#define FAILED      VIRTIO_CONFIG_S_FAILED

struct virtio_fixture {
    struct virtio_guest guest;
    struct io_thread *threads[2];
    struct event_loop *loops[QUEUES];
    struct echo echo;
    struct virtio_device *device;
    struct driver_ring rings[QUEUES];
    int irq_fd;
};

static inline void create_echo(struct virtio_fixture *f)
{
    struct echo_config config = {
        .space = f->guest.space, .queue_count = QUEUES, .queue_size_max = RING_MAX, .loops = f->loops};
    echo_create(&f->echo, &config);
    f->device = &f->echo.device;
    f->irq_fd = eventfd(0, EFD_NONBLOCK);
    cr_assert_geq(f->irq_fd, 0);
}

static inline void fixture_start(struct virtio_fixture *f)
{
    *f = (struct virtio_fixture){.irq_fd = -1};
    virtio_guest_create(&f->guest);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(io_thread_create("io", &f->threads[i], NULL), 0);
    for (unsigned i = 0; i < QUEUES; i++)
        f->loops[i] = io_thread_loop(f->threads[i % 2]);
    create_echo(f);
}

static inline void fixture_end(struct virtio_fixture *f)
{
    echo_destroy(&f->echo);
    for (unsigned i = 0; i < 2; i++)
        io_thread_destroy(f->threads[i]);
    virtio_guest_destroy(&f->guest);
    close(f->irq_fd);
}

static inline void wait_for_interrupt(struct virtio_fixture *f)
{
    struct pollfd wait = {.fd = f->irq_fd, .events = POLLIN};
    eventfd_t count;
    cr_assert_eq(poll(&wait, 1, -1), 1);
    eventfd_read(f->irq_fd, &count);
}

/* Waits for the next chain of a queue to come back, and holds it against what was offered. */
static inline void expect_echo(struct virtio_fixture *f, unsigned index, const char *text)
{
    char data[DRIVER_BUFFER_SIZE];
    uint32_t size;
    while (!driver_take(&f->rings[index], data, &size))
        wait_for_interrupt(f);
    cr_assert_eq(size, strlen(text));
    cr_assert_eq(memcmp(data, text, size), 0);
}

static inline void offer(struct virtio_fixture *f, unsigned index, const char *text)
{
    driver_offer(&f->rings[index], text, (uint32_t)strlen(text));
}

struct look {
    const struct echo_queue *queue;
    bool stopping;
};

static inline void look(void *opaque)
{
    struct look *look = opaque;
    look->stopping = look->queue->stopping;
}

/* Returns once the device has been asked to stop a queue that holds chains. */
static inline void wait_until_stopping(struct virtio_fixture *f, unsigned index)
{
    struct look seen = {.queue = &f->echo.queues[index]};
    while (event_loop_call(f->loops[index], look, &seen), !seen.stopping)
        sched_yield();
}

static inline void wait_until_held(struct virtio_fixture *f, unsigned chains)
{
    while (f->echo.held != chains)
        sched_yield();
}
