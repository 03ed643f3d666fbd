/*
 * What a transaction may have changed in an address space, as windows.
 */
#include <assert.h>
#include <stdlib.h>

#include "memory/internal.h"

static bool touch(const struct memory_window *a, const struct memory_window *b)
{
    return a->start <= b->end && b->start <= a->end;
}

static void join(struct memory_window *window, const struct memory_window *other)
{
    if (other->start < window->start)
        window->start = other->start;
    if (other->end > window->end)
        window->end = other->end;
}

static int compare_start(const void *left, const void *right)
{
    const struct memory_window *a = left, *b = right;
    return a->start < b->start ? -1 : a->start > b->start;
}

/* Joins windows, in order, that touch each other. */
static void join_neighbours(struct address_space *space)
{
    size_t count = 0;
    for (size_t i = 0; i < space->window_count; i++)
        if (count && touch(&space->windows[count - 1], &space->windows[i]))
            join(&space->windows[count - 1], &space->windows[i]);
        else
            space->windows[count++] = space->windows[i];
    space->window_count = count;
}

static void merge(struct address_space *space)
{
    if (space->window_count < 2)
        return;
    assert(space->windows);
    qsort(space->windows, space->window_count, sizeof(*space->windows), compare_start);
    join_neighbours(space);
}

bool memory_windows_create(struct address_space *space)
{
    return memory_reserve(&space->windows, &space->window_capacity, 1, sizeof(*space->windows));
}

/* Makes room for another window. */
static void make_room(struct address_space *space)
{
    if (space->window_count < space->window_capacity)
        return;
    merge(space);
    if (space->window_count <= space->window_capacity / 2 ||
        memory_reserve(&space->windows, &space->window_capacity, 2 * space->window_capacity,
                       sizeof(*space->windows)))
        return;
    for (size_t i = 1; i < space->window_count; i++)
        join(&space->windows[0], &space->windows[i]);
    space->window_count = 1;
}

void memory_windows_add(struct address_space *space, struct span span)
{
    struct memory_window window = {(uint64_t)span.start, (memory_size)span.end};
    struct memory_window *last = space->window_count ? &space->windows[space->window_count - 1] : NULL;
    if (last && touch(last, &window)) {
        join(last, &window);
        return;
    }
    make_room(space);
    assert(space->windows);
    space->windows[space->window_count++] = window;
}

static void widen(struct memory_window *window, const struct flat_view *view)
{
    struct memory_window narrow = *window;
    const struct flat_range *range = flat_view_from(view, narrow.start ? narrow.start - 1 : 0);
    for (; range && range->start <= narrow.end; range = flat_view_next(view, range))
        join(window, &(struct memory_window){range->start, flat_range_end(range)});
}

void memory_windows_settle(struct address_space *space, const struct flat_view *view)
{
    merge(space);
    for (size_t i = 0; i < space->window_count; i++)
        widen(&space->windows[i], view);
    join_neighbours(space);
}
