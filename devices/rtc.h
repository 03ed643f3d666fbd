/*
 * The real-time clock and CMOS RAM of a PC (Motorola MC146818A): an index and a data port, 10 time and alarm
 * registers, control registers A to D, and 114 bytes of RAM of which one is the century (0x32).
 *
 * The time is the host's CLOCK_REALTIME in UTC, plus an offset that changes when the guest sets the clock. It
 * is computed when it is read; a timer runs only while an enabled interrupt is due. The day of the week
 * follows from the date and cannot be set. Reading register A with UIP clear promises the guest 244 µs in
 * which the time does not change; as a guest can lose its CPU for longer than that, the time of that instant
 * is what it reads in the 10 ms that follow.
 *
 * Writes to the index port are coalesced: they act on the next access to the data port, which always exits.
 *
 * The clock owns its lock, under which it sets its interrupt line.
 */
#pragma once

#include <stdint.h>

#include "devices/irq_line.h"

struct error;
struct event_loop;
struct memory;
struct memory_region;
struct rtc;

struct rtc_config {
    struct event_loop *loop; /* borrowed: for the interrupts */
    struct irq_line irq;
    /* Nanoseconds since 1970 in UTC, from any thread. NULL: CLOCK_REALTIME. */
    int64_t (*clock)(void *opaque);
    void *opaque;
};

/* Creates the clock. On the thread of the event loop, or while it does not run; so too for rtc_destroy(). */
int rtc_create(const struct rtc_config *config, struct memory *memory, struct rtc **out, struct error *err);

/* Two bytes: index, data. Owned by the clock; must be out of its container before rtc_destroy(). */
struct memory_region *rtc_region(struct rtc *rtc);

/* NULL is allowed. */
void rtc_destroy(struct rtc *rtc);
