#include <errno.h>
#include <stdlib.h>

#include "memory/internal.h"

/*
 * Rendering has two steps. The walk goes through the tree as it would be painted from the top: whatever it
 * comes to first hides what comes later, so it only notes for each terminating region where it lies and its
 * rank. The sweep then goes over these segments by rising address, with those that cover the current address
 * in a heap by rank, and appends the topmost to the view. That is O(n log n) in the number of segments.
 */
struct segment {
    struct span span; /* addresses */
    __int128 base;    /* address of the region's offset 0 */
    size_t rank;
    struct memory_region *region;
    bool readonly, unmergeable;
};

struct render {
    struct segment *segments;
    size_t count, capacity;
    size_t *heap; /* indices of segments, the lowest rank first */
    size_t heap_count;
    size_t last; /* the segment that the last range of the view came from */
    struct flat_view *view;
};

struct inherited {
    bool readonly, unmergeable;
};

static bool terminates(const struct memory_region *region)
{
    return region->kind != MEMORY_REGION_CONTAINER && region->kind != MEMORY_REGION_ALIAS;
}

static bool add_segment(struct render *render, struct memory_region *region, __int128 base, struct span span,
                        struct inherited inherited)
{
    size_t rank = render->count;
    if (!memory_reserve(&render->segments, &render->capacity, rank + 1, sizeof(struct segment)))
        return false;
    render->segments[render->count++] = (struct segment){
        .span = span,
        .base = base,
        .rank = rank,
        .region = region,
        .readonly = inherited.readonly || region->kind == MEMORY_REGION_ROM,
        .unmergeable = inherited.unmergeable,
    };
    return true;
}

/* Notes what `region`, with its offset 0 at `base`, shows within `clip`. False where memory is short. */
static bool walk(struct render *render, struct memory_region *region, __int128 base, struct span clip,
                 struct inherited inherited)
{
    const struct memory_region_state *state = &region->state;
    clip = span_intersect(clip, span_shift(memory_region_span(region), base));
    if (!state->enabled || span_empty(clip))
        return true;
    inherited.readonly |= state->readonly;
    inherited.unmergeable |= state->unmergeable;
    if (region->alias_target)
        return walk(render, region->alias_target, base - state->alias_offset, clip, inherited);
    for (struct memory_region *child = region->subregions; child; child = child->next)
        if (!walk(render, child, base + child->state.address, clip, inherited))
            return false;
    return !terminates(region) || add_segment(render, region, base, clip, inherited);
}

static int compare_start(const void *left, const void *right)
{
    const struct segment *a = left, *b = right;
    return a->span.start < b->span.start ? -1 : a->span.start > b->span.start;
}

static bool above(const struct render *render, size_t a, size_t b)
{
    return render->segments[render->heap[a]].rank < render->segments[render->heap[b]].rank;
}

static void swap(size_t *a, size_t *b)
{
    size_t old = *a;
    *a = *b;
    *b = old;
}

static void heap_push(struct render *render, size_t segment)
{
    size_t at = render->heap_count++;
    render->heap[at] = segment;
    for (; at > 0 && above(render, at, (at - 1) / 2); at = (at - 1) / 2)
        swap(&render->heap[at], &render->heap[(at - 1) / 2]);
}

static void heap_pop(struct render *render)
{
    render->heap[0] = render->heap[--render->heap_count];
    for (size_t at = 0;;) {
        size_t least = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < render->heap_count; child++)
            if (above(render, child, least))
                least = child;
        if (least == at)
            return;
        swap(&render->heap[at], &render->heap[least]);
        at = least;
    }
}

/* Whether `next`, which begins where `range` ends, continues it. */
static bool continues(const struct flat_range *range, const struct flat_range *next)
{
    return range->region == next->region && range->offset_in_region + range->size == next->offset_in_region &&
           range->readonly == next->readonly && range->romd_mode == next->romd_mode &&
           range->log == next->log && !range->unmergeable && !next->unmergeable;
}

/* Shows [start, end) of segment `index`. */
static bool emit(struct render *render, size_t index, __int128 start, __int128 end)
{
    const struct segment *segment = &render->segments[index];
    struct memory_region *region = segment->region;
    struct flat_range range = {
        .region = region,
        .offset_in_region = (uint64_t)(start - segment->base),
        .start = (uint64_t)start,
        .size = (memory_size)(end - start),
        .readonly = segment->readonly,
        .romd_mode = region->kind == MEMORY_REGION_ROM_DEVICE && region->state.romd_mode,
        .unmergeable = segment->unmergeable,
        .log = region->state.log,
        .offloads = region->state.offloads,
    };
    struct flat_range *last = flat_view_last(render->view);
    bool adjacent = last && flat_range_end(last) == range.start && render->last != SIZE_MAX;
    if (adjacent && (render->last == index || continues(last, &range)))
        last->size += range.size;
    else if (!flat_view_append(render->view, &range))
        return false;
    render->last = index;
    return true;
}

static bool sweep(struct render *render)
{
    struct segment *segments = render->segments;
    qsort(segments, render->count, sizeof(*segments), compare_start);
    size_t next = 0;
    __int128 at = 0;
    while (next < render->count || render->heap_count) {
        if (!render->heap_count)
            at = segments[next].span.start;
        while (next < render->count && segments[next].span.start <= at)
            heap_push(render, next++);
        while (render->heap_count && segments[render->heap[0]].span.end <= at)
            heap_pop(render);
        if (!render->heap_count)
            continue;
        __int128 end = segments[render->heap[0]].span.end;
        if (next < render->count && segments[next].span.start < end)
            end = segments[next].span.start;
        if (!emit(render, render->heap[0], at, end))
            return false;
        at = end;
    }
    return true;
}

/* Appends what the tree shows within `window`. */
static bool render_window(struct flat_view *view, struct memory_region *root, struct span window)
{
    struct render render = {.view = view, .last = SIZE_MAX};
    bool done = walk(&render, root, 0, window, (struct inherited){0});
    if (done && render.count) {
        render.heap = calloc(render.count, sizeof(*render.heap));
        done = render.heap && sweep(&render);
    }
    free(render.heap);
    free(render.segments);
    return done;
}

/*
 * Widens `window` to the ranges of `view` that touch it. Beyond these nothing can merge with what is rendered
 * anew: where two ranges meet outside of the window, nothing has changed.
 */
static struct span widen(const struct flat_view *view, struct span window)
{
    uint64_t before = window.start > 0 ? (uint64_t)(window.start - 1) : 0;
    const struct flat_range *range = view ? flat_view_from(view, before) : NULL;
    struct span wide = window;
    for (; range && range->start <= window.end; range = flat_view_next(view, range))
        wide = span_hull(wide, (struct span){range->start, (__int128)flat_range_end(range)});
    return wide;
}

/* Appends the ranges of `from` that begin within `span`. */
static bool copy(struct flat_view *view, const struct flat_view *from, struct span span)
{
    const struct flat_range *range =
        from && span.start < (__int128)MEMORY_SIZE_MAX ? flat_view_from(from, (uint64_t)span.start) : NULL;
    for (; range && range->start < span.end; range = flat_view_next(from, range))
        if (!flat_view_append(view, range))
            return false;
    return true;
}

int memory_render(struct address_space *space, struct span *touched, struct flat_view **out)
{
    struct flat_view *view = flat_view_create(space);
    if (!view)
        return -ENOMEM;
    *touched = widen(space->view, *touched);
    struct span below = {0, touched->start}, above_it = {touched->end, (__int128)MEMORY_SIZE_MAX};
    if (!copy(view, space->view, below) || !render_window(view, space->root, *touched) ||
        !copy(view, space->view, above_it)) {
        flat_view_destroy(view);
        return -ENOMEM;
    }
    *out = view;
    return 0;
}
