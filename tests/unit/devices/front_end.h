/*
 * A front end of a character device whose events a test waits for, and a log whose lines it reads.
 */
#pragma once

#include <fcntl.h>
#include <string.h>

#include "base/log.h"
#include "devices/chardev.h"
#include "fixture.h"

struct front_end {
    struct chardev *chardev;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned readable, writable; /* events not yet waited for */
};

static inline void note_event(struct front_end *front_end, unsigned *events)
{
    pthread_mutex_lock(&front_end->lock);
    ++*events;
    pthread_cond_broadcast(&front_end->changed);
    pthread_mutex_unlock(&front_end->lock);
}

static inline void note_readable(void *opaque)
{
    struct front_end *front_end = opaque;
    note_event(front_end, &front_end->readable);
}

static inline void note_writable(void *opaque)
{
    struct front_end *front_end = opaque;
    note_event(front_end, &front_end->writable);
}

static inline void wait_event(struct front_end *front_end, unsigned *events)
{
    pthread_mutex_lock(&front_end->lock);
    while (*events == 0)
        pthread_cond_wait(&front_end->changed, &front_end->lock);
    *events = 0;
    pthread_mutex_unlock(&front_end->lock);
}

static inline void front_end_attach(struct front_end *front_end, struct chardev *chardev)
{
    *front_end = (struct front_end){.chardev = chardev};
    pthread_mutex_init(&front_end->lock, NULL);
    pthread_cond_init(&front_end->changed, NULL);
    chardev_attach(chardev, &(struct chardev_front_end){note_readable, note_writable, front_end});
}

/* Writes all of it, waiting where the device is full. */
static inline void front_end_write(struct front_end *front_end, const void *data, size_t count)
{
    for (size_t done = 0; done < count;) {
        size_t taken = chardev_write(front_end->chardev, (const char *)data + done, count - done);
        done += taken;
        if (done < count)
            wait_event(front_end, &front_end->writable);
    }
}

/* Reads exactly `count` bytes, in pieces of at most `chunk`, waiting where there are none. */
static inline void front_end_read(struct front_end *front_end, void *data, size_t count, size_t chunk)
{
    for (size_t done = 0; done < count;) {
        size_t left = count - done < chunk ? count - done : chunk;
        size_t got = chardev_read(front_end->chardev, (char *)data + done, left);
        done += got;
        if (got == 0)
            wait_event(front_end, &front_end->readable);
    }
}

/* A log that goes into a pipe, of which a test reads the other end. */
struct test_log {
    struct log log;
    int read_end;
};

static inline void test_log_init(struct test_log *log)
{
    int ends[2];
    cr_assert_eq(pipe2(ends, O_CLOEXEC | O_NONBLOCK), 0);
    log->log = (struct log){.fd = ends[1], .level = LOG_DEBUG, .name = "godwit"};
    log->read_end = ends[0];
}

/* All that has been logged since the last call. */
static inline const char *test_log_take(struct test_log *log, char text[4096])
{
    ssize_t count = read(log->read_end, text, 4095);
    text[count > 0 ? count : 0] = '\0';
    return text;
}
