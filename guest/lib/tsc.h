/* The time-stamp counter as a clock. */
#pragma once

#include <stdint.h>

/* In ticks, from any time on. */
static inline uint64_t tsc_read(void)
{
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

/* Ticks of a second: measured against the timer of the local APIC, which takes 50 ms and uses that up. */
uint64_t tsc_hz(void);
