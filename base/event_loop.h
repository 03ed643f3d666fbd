/*
 * An event loop over io_uring: one thread waits for descriptors to become ready and calls whoever asked.
 *
 * A loop belongs to the thread that runs it: that thread alone adds and removes sources while the loop runs;
 * before and after, any one thread may. event_loop_modify() and event_loop_quit() may be called from anywhere
 * at any time, guarded by the loop's own lock. Callbacks run on the loop's thread, one at a time, without
 * that lock, and may add and remove sources, their own included.
 */
#pragma once

#include <stdbool.h>

struct error;
struct event_loop;
struct event_source;

/* `events` are the poll(2) events that happened (POLLIN, POLLOUT, POLLHUP, POLLERR, POLLNVAL). */
typedef void event_callback(void *opaque, unsigned events);

/* Creates a loop. -errno with a message where the host refuses an io_uring. */
int event_loop_create(struct event_loop **loop, struct error *err);

/* Frees the loop and the sources still in it; descriptors stay open. Not while it runs. */
void event_loop_destroy(struct event_loop *loop);

/*
 * Watches `fd` (borrowed; any descriptor poll(2) takes) for the poll `events`, which may be 0 to begin
 * silent, and calls `callback` for as long as they hold (level-triggered). The source stays until
 * event_loop_remove(). A regular file is always ready. Returns 0 or -ENOMEM.
 */
int event_loop_add(struct event_loop *loop, int fd, unsigned events, event_callback *callback, void *opaque,
                   struct event_source **source);

/* Changes what `source` is watched for; 0 silences it. Any thread; does not block. */
void event_loop_modify(struct event_loop *loop, struct event_source *source, unsigned events);

/* Forgets `source` and frees it; its callback is not called again, also not for an event that is already
 * pending. */
void event_loop_remove(struct event_loop *loop, struct event_source *source);

/* Runs until event_loop_quit(). Returns 0, or -errno when the ring itself fails. Blocks. */
int event_loop_run(struct event_loop *loop);

/* Ends the current or the next event_loop_run(). Any thread; does not block. */
void event_loop_quit(struct event_loop *loop);
