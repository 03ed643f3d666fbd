/*
 * A queue of bytes that grows as it fills, up to a limit. It has no lock of its own.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct ring {
    uint8_t *data;
    size_t capacity, limit;
    size_t head; /* index of the oldest byte */
    size_t count;
};

/* An empty queue that holds up to `limit` bytes. Takes memory for `capacity` (1 to `limit`) of them: -ENOMEM.
 */
int ring_init(struct ring *ring, size_t capacity, size_t limit);

/* Frees the memory. A ring of zeroes may be freed too. */
void ring_free(struct ring *ring);

/* Appends as many of `count` bytes as there is room for (also where memory to grow is short), and returns how
 * many. */
size_t ring_put(struct ring *ring, const void *data, size_t count);

/* Takes up to `count` of the oldest bytes, and returns how many. */
size_t ring_get(struct ring *ring, void *data, size_t count);

/* Points `data` at the oldest bytes and returns how many of them lie there in a row: 0 only for an empty
 * ring. */
size_t ring_peek(const struct ring *ring, const uint8_t **data);

/* Forgets the `count` oldest bytes; there must be as many. */
void ring_drop(struct ring *ring, size_t count);
