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

/* Frees the loop and the sources still in it; descriptors stay open. Not while it runs, nor while a request
 * is under way: its owner has waited for it (event_loop_wait()). */
void event_loop_destroy(struct event_loop *loop);

/* Beside POLLIN and others, for an eventfd that nobody reads: the callback is called after each write, or
 * once after several, and once at the beginning; not for as long as there is something to read. */
#define EVENT_EDGE (1u << 31)

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

/* Runs until event_loop_quit(). Returns 0, or -errno when the ring itself fails. Blocks. The loop runs on one
 * thread at a time; which one may change. */
int event_loop_run(struct event_loop *loop);

/* Ends the current or the next event_loop_run(). Any thread; does not block. */
void event_loop_quit(struct event_loop *loop);

/*
 * Runs `function` on the loop's thread, between callbacks, and waits until it has returned; in place if this
 * is that thread, or if the loop does not run. Any thread that the loop's callbacks never wait for.
 */
void event_loop_call(struct event_loop *loop, void (*function)(void *opaque), void *opaque);

/*
 * As event_loop_call(), but `over` is called again after each batch of callbacks until it returns true: waits
 * for what the loop's requests bring about. In place, requests are served meanwhile, and sources are not
 * called: whoever has stopped the loop does not expect that any more. Other calls, and event_loop_run(), wait
 * until it is over. What a thread has submitted the kernel cancels when that thread ends, so requests made in
 * place are waited for in place.
 */
void event_loop_wait(struct event_loop *loop, bool (*over)(void *opaque), void *opaque);

/*
 * A request that the kernel carries out while the loop goes on: a read, a write, an fsync. Embedded in its
 * owner, who keeps it until `done` is called, once, on the loop's thread, with what the system call would
 * have returned, or -errno. Any number may be under way; none when the loop is destroyed.
 */
struct event_request {
    void (*done)(struct event_request *request, int result);
    struct event_request *next; /* private from here on */
    int result;
};

/*
 * Something that is looked at again and again for a while before the loop sleeps: memory that is written
 * faster than a sleeping thread wakes. Embedded in its owner; its callbacks run on the loop's thread.
 *
 * `look` does what there is to do, and returns whether there was something; so does `rest`, which comes last
 * before the loop sleeps or ends, and sees to it that what comes from then on wakes the loop by other means.
 * `wake` is called when the loop has slept, if it is going to look again, so that those are needed no more.
 *
 * The time is the loop's to choose: none where it sleeps for long each time or has but one processor, and up
 * to 100 µs, within which its requests and sources are looked at too, where it does not.
 */
struct event_poller {
    bool (*look)(struct event_poller *poller);
    bool (*rest)(struct event_poller *poller);
    void (*wake)(struct event_poller *poller);
    struct event_poller *next; /* private */
};

/* Begins and ends looking. On the loop's thread, not in a poller's callback. */
void event_loop_poll(struct event_loop *loop, struct event_poller *poller);
void event_loop_unpoll(struct event_loop *loop, struct event_poller *poller);

/* On the loop's thread: whether pollers are looked at before the loop sleeps next, so that they need not be
 * woken by other means until then. */
bool event_loop_polls(const struct event_loop *loop);

struct io_uring_sqe;

/*
 * An entry of the ring for `request`, for io_uring_prep_*() and nothing else of liburing. It is submitted
 * together with others before the loop waits again. On the loop's thread. Never NULL: where the ring is full
 * it is submitted first.
 */
struct io_uring_sqe *event_loop_request(struct event_loop *loop, struct event_request *request);

/* Tries to end a request early; `done` is called in every case, with -ECANCELED if that worked. On the loop's
 * thread. */
void event_loop_cancel(struct event_loop *loop, struct event_request *request);

/* Something to be done once for a whole batch of callbacks. Embedded in its owner, zeroed but for `run`. */
struct event_task {
    void (*run)(struct event_task *task);
    bool deferred; /* private from here on */
    struct event_task *next;
};

/*
 * Runs `task` once before the loop waits again, after what has happened up to then has been called back; once
 * also if it is deferred several times until then. On the loop's thread, as is event_loop_forget(), after
 * which it is not run.
 */
void event_loop_defer(struct event_loop *loop, struct event_task *task);
void event_loop_forget(struct event_loop *loop, struct event_task *task);
