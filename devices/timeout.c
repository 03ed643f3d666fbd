#include "devices/timeout.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "devices/clock.h"

struct timeout {
    struct event_loop *loop;
    struct event_source *source;
    int fd;
    void (*expired)(void *opaque);
    void *opaque;
};

static void timer_ready(void *opaque, unsigned events)
{
    struct timeout *timeout = opaque;
    uint64_t count;
    /* Fails where the timer was set anew after it had expired: then it is not time yet. */
    if (read(timeout->fd, &count, sizeof(count)) == sizeof(count))
        timeout->expired(timeout->opaque);
}

int timeout_create(struct event_loop *loop, void (*expired)(void *opaque), void *opaque, struct timeout **out)
{
    struct timeout *timeout = calloc(1, sizeof(*timeout));
    if (!timeout)
        return -ENOMEM;
    *timeout = (struct timeout){.loop = loop, .expired = expired, .opaque = opaque};
    timeout->fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int result = timeout->fd < 0
                     ? -errno
                     : event_loop_add(loop, timeout->fd, POLLIN, timer_ready, timeout, &timeout->source);
    if (result) {
        timeout_destroy(timeout);
        return result;
    }
    *out = timeout;
    return 0;
}

void timeout_set(struct timeout *timeout, int64_t delay)
{
    if (delay <= 0)
        delay = 1;
    struct itimerspec when = {
        .it_value = {.tv_sec = delay / NANOSECONDS, .tv_nsec = delay % NANOSECONDS},
    };
    timerfd_settime(timeout->fd, 0, &when, NULL);
}

void timeout_cancel(struct timeout *timeout)
{
    timerfd_settime(timeout->fd, 0, &(struct itimerspec){0}, NULL);
}

void timeout_destroy(struct timeout *timeout)
{
    if (!timeout)
        return;
    event_loop_remove(timeout->loop, timeout->source);
    if (timeout->fd >= 0)
        close(timeout->fd);
    free(timeout);
}
