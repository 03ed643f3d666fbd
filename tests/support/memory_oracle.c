#include "tests/support/memory_oracle.h"

#include <string.h>

/* The children of each node, the topmost first. */
struct families {
    const struct oracle_tree *tree;
    unsigned count[ORACLE_NODES];
    int children[ORACLE_NODES][ORACLE_NODES];
};

static bool higher(const struct oracle_tree *tree, int left, int right)
{
    const struct oracle_node *a = &tree->nodes[left], *b = &tree->nodes[right];
    if (a->priority != b->priority)
        return (a->priority > b->priority) != tree->lower_wins;
    return a->order > b->order;
}

static void sort_children(const struct oracle_tree *tree, struct families *families)
{
    families->tree = tree;
    memset(families->count, 0, sizeof(families->count));
    for (int i = 0; i < ORACLE_NODES; i++) {
        int parent = tree->nodes[i].parent;
        if (!tree->nodes[i].alive || parent == ORACLE_NONE)
            continue;
        unsigned at = families->count[parent]++;
        int *children = families->children[parent];
        for (; at > 0 && higher(tree, i, children[at - 1]); at--)
            children[at] = children[at - 1];
        children[at] = i;
    }
}

static struct oracle_answer ask(const struct families *families, int index, __int128 offset,
                                struct oracle_answer so_far)
{
    const struct oracle_node *node = &families->tree->nodes[index];
    struct oracle_answer answer = so_far;
    answer.node = ORACLE_NONE;
    if (!node->enabled || offset < 0 || offset >= (__int128)node->size)
        return answer;
    answer.path = answer.path * 31 + (uint64_t)index + 1;
    answer.readonly |= node->readonly;
    answer.unmergeable |= node->unmergeable;
    if (node->kind == MEMORY_REGION_ALIAS)
        return ask(families, node->target, offset + node->alias_offset, answer);
    for (unsigned i = 0; i < families->count[index]; i++) {
        int child = families->children[index][i];
        __int128 place = offset - families->tree->nodes[child].address;
        struct oracle_answer found = ask(families, child, place, answer);
        if (found.node != ORACLE_NONE)
            return found;
    }
    if (node->kind == MEMORY_REGION_CONTAINER)
        return answer;
    answer.node = index;
    answer.log = node->log;
    answer.offset = (uint64_t)offset;
    answer.readonly |= node->kind == MEMORY_REGION_ROM;
    answer.romd = node->kind == MEMORY_REGION_ROM_DEVICE && node->romd;
    return answer;
}

static bool joins(const struct oracle_range *range, const struct oracle_answer *next)
{
    const struct oracle_answer *first = &range->first;
    return first->node == next->node && first->offset + range->size == next->offset &&
           first->readonly == next->readonly && first->romd == next->romd && first->log == next->log &&
           first->unmergeable == next->unmergeable && (!first->unmergeable || first->path == next->path);
}

static void look_ioeventfds(const struct oracle_node *node, const struct oracle_range *range,
                            struct oracle_view *view)
{
    for (unsigned i = 0; i < node->ioeventfd_count; i++) {
        struct oracle_ioeventfd found = node->ioeventfds[i];
        memory_size end = (memory_size)found.place + (found.length ? found.length : 1);
        if (found.place < range->first.offset || end > range->first.offset + range->size)
            continue;
        found.place = range->start + (found.place - range->first.offset);
        view->ioeventfds[view->ioeventfd_count++] = found;
    }
}

static void look_zones(const struct oracle_node *node, const struct oracle_range *range,
                       struct oracle_view *view)
{
    for (unsigned i = 0; i < node->zone_count; i++) {
        memory_size start = node->zones[i].place, end = start + node->zones[i].size;
        memory_size from = range->first.offset, to = from + range->size;
        start = start > from ? start : from;
        end = end < to ? end : to;
        if (start < end)
            view->zones[view->zone_count++] =
                (struct oracle_zone){range->start + (uint64_t)(start - from), end - start};
    }
}

void oracle_look(const struct oracle_tree *tree, int root, struct oracle_view *view)
{
    memset(view, 0, sizeof(*view));
    struct families families;
    sort_children(tree, &families);
    struct oracle_range *last = NULL;
    for (unsigned i = 0; i < tree->units; i++) {
        struct oracle_answer answer = ask(&families, root, i * tree->unit, (struct oracle_answer){0});
        view->answers[i] = answer;
        if (answer.node == ORACLE_NONE) {
            last = NULL;
        } else if (last && joins(last, &answer)) {
            last->size += tree->unit;
        } else {
            last = &view->ranges[view->range_count++];
            *last = (struct oracle_range){answer, tree->base + i * tree->unit, tree->unit};
        }
    }
    for (unsigned i = 0; i < view->range_count; i++) {
        const struct oracle_range *range = &view->ranges[i];
        if (range->first.readonly)
            continue;
        look_ioeventfds(&tree->nodes[range->first.node], range, view);
        look_zones(&tree->nodes[range->first.node], range, view);
    }
}

bool oracle_range_equal(const struct oracle_range *a, const struct oracle_range *b)
{
    return a->start == b->start && a->size == b->size && a->first.node == b->first.node &&
           a->first.offset == b->first.offset && a->first.readonly == b->first.readonly &&
           a->first.unmergeable == b->first.unmergeable && a->first.romd == b->first.romd;
}

bool oracle_ioeventfd_equal(const struct oracle_ioeventfd *a, const struct oracle_ioeventfd *b)
{
    return a->place == b->place && a->length == b->length && a->match == b->match && a->data == b->data &&
           a->fd == b->fd;
}

bool oracle_shows(const struct oracle_tree *tree, int node, int other)
{
    if (node == other)
        return true;
    if (tree->nodes[node].kind == MEMORY_REGION_ALIAS && oracle_shows(tree, tree->nodes[node].target, other))
        return true;
    for (int i = 0; i < ORACLE_NODES; i++)
        if (tree->nodes[i].alive && tree->nodes[i].parent == node && oracle_shows(tree, i, other))
            return true;
    return false;
}

bool oracle_mapped(const struct oracle_tree *tree, const struct oracle_answer *answer, bool write)
{
    if (answer->node == ORACLE_NONE || (write && answer->readonly))
        return false;
    switch (tree->nodes[answer->node].kind) {
    case MEMORY_REGION_RAM:
    case MEMORY_REGION_ROM:
        return true;
    case MEMORY_REGION_ROM_DEVICE:
        return !write && answer->romd;
    default:
        return false;
    }
}
