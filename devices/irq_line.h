/*
 * An interrupt line from a device to whatever interrupt controller the machine has: a value that the machine
 * hands to the device. A line belongs to one device, which sets it under the lock that guards the device's
 * own state.
 */
#pragma once

#include <stdbool.h>

struct irq_line {
    /* Sets the level of line `number`. Any thread; does not block. */
    void (*set)(void *opaque, unsigned number, bool level);
    void *opaque;
    unsigned number;
};

/* A line that leads nowhere (`set` is NULL) is silent. */
static inline void irq_line_set(const struct irq_line *line, bool level)
{
    if (line->set)
        line->set(line->opaque, line->number, level);
}
