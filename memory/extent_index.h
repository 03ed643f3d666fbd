/*
 * A set of extents, such as a container's subregions, that lie over each other by rank: which of them can be
 * seen in a window, and which parts of a window something of a given rank can be seen in. Private to memory/.
 *
 * The index is a binary trie of dyadic blocks [n * 2^k, (n + 1) * 2^k) without those in which nothing
 * happens. An extent is cut into at most 128 blocks and has a cover in each. A block knows the topmost rank
 * in it, and the lowest that an opaque extent shows in it: what lies below that is hidden all over the block.
 * So neither question costs more than what is visible, and a logarithm of the rest.
 *
 * Searches begin at the block that the last one came to and climb as far as they must, because changes tend
 * to be where the last ones were.
 *
 * An extent that is not active can neither be seen nor hide anything. Its covers stay where they are until
 * they come to the top of their block, so that switching it off and on costs next to nothing.
 *
 * Extents for whose covers there is no memory, and the first few of each index, are loose: they are looked at
 * one by one, and do not hide anything. So nothing here can fail, and the answers, which may name too much
 * but never too little, stay right.
 *
 * The owner guards an index against concurrent use. An index and an extent are zeroed to begin with.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Part of an address space or region, [start, end). Signed, because the place of an alias target's first byte
 * can lie below zero. Empty where end <= start. */
struct span {
    __int128 start, end;
};

/* No two extents of an index have the same rank; the higher lies over the lower. */
typedef __int128 extent_rank;

#define EXTENT_RANK_NONE (-((extent_rank)1 << 126)) /* below all others */

struct extent_block;
struct extent_cover;

/* Embedded in what it is the extent of. All fields are private but to be read. */
struct extent {
    struct span span;
    extent_rank rank;
    bool opaque; /* hides what lies below */
    bool active;
    unsigned cover_count;
    struct extent_cover *covers; /* NULL: it is loose */
    struct extent *next, **link; /* among the loose */
    uint64_t visited;            /* by the search with this number */
};

struct extent_index {
    struct extent_block *root, *recent; /* the last that was looked into; NULL: none */
    unsigned level;                     /* no cover is in a block above this one */
    struct extent *loose;
    size_t count;
    uint64_t search; /* the last one */
};

/* Puts an extent, which is in no index, into this one. `span` is not empty and within 0 to 2^64. */
void extent_index_insert(struct extent_index *index, struct extent *extent, struct span span,
                         extent_rank rank, bool opaque, bool active);

/* Takes it out. The last one to go leaves no memory behind. */
void extent_index_remove(struct extent_index *index, struct extent *extent);

void extent_set_active(struct extent *extent, bool active);

/*
 * Calls `visit` once for each active extent of which something may be seen within `window`, in no order,
 * until it returns false. Returns whether it never did. `visit` must not change the index.
 */
bool extent_index_visible(struct extent_index *index, struct span window,
                          bool (*visit)(void *opaque, struct extent *extent), void *opaque);

/*
 * Calls `visit` for the parts of `span` (as above) where no opaque extent that lies over `rank` is: rising,
 * and as few as they can be. `visit` must not change the index.
 */
void extent_index_open(const struct extent_index *index, extent_rank rank, struct span span,
                       void (*visit)(void *opaque, struct span part), void *opaque);
