/*
 * The loops that serve the queues of devices: those of a machine's I/O threads or, where there are none, the
 * machine's own.
 *
 * Made, used and freed by the machine's thread.
 */
#pragma once

struct error;
struct event_loop;
struct io_threads;

/* Starts `count` threads; with 0, `loop` (borrowed) serves all. -errno with a message. */
int io_threads_create(unsigned count, struct event_loop *loop, struct io_threads **threads,
                      struct error *err);

/* The loop for the next queue: they take turns. */
struct event_loop *io_threads_next(struct io_threads *threads);

/* Ends the threads. No queue is served any more. NULL is allowed. */
void io_threads_destroy(struct io_threads *threads);
