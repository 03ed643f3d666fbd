#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "memory/flat_tree.h"
#include "memory/internal.h"

/* What is kept of the arrays below from one rendering to the next. */
#define KEPT_MAX  4096

/* So few subregions are sorted by hand. */
#define FEW_FOUND 8

/*
 * Rendering has two steps. The walk goes through the tree as it would be painted from the top: whatever it
 * comes to first hides what comes later, so it only notes for each terminating region where it lies and its
 * rank. Of a region's subregions it goes through those that their index cannot say to be hidden. The sweep
 * then goes over these segments by rising address, with those that cover the current address in a heap by
 * rank, and appends the topmost to what is shown. That is O(n log n) in the number of segments.
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
    size_t heap_count, heap_capacity;
    size_t last; /* the segment that the last range came from; SIZE_MAX: the window has none yet */
    struct memory_region **found; /* a stack of subregions that are still to be walked through */
    size_t found_count, found_capacity;
    struct flat_range *ranges; /* what the windows show */
    size_t range_count, range_capacity;
    const struct flat_range **old; /* what the published view has in the window */
    size_t old_count, old_capacity;
    struct flat_builder builder;
};

struct inherited {
    bool readonly, unmergeable;
};

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

static bool find(void *opaque, struct extent *extent)
{
    struct render *render = opaque;
    if (!memory_reserve(&render->found, &render->found_capacity, render->found_count + 1,
                        sizeof(struct memory_region *)))
        return false;
    render->found[render->found_count++] = container_of(extent, struct memory_region, extent);
    return true;
}

static int compare_found(const void *left, const void *right)
{
    const struct memory_region *const *a = left, *const *b = right;
    return (*a)->extent.rank < (*b)->extent.rank ? -1 : (*a)->extent.rank > (*b)->extent.rank;
}

/* Sorts what was found: the topmost is last, which is the top of the stack. */
static void sort_found(struct memory_region **found, size_t count)
{
    if (count > FEW_FOUND)
        qsort(found, count, sizeof(struct memory_region *), compare_found);
    for (size_t i = 1; i < count && count <= FEW_FOUND; i++)
        for (size_t at = i; at > 0 && compare_found(&found[at - 1], &found[at]) > 0; at--) {
            struct memory_region *lower = found[at];
            found[at] = found[at - 1];
            found[at - 1] = lower;
        }
}

static bool walk(struct render *render, struct memory_region *region, __int128 base, struct span clip,
                 struct inherited inherited);

/* Walks through the subregions of `region` that can be seen within `clip`, the topmost first. */
static bool walk_subregions(struct render *render, struct memory_region *region, __int128 base,
                            struct span clip, struct inherited inherited)
{
    size_t first = render->found_count;
    if (!extent_index_visible(&region->children, span_shift(clip, -base), find, render))
        return false;
    if (render->found_count > first)
        sort_found(&render->found[first], render->found_count - first);
    while (render->found_count > first) {
        struct memory_region *child = render->found[--render->found_count];
        if (!walk(render, child, base + child->state.address, clip, inherited))
            return false;
    }
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
    if (region->subregions && !walk_subregions(render, region, base, clip, inherited))
        return false;
    return !memory_region_terminates(region) || add_segment(render, region, base, clip, inherited);
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
    struct flat_range *last = render->last == SIZE_MAX ? NULL : &render->ranges[render->range_count - 1];
    bool adjacent = last && flat_range_end(last) == range.start;
    if (adjacent && (render->last == index || continues(last, &range)))
        last->size += range.size;
    else if (memory_reserve(&render->ranges, &render->range_capacity, render->range_count + 1, sizeof(range)))
        render->ranges[render->range_count++] = range;
    else
        return false;
    render->last = index;
    return true;
}

static bool sweep(struct render *render)
{
    struct segment *segments = render->segments;
    if (render->count > 1)
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

/* Appends what the tree shows within `window` to the ranges. False where memory is short. */
static bool render_window(struct render *render, struct memory_region *root,
                          const struct memory_window *window)
{
    struct span span = {window->start, (__int128)window->end};
    render->count = render->heap_count = render->found_count = 0;
    render->last = SIZE_MAX;
    return walk(render, root, 0, span, (struct inherited){0}) &&
           memory_reserve(&render->heap, &render->heap_capacity, render->count, sizeof(size_t)) &&
           sweep(render);
}

/* Whether both say the same, also of what listeners do not see as a difference of ranges. */
static bool same(const struct flat_range *a, const struct flat_range *b)
{
    return flat_range_equal(a, b) && a->log == b->log && a->offloads == b->offloads;
}

/* Notes the ranges of `view` in `window`. */
static bool note_old(struct render *render, const struct flat_view *view, const struct memory_window *window)
{
    const struct flat_range *range = flat_view_from(view, window->start);
    for (render->old_count = 0; range && range->start < window->end; range = flat_view_next(view, range)) {
        if (!memory_reserve(&render->old, &render->old_capacity, render->old_count + 1,
                            sizeof(const struct flat_range *)))
            return false;
        render->old[render->old_count++] = range;
    }
    return true;
}

/*
 * Leaves out of the ranges from `first` on, and of `window`, those at both ends that are as they were.
 * Returns whether anything is left, be it that something went.
 */
static bool narrow(struct render *render, size_t first, struct memory_window *window)
{
    if (render->range_count == first)
        return render->old_count;
    struct flat_range *new = &render->ranges[first];
    size_t new_count = render->range_count - first, old_count = render->old_count, lead = 0;
    while (lead < new_count && lead < old_count && same(&new[lead], render->old[lead]))
        window->start = (uint64_t)flat_range_end(&new[lead++]);
    while (new_count > lead && old_count > lead && same(&new[new_count - 1], render->old[old_count - 1])) {
        window->end = new[--new_count].start;
        old_count--;
    }
    new_count -= lead;
    if (lead && new_count)
        memmove(new, new + lead, new_count * sizeof(*new));
    render->range_count = first + new_count;
    return new_count || old_count > lead;
}

/* Renders the windows of `space`, and keeps of them what differs from `view`. False where memory is short. */
static bool render_windows(struct render *render, struct address_space *space, const struct flat_view *view)
{
    size_t differing = 0;
    render->range_count = 0;
    for (size_t i = 0; i < space->window_count; i++) {
        struct memory_window window = space->windows[i];
        size_t first = render->range_count;
        if (!render_window(render, space->root, &window) || !note_old(render, view, &window))
            return false;
        if (narrow(render, first, &window))
            space->windows[differing++] = window;
    }
    space->window_count = differing;
    return true;
}

/* A view with the rendered ranges in the windows of `space`, and as `old` elsewhere. NULL where memory is
 * short. */
static struct flat_view *build(struct render *render, struct address_space *space,
                               const struct flat_view *old)
{
    struct flat_builder *builder = &render->builder;
    memory_size at = 0;
    size_t next = 0;
    flat_builder_begin(builder);
    for (size_t i = 0; i < space->window_count; i++) {
        const struct memory_window *window = &space->windows[i];
        flat_builder_share(builder, flat_view_root(old), at, window->start);
        while (next < render->range_count && render->ranges[next].start < window->end)
            flat_builder_add(builder, &render->ranges[next++]);
        at = window->end;
    }
    flat_builder_share(builder, flat_view_root(old), at, MEMORY_SIZE_MAX);
    struct flat_node *root;
    return flat_builder_finish(builder, &root) ? flat_view_create(space, root) : NULL;
}

static void trim(void *array, size_t *capacity)
{
    void **place = array;
    if (*capacity <= KEPT_MAX)
        return;
    free(*place);
    *place = NULL;
    *capacity = 0;
}

int memory_render(struct address_space *space, struct flat_view **view)
{
    struct memory *memory = space->memory;
    const struct flat_view *old = space->view ? space->view : &flat_view_empty;
    struct render *render = memory->render ? memory->render : calloc(1, sizeof(*render));
    memory->render = render;
    *view = NULL;
    if (!render)
        return -ENOMEM;
    memory_windows_settle(space, old);
    bool done = render_windows(render, space, old);
    if (done && space->window_count) {
        *view = build(render, space, old);
        done = *view;
    }
    trim(&render->segments, &render->capacity);
    trim(&render->found, &render->found_capacity);
    trim(&render->old, &render->old_capacity);
    trim(&render->heap, &render->heap_capacity);
    trim(&render->ranges, &render->range_capacity);
    return done ? 0 : -ENOMEM;
}

void memory_render_free(struct memory *memory)
{
    if (!memory->render)
        return;
    free(memory->render->segments);
    free(memory->render->heap);
    free(memory->render->old);
    free(memory->render->found);
    free(memory->render->ranges);
    free(memory->render);
}
