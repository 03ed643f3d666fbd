/*
 * A timer that calls back on an event loop's thread.
 */
#pragma once

#include <stdint.h>

struct event_loop;
struct timeout;

/*
 * Creates a timer that is not running; `expired` is called once each time it expires. Returns 0 or -errno. On
 * the loop's thread, or while the loop does not run; so too for timeout_destroy().
 */
int timeout_create(struct event_loop *loop, void (*expired)(void *opaque), void *opaque,
                   struct timeout **out);

/* Has the timer expire once, `delay` nanoseconds from now (0 or less: at once), in place of whatever it was
 * set to. Any thread; does not block. */
void timeout_set(struct timeout *timeout, int64_t delay);

/* Stops the timer; a callback that is already on its way may still come. Any thread; does not block. */
void timeout_cancel(struct timeout *timeout);

/* NULL is allowed. */
void timeout_destroy(struct timeout *timeout);
