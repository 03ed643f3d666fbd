#include <criterion/criterion.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/io_thread.h"

struct echo {
    struct event_loop *loop;
    struct event_source *source;
    int to, from;
    /* What the source has seen: */
    pthread_t thread;
    char name[32];
    sigset_t mask;
};

static struct io_thread *create(const char *name)
{
    struct io_thread *thread;
    struct error err;
    cr_assert_eq(io_thread_create(name, &thread, &err), 0, "%s", err.message);
    return thread;
}

static void answer(void *opaque, unsigned events)
{
    struct echo *echo = opaque;
    eventfd_t value;
    eventfd_read(echo->to, &value);
    echo->thread = pthread_self();
    pthread_getname_np(echo->thread, echo->name, sizeof(echo->name));
    pthread_sigmask(SIG_SETMASK, NULL, &echo->mask);
    eventfd_write(echo->from, value);
}

static void add(void *opaque)
{
    struct echo *echo = opaque;
    cr_assert_eq(event_loop_add(echo->loop, echo->to, POLLIN, answer, echo, &echo->source), 0);
}

static void ask(struct io_thread *thread, struct echo *echo)
{
    *echo = (struct echo){.loop = io_thread_loop(thread), .to = eventfd(0, 0), .from = eventfd(0, 0)};
    event_loop_call(echo->loop, add, echo);
    eventfd_t value;
    for (unsigned i = 1; i <= 3; i++) {
        eventfd_write(echo->to, i);
        eventfd_read(echo->from, &value);
        cr_assert_eq(value, i);
    }
    close(echo->to);
    close(echo->from);
}

Test(io_thread, serves_its_loop_beside_its_creator_and_takes_no_signal)
{
    struct io_thread *thread = create("io-0");
    struct echo echo;
    ask(thread, &echo);
    cr_assert(!pthread_equal(echo.thread, pthread_self()));
    cr_assert_str_eq(echo.name, "io-0");
    cr_assert_eq(sigismember(&echo.mask, SIGTERM), 1);
    cr_assert_eq(sigismember(&echo.mask, SIGRTMIN), 1);
    io_thread_destroy(thread);
}

Test(io_thread, leaves_its_creators_signals_alone)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    struct io_thread *thread = create("io-0");
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int signal = 1; signal <= SIGRTMAX; signal++)
        cr_assert_eq(sigismember(&before, signal), sigismember(&after, signal));
    io_thread_destroy(thread);
}

Test(io_thread, shows_as_much_of_a_long_name_as_there_is_room_for)
{
    struct io_thread *thread = create("io-thread-number-12345");
    struct echo echo;
    ask(thread, &echo);
    cr_assert_str_eq(echo.name, "io-thread-numbe");
    io_thread_destroy(thread);
}

Test(io_thread, may_end_before_it_has_begun)
{
    for (int i = 0; i < 100; i++)
        io_thread_destroy(create("io-0"));
    io_thread_destroy(NULL);
}
