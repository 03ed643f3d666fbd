#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"

#define THREADS 4
#define ROUNDS  200

struct probe {
    struct event_loop *loop;
    struct event_source *source;
    pthread_t thread;
    sem_t reached;
    unsigned calls, asked;
    bool seen;
};

static struct event_loop *create(void)
{
    struct event_loop *loop;
    struct error err;
    cr_assert_eq(event_loop_create(&loop, &err), 0, "%s", err.message);
    return loop;
}

static void note_thread(void *opaque)
{
    struct probe *probe = opaque;
    probe->thread = pthread_self();
    probe->calls++;
}

static void *run(void *opaque)
{
    event_loop_run(opaque);
    return NULL;
}

static pthread_t start(struct event_loop *loop)
{
    pthread_t thread;
    pthread_create(&thread, NULL, run, loop);
    return thread;
}

/* Returns once the loop runs, as it alone calls sources. */
static void mark(void *opaque, unsigned events)
{
    struct probe *probe = opaque;
    event_loop_modify(probe->loop, probe->source, 0);
    sem_post(&probe->reached);
}

static pthread_t start_and_wait(struct probe *probe, int fd)
{
    sem_init(&probe->reached, 0, 0);
    cr_assert_eq(event_loop_add(probe->loop, fd, POLLIN, mark, probe, &probe->source), 0);
    pthread_t thread = start(probe->loop);
    sem_wait(&probe->reached);
    return thread;
}

Test(event_loop_call, runs_on_the_thread_of_the_loop_and_waits)
{
    int fd = eventfd(1, 0);
    struct probe probe = {.loop = create()};
    pthread_t thread = start_and_wait(&probe, fd);
    event_loop_call(probe.loop, note_thread, &probe);
    cr_assert_eq(probe.calls, 1);
    cr_assert(pthread_equal(probe.thread, thread));
    event_loop_quit(probe.loop);
    pthread_join(thread, NULL);
    event_loop_destroy(probe.loop);
    close(fd);
}

Test(event_loop_call, runs_in_place_where_nobody_runs_the_loop)
{
    struct probe probe = {.loop = create()};
    event_loop_call(probe.loop, note_thread, &probe);
    cr_assert_eq(probe.calls, 1);
    cr_assert(pthread_equal(probe.thread, pthread_self()));

    event_loop_quit(probe.loop);
    event_loop_run(probe.loop);
    event_loop_call(probe.loop, note_thread, &probe);
    cr_assert_eq(probe.calls, 2);
    event_loop_destroy(probe.loop);
}

static void call_from_within(void *opaque, unsigned events)
{
    struct probe *probe = opaque;
    event_loop_call(probe->loop, note_thread, probe);
    event_loop_quit(probe->loop);
}

static void call_again(void *opaque)
{
    struct probe *probe = opaque;
    event_loop_call(probe->loop, note_thread, probe);
}

Test(event_loop_call, runs_in_place_from_a_callback_and_from_a_call)
{
    int fd = eventfd(1, 0);
    struct probe probe = {.loop = create()};
    event_loop_add(probe.loop, fd, POLLIN, call_from_within, &probe, &probe.source);
    event_loop_run(probe.loop);
    cr_assert_eq(probe.calls, 1);
    event_loop_call(probe.loop, call_again, &probe);
    cr_assert_eq(probe.calls, 2);
    event_loop_destroy(probe.loop);
    close(fd);
}

static void *call_often(void *opaque)
{
    struct probe *probe = opaque;
    for (int i = 0; i < ROUNDS; i++)
        event_loop_call(probe->loop, note_thread, probe);
    return NULL;
}

Test(event_loop_call, one_at_a_time_while_the_loop_comes_and_goes)
{
    struct probe probe = {.loop = create()};
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, call_often, &probe);
    for (int i = 0; i < ROUNDS; i++) {
        pthread_t thread = start(probe.loop);
        event_loop_quit(probe.loop);
        pthread_join(thread, NULL);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(probe.calls, THREADS * ROUNDS);
    event_loop_destroy(probe.loop);
}

static bool has_seen(void *opaque)
{
    struct probe *probe = opaque;
    if (probe->asked++ == 0)
        sem_post(&probe->reached);
    return probe->seen;
}

static void *wait_until_seen(void *opaque)
{
    struct probe *probe = opaque;
    event_loop_wait(probe->loop, has_seen, probe);
    return NULL;
}

static void see(void *opaque)
{
    struct probe *probe = opaque;
    probe->seen = true;
}

static pthread_t start_waiting(struct probe *probe)
{
    pthread_t thread;
    sem_init(&probe->reached, 0, 0);
    pthread_create(&thread, NULL, wait_until_seen, probe);
    sem_wait(&probe->reached);
    return thread;
}

Test(event_loop_wait, ends_when_a_later_call_brings_it_about)
{
    int fd = eventfd(1, 0);
    struct probe probe = {.loop = create()};
    pthread_t thread = start_and_wait(&probe, fd);
    pthread_t waiter = start_waiting(&probe);
    event_loop_call(probe.loop, see, &probe);
    pthread_join(waiter, NULL);
    cr_assert_geq(probe.asked, 2);
    event_loop_quit(probe.loop);
    pthread_join(thread, NULL);
    event_loop_destroy(probe.loop);
    close(fd);
}

static void see_event(void *opaque, unsigned events)
{
    struct probe *probe = opaque;
    event_loop_modify(probe->loop, probe->source, 0);
    probe->seen = true;
}

Test(event_loop_wait, ends_when_a_callback_brings_it_about)
{
    int fd = eventfd(1, 0), later = eventfd(0, 0);
    struct probe start_probe = {.loop = create()};
    struct probe probe = {.loop = start_probe.loop};
    event_loop_add(probe.loop, later, POLLIN, see_event, &probe, &probe.source);
    pthread_t thread = start_and_wait(&start_probe, fd);
    pthread_t waiter = start_waiting(&probe);
    cr_assert_eq(write(later, &(uint64_t){1}, sizeof(uint64_t)), sizeof(uint64_t));
    pthread_join(waiter, NULL);
    cr_assert(probe.seen);
    event_loop_quit(probe.loop);
    pthread_join(thread, NULL);
    event_loop_destroy(probe.loop);
    close(fd);
    close(later);
}

Test(event_loop_wait, is_over_at_once_where_it_holds_already)
{
    struct probe probe = {.loop = create(), .seen = true};
    sem_init(&probe.reached, 0, 0);
    event_loop_wait(probe.loop, has_seen, &probe);
    cr_assert_eq(probe.asked, 1);
    event_loop_destroy(probe.loop);
}

static bool second_time(void *opaque)
{
    struct probe *probe = opaque;
    return ++probe->asked == 2;
}

static void see_and_quit(void *opaque, unsigned events)
{
    struct probe *probe = opaque;
    probe->seen = true;
    event_loop_quit(probe->loop);
}

Test(event_loop_wait, does_not_call_sources_in_place_and_the_next_run_does)
{
    struct probe probe = {.loop = create()};
    int fd = eventfd(1, 0);
    event_loop_add(probe.loop, fd, POLLIN, see_and_quit, &probe, &probe.source);
    event_loop_quit(probe.loop);
    event_loop_run(probe.loop);
    event_loop_wait(probe.loop, second_time, &probe);
    cr_assert(!probe.seen);
    event_loop_run(probe.loop);
    cr_assert(probe.seen);
    event_loop_destroy(probe.loop);
    close(fd);
}

/* Goes on for long enough that a loop which did not wait for it would have called its source. */
static void linger(void *opaque)
{
    struct probe *probe = opaque;
    sem_post(&probe->reached);
    for (int i = 0; i < 10000; i++)
        sched_yield();
    cr_assert(!probe->seen);
}

static void *call_and_linger(void *opaque)
{
    struct probe *probe = opaque;
    event_loop_call(probe->loop, linger, probe);
    return NULL;
}

Test(event_loop_call, a_loop_begins_after_what_is_done_in_place)
{
    struct probe probe = {.loop = create()};
    int fd = eventfd(1, 0);
    event_loop_add(probe.loop, fd, POLLIN, see_and_quit, &probe, &probe.source);
    sem_init(&probe.reached, 0, 0);
    pthread_t caller;
    pthread_create(&caller, NULL, call_and_linger, &probe);
    sem_wait(&probe.reached);
    event_loop_run(probe.loop);
    cr_assert(probe.seen);
    pthread_join(caller, NULL);
    event_loop_destroy(probe.loop);
    close(fd);
}
