/*
 * The links between regions: siblings in their order, the way up from a region to the address spaces that
 * show it, and the undo list of the open transaction.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/internal.h"
#include "memory/memory.h"

static extent_rank rank_of(const struct memory_region *region)
{
    return region->state.priority * ((extent_rank)1 << 64) + region->state.order;
}

/* What an alias shows of its target. */
static struct span window_of(const struct memory_region *alias)
{
    struct span all = {0, (__int128)MEMORY_SIZE_MAX};
    return span_intersect(all, span_shift(memory_region_span(alias), alias->state.alias_offset));
}

bool memory_region_terminates(const struct memory_region *region)
{
    return region->kind != MEMORY_REGION_CONTAINER && region->kind != MEMORY_REGION_ALIAS;
}

static void link_to_container(struct memory_region *region)
{
    struct memory_region *container = region->state.container;
    region->next = container->subregions;
    region->link = &container->subregions;
    if (region->next)
        region->next->link = &region->next;
    container->subregions = region;
    extent_index_insert(&container->children, &region->extent,
                        span_shift(memory_region_span(region), region->state.address), rank_of(region),
                        memory_region_terminates(region), region->state.enabled);
}

static void unlink_from_container(struct memory_region *region)
{
    *region->link = region->next;
    if (region->next)
        region->next->link = region->link;
    extent_index_remove(&region->state.container->children, &region->extent);
}

void memory_region_attach(struct memory_region *region)
{
    if (region->state.container)
        link_to_container(region);
    /* Any rank will do: aliases do not hide each other in what they show. */
    if (region->alias_target)
        extent_index_insert(&region->alias_target->windows, &region->window, window_of(region),
                            (uintptr_t)region, false, true);
}

void memory_region_detach(struct memory_region *region)
{
    if (region->state.container)
        unlink_from_container(region);
    if (region->alias_target)
        extent_index_remove(&region->alias_target->windows, &region->window);
}

static void touch_shown(struct memory_region *region, struct span span)
{
    if (region->state.enabled)
        memory_region_touch(region, span);
}

static void touch_container(void *opaque, struct span part)
{
    struct memory_region *region = opaque;
    touch_shown(region->state.container, part);
}

static bool touch_alias(void *opaque, struct extent *window)
{
    struct memory_region *alias = container_of(window, struct memory_region, window);
    touch_shown(alias, span_shift(*(const struct span *)opaque, -(__int128)alias->state.alias_offset));
    return true;
}

void memory_region_touch(struct memory_region *region, struct span span)
{
    const struct memory_region_state *state = &region->state;
    span = span_intersect(span, memory_region_span(region));
    if (span_empty(span))
        return;
    for (struct address_space *space = region->spaces; space; space = space->next_of_root)
        memory_windows_add(space, span);
    if (state->container)
        extent_index_open(&state->container->children, rank_of(region), span_shift(span, state->address),
                          touch_container, region);
    if (region->aliases)
        extent_index_visible(&region->windows, span, touch_alias, &span);
}

/* One region's state before the transaction. Only the first change of a region adds one. */
struct memory_undo {
    struct memory_region *region;
    struct memory_region_state state;
    struct memory_undo *next, **link;
};

static int save(struct memory_region *region, struct error *err)
{
    struct memory *memory = region->memory;
    if (memory->committing)
        return error_set(err, EBUSY, "region %s: memory cannot be changed by a listener", region->name);
    if (region->undo)
        return 0;
    struct memory_undo *undo = malloc(sizeof(*undo));
    if (!undo)
        return error_set(err, ENOMEM, "region %s: not enough memory for a change", region->name);
    *undo = (struct memory_undo){region, region->state, memory->undo, &memory->undo};
    memory_offloads_get(undo->state.offloads);
    if (undo->next)
        undo->next->link = &undo->next;
    memory->undo = undo;
    region->undo = undo;
    return 0;
}

int memory_region_begin_change(struct memory_region *region, struct error *err)
{
    memory_transaction_begin(region->memory);
    int result = save(region, err);
    if (result)
        memory_transaction_commit(region->memory, NULL);
    return result;
}

static void forget(struct memory_undo *undo)
{
    undo->region->undo = NULL;
    *undo->link = undo->next;
    if (undo->next)
        undo->next->link = undo->link;
    memory_offloads_put(undo->state.offloads);
    free(undo);
}

void memory_undo_restore(struct memory *memory)
{
    for (struct memory_undo *undo = memory->undo; undo; undo = undo->next)
        memory_region_detach(undo->region);
    for (struct memory_undo *undo = memory->undo, *next; undo; undo = next) {
        struct memory_region *region = undo->region;
        next = undo->next;
        memory_offloads_put(region->state.offloads);
        region->state = undo->state;
        memory_offloads_get(region->state.offloads);
        memory_region_attach(region);
        forget(undo);
    }
}

void memory_undo_forget(struct memory *memory)
{
    for (struct memory_undo *undo = memory->undo, *next; undo; undo = next) {
        next = undo->next;
        forget(undo);
    }
}

/* Whether the transaction, if it fails, has to put anything into `region` again. */
static __attribute__((unused)) bool undo_needs(const struct memory_region *region)
{
    for (const struct memory_undo *undo = region->memory->undo; undo; undo = undo->next)
        if (undo->state.container == region)
            return true;
    return false;
}

void memory_undo_drop(struct memory_region *region)
{
    assert(!undo_needs(region) && (!region->undo || !region->undo->state.container));
    if (region->undo)
        forget(region->undo);
}
