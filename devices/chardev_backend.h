/*
 * What the kinds of character device share (devices/chardev.c), for those that implement one (chardev_*.c).
 *
 * A kind embeds a struct chardev, opens its descriptors, and hears of what becomes of them; the shared part
 * moves the bytes. Input is read on the event loop's thread alone. Output is written by whoever brings it, or
 * by that thread when a flush is due or the descriptor has room again. The lock guards all that is not
 * constant; what concerns `input`, and the sources, is changed on the loop's thread only, which may therefore
 * read it without the lock.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

#include "devices/chardev.h"
#include "devices/ring.h"

struct event_source;
struct timeout;

#define CHARDEV_BUFFER 4096 /* of output on its way; at most PIPE_BUF, which a ready pipe takes at once */

struct chardev_ops {
    /* `input` is at its end or broken. On the loop's thread, without the lock. */
    void (*input_ended)(struct chardev *chardev);
    /*
     * One of `idle_events` has happened: the other end has gone, while there is no room for input or after
     * its end. On the loop's thread, without the lock.
     */
    void (*hung_up)(struct chardev *chardev);
    /*
     * Writing failed with `error`, a positive errno. The kind calls chardev_close_output(), or drops `out` to
     * go on. On any thread, with the lock.
     */
    void (*output_failed)(struct chardev *chardev, int error);
    /* Optional: writing succeeded. On any thread, with the lock. */
    void (*output_succeeded)(struct chardev *chardev);
    /* Optional: output is about to be flushed. On the loop's thread, or while it does not run, without the
     * lock. */
    void (*flushing)(struct chardev *chardev);
    /* Closes the kind's descriptors and frees it. */
    void (*destroy)(struct chardev *chardev);
};

struct chardev {
    const struct chardev_ops *ops; /* constant, as the next three */
    struct chardev_config config;
    struct chardev_front_end front_end;
    bool keeps_output; /* while there is no `output`; otherwise such output is discarded */
    pthread_mutex_t lock;

    int input; /* -1: none */
    struct event_source *input_source;
    unsigned idle_events; /* what `input` is watched for while it is not read */
    bool input_paused;    /* for lack of room in `in` */
    bool input_at_end;
    struct ring in;

    int output; /* -1: none */
    struct event_source *output_source;
    bool
        output_may_block; /* shared with other processes, so that poll(2) has to be asked before each write */
    bool blocked;         /* `output_source` waits for room behind `output` */
    bool refused;         /* the front end waits for room in `out`; implies `blocked` */
    bool flush_pending;   /* `flush_timeout` is running */
    struct timeout *flush_timeout;
    int64_t last_flush;
    struct ring out;
    uint64_t dropped; /* bytes of kept output that had to make room, and that nobody has been told of */
};

/*
 * Sets up the shared part of a zeroed kind, with no descriptors: up to `input_limit` bytes will be read
 * ahead, and `output_limit` bytes kept. -ENOMEM, with nothing to undo.
 */
int chardev_init(struct chardev *chardev, const struct chardev_ops *ops, const struct chardev_config *config,
                 size_t input_limit, size_t output_limit);

/* Undoes chardev_init() and chardev_connect(); closes nothing. */
void chardev_release(struct chardev *chardev);

/*
 * Begins to use the descriptors (-1: none; they may be the same one), and writes what was kept. On the loop's
 * thread, without the lock. Returns 0 or -errno, and then no descriptor is used.
 */
int chardev_connect(struct chardev *chardev, int input, int output);

/* Stops using both descriptors. On the loop's thread, without the lock. */
void chardev_disconnect(struct chardev *chardev);

/* Stops reading `input` for good, but watches it for `idle_events`. On the loop's thread, without the lock.
 */
void chardev_end_input(struct chardev *chardev);

/* Stops using `output`. On any thread, with the lock; chardev_tell_writable() must follow without it. */
void chardev_close_output(struct chardev *chardev);

/* Tells a front end that was refused room that there is some now. On the loop's thread, without the lock. */
void chardev_tell_writable(struct chardev *chardev);
