#include "devices/ring.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"

int ring_init(struct ring *ring, size_t capacity, size_t limit)
{
    *ring = (struct ring){.data = malloc(capacity), .capacity = capacity, .limit = limit};
    return ring->data ? 0 : -ENOMEM;
}

void ring_free(struct ring *ring)
{
    free(ring->data);
    ring->data = NULL;
}

/* Copies the `count` oldest bytes, without taking them. */
static void copy_out(const struct ring *ring, uint8_t *data, size_t count)
{
    size_t first = smaller(count, ring->capacity - ring->head);
    memcpy(data, ring->data + ring->head, first);
    memcpy(data + first, ring->data, count - first);
}

static void grow(struct ring *ring, size_t wanted)
{
    size_t capacity = ring->capacity;
    while (capacity < wanted && capacity < ring->limit)
        capacity = capacity > ring->limit / 2 ? ring->limit : capacity * 2;
    if (capacity == ring->capacity)
        return;
    uint8_t *data = malloc(capacity);
    if (!data)
        return;
    copy_out(ring, data, ring->count);
    free(ring->data);
    ring->data = data;
    ring->capacity = capacity;
    ring->head = 0;
}

size_t ring_put(struct ring *ring, const void *data, size_t count)
{
    count = smaller(count, ring->limit - ring->count);
    grow(ring, ring->count + count);
    count = smaller(count, ring->capacity - ring->count);
    size_t tail = (ring->head + ring->count) % ring->capacity;
    size_t first = smaller(count, ring->capacity - tail);
    memcpy(ring->data + tail, data, first);
    memcpy(ring->data, (const uint8_t *)data + first, count - first);
    ring->count += count;
    return count;
}

size_t ring_get(struct ring *ring, void *data, size_t count)
{
    count = smaller(count, ring->count);
    copy_out(ring, data, count);
    ring_drop(ring, count);
    return count;
}

size_t ring_peek(const struct ring *ring, const uint8_t **data)
{
    *data = ring->data + ring->head;
    return smaller(ring->count, ring->capacity - ring->head);
}

void ring_drop(struct ring *ring, size_t count)
{
    assert(count <= ring->count);
    ring->head = (ring->head + count) % ring->capacity;
    ring->count -= count;
}
