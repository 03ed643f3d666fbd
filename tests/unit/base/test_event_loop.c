#include <criterion/criterion.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"

struct watch {
    struct event_loop *loop;
    struct event_source *source, *other;
    int fd;
    unsigned calls, limit;
    unsigned seen;
};

static struct event_loop *create(void)
{
    struct event_loop *loop;
    struct error err;
    cr_assert_eq(event_loop_create(&loop, &err), 0, "%s", err.message);
    return loop;
}

static void count(void *opaque, unsigned events)
{
    struct watch *watch = opaque;
    watch->seen |= events;
    if (++watch->calls == watch->limit)
        event_loop_quit(watch->loop);
}

Test(event_loop, calls_for_as_long_as_the_event_holds)
{
    struct watch watch = {.loop = create(), .limit = 5, .fd = eventfd(1, 0)};
    cr_assert_eq(event_loop_add(watch.loop, watch.fd, POLLIN, count, &watch, &watch.source), 0);
    cr_assert_eq(event_loop_run(watch.loop), 0);
    cr_assert_geq(watch.calls, 5);
    cr_assert_eq(watch.seen, POLLIN);
    event_loop_destroy(watch.loop);
    close(watch.fd);
}

Test(event_loop, quit_before_run_counts)
{
    struct event_loop *loop = create();
    event_loop_quit(loop);
    cr_assert_eq(event_loop_run(loop), 0);
    event_loop_destroy(loop);
}

Test(event_loop, tells_of_a_hang_up)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    struct watch watch = {.loop = create(), .limit = 1};
    event_loop_add(watch.loop, ends[0], POLLIN, count, &watch, &watch.source);
    close(ends[1]);
    event_loop_run(watch.loop);
    cr_assert(watch.seen & POLLHUP);
    event_loop_destroy(watch.loop);
    close(ends[0]);
}

Test(event_loop, tells_of_a_bad_descriptor)
{
    struct watch watch = {.loop = create(), .limit = 1};
    event_loop_add(watch.loop, 9999, POLLIN, count, &watch, &watch.source);
    event_loop_run(watch.loop);
    cr_assert(watch.seen & POLLNVAL);
    event_loop_destroy(watch.loop);
}

static void remove_both(void *opaque, unsigned events)
{
    struct watch *watch = opaque;
    watch->calls++;
    event_loop_remove(watch->loop, watch->source);
    event_loop_remove(watch->loop, watch->other);
    event_loop_quit(watch->loop);
}

Test(event_loop, a_removed_source_is_not_called_again)
{
    /* Both are ready; whichever comes first removes both. */
    struct watch watch = {.loop = create(), .fd = eventfd(1, 0)};
    event_loop_add(watch.loop, watch.fd, POLLIN, remove_both, &watch, &watch.source);
    event_loop_add(watch.loop, watch.fd, POLLIN, remove_both, &watch, &watch.other);
    event_loop_run(watch.loop);
    cr_assert_eq(watch.calls, 1);

    struct watch rest = {.loop = watch.loop, .limit = 10, .fd = watch.fd};
    event_loop_add(rest.loop, rest.fd, POLLIN, count, &rest, &rest.source);
    event_loop_run(rest.loop);
    cr_assert_eq(watch.calls, 1);
    event_loop_destroy(watch.loop);
    close(watch.fd);
}

static void silence(void *opaque, unsigned events)
{
    struct watch *watch = opaque;
    watch->calls++;
    event_loop_modify(watch->loop, watch->source, 0);
    event_loop_modify(watch->loop, watch->other, POLLIN);
}

Test(event_loop, a_silenced_source_waits_and_a_woken_one_speaks)
{
    int fd = eventfd(1, 0);
    struct watch last = {.loop = create(), .limit = 3};
    struct watch first = {.loop = last.loop};
    event_loop_add(last.loop, fd, 0, count, &last, &last.source);
    event_loop_add(first.loop, fd, POLLIN, silence, &first, &first.source);
    first.other = last.source;
    event_loop_run(last.loop);
    cr_assert_eq(first.calls, 1);
    cr_assert_geq(last.calls, 3);
    event_loop_destroy(last.loop);
    close(fd);
}

static void *wake_from_outside(void *opaque)
{
    struct watch *watch = opaque;
    event_loop_modify(watch->loop, watch->source, POLLIN);
    return NULL;
}

Test(event_loop, another_thread_may_modify)
{
    struct watch watch = {.loop = create(), .limit = 1, .fd = eventfd(1, 0)};
    event_loop_add(watch.loop, watch.fd, 0, count, &watch, &watch.source);
    pthread_t thread;
    pthread_create(&thread, NULL, wake_from_outside, &watch);
    event_loop_run(watch.loop);
    pthread_join(thread, NULL);
    cr_assert_eq(watch.calls, 1);
    event_loop_destroy(watch.loop);
    close(watch.fd);
}

Test(event_loop, serves_more_sources_than_its_ring_holds)
{
    enum {
        MANY = 500
    };
    struct event_loop *loop = create();
    struct watch watches[MANY];
    struct watch total = {.loop = loop, .limit = MANY};
    for (int i = 0; i < MANY; i++) {
        watches[i] = (struct watch){.loop = loop, .fd = eventfd(1, 0)};
        event_loop_add(loop, watches[i].fd, POLLIN, count, &watches[i], &watches[i].source);
    }
    total.fd = eventfd(1, 0);
    event_loop_add(loop, total.fd, POLLIN, count, &total, &total.source);
    event_loop_run(loop);
    for (int i = 0; i < MANY; i++) {
        cr_assert_gt(watches[i].calls, 0, "source %d was starved", i);
        close(watches[i].fd);
    }
    close(total.fd);
    event_loop_destroy(loop);
}
