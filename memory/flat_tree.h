/*
 * The ranges of a flat view as a B+-tree of immutable nodes that views share. Private to memory/.
 *
 * Leaves (level 0) hold ranges; the nodes above hold children, each with the last address that it covers, so
 * that a look-up is one descent. A node belongs to all views, and nodes of views, that refer to it, and dies
 * with the last of them. Readers, who hold views, know nothing of that: the counts of references belong to
 * the lock of `struct memory`.
 *
 * A builder makes a new tree from left to right. What stays as it was is shared with the old tree in pieces
 * as large as they come; single ranges lie between. Every node but those at the right edge has at least
 * FLAT_NODE_MIN entries, so a tree of n ranges is O(log n) deep, and a new one that differs in one place
 * costs O(log n) nodes.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/flat_view.h"

#ifndef FLAT_NODE_MAX /* tests have smaller nodes, so that few ranges make deep trees */
#define FLAT_NODE_MIN 5
#define FLAT_NODE_MAX 14
#endif
#define FLAT_DEPTH_MAX 24 /* more ranges than memory holds: FLAT_NODE_MIN to this power */

struct flat_node {
    unsigned references;
    uint16_t level, count;
};

struct flat_leaf {
    struct flat_node node;
    struct flat_range ranges[];
};

struct flat_child {
    uint64_t last; /* address of the last byte in it */
    struct flat_node *node;
};

struct flat_branch {
    struct flat_node node;
    struct flat_child children[];
};

/* Gives a reference back. NULL is allowed. */
void flat_node_put(struct flat_node *node);

/* As flat_view_from() and flat_view_next(), in the tree of `root` (NULL: an empty one). */
const struct flat_range *flat_node_from(const struct flat_node *root, uint64_t address);
const struct flat_range *flat_node_next(const struct flat_node *root, const struct flat_range *range);

/*
 * A tree being built. Entries wait at their level until they are closed into a node, when there are more
 * than two nodes' or when a whole node follows.
 */
struct flat_builder {
    bool failed;      /* memory was short: nothing more is taken */
    unsigned waiting; /* bit n: entries wait for a node of level n */
    unsigned counts[FLAT_DEPTH_MAX];
    struct flat_range ranges[2 * FLAT_NODE_MAX];
    struct flat_child children[FLAT_DEPTH_MAX][2 * FLAT_NODE_MAX]; /* nodes of level n in [n] */
};

void flat_builder_begin(struct flat_builder *builder);

/* Appends a copy of `range`, which lies behind all that is there. */
void flat_builder_add(struct flat_builder *builder, const struct flat_range *range);

/* Appends the ranges of the tree of `root` (NULL: none) that begin within [start, end): whole nodes are
 * shared. No range may reach beyond one of both ends. */
void flat_builder_share(struct flat_builder *builder, struct flat_node *root, memory_size start,
                        memory_size end);

/* Ends the building: `*root` is the tree, NULL if it is empty. Returns whether there was memory for it. */
bool flat_builder_finish(struct flat_builder *builder, struct flat_node **root);
