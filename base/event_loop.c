#include "base/event_loop.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"

/* Enough for every source of a small machine; a full submission queue is submitted and goes on. */
#define RING_ENTRIES 64

/*
 * A source is polled by one-shot requests, armed again after each callback: that makes it level-triggered.
 * The kernel names it by its address, so a removed source lives on until its last request has completed.
 */
struct event_source {
    int fd;
    unsigned wanted; /* guarded by the loop's lock */
    unsigned armed;  /* events of the request that the kernel holds; 0: none */
    bool changed;    /* on the loop's list of changes; guarded by the lock */
    bool cancelling;
    bool removed;
    event_callback *callback;
    void *opaque;
    struct event_source *next, **link; /* all sources */
    struct event_source *next_changed;
};

struct event_loop {
    struct io_uring ring;
    pthread_mutex_t lock;
    struct event_source *sources;
    struct event_source *changes; /* sources whose `wanted` differs from what is armed; guarded by the lock */
    struct event_source *wake;    /* an eventfd that interrupts the wait */
    int wake_fd;
    bool quit; /* guarded by the lock */
};

static void wake_up(struct event_loop *loop)
{
    /* Fails only when the counter is full, and then the loop is awake already. */
    ssize_t written = write(loop->wake_fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)written;
}

static void drain_wake(void *opaque, unsigned events)
{
    struct event_loop *loop = opaque;
    uint64_t count;
    ssize_t got = read(loop->wake_fd, &count, sizeof(count));
    (void)got;
}

int event_loop_create(struct event_loop **out, struct error *err)
{
    struct event_loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return error_set(err, ENOMEM, "not enough memory for an event loop");
    int result = io_uring_queue_init(RING_ENTRIES, &loop->ring, IORING_SETUP_CLAMP);
    if (result < 0) {
        free(loop);
        return error_set_errno(
            err, -result,
            "cannot set up an io_uring (allowed by kernel.io_uring_disabled and the seccomp filter?)");
    }
    pthread_mutex_init(&loop->lock, NULL);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    result = loop->wake_fd < 0 ? -errno
                               : event_loop_add(loop, loop->wake_fd, POLLIN, drain_wake, loop, &loop->wake);
    if (result < 0) {
        event_loop_destroy(loop);
        return error_set_errno(err, -result, "cannot create the event loop's eventfd");
    }
    *out = loop;
    return 0;
}

void event_loop_destroy(struct event_loop *loop)
{
    if (!loop)
        return;
    io_uring_queue_exit(&loop->ring);
    while (loop->sources) {
        struct event_source *source = loop->sources;
        loop->sources = source->next;
        free(source);
    }
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    pthread_mutex_destroy(&loop->lock);
    free(loop);
}

/* Queues `source` for apply_changes(). Called with the lock held. */
static void note_change(struct event_loop *loop, struct event_source *source)
{
    if (source->changed)
        return;
    source->changed = true;
    source->next_changed = loop->changes;
    loop->changes = source;
}

int event_loop_add(struct event_loop *loop, int fd, unsigned events, event_callback *callback, void *opaque,
                   struct event_source **out)
{
    struct event_source *source = calloc(1, sizeof(*source));
    if (!source)
        return -ENOMEM;
    source->fd = fd;
    source->wanted = events;
    source->callback = callback;
    source->opaque = opaque;
    pthread_mutex_lock(&loop->lock);
    source->next = loop->sources;
    source->link = &loop->sources;
    if (source->next)
        source->next->link = &source->next;
    loop->sources = source;
    note_change(loop, source);
    pthread_mutex_unlock(&loop->lock);
    *out = source;
    return 0;
}

void event_loop_modify(struct event_loop *loop, struct event_source *source, unsigned events)
{
    pthread_mutex_lock(&loop->lock);
    bool different = source->wanted != events;
    source->wanted = events;
    if (different)
        note_change(loop, source);
    pthread_mutex_unlock(&loop->lock);
    if (different)
        wake_up(loop);
}

void event_loop_remove(struct event_loop *loop, struct event_source *source)
{
    if (!source)
        return;
    pthread_mutex_lock(&loop->lock);
    source->removed = true;
    source->wanted = 0;
    note_change(loop, source);
    pthread_mutex_unlock(&loop->lock);
}

static void free_source(struct event_source *source)
{
    *source->link = source->next;
    if (source->next)
        source->next->link = source->link;
    free(source);
}

static struct io_uring_sqe *get_request(struct event_loop *loop)
{
    struct io_uring_sqe *request = io_uring_get_sqe(&loop->ring);
    if (!request) {
        io_uring_submit(&loop->ring);
        request = io_uring_get_sqe(&loop->ring);
    }
    return request;
}

/* Brings the kernel's request for `source` in line with what is wanted. Called with the lock held. */
static void apply_change(struct event_loop *loop, struct event_source *source)
{
    if (source->armed && source->armed != source->wanted) {
        if (source->cancelling)
            return;
        struct io_uring_sqe *request = get_request(loop);
        io_uring_prep_cancel(request, source, 0);
        io_uring_sqe_set_data(request, NULL);
        source->cancelling = true;
    } else if (source->removed && !source->armed) {
        free_source(source);
    } else if (!source->armed && source->wanted) {
        struct io_uring_sqe *request = get_request(loop);
        io_uring_prep_poll_add(request, source->fd, source->wanted);
        io_uring_sqe_set_data(request, source);
        source->armed = source->wanted;
    }
}

/* Returns whether the loop is to go on. */
static bool apply_changes(struct event_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    while (loop->changes) {
        struct event_source *source = loop->changes;
        loop->changes = source->next_changed;
        source->changed = false;
        apply_change(loop, source);
    }
    bool quit = loop->quit;
    loop->quit = false;
    pthread_mutex_unlock(&loop->lock);
    return !quit;
}

static void complete(struct event_loop *loop, struct event_source *source, int result)
{
    pthread_mutex_lock(&loop->lock);
    source->armed = 0;
    source->cancelling = false;
    unsigned events = 0;
    if (result > 0)
        events = (unsigned)result & (source->wanted | POLLERR | POLLHUP);
    else if (result < 0 && result != -ECANCELED)
        events = POLLNVAL;
    if (!source->wanted)
        events = 0;
    note_change(loop, source);
    pthread_mutex_unlock(&loop->lock);
    if (events)
        source->callback(source->opaque, events);
}

int event_loop_run(struct event_loop *loop)
{
    while (apply_changes(loop)) {
        int result = io_uring_submit_and_wait(&loop->ring, 1);
        if (result < 0 && result != -EINTR)
            return result;
        struct io_uring_cqe *completion;
        while (io_uring_peek_cqe(&loop->ring, &completion) == 0) {
            struct event_source *source = io_uring_cqe_get_data(completion);
            int status = completion->res;
            io_uring_cqe_seen(&loop->ring, completion);
            if (source)
                complete(loop, source, status);
        }
    }
    return 0;
}

void event_loop_quit(struct event_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->quit = true;
    pthread_mutex_unlock(&loop->lock);
    wake_up(loop);
}
