/*
 * The host's clocks in nanoseconds.
 */
#pragma once

#include <stdint.h>
#include <time.h>

#define NANOSECONDS 1000000000ll /* in a second */

/* What `clock` (CLOCK_MONOTONIC, CLOCK_REALTIME) shows. Any thread. */
static inline int64_t clock_now(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * NANOSECONDS + time.tv_nsec;
}
