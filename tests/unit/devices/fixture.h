/*
 * What the tests of devices need around a device: ports to map it to, an interrupt line to look at, an event
 * loop on a thread, and host descriptors to talk through. A failure in any of it fails the test.
 */
#pragma once

#include <criterion/criterion.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "devices/irq_line.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "memory/region.h"

struct bus {
    struct memory *memory;
    struct memory_region root;
    struct address_space *space;
};

static inline void bus_create(struct bus *bus)
{
    struct error err = {0};
    bus->memory = memory_create();
    cr_assert(bus->memory);
    cr_assert_eq(memory_region_init_container(&bus->root, bus->memory, "io", 0x10000, &err), 0, "%s",
                 err.message);
    cr_assert_eq(address_space_create(bus->memory, "io", &bus->root, &bus->space, &err), 0, "%s",
                 err.message);
}

static inline void bus_map(struct bus *bus, uint64_t port, struct memory_region *region)
{
    struct error err = {0};
    cr_assert_eq(memory_region_add_subregion(&bus->root, port, region, 0, &err), 0, "%s", err.message);
}

static inline void bus_unmap(struct memory_region *region)
{
    struct error err = {0};
    cr_assert_eq(memory_region_remove_subregion(region, &err), 0, "%s", err.message);
}

/* Every device must be unmapped and destroyed. */
static inline void bus_destroy(struct bus *bus)
{
    address_space_destroy(bus->space);
    memory_region_destroy(&bus->root);
    memory_destroy(bus->memory);
}

/* The result of the access is the machine's business, which has none: a guest gets ones from nothing. */
static inline uint32_t bus_in(struct bus *bus, uint64_t port, unsigned size)
{
    uint32_t value = 0;
    address_space_read(bus->space, port, &value, size);
    return value;
}

static inline void bus_out(struct bus *bus, uint64_t port, uint32_t value, unsigned size)
{
    address_space_write(bus->space, port, &value, size);
}

/* An interrupt line that a test looks at, and waits for the rising edges of. */
struct test_line {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool level;
    unsigned edges; /* not yet waited for */
};

static inline void test_line_set(void *opaque, unsigned number, bool level)
{
    struct test_line *line = opaque;
    pthread_mutex_lock(&line->lock);
    if (level && !line->level)
        line->edges++;
    line->level = level;
    pthread_cond_broadcast(&line->changed);
    pthread_mutex_unlock(&line->lock);
}

static inline struct irq_line test_line_init(struct test_line *line)
{
    *line = (struct test_line){.level = false};
    pthread_mutex_init(&line->lock, NULL);
    pthread_cond_init(&line->changed, NULL);
    return (struct irq_line){.set = test_line_set, .opaque = line};
}

static inline bool test_line_level(struct test_line *line)
{
    pthread_mutex_lock(&line->lock);
    bool level = line->level;
    pthread_mutex_unlock(&line->lock);
    return level;
}

/* Waits for an edge, as an edge-triggered interrupt controller does: all there have been are one interrupt.
 */
static inline void test_line_wait(struct test_line *line)
{
    pthread_mutex_lock(&line->lock);
    while (line->edges == 0)
        pthread_cond_wait(&line->changed, &line->lock);
    line->edges = 0;
    pthread_mutex_unlock(&line->lock);
}

/* An event loop that runs on a thread of its own between start and stop. */
struct loop_thread {
    struct event_loop *loop;
    pthread_t thread;
};

static inline void loop_create(struct loop_thread *loop)
{
    struct error err = {0};
    signal(SIGPIPE, SIG_IGN);
    cr_assert_eq(event_loop_create(&loop->loop, &err), 0, "%s", err.message);
}

static inline void *loop_main(void *opaque)
{
    event_loop_run(opaque);
    return NULL;
}

static inline void loop_start(struct loop_thread *loop)
{
    cr_assert_eq(pthread_create(&loop->thread, NULL, loop_main, loop->loop), 0);
}

static inline void loop_stop(struct loop_thread *loop)
{
    event_loop_quit(loop->loop);
    pthread_join(loop->thread, NULL);
}

static inline void write_all(int fd, const void *data, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t written = write(fd, (const char *)data + done, count - done);
        cr_assert_gt(written, 0);
        done += (size_t)written;
    }
}

/* Waits for exactly `count` bytes. */
static inline void read_all(int fd, void *data, size_t count)
{
    for (size_t done = 0; done < count;) {
        ssize_t got = read(fd, (char *)data + done, count - done);
        cr_assert_gt(got, 0, "end of file after %zu of %zu bytes", done, count);
        done += (size_t)got;
    }
}

/* Bytes that differ from place to place with no short period: byte `position` of a stream. */
static inline uint8_t pattern(size_t position)
{
    uint64_t mixed = (position + 1) * 0x9E3779B97F4A7C15u;
    return (uint8_t)(mixed >> 56 ^ mixed >> 32);
}
