#include "memory/extent_index.h"

#include <assert.h>
#include <bsd/sys/tree.h>
#include <stdlib.h>

#include "memory/internal.h"

/* So many extents are loose at first: fewer are not worth an index. */
#define FEW  2

#define BITS 64

/* A block that is a whole part of an extent. */
struct extent_cover {
    RB_ENTRY(extent_cover) entry; /* among the covers of its block, while it is linked */
    struct extent *extent;
    struct extent_block *block;
    bool linked; /* each active cover is; an inactive one can be while it is not on top */
};

RB_HEAD(cover_tree, extent_cover);

struct extent_block {
    uint64_t start;
    unsigned level; /* 2^level bytes */
    unsigned users; /* covers, linked or not */
    struct extent_block *half[2];
    extent_rank high; /* the topmost in the block */
    extent_rank low;  /* each byte of the block is hidden from what lies below this */
    struct extent_block *parent;
    struct cover_tree covers[2];     /* [1]: of opaque extents; rising rank */
    struct extent_cover *topmost[2]; /* of each; active */
};

static int compare_covers(const struct extent_cover *a, const struct extent_cover *b)
{
    return a->extent->rank < b->extent->rank ? -1 : a->extent->rank > b->extent->rank;
}

RB_GENERATE_INTERNAL(cover_tree, extent_cover, entry, compare_covers, __attribute__((unused)) static)

static extent_rank higher(extent_rank a, extent_rank b)
{
    return a > b ? a : b;
}

static extent_rank lower(extent_rank a, extent_rank b)
{
    return a < b ? a : b;
}

static uint64_t last_of(const struct extent_block *block)
{
    return block->start | (block->level ? UINT64_MAX >> (BITS - block->level) : 0);
}

static bool block_holds(const struct extent_block *block, uint64_t address)
{
    return block->level == BITS || (address ^ block->start) >> block->level == 0;
}

static unsigned which_half(const struct extent_block *block, uint64_t address)
{
    return address >> (block->level - 1) & 1;
}

static struct extent_block **half_of(struct extent_block *block, uint64_t address)
{
    return &block->half[which_half(block, address)];
}

/* The first address of a block's second half. */
static uint64_t middle_of(const struct extent_block *block)
{
    return block->start | (uint64_t)1 << (block->level - 1);
}

static extent_rank rank_of(const struct extent_cover *cover)
{
    return cover ? cover->extent->rank : EXTENT_RANK_NONE;
}

/* The lowest rank that half `which` shows all over. */
static extent_rank half_low(const struct extent_block *block, unsigned which)
{
    const struct extent_block *half = block->half[which];
    return half && half->level + 1 == block->level ? half->low : EXTENT_RANK_NONE;
}

/* Computes what a block knows of what is in it. Returns whether that is news. */
static bool refresh(struct extent_block *block)
{
    extent_rank high = higher(rank_of(block->topmost[0]), rank_of(block->topmost[1]));
    for (unsigned i = 0; i < 2; i++)
        high = higher(high, block->half[i] ? block->half[i]->high : EXTENT_RANK_NONE);
    extent_rank low = higher(rank_of(block->topmost[1]), lower(half_low(block, 0), half_low(block, 1)));
    bool changed = high != block->high || low != block->low;
    block->high = high;
    block->low = low;
    return changed;
}

static void refresh_up(struct extent_block *block)
{
    while (block && refresh(block))
        block = block->parent;
}

/* The block of 2^level bytes around `start`, with nothing in it. NULL where memory is short. */
static struct extent_block *create_block(uint64_t start, unsigned level)
{
    struct extent_block *block = calloc(1, sizeof(*block));
    if (!block)
        return NULL;
    block->start = level < BITS ? start >> level << level : 0;
    block->level = level;
    block->high = block->low = EXTENT_RANK_NONE;
    return block;
}

/* Puts `block` below `parent` where `*link` is now, which becomes a half of it (NULL: there is nothing). */
static void put_block(struct extent_block **link, struct extent_block *parent, struct extent_block *block)
{
    struct extent_block *below = *link;
    if (below) {
        *half_of(block, below->start) = below;
        below->parent = block;
    }
    block->parent = parent;
    *link = block;
    refresh(block);
}

/* The block of 2^level bytes at `start`, made if need be. NULL where memory is short. */
static struct extent_block *find_block(struct extent_index *index, uint64_t start, unsigned level)
{
    struct extent_block **link = &index->root, *parent = NULL, *found;
    while ((found = *link) && found->level > level && block_holds(found, start)) {
        parent = found;
        link = half_of(parent, start);
    }
    if (found && found->level == level && found->start == start)
        return found;
    struct extent_block *block = create_block(start, level);
    if (!block || !found || block_holds(block, found->start)) {
        if (block)
            put_block(link, parent, block);
        return block;
    }
    /* They lie beside each other: the smallest block with both forks. */
    struct extent_block *fork = create_block(start, BITS - (unsigned)__builtin_clzll(start ^ found->start));
    if (!fork) {
        free(block);
        return NULL;
    }
    put_block(link, parent, fork);
    put_block(half_of(fork, start), fork, block);
    return block;
}

/* Removes `block` if nothing needs it, and those above that need not be any more. */
static void prune(struct extent_index *index, struct extent_block *block)
{
    while (block && !block->users && !(block->half[0] && block->half[1])) {
        struct extent_block *parent = block->parent;
        struct extent_block *child = block->half[0] ? block->half[0] : block->half[1];
        *(parent ? half_of(parent, block->start) : &index->root) = child;
        if (child)
            child->parent = parent;
        if (index->recent == block)
            index->recent = parent;
        if (!index->root)
            index->level = 0;
        free(block);
        block = parent;
    }
    refresh_up(block);
}

static void link_cover(const struct extent *extent, struct extent_cover *cover)
{
    struct extent_block *block = cover->block;
    bool opaque = extent->opaque;
    assert(block);
    if (!cover->linked)
        RB_INSERT(cover_tree, &block->covers[opaque], cover);
    cover->linked = true;
    if (extent->rank <= rank_of(block->topmost[opaque]))
        return;
    block->topmost[opaque] = cover;
    refresh_up(block);
}

static void unlink_cover(struct extent_cover *cover)
{
    if (cover->linked)
        RB_REMOVE(cover_tree, &cover->block->covers[cover->extent->opaque], cover);
    cover->linked = false;
}

/* Lets go of a cover that is not active any more, and of those that come to the top by that. */
static void drop_cover(struct extent_cover *cover)
{
    struct extent_block *block = cover->block;
    bool opaque = cover->extent->opaque;
    if (block->topmost[opaque] != cover)
        return;
    struct extent_cover *top = cover;
    while (top && !top->extent->active) {
        struct extent_cover *next = RB_PREV(cover_tree, &block->covers[opaque], top);
        unlink_cover(top);
        top = next;
    }
    block->topmost[opaque] = top;
    refresh_up(block);
}

/* The level of the largest block that begins at `start` and ends at `end` or before. */
static unsigned first_level(__int128 start, __int128 end)
{
    unsigned level = start ? (unsigned)__builtin_ctzll((uint64_t)start) : BITS;
    while (start + ((__int128)1 << level) > end)
        level--;
    return level;
}

static unsigned count_blocks(struct span span)
{
    unsigned count = 0;
    for (; span.start < span.end; span.start += (__int128)1 << first_level(span.start, span.end))
        count++;
    return count;
}

static void remove_covers(struct extent_index *index, struct extent *extent)
{
    for (unsigned i = 0; i < extent->cover_count; i++) {
        struct extent_cover *cover = &extent->covers[i];
        drop_cover(cover);
        unlink_cover(cover);
        cover->block->users--;
        prune(index, cover->block);
    }
    free(extent->covers);
    extent->covers = NULL;
    extent->cover_count = 0;
}

/* Gives a loose extent its covers. False where memory is short. */
static bool place(struct extent_index *index, struct extent *extent)
{
    unsigned count = count_blocks(extent->span);
    assert(count > 0);
    extent->covers = calloc(count, sizeof(*extent->covers));
    if (!extent->covers)
        return false;
    unsigned level;
    for (__int128 at = extent->span.start; at < extent->span.end; at += (__int128)1 << level) {
        level = first_level(at, extent->span.end);
        struct extent_block *block = find_block(index, (uint64_t)at, level);
        if (!block) {
            remove_covers(index, extent);
            return false;
        }
        block->users++;
        index->level = level > index->level ? level : index->level;
        extent->covers[extent->cover_count++] = (struct extent_cover){.extent = extent, .block = block};
    }
    for (unsigned i = 0; extent->active && i < extent->cover_count; i++)
        link_cover(extent, &extent->covers[i]);
    return true;
}

static void link_loose(struct extent_index *index, struct extent *extent)
{
    extent->next = index->loose;
    extent->link = &index->loose;
    if (extent->next)
        extent->next->link = &extent->next;
    index->loose = extent;
}

static void unlink_loose(struct extent *extent)
{
    *extent->link = extent->next;
    if (extent->next)
        extent->next->link = extent->link;
}

void extent_index_insert(struct extent_index *index, struct extent *extent, struct span span,
                         extent_rank rank, bool opaque, bool active)
{
    assert(span.start >= 0 && span.start < span.end && span.end <= (__int128)MEMORY_SIZE_MAX);
    *extent = (struct extent){.span = span, .rank = rank, .opaque = opaque, .active = active};
    link_loose(index, extent);
    if (++index->count <= FEW)
        return;
    while (index->loose) {
        struct extent *next = index->loose;
        if (!place(index, next))
            return;
        unlink_loose(next);
    }
}

void extent_index_remove(struct extent_index *index, struct extent *extent)
{
    extent->active = false;
    if (extent->covers)
        remove_covers(index, extent);
    else
        unlink_loose(extent);
    index->count--;
}

void extent_set_active(struct extent *extent, bool active)
{
    if (extent->active == active)
        return;
    extent->active = active;
    for (unsigned i = 0; i < extent->cover_count; i++)
        if (active)
            link_cover(extent, &extent->covers[i]);
        else
            drop_cover(&extent->covers[i]);
}

struct look {
    uint64_t search;
    struct extent_block *first; /* the first block that was looked into; NULL: none yet */
    bool (*visit)(void *opaque, struct extent *extent);
    void *opaque;
    bool stopped;
};

static void visit(struct look *look, struct extent *extent)
{
    if (look->stopped || extent->visited == look->search)
        return;
    extent->visited = look->search;
    look->stopped = !look->visit(look->opaque, extent);
}

/* Visits the extents that are not opaque and lie over `limit`, and lets go of inactive ones on the way. */
static void visit_open(struct look *look, struct extent_block *block, extent_rank limit)
{
    struct extent_cover *cover = block->topmost[0];
    while (cover && cover->extent->rank > limit) {
        struct extent_cover *next = RB_PREV(cover_tree, &block->covers[0], cover);
        if (cover->extent->active)
            visit(look, cover->extent);
        else
            unlink_cover(cover);
        cover = next;
    }
}

static extent_rank look_into(struct look *look, struct extent_block *block, uint64_t first, uint64_t last,
                             extent_rank floor);

/* The lower of what look_into() says of both halves. */
static extent_rank look_into_halves(struct look *look, const struct extent_block *block, uint64_t first,
                                    uint64_t last, extent_rank floor)
{
    if (!block->level)
        return EXTENT_RANK_NONE;
    unsigned which = which_half(block, first);
    if (which == which_half(block, last))
        return look_into(look, block->half[which], first, last, floor);
    uint64_t middle = middle_of(block);
    extent_rank low = look_into(look, block->half[0], first, middle - 1, floor);
    return lower(low, look_into(look, block->half[1], middle, last, floor));
}

/* As look_into(), for addresses that are all in the block. */
static extent_rank look_into_whole(struct look *look, struct extent_block *block, uint64_t first,
                                   uint64_t last, extent_rank floor)
{
    look->first = look->first ? look->first : block;
    struct extent_cover *topmost = block->topmost[1];
    extent_rank top = rank_of(topmost);
    extent_rank low = look_into_halves(look, block, first, last, higher(floor, top));
    if (top > higher(floor, low))
        visit(look, topmost->extent);
    low = higher(low, top);
    visit_open(look, block, higher(floor, low));
    return low;
}

/*
 * Visits what can be seen from `first` to `last`, where nothing is but what is in `block` (NULL: nothing) and
 * all that is not over `floor` is hidden. Returns a rank below which all of that is hidden: NONE if what is
 * there matters no more.
 */
static extent_rank look_into(struct look *look, struct extent_block *block, uint64_t first, uint64_t last,
                             extent_rank floor)
{
    while (block && block->high > floor && first <= last_of(block) && last >= block->start) {
        if (first < block->start || last > last_of(block)) {
            look_into_whole(look, block, first < block->start ? block->start : first,
                            last > last_of(block) ? last_of(block) : last, floor);
            return EXTENT_RANK_NONE;
        }
        if (block->users || which_half(block, first) != which_half(block, last))
            return look_into_whole(look, block, first, last, floor);
        block = *half_of(block, first);
    }
    return EXTENT_RANK_NONE;
}

/* A block outside of which nothing lies from `first` to `last`; NULL: there is none. */
static struct extent_block *start_block(const struct extent_index *index, uint64_t first, uint64_t last)
{
    struct extent_block *block = index->recent;
    while (block && (block->level < index->level || first < block->start || last > last_of(block)))
        block = block->parent;
    return block ? block : index->root;
}

bool extent_index_visible(struct extent_index *index, struct span window,
                          bool (*visit_extent)(void *opaque, struct extent *extent), void *opaque)
{
    uint64_t first = (uint64_t)window.start, last = (uint64_t)(window.end - 1);
    struct look look = {.search = ++index->search, .visit = visit_extent, .opaque = opaque};
    for (struct extent *extent = index->loose; extent; extent = extent->next)
        if (extent->active && !span_empty(span_intersect(extent->span, window)))
            visit(&look, extent);
    look_into(&look, start_block(index, first, last), first, last, EXTENT_RANK_NONE);
    if (look.first)
        index->recent = look.first;
    return !look.stopped;
}

struct opening {
    extent_rank rank;
    struct span part; /* found open, but not visited: it may go on */
    void (*visit)(void *opaque, struct span part);
    void *opaque;
};

static void add_part(struct opening *opening, uint64_t first, uint64_t last)
{
    if (opening->part.end == first) {
        opening->part.end = (__int128)last + 1;
        return;
    }
    if (!span_empty(opening->part))
        opening->visit(opening->opaque, opening->part);
    opening->part = (struct span){first, (__int128)last + 1};
}

/* Adds the open parts from `first` to `last`, where nothing is but what is in `block` (NULL: nothing). */
static void open_block(struct opening *opening, const struct extent_block *block, uint64_t first,
                       uint64_t last)
{
    while (block && block->high > opening->rank && first <= last_of(block) && last >= block->start) {
        uint64_t end = last_of(block);
        if (first < block->start) {
            add_part(opening, first, block->start - 1);
            first = block->start;
        }
        if (last > end) {
            open_block(opening, block, first, end);
            add_part(opening, end + 1, last);
            return;
        }
        if (block->low > opening->rank)
            return;
        if (!block->level)
            break;
        if (which_half(block, first) != which_half(block, last)) {
            open_block(opening, block->half[0], first, middle_of(block) - 1);
            first = middle_of(block);
        }
        block = block->half[which_half(block, first)];
    }
    add_part(opening, first, last);
}

void extent_index_open(const struct extent_index *index, extent_rank rank, struct span span,
                       void (*visit_part)(void *opaque, struct span part), void *opaque)
{
    struct opening opening = {.rank = rank, .part = {-1, -1}, .visit = visit_part, .opaque = opaque};
    uint64_t first = (uint64_t)span.start, last = (uint64_t)(span.end - 1);
    open_block(&opening, start_block(index, first, last), first, last);
    if (!span_empty(opening.part))
        visit_part(opaque, opening.part);
}
