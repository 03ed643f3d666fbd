/*
 * What an address space shows: sorted flat ranges that do not overlap, each a piece of one region, with the
 * attributes it has there. A view never changes once it is published; one that follows shares with it all but
 * what lies around the change (memory/flat_tree.h).
 *
 * Readers share views by a split reference count. The word that holds the address of the current view also
 * counts the references taken through it, so taking one is a single atomic addition and cannot meet a view
 * that has just gone; when a new view is published the count moves into the old one, which dies with its last
 * reader, and is freed by the commit under way or the next one. So no reader waits, a thread may take
 * references within each other and commit while it holds them, and however fast commits come no more views
 * are alive than have readers. (RCU would need every reading thread registered and quiescent from time to
 * time, holds dead views back for a grace period, and a callback that commits could not wait for one.)
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/region.h"

struct address_space;
struct flat_view;
struct memory_offloads;

struct flat_range {
    struct memory_region *region;
    uint64_t offset_in_region; /* of its first byte */
    uint64_t start;            /* address in the space */
    memory_size size;
    bool readonly;  /* by the region's kind (ROM), or by any region it is seen through */
    bool romd_mode; /* a ROM device whose reads go straight to RAM */
    bool unmergeable;
    uint8_t place; /* private to memory/: where it is in its node */
    unsigned log;  /* mask of the clients of memory/dirty.h that want to know of writes to it */
    struct memory_offloads *offloads; /* private to memory/ */
};

/* An ioeventfd where the guest sees it. The last five fields are its identity. */
struct flat_ioeventfd {
    const struct memory_region *region;
    uint64_t address;
    unsigned length; /* 0: any */
    bool match;
    uint64_t data;
    int fd;
};

/* A range of coalesced writes where the guest sees it. */
struct flat_zone {
    const struct memory_region *region;
    uint64_t address;
    memory_size size;
};

/*
 * Takes a reference to the current view of `space`. Any thread; never waits. At most four million at a time.
 */
struct flat_view *flat_view_get(struct address_space *space);

/* Gives it back. NULL is allowed. */
void flat_view_put(struct flat_view *view);

/*
 * Whether `view`, to which the caller has a reference, is what flat_view_get() would return: how a reference
 * that is kept for several accesses in a row is told from one that has become stale. Any thread; a single
 * load.
 */
bool flat_view_is_current(const struct flat_view *view);

/* The first range that ends behind `address`: the one that holds it, or the next one. NULL: none. O(log n).
 */
const struct flat_range *flat_view_from(const struct flat_view *view, uint64_t address);

/* The range after `range`, which must be of this view itself, not a copy; NULL: none. */
const struct flat_range *flat_view_next(const struct flat_view *view, const struct flat_range *range);

/* The range that holds `address`; NULL: none. */
static inline const struct flat_range *flat_view_find(const struct flat_view *view, uint64_t address)
{
    const struct flat_range *range = flat_view_from(view, address);
    return range && range->start <= address ? range : NULL;
}

static inline memory_size flat_range_end(const struct flat_range *range)
{
    return range->start + range->size;
}

/* Whether two ranges say the same: extent, region, place in it, and attributes; not the ioeventfds, nor who
 * logs writes. */
bool flat_range_equal(const struct flat_range *a, const struct flat_range *b);

/*
 * Host memory of the range's first byte where accesses of this kind go straight to memory: all of RAM; ROM
 * and read-only RAM, and a ROM device in ROMD mode, to read. NULL where not.
 */
void *flat_range_host(const struct flat_range *range, bool write);

struct memory_window;

/*
 * Walks over the ranges that lie in some windows (memory/listener.h), or over their ioeventfds or coalesced
 * zones, in order of address, length, match, data, fd. An ioeventfd is there where a range shows all the
 * bytes it covers (one byte if its length is any) and can be written; of a zone that part is there that the
 * range shows.
 */
struct flat_cursor {
    const struct flat_view *view;
    const struct flat_range *range;
    size_t index;
    const struct memory_window *windows; /* the range's, and those after it */
    size_t window_count;
};

struct flat_cursor flat_cursor_begin(const struct flat_view *view, const struct memory_window *windows,
                                     size_t count);
bool flat_cursor_next_ioeventfd(struct flat_cursor *cursor, struct flat_ioeventfd *ioeventfd);
bool flat_cursor_next_zone(struct flat_cursor *cursor, struct flat_zone *zone);
bool flat_cursor_next_range(struct flat_cursor *cursor, const struct flat_range **range);
