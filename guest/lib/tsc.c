#include "guest/lib/tsc.h"

#include "guest/lib/apic.h"

#define PARTS 20 /* of a second: how long it measures */

struct moment {
    uint64_t ticks, nanoseconds;
};

/* Reading the timer takes long, where that is an exit: it counts as of the middle. */
static struct moment now(void)
{
    uint64_t before = tsc_read();
    uint32_t left = lapic_timer_left();

    return (struct moment){before + (tsc_read() - before) / 2, LAPIC_TIMER_HZ - left};
}

uint64_t tsc_hz(void)
{
    struct moment start, end;

    lapic_timer_once(LAPIC_TIMER_HZ);
    start = now();
    do
        end = now();
    while (end.nanoseconds - start.nanoseconds < LAPIC_TIMER_HZ / PARTS);
    return (end.ticks - start.ticks) * LAPIC_TIMER_HZ / (end.nanoseconds - start.nanoseconds);
}
