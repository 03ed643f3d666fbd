#include "base/event_loop.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"

/* A full submission queue is submitted and goes on. What does not fit into the completion queue the kernel
 * keeps until there is room. */
#define RING_ENTRIES       128
#define COMPLETION_ENTRIES 1024

/* So many entries are not kept back for company: a disk begins with them while others are made. */
#define SUBMIT_AT          16

/* How long pollers are looked at, in ns. */
#define WINDOW_MIN         1000
#define WINDOW_FIRST       8000
#define WINDOW_MAX         100000

/* In the kernel's name for a request: it is an event_request, not an event_source. */
#define REQUEST_TAG        1

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
    bool missed; /* an edge that was not told: the request is made anew, and finds what is there */
    bool removed;
    event_callback *callback;
    void *opaque;
    struct event_source *next, **link; /* all sources */
    struct event_source *next_changed;
};

/* A thread that waits for `over` to return true. On its stack. */
struct waiter {
    bool (*over)(void *opaque);
    void *opaque;
    bool done; /* guarded by the loop's lock */
    struct waiter *next;
};

/*
 * Whoever owns the loop may use the ring and calls back: the thread in event_loop_run(), or, while there is
 * none, one at a time of those that would otherwise wait for it in vain.
 */
struct event_loop {
    struct io_uring ring;
    /* The owner's: */
    struct event_request *finished, **finished_end; /* `done` is yet to be called; oldest first */
    unsigned finished_count;
    struct event_task *tasks, **tasks_end;
    struct event_poller *pollers;
    unsigned under_way; /* requests */
    uint64_t window_max;
    uint64_t windows[2]; /* of time for looking at pollers: with no request under way, and with some */
    pthread_mutex_t lock;
    struct event_source *sources;
    struct event_source *changes; /* sources whose `wanted` differs from what is armed; guarded by the lock */
    struct event_source *wake;    /* an eventfd that interrupts the wait */
    int wake_fd;
    /* Guarded by the lock: */
    bool quit;
    bool owned;
    pthread_t owner;
    pthread_cond_t changed; /* a waiter is done, or the loop is not owned any more */
    struct waiter *waiters; /* first come, first served; taken off by the owner alone */
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

/*
 * Completions are worked on when the thread enters the kernel, which a flag asks for, and not by interrupting
 * it: where the kernel has that (Linux 5.19). Sources that are edge-triggered need Linux 5.13.
 */
static int set_up_ring(struct io_uring *ring)
{
    unsigned flags[] = {IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0};
    int result = -EINVAL;
    for (unsigned i = 0; i < ARRAY_SIZE(flags) && result == -EINVAL; i++) {
        struct io_uring_params params = {
            .flags = IORING_SETUP_CLAMP | IORING_SETUP_CQSIZE | flags[i],
            .cq_entries = COMPLETION_ENTRIES,
        };
        result = io_uring_queue_init_params(RING_ENTRIES, ring, &params);
    }
    if (result == 0 && !(ring->features & IORING_FEAT_RSRC_TAGS)) {
        io_uring_queue_exit(ring);
        return -ENOSYS;
    }
    return result;
}

/* On a single processor, what a loop looks for cannot come while it looks. */
static bool has_one_processor(void)
{
    cpu_set_t processors;
    return sched_getaffinity(0, sizeof(processors), &processors) == 0 && CPU_COUNT(&processors) == 1;
}

int event_loop_create(struct event_loop **out, struct error *err)
{
    struct event_loop *loop = calloc(1, sizeof(*loop));
    if (!loop)
        return error_set(err, ENOMEM, "not enough memory for an event loop");
    loop->finished_end = &loop->finished;
    loop->tasks_end = &loop->tasks;
    loop->window_max = has_one_processor() ? 0 : WINDOW_MAX;
    int result = set_up_ring(&loop->ring);
    if (result < 0) {
        free(loop);
        return error_set_errno(err, -result,
                               "cannot set up an io_uring (allowed by kernel.io_uring_disabled and the "
                               "seccomp filter, and Linux 5.13 or later?)");
    }
    pthread_mutex_init(&loop->lock, NULL);
    pthread_cond_init(&loop->changed, NULL);
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
    pthread_cond_destroy(&loop->changed);
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

/* Whether this thread owns the loop. Called with the lock held. */
static bool is_inside(const struct event_loop *loop)
{
    return loop->owned && pthread_equal(loop->owner, pthread_self());
}

/* The owner applies changes before it waits. */
void event_loop_modify(struct event_loop *loop, struct event_source *source, unsigned events)
{
    pthread_mutex_lock(&loop->lock);
    bool different = source->wanted != events, inside = is_inside(loop);
    source->wanted = events;
    if (different)
        note_change(loop, source);
    pthread_mutex_unlock(&loop->lock);
    if (different && !inside)
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

static void miss(struct event_loop *loop, struct event_source *source)
{
    source->missed = true;
    note_change(loop, source);
}

/* Notes what the request for `source` has found, and that it has ended unless there is `more` to come.
 * Returns the events to call back for. */
static unsigned complete(struct event_loop *loop, struct event_source *source, int result, bool more)
{
    if (!more) {
        source->armed = 0;
        source->cancelling = false;
        source->missed = false;
        note_change(loop, source);
    } else if (!source->wanted) {
        miss(loop, source);
    }
    if (!source->wanted)
        return 0;
    if (result > 0)
        return (unsigned)result & (source->wanted | POLLERR | POLLHUP);
    return result < 0 && result != -ECANCELED ? POLLNVAL : 0;
}

static void finish(struct event_loop *loop, struct event_request *request, int result)
{
    loop->under_way--;
    request->result = result;
    request->next = NULL;
    *loop->finished_end = request;
    loop->finished_end = &request->next;
    loop->finished_count++;
}

/* Takes one completion out of the ring, if there is one. `*events` are those to call `*source` for, or 0. */
static bool take_completion(struct event_loop *loop, struct event_source **source, unsigned *events)
{
    struct io_uring_cqe *completion;
    *events = 0;
    if (io_uring_peek_cqe(&loop->ring, &completion) < 0)
        return false;
    char *name = io_uring_cqe_get_data(completion);
    int result = completion->res;
    bool more = completion->flags & IORING_CQE_F_MORE;
    io_uring_cqe_seen(&loop->ring, completion);
    *source = NULL;
    if ((uintptr_t)name & REQUEST_TAG)
        finish(loop, (struct event_request *)(name - REQUEST_TAG), result);
    else if ((*source = (struct event_source *)name))
        *events = complete(loop, *source, result, more);
    return true;
}

/*
 * An entry of the ring; a full ring is submitted. Kernels before 5.19 refuse that while completions have no
 * room: these are taken then, and sources polled again. Called with the lock held.
 */
static struct io_uring_sqe *get_entry(struct event_loop *loop)
{
    struct io_uring_sqe *entry;
    while (!(entry = io_uring_get_sqe(&loop->ring))) {
        int result = io_uring_submit(&loop->ring);
        struct event_source *source;
        unsigned events;
        while (result == -EBUSY && take_completion(loop, &source, &events))
            ;
    }
    return entry;
}

/* Brings the kernel's request for `source` in line with what is wanted. Called with the lock held. */
static void apply_change(struct event_loop *loop, struct event_source *source)
{
    if (source->armed && (source->armed != source->wanted || source->missed)) {
        if (source->cancelling)
            return;
        struct io_uring_sqe *request = get_entry(loop);
        io_uring_prep_cancel(request, source, 0);
        io_uring_sqe_set_data(request, NULL);
        source->cancelling = true;
    } else if (source->removed && !source->armed) {
        free_source(source);
    } else if (!source->armed && source->wanted) {
        struct io_uring_sqe *request = get_entry(loop);
        if (source->wanted & EVENT_EDGE)
            io_uring_prep_poll_multishot(request, source->fd, source->wanted & ~EVENT_EDGE);
        else
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

static void finish_requests(struct event_loop *loop)
{
    for (unsigned count = loop->finished_count; count && loop->finished; count--) {
        struct event_request *request = loop->finished;
        loop->finished = request->next;
        if (!loop->finished)
            loop->finished_end = &loop->finished;
        loop->finished_count--;
        request->done(request, request->result);
    }
}

/* With `silent`, sources are not called back: what they wait for goes on, and is found by the next run. */
static void take_completions(struct event_loop *loop, bool silent)
{
    struct event_source *source;
    unsigned events;
    pthread_mutex_lock(&loop->lock);
    while (take_completion(loop, &source, &events)) {
        if (events && silent && source->armed)
            miss(loop, source);
        if (!events || silent)
            continue;
        pthread_mutex_unlock(&loop->lock);
        source->callback(source->opaque, events);
        pthread_mutex_lock(&loop->lock);
    }
    pthread_mutex_unlock(&loop->lock);
    finish_requests(loop);
}

static void run_tasks(struct event_loop *loop)
{
    while (loop->tasks) {
        struct event_task *task = loop->tasks;
        event_loop_forget(loop, task);
        task->run(task);
    }
}

/* ---- Looking before sleeping ---- */

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

/* Whether the kernel has completed something: it is in the ring, or will be once the kernel is entered. */
static bool has_completions(struct event_loop *loop)
{
    if (io_uring_cq_ready(&loop->ring))
        return true;
    if (!(__atomic_load_n(loop->ring.sq.kflags, __ATOMIC_RELAXED) & IORING_SQ_TASKRUN))
        return false;
    io_uring_get_events(&loop->ring);
    return true;
}

static bool look(struct event_loop *loop)
{
    bool found = false;
    for (struct event_poller *poller = loop->pollers; poller; poller = poller->next)
        found |= poller->look(poller);
    return found;
}

static bool rest(struct event_loop *loop)
{
    bool found = false;
    for (struct event_poller *poller = loop->pollers; poller; poller = poller->next)
        found |= poller->rest(poller);
    return found;
}

static void wake(struct event_loop *loop)
{
    for (struct event_poller *poller = loop->pollers; poller; poller = poller->next)
        poller->wake(poller);
}

static uint64_t *window(struct event_loop *loop)
{
    return &loop->windows[loop->under_way > 0];
}

/* Tells the processor that this is a loop which waits. */
static void relax(void)
{
#ifdef __x86_64__
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

/* Completions are looked for also where pollers always find something: their owners may be what others wait
 * for. */
static bool spin(struct event_loop *loop)
{
    uint64_t start = now(), spent = 0, *limit = window(loop);
    do {
        bool found = look(loop);
        if (has_completions(loop) || found) {
            *limit = larger(*limit, smaller(4 * spent, loop->window_max));
            return true;
        }
        relax();
        spent = now() - start;
    } while (spent < *limit);
    return false;
}

/* Whether there is something to do before the loop may sleep. What is to be submitted is, before time passes.
 */
static bool keep_awake(struct event_loop *loop)
{
    if (*window(loop)) {
        io_uring_submit(&loop->ring);
        if (spin(loop))
            return true;
    }
    return rest(loop);
}

/* A window is worth having where the loop has slept for less. What that is for depends on what it waits for.
 */
static int sleep_and_learn(struct event_loop *loop)
{
    uint64_t start = now(), *limit = window(loop);
    int result = io_uring_submit_and_wait(&loop->ring, 1);
    if (now() - start > WINDOW_MAX)
        *limit = *limit > WINDOW_MIN ? *limit / 2 : 0;
    else
        *limit = smaller(larger(2 * *limit, WINDOW_FIRST), loop->window_max);
    if (event_loop_polls(loop))
        wake(loop);
    return result;
}

bool event_loop_polls(const struct event_loop *loop)
{
    return loop->windows[0] || loop->windows[1];
}

void event_loop_poll(struct event_loop *loop, struct event_poller *poller)
{
    poller->next = loop->pollers;
    loop->pollers = poller;
}

void event_loop_unpoll(struct event_loop *loop, struct event_poller *poller)
{
    struct event_poller **link = &loop->pollers;
    while (*link != poller)
        link = &(*link)->next;
    *link = poller->next;
    if (!loop->pollers)
        loop->windows[0] = loop->windows[1] = 0;
}

static int submit_and_wait(struct event_loop *loop, bool silent)
{
    bool busy = loop->finished || loop->tasks;
    if (busy || silent || !loop->pollers)
        return io_uring_submit_and_wait(&loop->ring, !busy);
    return keep_awake(loop) ? 0 : sleep_and_learn(loop);
}

/* Waits for something to happen, unless something has, and calls back. */
static int go_on(struct event_loop *loop, bool silent)
{
    int result = submit_and_wait(loop, silent);
    if (result < 0 && result != -EINTR && result != -EAGAIN && result != -EBUSY)
        return result;
    take_completions(loop, silent);
    run_tasks(loop);
    return 0;
}

static void own(struct event_loop *loop)
{
    loop->owned = true;
    loop->owner = pthread_self();
}

static void disown(struct event_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->owned = false;
    pthread_cond_broadcast(&loop->changed);
    pthread_mutex_unlock(&loop->lock);
}

/* Asks each waiter, and all of them again when one was done: what it ran may be what others wait for. New
 * ones come in behind meanwhile. */
static void ask_waiters(struct event_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    struct waiter **link = &loop->waiters;
    while (*link) {
        struct waiter *waiter = *link;
        pthread_mutex_unlock(&loop->lock);
        bool over = waiter->over(waiter->opaque);
        pthread_mutex_lock(&loop->lock);
        if (over) {
            *link = waiter->next;
            waiter->done = true;
            pthread_cond_broadcast(&loop->changed);
        }
        link = over ? &loop->waiters : &waiter->next;
    }
    pthread_mutex_unlock(&loop->lock);
}

int event_loop_run(struct event_loop *loop)
{
    int result = 0;
    pthread_mutex_lock(&loop->lock);
    while (loop->owned)
        pthread_cond_wait(&loop->changed, &loop->lock);
    own(loop);
    pthread_mutex_unlock(&loop->lock);
    while (result == 0 && (ask_waiters(loop), apply_changes(loop)))
        result = go_on(loop, false);
    loop->windows[0] = loop->windows[1] = 0;
    rest(loop);
    disown(loop);
    return result;
}

void event_loop_quit(struct event_loop *loop)
{
    pthread_mutex_lock(&loop->lock);
    loop->quit = true;
    pthread_mutex_unlock(&loop->lock);
    wake_up(loop);
}

/* Waits, with the lock held, until the loop's owner has ended the wait, which returns true, or there is none.
 */
static bool wait_for_owner(struct event_loop *loop, struct waiter *self)
{
    struct waiter **link = &loop->waiters;
    while (*link)
        link = &(*link)->next;
    *link = self;
    wake_up(loop);
    while (loop->owned && !self->done)
        pthread_cond_wait(&loop->changed, &loop->lock);
    if (self->done)
        return true;
    for (link = &loop->waiters; *link != self; link = &(*link)->next)
        ;
    *link = self->next;
    return false;
}

void event_loop_wait(struct event_loop *loop, bool (*over)(void *opaque), void *opaque)
{
    struct waiter self = {.over = over, .opaque = opaque};
    pthread_mutex_lock(&loop->lock);
    bool inside = is_inside(loop);
    if (!inside && wait_for_owner(loop, &self)) {
        pthread_mutex_unlock(&loop->lock);
        return;
    }
    if (!inside)
        own(loop);
    pthread_mutex_unlock(&loop->lock);
    while (!over(opaque))
        go_on(loop, true);
    if (!inside)
        disown(loop);
}

struct call {
    void (*function)(void *opaque);
    void *opaque;
};

static bool carry_out(void *opaque)
{
    struct call *call = opaque;
    call->function(call->opaque);
    return true;
}

void event_loop_call(struct event_loop *loop, void (*function)(void *opaque), void *opaque)
{
    event_loop_wait(loop, carry_out, &(struct call){function, opaque});
}

/* Mostly without the lock. */
static struct io_uring_sqe *entry_for_owner(struct event_loop *loop)
{
    if (io_uring_sq_ready(&loop->ring) >= SUBMIT_AT)
        io_uring_submit(&loop->ring);
    struct io_uring_sqe *entry = io_uring_get_sqe(&loop->ring);
    if (entry)
        return entry;
    pthread_mutex_lock(&loop->lock);
    entry = get_entry(loop);
    pthread_mutex_unlock(&loop->lock);
    return entry;
}

struct io_uring_sqe *event_loop_request(struct event_loop *loop, struct event_request *request)
{
    struct io_uring_sqe *entry = entry_for_owner(loop);
    io_uring_sqe_set_data(entry, (char *)request + REQUEST_TAG);
    loop->under_way++;
    return entry;
}

void event_loop_cancel(struct event_loop *loop, struct event_request *request)
{
    struct io_uring_sqe *entry = entry_for_owner(loop);
    io_uring_prep_cancel(entry, (char *)request + REQUEST_TAG, 0);
    io_uring_sqe_set_data(entry, NULL);
}

void event_loop_defer(struct event_loop *loop, struct event_task *task)
{
    if (task->deferred)
        return;
    task->deferred = true;
    task->next = NULL;
    *loop->tasks_end = task;
    loop->tasks_end = &task->next;
}

void event_loop_forget(struct event_loop *loop, struct event_task *task)
{
    if (!task->deferred)
        return;
    struct event_task **link = &loop->tasks;
    while (*link != task)
        link = &(*link)->next;
    *link = task->next;
    if (!*link)
        loop->tasks_end = link;
    task->deferred = false;
}
