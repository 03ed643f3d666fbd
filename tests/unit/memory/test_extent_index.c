#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "memory/extent_index.h"
#include "memory/internal.h"
#include "tests/support/failing_malloc.h"

#define EXTENTS   40
#define WHOLE_END ((__int128)MEMORY_SIZE_MAX)

static uint64_t state;

static uint64_t pick(uint64_t limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 16) % limit;
}

/* The index, and all that is in it. */
struct model {
    struct extent_index index;
    struct extent extents[EXTENTS];
    bool present[EXTENTS];
    unsigned shift; /* addresses are multiples of 2^shift, more or less */
};

/* Offsets of all magnitudes, and where they meet. */
static __int128 pick_address(const struct model *model)
{
    __int128 address = (__int128)pick(40) << model->shift;
    if (pick(8) == 0)
        address += pick(3) - 1;
    if (pick(16) == 0)
        address = WHOLE_END - (__int128)pick(5);
    return address < 0 ? 0 : address > WHOLE_END ? WHOLE_END : address;
}

static struct span pick_span(const struct model *model)
{
    struct span span;
    do
        span = (struct span){pick_address(model), pick_address(model)};
    while (span_empty(span));
    return span;
}

static void change(struct model *model, extent_rank *order)
{
    unsigned at = (unsigned)pick(EXTENTS);
    struct extent *extent = &model->extents[at];
    if (!model->present[at]) {
        extent_rank rank = ((int)pick(5) - 2) * ((extent_rank)1 << 64) + ++*order;
        extent_index_insert(&model->index, extent, pick_span(model), rank, pick(4) != 0, pick(4) != 0);
        model->present[at] = true;
    } else if (pick(3) == 0) {
        extent_index_remove(&model->index, extent);
        model->present[at] = false;
    } else {
        extent_set_active(extent, pick(2));
    }
}

static bool covers(const struct model *model, unsigned at, __int128 address)
{
    const struct extent *extent = &model->extents[at];
    return model->present[at] && extent->active && extent->span.start <= address &&
           address < extent->span.end;
}

/* The highest rank that is opaque at `address`. */
static extent_rank naive_opaque(const struct model *model, __int128 address)
{
    extent_rank rank = EXTENT_RANK_NONE;
    for (unsigned i = 0; i < EXTENTS; i++)
        if (covers(model, i, address) && model->extents[i].opaque && model->extents[i].rank > rank)
            rank = model->extents[i].rank;
    return rank;
}

/* The next address behind `at` where anything can change. */
static __int128 next_edge(const struct model *model, __int128 at, __int128 end)
{
    for (unsigned i = 0; i < EXTENTS; i++) {
        const struct span *span = &model->extents[i].span;
        if (model->present[i] && span->start > at && span->start < end)
            end = span->start;
        if (model->present[i] && span->end > at && span->end < end)
            end = span->end;
    }
    return end;
}

struct found {
    const struct model *model;
    bool seen[EXTENTS];
};

static bool note(void *opaque, struct extent *extent)
{
    struct found *found = opaque;
    size_t at = (size_t)(extent - found->model->extents);
    cr_assert(!found->seen[at], "only once");
    cr_assert(extent->active);
    found->seen[at] = true;
    return true;
}

static void check_visible(struct model *model, struct span window, bool exact)
{
    struct found found = {.model = model};
    bool wanted[EXTENTS] = {0};
    cr_assert(extent_index_visible(&model->index, window, note, &found));
    for (__int128 at = window.start; at < window.end; at = next_edge(model, at, window.end)) {
        extent_rank limit = naive_opaque(model, at);
        for (unsigned i = 0; i < EXTENTS; i++)
            wanted[i] |= covers(model, i, at) && model->extents[i].rank >= limit;
    }
    for (unsigned i = 0; i < EXTENTS; i++) {
        cr_assert(found.seen[i] || !wanted[i]);
        cr_assert(!exact || !found.seen[i] || wanted[i]);
    }
}

struct parts {
    const struct model *model;
    extent_rank rank;
    struct span window;
    __int128 at; /* checked up to here */
    unsigned count;
    bool exact;
};

/* Checks that nothing between here and `end` is open. */
static void check_closed(struct parts *parts, __int128 end)
{
    for (; parts->at < end; parts->at = next_edge(parts->model, parts->at, end))
        cr_assert_gt(naive_opaque(parts->model, parts->at), parts->rank);
}

static void check_part(void *opaque, struct span part)
{
    struct parts *parts = opaque;
    cr_assert(!span_empty(part) && part.start >= parts->window.start && part.end <= parts->window.end);
    cr_assert(!parts->count++ || part.start > parts->at, "parts are apart");
    check_closed(parts, part.start);
    for (; parts->at < part.end; parts->at = next_edge(parts->model, parts->at, part.end))
        cr_assert(!parts->exact || naive_opaque(parts->model, parts->at) <= parts->rank);
}

static void check_open(const struct model *model, struct span window, bool exact)
{
    unsigned at = (unsigned)pick(EXTENTS);
    extent_rank rank = model->extents[at].rank + (extent_rank)pick(2);
    struct parts parts = {model, rank, window, window.start, 0, exact};
    extent_index_open(&model->index, rank, window, check_part, &parts);
    check_closed(&parts, window.end);
}

static void empty(struct model *model)
{
    for (unsigned i = 0; i < EXTENTS; i++)
        if (model->present[i])
            extent_index_remove(&model->index, &model->extents[i]);
    cr_assert_null(model->index.root);
    cr_assert_null(model->index.loose);
}

/* Makes changes, and queries after each; one allocation of a change fails now and then if `short_of_memory`.
 */
static void run(struct model *model, unsigned changes, bool short_of_memory)
{
    extent_rank order = 0;
    for (unsigned i = 0; i < changes; i++) {
        failing_malloc_arm(short_of_memory ? (unsigned)pick(6) : 0);
        change(model, &order);
        failing_malloc_arm(0);
        bool exact = !model->index.loose;
        for (unsigned query = 0; query < 3; query++) {
            check_visible(model, pick_span(model), exact);
            check_open(model, pick_span(model), exact);
        }
        check_visible(model, (struct span){0, WHOLE_END}, exact);
    }
}

Test(extent_index, answers_as_a_naive_scan_does)
{
    for (unsigned round = 0; round < 120; round++) {
        state = round + 1;
        struct model model = {.shift = (unsigned)pick(60)};
        run(&model, 150, false);
        cr_assert_null(model.index.loose, "many are not loose");
        empty(&model);
    }
}

Test(extent_index, answers_too_much_at_worst_where_memory_is_short)
{
    for (unsigned round = 0; round < 60; round++) {
        state = round + 1;
        struct model model = {.shift = (unsigned)pick(60)};
        run(&model, 100, true);
        empty(&model);
    }
}

#define PILE 1000

static bool count_visible(void *opaque, struct extent *extent)
{
    ++*(unsigned *)opaque;
    return true;
}

/* Switching extents off and on takes no memory, and what is off is not looked at. */
Test(extent_index, inactive_extents_hide_nothing)
{
    static struct extent pile[PILE];
    struct extent_index index = {0};
    for (unsigned i = 0; i < PILE; i++)
        extent_index_insert(&index, &pile[i], (struct span){0x1000, 0x3800}, i, i % 2, true);
    failing_malloc_arm(1);
    for (unsigned top = PILE; top-- > 0;) {
        unsigned visible = 0;
        cr_assert(extent_index_visible(&index, (struct span){0, WHOLE_END}, count_visible, &visible));
        cr_assert_eq(visible, top % 2 || top == 0 ? 1 : 2, "the topmost down to an opaque one");
        extent_set_active(&pile[top], false);
        extent_set_active(&pile[top], true);
        extent_set_active(&pile[top], false);
    }
    cr_assert(failing_malloc_armed());
    failing_malloc_arm(0);
    for (unsigned i = 0; i < PILE; i++)
        extent_index_remove(&index, &pile[i]);
    cr_assert_null(index.root);
}
