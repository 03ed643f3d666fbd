#include "memory/flat_tree.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "memory/internal.h"

static_assert(FLAT_NODE_MIN <= (FLAT_NODE_MAX + 1) / 2, "a full node can be halved");

static struct flat_leaf *leaf_of(const struct flat_node *node)
{
    return container_of(node, struct flat_leaf, node);
}

static struct flat_branch *branch_of(const struct flat_node *node)
{
    return container_of(node, struct flat_branch, node);
}

void flat_node_put(struct flat_node *node)
{
    if (!node || --node->references)
        return;
    for (unsigned i = 0; i < node->count; i++)
        if (node->level)
            flat_node_put(branch_of(node)->children[i].node);
        else
            memory_offloads_put(leaf_of(node)->ranges[i].offloads);
    free(node);
}

static uint64_t last_of_range(const struct flat_range *range)
{
    return (uint64_t)(flat_range_end(range) - 1);
}

static uint64_t last_of(const struct flat_node *node)
{
    unsigned at = node->count - 1u;
    return node->level ? branch_of(node)->children[at].last : last_of_range(&leaf_of(node)->ranges[at]);
}

/* The first child that ends at `address` or behind it; the number of children if none does. */
static unsigned find_child(const struct flat_branch *branch, uint64_t address)
{
    unsigned at = 0;
    while (at < branch->node.count && branch->children[at].last < address)
        at++;
    return at;
}

static unsigned find_range(const struct flat_leaf *leaf, uint64_t address)
{
    unsigned at = 0;
    while (at < leaf->node.count && last_of_range(&leaf->ranges[at]) < address)
        at++;
    return at;
}

const struct flat_range *flat_node_from(const struct flat_node *root, uint64_t address)
{
    const struct flat_node *node = root;
    while (node && node->level) {
        unsigned at = find_child(branch_of(node), address);
        node = at < node->count ? branch_of(node)->children[at].node : NULL;
    }
    unsigned at = node ? find_range(leaf_of(node), address) : 0;
    return node && at < node->count ? &leaf_of(node)->ranges[at] : NULL;
}

const struct flat_range *flat_node_next(const struct flat_node *root, const struct flat_range *range)
{
    const struct flat_leaf *leaf = container_of(range - range->place, struct flat_leaf, ranges[0]);
    if (range->place + 1u < leaf->node.count)
        return range + 1;
    uint64_t last = last_of_range(range);
    return last < UINT64_MAX ? flat_node_from(root, last + 1) : NULL;
}

void flat_builder_begin(struct flat_builder *builder)
{
    builder->failed = false;
    builder->waiting = 0;
    memset(builder->counts, 0, sizeof(builder->counts));
}

static struct flat_node *create_node(struct flat_builder *builder, unsigned level, unsigned count,
                                     size_t size)
{
    struct flat_node *node = malloc(size);
    builder->failed |= !node;
    if (!node)
        return NULL;
    node->references = 1;
    node->level = (uint16_t)level;
    node->count = (uint16_t)count;
    return node;
}

/* A node of the first `count` entries that wait for one of `level`. NULL where memory is short. */
static struct flat_node *close_leaf(struct flat_builder *builder, unsigned count)
{
    struct flat_leaf *leaf;
    struct flat_node *node = create_node(builder, 0, count, sizeof(*leaf) + count * sizeof(leaf->ranges[0]));
    if (!node)
        return NULL;
    leaf = leaf_of(node);
    memcpy(leaf->ranges, builder->ranges, count * sizeof(leaf->ranges[0]));
    for (unsigned i = 0; i < count; i++)
        leaf->ranges[i].place = (uint8_t)i;
    return node;
}

static struct flat_node *close_branch(struct flat_builder *builder, unsigned level, unsigned count)
{
    struct flat_branch *branch;
    struct flat_node *node =
        create_node(builder, level, count, sizeof(*branch) + count * sizeof(branch->children[0]));
    if (!node)
        return NULL;
    memcpy(branch_of(node)->children, builder->children[level - 1], count * sizeof(branch->children[0]));
    return node;
}

static void push_node(struct flat_builder *builder, struct flat_child child);

/* Closes the first `count` entries that wait for a node of `level`. */
static void close_first(struct flat_builder *builder, unsigned level, unsigned count)
{
    struct flat_node *node = level ? close_branch(builder, level, count) : close_leaf(builder, count);
    if (!node)
        return;
    uint64_t last =
        level ? builder->children[level - 1][count - 1].last : last_of_range(&builder->ranges[count - 1]);
    unsigned left = builder->counts[level] -= count;
    if (!left)
        builder->waiting &= ~(1u << level);
    if (level)
        memmove(builder->children[level - 1], builder->children[level - 1] + count,
                left * sizeof(struct flat_child));
    else
        memmove(builder->ranges, builder->ranges + count, left * sizeof(struct flat_range));
    push_node(builder, (struct flat_child){last, node});
}

/* Closes all entries that wait for a node of `level`, into two halves if they are too many for one. */
static void close_all(struct flat_builder *builder, unsigned level)
{
    unsigned count = builder->counts[level];
    if (count > FLAT_NODE_MAX)
        close_first(builder, level, count / 2);
    if (!builder->failed)
        close_first(builder, level, builder->counts[level]);
}

/* Makes room for one more entry that waits for a node of `level`. False where memory is short. */
static bool make_room(struct flat_builder *builder, unsigned level)
{
    if (!builder->failed && builder->counts[level] == 2 * FLAT_NODE_MAX)
        close_first(builder, level, FLAT_NODE_MAX);
    builder->waiting |= builder->failed ? 0 : 1u << level;
    return !builder->failed;
}

/* Appends a node, with its reference. */
static void push_node(struct flat_builder *builder, struct flat_child child)
{
    unsigned level = child.node->level + 1u;
    assert(level < FLAT_DEPTH_MAX);
    if (make_room(builder, level))
        builder->children[level - 1][builder->counts[level]++] = child;
    else
        flat_node_put(child.node);
}

void flat_builder_add(struct flat_builder *builder, const struct flat_range *range)
{
    if (!make_room(builder, 0))
        return;
    builder->ranges[builder->counts[0]++] = *range;
    memory_offloads_get(range->offloads);
}

/* Closes what waits for nodes of up to `level`. False if that is too little for a node, or memory is short.
 */
static bool settle(struct flat_builder *builder, unsigned level)
{
    unsigned wanted = (2u << level) - 1;
    while (!builder->failed && (builder->waiting & wanted)) {
        unsigned lowest = (unsigned)__builtin_ctz(builder->waiting);
        if (builder->counts[lowest] < FLAT_NODE_MIN)
            return false;
        close_all(builder, lowest);
    }
    return !builder->failed;
}

static void share_node(struct flat_builder *builder, struct flat_child child);

/* As share_node(), in short where nothing has to be closed or dissolved before. */
static inline void share_child(struct flat_builder *builder, struct flat_child child)
{
    struct flat_node *node = child.node;
    unsigned level = node->level + 1u, wanted = (1u << level) - 1;
    if (node->count < FLAT_NODE_MIN || (builder->waiting & wanted) ||
        builder->counts[level] == 2 * FLAT_NODE_MAX || builder->failed) {
        share_node(builder, child);
        return;
    }
    node->references++;
    builder->children[level - 1][builder->counts[level]++] = child;
    builder->waiting |= 1u << level;
}

/* Appends a whole node, as it is if it can stand beside what waits; its entries otherwise. */
static void share_node(struct flat_builder *builder, struct flat_child child)
{
    struct flat_node *node = child.node;
    if (node->count >= FLAT_NODE_MIN && settle(builder, node->level)) {
        node->references++;
        push_node(builder, child);
        return;
    }
    for (unsigned i = 0; i < node->count && !builder->failed; i++)
        if (node->level)
            share_child(builder, branch_of(node)->children[i]);
        else
            flat_builder_add(builder, &leaf_of(node)->ranges[i]);
}

static void share_ranges(struct flat_builder *builder, const struct flat_leaf *leaf, memory_size start,
                         memory_size end)
{
    for (unsigned i = 0; i < leaf->node.count; i++)
        if (leaf->ranges[i].start >= start && leaf->ranges[i].start < end)
            flat_builder_add(builder, &leaf->ranges[i]);
}

/* As flat_builder_share(), in the tree of `node`, of which nothing lies below `low`, and not all in
 * the span. */
static void share_part(struct flat_builder *builder, const struct flat_node *node, memory_size low,
                       memory_size start, memory_size end)
{
    if (!node->level) {
        share_ranges(builder, leaf_of(node), start, end);
        return;
    }
    const struct flat_branch *branch = branch_of(node);
    for (unsigned i = start ? find_child(branch, (uint64_t)start) : 0; i < node->count; i++) {
        if (i)
            low = (memory_size)branch->children[i - 1].last + 1;
        if (low >= end || builder->failed)
            return;
        if (start <= low && branch->children[i].last < end)
            share_child(builder, branch->children[i]);
        else
            share_part(builder, branch->children[i].node, low, start, end);
    }
}

void flat_builder_share(struct flat_builder *builder, struct flat_node *root, memory_size start,
                        memory_size end)
{
    if (!root || start >= end || start >= MEMORY_SIZE_MAX)
        return;
    if (start == 0 && last_of(root) < end)
        share_child(builder, (struct flat_child){last_of(root), root});
    else
        share_part(builder, root, 0, start, end);
}

static void discard(struct flat_builder *builder)
{
    for (unsigned i = 0; i < builder->counts[0]; i++)
        memory_offloads_put(builder->ranges[i].offloads);
    for (unsigned level = 1; level < FLAT_DEPTH_MAX; level++)
        for (unsigned i = 0; i < builder->counts[level]; i++)
            flat_node_put(builder->children[level - 1][i].node);
}

bool flat_builder_finish(struct flat_builder *builder, struct flat_node **root)
{
    *root = NULL;
    for (unsigned level = 0; !builder->failed; level++) {
        unsigned count = builder->counts[level];
        if (!(builder->waiting >> level >> 1) && (!count || (level && count == 1))) {
            *root = count ? builder->children[level - 1][0].node : NULL;
            return true;
        }
        if (count)
            close_all(builder, level);
    }
    discard(builder);
    return false;
}
