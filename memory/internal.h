/*
 * What the files of memory/ share and nobody else sees.
 *
 * `struct memory` and everything in it, the trees included, is guarded by its recursive lock; but for the
 * current view of an address space and the counts of retired views, which readers use.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/extent_index.h"
#include "memory/flat_view.h"
#include "memory/listener.h"
#include "memory/region.h"

struct error;

static inline bool span_empty(struct span span)
{
    return span.end <= span.start;
}

static inline struct span span_intersect(struct span a, struct span b)
{
    return (struct span){a.start > b.start ? a.start : b.start, a.end < b.end ? a.end : b.end};
}

static inline struct span span_shift(struct span span, __int128 distance)
{
    return (struct span){span.start + distance, span.end + distance};
}

/* The smallest span that holds both; an empty one counts for nothing. */
static inline struct span span_hull(struct span a, struct span b)
{
    if (span_empty(a))
        return b;
    if (span_empty(b))
        return a;
    return (struct span){a.start < b.start ? a.start : b.start, a.end > b.end ? a.end : b.end};
}

/*
 * Makes room for `count` items of `size` bytes in the array that `*array` points to, whose room is
 * `*capacity` items. False where memory is short; then nothing has changed.
 */
bool memory_reserve(void *array, size_t *capacity, size_t count, size_t size);

struct flat_node;

/* Arrays that rendering uses again and again (memory/render.c). */
struct render;

/* One call that a listener has answered with success, so that it can be taken back (memory/listener.c). */
struct listener_call;

struct memory {
    pthread_mutex_t lock;
    unsigned depth;  /* of transactions */
    bool committing; /* listeners are being called: nothing may change */
    uint64_t order;  /* the last one given to a region */
    uint64_t search; /* the last search through the tree */
    struct memory_undo *undo;
    struct address_space *spaces; /* the first created first */

    struct ram_block *blocks; /* that regions show */
    struct dirty_source *sources;
    atomic_uint clients; /* mask of the dirty clients; changed with `lock` held */

    struct listener_call *calls; /* of the commit under way */
    size_t call_count, call_capacity;
    struct render *render; /* made by the first rendering */

    /*
     * Retired views that still have readers, counted in two epochs by turns: memory_synchronize() begins a
     * new epoch and waits for the other's count to fall to zero, so later commits cannot keep it waiting.
     */
    pthread_mutex_t synchronize_lock; /* one memory_synchronize() at a time */
    unsigned epoch;                   /* 0 or 1; guarded by `lock` */
    _Atomic uint32_t retired[2];
    _Atomic(struct flat_view *) dead; /* retired views that have no readers any more */
    struct flat_view *spare_view;     /* a destroyed one, to be used again; NULL: none */
    atomic_bool waiting;              /* somebody waits for a count */
};

struct address_space {
    struct memory *memory;
    const char *name;
    struct memory_region *root;
    struct address_space *next;         /* of the memory system */
    struct address_space *next_of_root; /* another with the same root */
    struct memory_listener *listeners;  /* rising priority, the first registered first among equals */
    struct flat_view *view;             /* the published one, as the lock's owner sees it */
    _Atomic uint64_t current;           /* the same and the references taken through it (flat_view.c) */

    /*
     * What the open transaction may have changed, in no order; made into the windows of the commit under way.
     * There is always room for one.
     */
    struct memory_window *windows;
    size_t window_count, window_capacity;

    /* Of the commit under way. */
    struct flat_view *pending;  /* the view to publish; NULL: this space does not change */
    struct flat_view *replaced; /* a reference to the one before */
    struct memory_change change;
    struct memory_listener *prepared; /* the last listener that has prepared; NULL: none */
};

/* A region's ioeventfd; `offset` is in the region. */
struct ioeventfd {
    uint64_t offset, data;
    unsigned length;
    bool match;
    int fd;
};

struct coalesced_zone {
    uint64_t offset;
    memory_size size;
};

/*
 * What an accelerator may serve in place of a region's ops. Immutable once a region holds it, and shared by
 * the region and all flat ranges that show it, so that old and new views can be compared.
 */
struct memory_offloads {
    unsigned references;
    size_t ioeventfd_count, zone_count;
    struct ioeventfd *ioeventfds; /* sorted by all fields, the offset first */
    struct coalesced_zone *zones; /* sorted by offset */
};

/* Takes, and gives back, a reference. NULL is allowed. */
struct memory_offloads *memory_offloads_get(struct memory_offloads *offloads);
void memory_offloads_put(struct memory_offloads *offloads);

/*
 * Begins a transaction for a change of `region` and keeps the state that the region had before its first
 * change in the outermost one. After success the caller ends with memory_transaction_commit(). -ENOMEM;
 * -EBUSY in a listener's callback.
 */
int memory_region_begin_change(struct memory_region *region, struct error *err);

/* Makes `clients` the mask of those that log writes to `region`, which has a RAM block; -ENOMEM, -EBUSY, or a
 * listener's error. */
int memory_region_set_log(struct memory_region *region, unsigned clients, struct error *err);

/* Puts all regions back into the state before the transaction; or makes their present state final. */
void memory_undo_restore(struct memory *memory);
void memory_undo_forget(struct memory *memory);

/* Forgets a region that is going away. */
void memory_undo_drop(struct memory_region *region);

/*
 * Puts `region` where its state says: among the subregions of its container and, an alias, among what shows
 * its target; and the reverse. In between its extent, priority and order may change.
 */
void memory_region_attach(struct memory_region *region);
void memory_region_detach(struct memory_region *region);

/* Whether the search for what an address means ends here. */
bool memory_region_terminates(const struct memory_region *region);

/*
 * Notes that what `region` shows within `span` (offsets in the region) may change, in every address space
 * that it can be seen in. It does not matter whether the region itself is enabled.
 *
 * What siblings that terminate hide of it, now, is left out. That is enough if each change touches its region
 * before and after it, or once where it does not change what hides the region: if an address shows another
 * thing at the end of a transaction than at its beginning, then some single change made a difference there,
 * and before or after that change its region was to be seen at that address.
 */
void memory_region_touch(struct memory_region *region, struct span span);

static inline struct span memory_region_span(const struct memory_region *region)
{
    return (struct span){0, (__int128)region->state.size};
}

/* Makes room for the first windows of a new space. Returns whether there was memory for it. */
bool memory_windows_create(struct address_space *space);

/* Notes that [start, end) of `space` may change. Where memory is short more than that is noted. */
void memory_windows_add(struct address_space *space, struct span span);

/*
 * Makes what was noted into windows as listeners get them (struct memory_change): widened to all ranges of
 * `view` that touch them, rising, apart from each other. What is rendered anew within
 * them cannot merge with what lies outside: where two ranges meet there, nothing has changed.
 */
void memory_windows_settle(struct address_space *space, const struct flat_view *view);

/*
 * Renders what was noted for `space` and sets its windows to where the result differs from the published
 * view.
 * `*view` is a new view with the result there, and as the published one elsewhere; NULL if nothing differs.
 * -ENOMEM.
 */
int memory_render(struct address_space *space, struct flat_view **view);

/* Frees what rendering keeps for the next time. */
void memory_render_free(struct memory *memory);

/* The view of a space in which nothing is. */
extern const struct flat_view flat_view_empty;

/* A view of `space`, not published, with the ranges of `root` (memory/flat_tree.h), whose reference it takes
 * over. NULL where memory is short; then the reference is given back. */
struct flat_view *flat_view_create(struct address_space *space, struct flat_node *root);

struct flat_node *flat_view_root(const struct flat_view *view);

/* Frees a view that was never published. NULL is allowed. */
void flat_view_destroy(struct flat_view *view);

/*
 * Makes `view` what readers get (NULL: nothing more, at the end of the space) and retires the one before,
 * which lives on for as long as it has readers.
 */
void flat_view_publish(struct address_space *space, struct flat_view *view);

/* Frees retired views that have no readers any more. */
void flat_view_bury(struct memory *memory);

/* Fills in a change of `space`, in one window or more. */
void memory_change_begin(struct memory_change *change, struct address_space *space,
                         const struct flat_view *old_view, const struct flat_view *new_view,
                         const struct memory_window *windows, size_t count);

/* Whether the listeners of a space would hear of `change` at all. */
bool memory_change_visible(struct memory_change *change);

/* The three steps of telling the listeners of `space` about its change; memory/listener.h has their order. */
int listeners_prepare(struct address_space *space, struct error *err);
int listeners_apply(struct address_space *space, struct error *err);
void listeners_commit(struct address_space *space);

/* Takes back every call of this commit, the last first. Where one cannot be taken back its message is added
 * to `err`. */
void listeners_undo(struct memory *memory, struct error *err);

/* Tells the listeners of `space` that have prepared that nothing came of it. */
void listeners_abort(struct address_space *space);
