/*
 * Makes a failing input smaller: leaves steps out, then makes bytes zero or less, for as long as it goes on
 * failing (delta debugging). Every attempt runs in a process of its own, which may crash, and is ended if it
 * hangs.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct shrink {
    void (*run)(const uint8_t *data, size_t size, void *opaque); /* returns if all is well */
    void *opaque;
    size_t step;         /* bytes that are left out together, of which the first ones stay */
    unsigned time_limit; /* seconds for an attempt */
    void (*progress)(size_t size, void *opaque); /* optional: called now and then */
};

/* Whether `data` fails: the process that runs it does not end with status 0. With `loud` it may print. */
bool shrink_fails(const struct shrink *shrink, const uint8_t *data, size_t size, bool loud);

/* Makes `data`, which fails, smaller in place. Returns the size that is left. */
size_t shrink_input(const struct shrink *shrink, uint8_t *data, size_t size);
