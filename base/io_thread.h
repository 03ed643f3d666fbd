/*
 * A thread that runs an event loop: where a device's queues can be served beside the vCPUs and the machine's
 * own loop. All signals are blocked in it.
 *
 * Whoever creates an I/O thread destroys it; its loop may be used as base/event_loop.h says.
 */
#pragma once

struct error;
struct event_loop;
struct io_thread;

/* Starts a thread named `name` (up to 15 bytes are shown). -errno with a message. */
int io_thread_create(const char *name, struct io_thread **thread, struct error *err);

struct event_loop *io_thread_loop(struct io_thread *thread);

/* Ends the loop, waits for the thread and frees both. NULL is allowed. */
void io_thread_destroy(struct io_thread *thread);
