#include "memory/mtree.h"

#include <stdlib.h>

#include "memory/describe.h"
#include "memory/internal.h"

#define INDENT 2

static void print_extent(FILE *file, __int128 start, memory_size size)
{
    char text[DESCRIPTION_SIZE];
    describe_extent(text, sizeof(text), start, size);
    fputs(text, file);
}

static void print_region(FILE *file, const struct memory_region *region, __int128 start, unsigned depth)
{
    const struct memory_region_state *state = &region->state;
    fprintf(file, "%*s", (int)(depth * INDENT), "");
    print_extent(file, start, state->size);
    fprintf(file, " (prio %d, %s", state->priority, memory_region_kind_name(region->kind));
    if (state->readonly)
        fputs(", read-only", file);
    if (state->unmergeable)
        fputs(", unmergeable", file);
    if (region->kind == MEMORY_REGION_ROM_DEVICE)
        fputs(state->romd_mode ? ", romd" : ", romd off", file);
    fprintf(file, "): %s", region->name);
    if (region->alias_target)
        fprintf(file, " -> %s @%016llx", region->alias_target->name, (unsigned long long)state->alias_offset);
    fputs(state->enabled ? "\n" : " [disabled]\n", file);
}

/* Regions whose trees are still to be printed, because an alias shows something of them. */
struct targets {
    struct memory_region **regions;
    size_t count, capacity;
};

/* Notes the tree that `region` belongs to, unless an address space shows all of it anyway. */
static void add_target(struct targets *targets, struct memory_region *region)
{
    while (region->state.container)
        region = region->state.container;
    if (region->spaces)
        return;
    for (size_t i = 0; i < targets->count; i++)
        if (targets->regions[i] == region)
            return;
    if (memory_reserve(&targets->regions, &targets->capacity, targets->count + 1,
                       sizeof(struct memory_region *)))
        targets->regions[targets->count++] = region;
}

/* Whether `a` comes before its sibling `b`: by address, the topmost first among those at one address. */
static bool comes_before(const struct memory_region *a, const struct memory_region *b)
{
    if (a->state.address != b->state.address)
        return a->state.address < b->state.address;
    return a->extent.rank > b->extent.rank;
}

/* The sibling that comes after `last` (NULL: the first). */
static const struct memory_region *next_by_address(const struct memory_region *container,
                                                   const struct memory_region *last)
{
    const struct memory_region *next = NULL;
    for (const struct memory_region *child = container->subregions; child; child = child->next)
        if ((!last || comes_before(last, child)) && (!next || comes_before(child, next)))
            next = child;
    return next;
}

static void print_tree(FILE *file, const struct memory_region *region, __int128 start, unsigned depth,
                       struct targets *targets)
{
    print_region(file, region, start, depth);
    if (region->alias_target)
        add_target(targets, region->alias_target);
    const struct memory_region *child = NULL;
    while ((child = next_by_address(region, child)))
        print_tree(file, child, start + child->state.address, depth + 1, targets);
}

static void print_ioeventfds(FILE *file, const struct flat_view *view, const struct flat_range *range)
{
    const struct memory_window window = {range->start, flat_range_end(range)};
    struct flat_cursor cursor = flat_cursor_begin(view, &window, 1);
    for (struct flat_ioeventfd ioeventfd; flat_cursor_next_ioeventfd(&cursor, &ioeventfd);) {
        char text[DESCRIPTION_SIZE];
        describe_ioeventfd(text, sizeof(text), &ioeventfd);
        fprintf(file, "%*sioeventfd %s\n", 3 * INDENT, "", text);
    }
}

static void print_zones(FILE *file, const struct flat_view *view, const struct flat_range *range)
{
    const struct memory_window window = {range->start, flat_range_end(range)};
    struct flat_cursor cursor = flat_cursor_begin(view, &window, 1);
    for (struct flat_zone zone; flat_cursor_next_zone(&cursor, &zone);) {
        fprintf(file, "%*scoalesced ", 3 * INDENT, "");
        print_extent(file, zone.address, zone.size);
        fputs("\n", file);
    }
}

static void print_range(FILE *file, const struct flat_view *view, const struct flat_range *range)
{
    char text[DESCRIPTION_SIZE];
    describe_range(text, sizeof(text), range);
    fprintf(file, "%*s%s\n", 2 * INDENT, "", text);
    print_ioeventfds(file, view, range);
    print_zones(file, view, range);
}

static void print_view(FILE *file, const struct flat_view *view)
{
    fprintf(file, "%*sflat view:\n", INDENT, "");
    const struct flat_range *range = flat_view_from(view, 0);
    if (!range)
        fprintf(file, "%*s(nothing)\n", 2 * INDENT, "");
    for (; range; range = flat_view_next(view, range))
        print_range(file, view, range);
}

void mtree_print(struct memory *memory, FILE *file)
{
    struct targets targets = {0};
    pthread_mutex_lock(&memory->lock);
    for (struct address_space *space = memory->spaces; space; space = space->next) {
        fprintf(file, "address space %s\n", space->name);
        print_tree(file, space->root, 0, 1, &targets);
        print_view(file, space->view);
    }
    for (size_t i = 0; i < targets.count; i++) {
        fputs("shown by aliases\n", file);
        print_tree(file, targets.regions[i], 0, 1, &targets);
    }
    pthread_mutex_unlock(&memory->lock);
    free(targets.regions);
}
