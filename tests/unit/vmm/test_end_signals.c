#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "vmm/end_signals.h"

static const struct log quiet = {.fd = -1, .level = LOG_ERROR, .name = "test"};

static struct end_signals *start(void)
{
    struct end_signals *signals;
    struct error err = {0};
    cr_assert_eq(end_signals_create(&signals, &err), 0, "%s", err.message);
    cr_assert_eq(end_signals_start(signals, &quiet, &err), 0, "%s", err.message);
    return signals;
}

/* Waits for the first signal, and returns its number. */
static int first(const struct end_signals *signals)
{
    struct pollfd look = {.fd = end_signals_fd(signals), .events = POLLIN};
    eventfd_t number = 0;
    cr_assert_eq(poll(&look, 1, -1), 1);
    cr_assert_eq(eventfd_read(look.fd, &number), 0);
    return (int)number;
}

/* What becomes of a process that never ends by itself, and gets the signals after it has called `prepare`. */
static int fate(void (*prepare)(struct end_signals *signals), int first_signal, int second_signal)
{
    int status;
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0) {
        struct end_signals *signals = start();
        if (prepare)
            prepare(signals);
        kill(getpid(), first_signal);
        if (second_signal) {
            first(signals);
            kill(getpid(), second_signal);
        }
        for (;;)
            pause();
    }
    cr_assert_eq(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(end_signals, hands_the_first_one_on)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    for (unsigned i = 0; i < 3; i++) {
        struct end_signals *signals = start();
        kill(getpid(), numbers[i]);
        cr_assert_eq(first(signals), numbers[i]);
        end_signals_destroy(signals);
    }
}

Test(end_signals, hands_one_on_that_came_before_the_thread)
{
    struct end_signals *signals;
    struct error err = {0};
    cr_assert_eq(end_signals_create(&signals, &err), 0, "%s", err.message);
    kill(getpid(), SIGTERM);
    cr_assert_eq(end_signals_start(signals, &quiet, &err), 0, "%s", err.message);
    cr_assert_eq(first(signals), SIGTERM);
    end_signals_destroy(signals);
}

Test(end_signals, ends_at_the_second_one_what_does_not_end_by_itself)
{
    cr_assert_eq(fate(NULL, SIGTERM, SIGINT), 128 + SIGINT);
    cr_assert_eq(fate(NULL, SIGINT, SIGINT), 128 + SIGINT);
}

Test(end_signals, ends_at_the_first_one_what_is_ending_already)
{
    cr_assert_eq(fate(end_signals_ending, SIGHUP, 0), 128 + SIGHUP);
}

Test(end_signals, leaves_the_second_one_alone_where_good_order_comes)
{
    struct end_signals *signals = start();
    kill(getpid(), SIGTERM);
    cr_assert_eq(first(signals), SIGTERM);
    kill(getpid(), SIGTERM);
    end_signals_destroy(signals);
    end_signals_destroy(NULL);
}
