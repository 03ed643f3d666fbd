/*
 * The links between regions: siblings in their order, the way up from a region to the address spaces that
 * show it, and the undo list of the open transaction.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/internal.h"
#include "memory/memory.h"

/* Whether `a` lies over its sibling `b`. */
static bool lies_over(const struct memory_region *a, const struct memory_region *b)
{
    if (a->state.priority != b->state.priority)
        return a->state.priority > b->state.priority;
    return a->state.order > b->state.order;
}

void memory_region_link(struct memory_region *region)
{
    struct memory_region **link = &region->state.container->subregions;
    while (*link && lies_over(*link, region))
        link = &(*link)->next;
    region->next = *link;
    region->link = link;
    if (region->next)
        region->next->link = &region->next;
    *link = region;
}

void memory_region_unlink(struct memory_region *region)
{
    *region->link = region->next;
    if (region->next)
        region->next->link = region->link;
    region->next = NULL;
    region->link = NULL;
}

static void touch_shown(struct memory_region *region, struct span span)
{
    if (region->state.enabled)
        memory_region_touch(region, span);
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
        touch_shown(state->container, span_shift(span, state->address));
    for (struct memory_region *alias = region->aliases; alias; alias = alias->next_alias)
        touch_shown(alias, span_shift(span, -(__int128)alias->state.alias_offset));
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
        if (undo->region->state.container)
            memory_region_unlink(undo->region);
    for (struct memory_undo *undo = memory->undo, *next; undo; undo = next) {
        struct memory_region *region = undo->region;
        next = undo->next;
        memory_offloads_put(region->state.offloads);
        region->state = undo->state;
        memory_offloads_get(region->state.offloads);
        if (region->state.container)
            memory_region_link(region);
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
