#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "memory/flat_tree.h"

/* What a tree must hold, as a plain array: range number i of `count` lies at `starts[i]`. */
#define MODEL_MAX 6000

struct model {
    unsigned count;
    struct flat_range ranges[MODEL_MAX];
};

static uint64_t state;

static uint64_t pick(uint64_t limit)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (state >> 16) % limit;
}

/* Nodes in the tree, and its depth; fails if a node but the last of its level has too few entries. */
static unsigned check_node(const struct flat_node *node, bool at_edge, uint64_t *last)
{
    cr_assert_geq(node->count, at_edge ? 1 : FLAT_NODE_MIN);
    cr_assert_leq(node->count, FLAT_NODE_MAX);
    cr_assert_gt(node->references, 0);
    unsigned nodes = 1;
    for (unsigned i = 0; i < node->count; i++) {
        if (!node->level) {
            const struct flat_range *range = &container_of(node, const struct flat_leaf, node)->ranges[i];
            cr_assert_eq(range->place, i);
            *last = (uint64_t)(flat_range_end(range) - 1);
            continue;
        }
        const struct flat_child *child = &container_of(node, const struct flat_branch, node)->children[i];
        cr_assert_eq(child->node->level + 1, node->level);
        nodes += check_node(child->node, at_edge && i + 1u == node->count, last);
        cr_assert_eq(child->last, *last);
    }
    return nodes;
}

static void check_look_up(const struct flat_node *root, const struct model *model, unsigned at)
{
    const struct flat_range *wanted = &model->ranges[at], *found = flat_node_from(root, wanted->start);
    cr_assert_eq(found->start, wanted->start);
    cr_assert_eq(flat_node_from(root, (uint64_t)(flat_range_end(wanted) - 1)), found);
    if (at > 0 && flat_range_end(wanted - 1) < wanted->start)
        cr_assert_eq(flat_node_from(root, wanted->start - 1), found);
}

/* Holds a tree against what it must be. Returns the number of its nodes. */
static unsigned check(const struct flat_node *root, const struct model *model)
{
    const struct flat_range *range = flat_node_from(root, 0);
    for (unsigned i = 0; i < model->count; i++, range = flat_node_next(root, range)) {
        cr_assert_not_null(range);
        cr_assert(flat_range_equal(range, &model->ranges[i]));
        check_look_up(root, model, i);
    }
    cr_assert_null(range);
    if (!root)
        return 0;
    if (flat_range_end(&model->ranges[model->count - 1]) <= UINT64_MAX)
        cr_assert_null(flat_node_from(root, (uint64_t)flat_range_end(&model->ranges[model->count - 1])));
    unsigned depth = root->level + 1u;
    for (memory_size fits = 1; depth-- > 1; fits *= FLAT_NODE_MIN)
        cr_assert_gt(model->count, fits, "deeper than it must be");
    uint64_t last;
    return check_node(root, true, &last);
}

/* Appends up to `count` ranges to the model and the builder, from `at` on and below `end`. */
static void append(struct model *model, struct flat_builder *builder, uint64_t at, memory_size end,
                   unsigned count)
{
    for (; count > 0 && model->count < MODEL_MAX; count--) {
        struct flat_range range = {
            .offset_in_region = pick(1000), .start = at + pick(3), .size = 1 + pick(20)};
        if (flat_range_end(&range) > end)
            return;
        model->ranges[model->count++] = range;
        flat_builder_add(builder, &range);
        at = (uint64_t)flat_range_end(&range);
    }
}

static struct flat_node *finish(struct flat_builder *builder)
{
    struct flat_node *root;
    cr_assert(flat_builder_finish(builder, &root));
    return root;
}

static struct flat_node *build(struct model *model, unsigned count)
{
    struct flat_builder builder;
    model->count = 0;
    flat_builder_begin(&builder);
    append(model, &builder, 0, MEMORY_SIZE_MAX, count);
    return finish(&builder);
}

static void share(struct flat_builder *builder, struct flat_node *root, const struct model *old,
                  struct model *new, unsigned first, unsigned end)
{
    memory_size start = first ? flat_range_end(&old->ranges[first - 1]) : 0;
    flat_builder_share(builder, root, start,
                       end < old->count ? (memory_size)old->ranges[end].start : MEMORY_SIZE_MAX);
    for (unsigned i = first; i < end; i++)
        new->ranges[new->count++] = old->ranges[i];
}

/* Replaces some windows of `root` by others of up to `most` ranges. */
static struct flat_node *replace(struct flat_node *root, const struct model *old, struct model *new,
                                 unsigned windows, unsigned most)
{
    struct flat_builder builder;
    unsigned at = 0;
    new->count = 0;
    flat_builder_begin(&builder);
    for (unsigned i = 0; i < windows && at < old->count; i++) {
        unsigned first = at + (unsigned)pick(old->count - at + 1);
        unsigned end = first + (unsigned)pick(most + 1);
        end = end < old->count ? end : old->count;
        share(&builder, root, old, new, at, first);
        memory_size limit = end < old->count ? old->ranges[end].start : MEMORY_SIZE_MAX;
        uint64_t behind = new->count ? (uint64_t)flat_range_end(&new->ranges[new->count - 1]) : 0;
        append(new, &builder, behind, limit, (unsigned)pick(most + 1));
        at = end;
    }
    share(&builder, root, old, new, at, old->count);
    return finish(&builder);
}

Test(flat_tree, of_any_size)
{
    static struct model model;
    state = 1;
    for (unsigned count = 0; count <= MODEL_MAX; count += 1 + count / 7) {
        struct flat_node *root = build(&model, count);
        check(root, &model);
        flat_node_put(root);
    }
}

Test(flat_tree, windows_are_replaced)
{
    static struct model models[2];
    state = 2;
    for (unsigned round = 0; round < 60; round++) {
        struct model *old = &models[0], *new = &models[1];
        struct flat_node *root = build(old, (unsigned)pick(round < 30 ? 100 : 3000));
        for (unsigned change = 0; change < 30; change++) {
            struct flat_node *changed =
                replace(root, old, new, 1 + (unsigned)pick(4), 1 + (unsigned)pick(change % 5 ? 8 : 200));
            check(changed, new);
            check(root, old);
            flat_node_put(root);
            root = changed;
            struct model *other = old;
            old = new;
            new = other;
        }
        flat_node_put(root);
    }
}

/* Nodes that only `node`'s tree has. */
static unsigned own_nodes(const struct flat_node *node)
{
    if (node->references > 1)
        return 0;
    unsigned own = 1;
    for (unsigned i = 0; node->level && i < node->count; i++)
        own += own_nodes(container_of(node, const struct flat_branch, node)->children[i].node);
    return own;
}

Test(flat_tree, shares_all_but_the_path_to_a_change)
{
    static struct model old, new;
    state = 3;
    struct flat_node *root = build(&old, MODEL_MAX - 100);
    for (unsigned change = 0; change < 200; change++) {
        struct flat_node *changed = replace(root, &old, &new, 1, 2);
        unsigned all = check(changed, &new), own = own_nodes(changed);
        cr_assert_leq(own, 4u * (root->level + 2u), "%u of %u nodes are new", own, all);
        flat_node_put(changed);
    }
    flat_node_put(root);
}

Test(flat_tree, unchanged_is_the_same_tree)
{
    static struct model model;
    state = 4;
    struct flat_node *root = build(&model, 3000);
    struct flat_builder builder;
    flat_builder_begin(&builder);
    flat_builder_share(&builder, root, 0, MEMORY_SIZE_MAX);
    struct flat_node *same = finish(&builder);
    cr_assert_leq(own_nodes(same), root->level + 1u, "but for the right edge");
    flat_node_put(same);
    flat_node_put(root);
}
