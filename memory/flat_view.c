#include "memory/flat_view.h"

#include <assert.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "memory/address_space.h"
#include "memory/dirty_block.h"
#include "memory/flat_tree.h"
#include "memory/internal.h"
#include "memory/ram_block.h"

/*
 * The word that names the current view: its address, of which the lowest 6 bits are zero by alignment and the
 * highest 16 in user space, above a count of references. A reference is given back to the word while the view
 * is still the current one, and to the view afterwards.
 */
#define VIEW_ALIGNMENT 64
#define COUNT_BITS     22
#define COUNT_MASK     (((uint64_t)1 << COUNT_BITS) - 1)

/* Keeps a view alive while it is current, however many references have already been given back to it. */
#define PUBLISHED      ((int64_t)1 << 40)

struct flat_view {
    struct address_space *space;
    _Atomic int64_t references; /* PUBLISHED, less references given back; then those still out */
    unsigned epoch;             /* in which it was retired */
    struct flat_view *next;     /* another dead one */
    struct flat_node *root;     /* NULL: shows nothing */
};

const struct flat_view flat_view_empty = {0};

static uint64_t pack(const struct flat_view *view)
{
    return (uint64_t)(uintptr_t)view / VIEW_ALIGNMENT << COUNT_BITS;
}

static struct flat_view *unpack(uint64_t word)
{
    return (struct flat_view *)(uintptr_t)((word >> COUNT_BITS) * VIEW_ALIGNMENT);
}

struct flat_view *flat_view_create(struct address_space *space, struct flat_node *root)
{
    struct memory *memory = space->memory;
    struct flat_view *view =
        memory->spare_view ? memory->spare_view : aligned_alloc(VIEW_ALIGNMENT, VIEW_ALIGNMENT);
    static_assert(sizeof(*view) <= VIEW_ALIGNMENT, "a view fits into its alignment");
    memory->spare_view = NULL;
    if (!view) {
        flat_node_put(root);
        return NULL;
    }
    *view = (struct flat_view){.space = space, .root = root};
    atomic_init(&view->references, PUBLISHED);
    return view;
}

struct flat_node *flat_view_root(const struct flat_view *view)
{
    return view->root;
}

/* What is left is for the next view, because aligned memory is slow to come by. */
void flat_view_destroy(struct flat_view *view)
{
    if (!view)
        return;
    struct memory *memory = view->space->memory;
    flat_node_put(view->root);
    free(memory->spare_view);
    memory->spare_view = view;
}

static void futex_wake_all(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

/* The last reader of a retired view is gone. The view is left to the next commit: a reader does not free. */
static void release(struct flat_view *view)
{
    struct memory *memory = view->space->memory;
    _Atomic uint32_t *retired = &memory->retired[view->epoch];
    view->next = atomic_load_explicit(&memory->dead, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&memory->dead, &view->next, view, memory_order_release,
                                                  memory_order_relaxed))
        ;
    if (atomic_fetch_sub(retired, 1) == 1 && atomic_load(&memory->waiting))
        futex_wake_all(retired);
}

void flat_view_bury(struct memory *memory)
{
    struct flat_view *next = NULL;
    for (struct flat_view *view = atomic_exchange(&memory->dead, NULL); view; view = next) {
        next = view->next;
        flat_view_destroy(view);
    }
}

static void retire(struct flat_view *view, uint64_t taken)
{
    struct memory *memory = view->space->memory;
    view->epoch = memory->epoch;
    atomic_fetch_add(&memory->retired[view->epoch], 1);
    int64_t change = (int64_t)taken - PUBLISHED;
    if (atomic_fetch_add(&view->references, change) + change == 0)
        release(view);
}

void flat_view_publish(struct address_space *space, struct flat_view *view)
{
    uint64_t old = atomic_exchange(&space->current, pack(view));
    assert(!view || unpack(pack(view)) == view);
    space->view = view;
    if (unpack(old))
        retire(unpack(old), old & COUNT_MASK);
}

struct flat_view *flat_view_get(struct address_space *space)
{
    uint64_t word = atomic_fetch_add_explicit(&space->current, 1, memory_order_acquire);
    assert((word & COUNT_MASK) < COUNT_MASK);
    return unpack(word);
}

void flat_view_put(struct flat_view *view)
{
    if (!view)
        return;
    _Atomic uint64_t *current = &view->space->current;
    uint64_t word = atomic_load_explicit(current, memory_order_relaxed);
    while (unpack(word) == view)
        if (atomic_compare_exchange_weak_explicit(current, &word, word - 1, memory_order_release,
                                                  memory_order_relaxed))
            return;
    if (atomic_fetch_sub(&view->references, 1) == 1)
        release(view);
}

bool flat_view_is_current(const struct flat_view *view)
{
    return unpack(atomic_load_explicit(&view->space->current, memory_order_relaxed)) == view;
}

bool flat_view_tracked(const struct flat_view *view)
{
    return dirty_tracked(view->space->memory);
}

void memory_synchronize(struct memory *memory)
{
    pthread_mutex_lock(&memory->synchronize_lock);
    pthread_mutex_lock(&memory->lock);
    _Atomic uint32_t *retired = &memory->retired[memory->epoch];
    memory->epoch ^= 1;
    pthread_mutex_unlock(&memory->lock);

    atomic_store(&memory->waiting, true);
    for (uint32_t count; (count = atomic_load(retired)) != 0;)
        syscall(SYS_futex, retired, FUTEX_WAIT_PRIVATE, count, NULL, NULL, 0);
    atomic_store(&memory->waiting, false);
    pthread_mutex_lock(&memory->lock);
    flat_view_bury(memory);
    pthread_mutex_unlock(&memory->lock);
    pthread_mutex_unlock(&memory->synchronize_lock);
}

const struct flat_range *flat_view_from(const struct flat_view *view, uint64_t address)
{
    return flat_node_from(view->root, address);
}

const struct flat_range *flat_view_next(const struct flat_view *view, const struct flat_range *range)
{
    return flat_node_next(view->root, range);
}

bool flat_range_equal(const struct flat_range *a, const struct flat_range *b)
{
    return a->region == b->region && a->offset_in_region == b->offset_in_region && a->start == b->start &&
           a->size == b->size && a->readonly == b->readonly && a->romd_mode == b->romd_mode &&
           a->unmergeable == b->unmergeable;
}

void *flat_range_host(const struct flat_range *range, bool write)
{
    const struct memory_region *region = range->region;
    if (!region->block || (write && range->readonly))
        return NULL;
    if (region->kind == MEMORY_REGION_ROM_DEVICE && (write || !range->romd_mode))
        return NULL;
    return (char *)region->block->host + region->block_offset + range->offset_in_region;
}

struct flat_cursor flat_cursor_begin(const struct flat_view *view, const struct memory_window *windows,
                                     size_t count)
{
    return (struct flat_cursor){
        .view = view,
        .range = count ? flat_view_from(view, windows->start) : NULL,
        .windows = windows,
        .window_count = count,
    };
}

/* The cursor's range, while there is one: in a later window if there are no more in this one. */
static const struct flat_range *cursor_range(struct flat_cursor *cursor)
{
    while (cursor->range && cursor->range->start >= cursor->windows->end) {
        cursor->windows++;
        cursor->window_count--;
        if (!cursor->window_count)
            cursor->range = NULL;
        else if (flat_range_end(cursor->range) <= cursor->windows->start)
            cursor->range = flat_view_from(cursor->view, cursor->windows->start);
    }
    return cursor->range;
}

static void cursor_advance(struct flat_cursor *cursor)
{
    cursor->range = flat_view_next(cursor->view, cursor->range);
    cursor->index = 0;
}

bool flat_cursor_next_range(struct flat_cursor *cursor, const struct flat_range **range)
{
    *range = cursor_range(cursor);
    if (*range)
        cursor_advance(cursor);
    return *range;
}

/* The first ioeventfd of the range's region that could lie within the range. */
static size_t first_ioeventfd(const struct flat_range *range)
{
    size_t low = 0, high = range->offloads->ioeventfd_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (range->offloads->ioeventfds[middle].offset >= range->offset_in_region)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* The next ioeventfd of the cursor's range; NULL: no more. */
static const struct ioeventfd *range_next_ioeventfd(struct flat_cursor *cursor)
{
    const struct flat_range *range = cursor->range;
    if (!range->offloads || range->readonly)
        return NULL;
    if (cursor->index == 0)
        cursor->index = first_ioeventfd(range);
    memory_size end = range->offset_in_region + range->size;
    while (cursor->index < range->offloads->ioeventfd_count) {
        const struct ioeventfd *ioeventfd = &range->offloads->ioeventfds[cursor->index++];
        if (ioeventfd->offset >= end)
            return NULL;
        if ((memory_size)ioeventfd->offset + (ioeventfd->length ? ioeventfd->length : 1) <= end)
            return ioeventfd;
    }
    return NULL;
}

bool flat_cursor_next_ioeventfd(struct flat_cursor *cursor, struct flat_ioeventfd *out)
{
    for (; cursor_range(cursor); cursor_advance(cursor)) {
        const struct flat_range *range = cursor->range;
        const struct ioeventfd *ioeventfd = range_next_ioeventfd(cursor);
        if (!ioeventfd)
            continue;
        *out = (struct flat_ioeventfd){
            .region = range->region,
            .address = range->start + (ioeventfd->offset - range->offset_in_region),
            .length = ioeventfd->length,
            .match = ioeventfd->match,
            .data = ioeventfd->data,
            .fd = ioeventfd->fd,
        };
        return true;
    }
    return false;
}

/* The part of the range's zones that it shows, from cursor->index on. */
static bool range_next_zone(struct flat_cursor *cursor, struct flat_zone *out)
{
    const struct flat_range *range = cursor->range;
    if (!range->offloads || range->readonly)
        return false;
    struct span shown = {range->offset_in_region, (__int128)(range->offset_in_region + range->size)};
    while (cursor->index < range->offloads->zone_count) {
        const struct coalesced_zone *zone = &range->offloads->zones[cursor->index++];
        struct span part =
            span_intersect(shown, (struct span){zone->offset, (__int128)(zone->offset + zone->size)});
        if (span_empty(part))
            continue;
        out->region = range->region;
        out->address = range->start + (uint64_t)(part.start - shown.start);
        out->size = (memory_size)(part.end - part.start);
        return true;
    }
    return false;
}

bool flat_cursor_next_zone(struct flat_cursor *cursor, struct flat_zone *zone)
{
    for (; cursor_range(cursor); cursor_advance(cursor))
        if (range_next_zone(cursor, zone))
            return true;
    return false;
}
