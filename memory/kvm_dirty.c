#include "memory/kvm_dirty.h"

#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/internal.h"
#include "memory/kvm_listener.h"
#include "memory/kvm_slots.h"
#include "memory/ram_block.h"

static uint64_t pages_of(const struct kvm_slot *slot)
{
    return slot->size / RAM_PAGE_SIZE;
}

static size_t words_of(const struct kvm_slot *slot)
{
    return (size_t)((pages_of(slot) + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES);
}

bool kvm_dirty_starts_dirty(const struct kvm_dirty *self)
{
    return self->config->dirty_mode == KVM_DIRTY_CLEAR && self->config->initially_set;
}

/* Whether KVM has a bitmap of what was written, in one mode or the other. */
static bool has_bitmap(const struct kvm_dirty *self)
{
    return self->config->dirty_mode != KVM_DIRTY_RING || self->config->ring_with_bitmap;
}

bool kvm_dirty_reserve(struct kvm_dirty *self, struct kvm_slot *slot, size_t ids)
{
    size_t words = words_of(slot);
    if (self->config->dirty_mode == KVM_DIRTY_CLEAR && !slot->pending)
        slot->pending = calloc(words, sizeof(uint64_t));
    if (self->config->dirty_mode == KVM_DIRTY_CLEAR && !slot->pending)
        return false;
    if (has_bitmap(self) && !memory_reserve(&self->buffer, &self->buffer_words, words, sizeof(uint64_t)))
        return false;
    return memory_reserve(&self->places, &self->place_capacity, ids, sizeof(*self->places)) &&
           (self->config->dirty_mode != KVM_DIRTY_RING || kvm_dirty_rings_reserve(&self->rings, ids));
}

void kvm_dirty_release(struct kvm_slot *slot)
{
    free(slot->pending);
    slot->pending = NULL;
}

static int get(const struct kvm_dirty *self, const struct kvm_slot *slot, uint64_t *bitmap)
{
    struct kvm_dirty_log request = {.slot = slot->id, .dirty_bitmap = bitmap};
    return self->config->ops->get_dirty_log(self->config->opaque, &request);
}

/* Clears the bits of `bitmap`, of which the first is page `first` of the slot, in KVM. */
static int clear(const struct kvm_dirty *self, const struct kvm_slot *slot, uint64_t first, uint64_t count,
                 uint64_t *bitmap)
{
    struct kvm_clear_dirty_log request = {
        .slot = slot->id,
        .first_page = first,
        .num_pages = (uint32_t)count,
        .dirty_bitmap = bitmap,
    };
    return self->config->ops->clear_dirty_log(self->config->opaque, &request);
}

static void set_pending(struct kvm_slot *slot, bool pending)
{
    memset(slot->pending, pending ? 0xff : 0, words_of(slot) * sizeof(uint64_t));
}

/* What is pending of a slot that has just begun to log. */
static void begin_pending(struct kvm_dirty *self, struct kvm_slot *slot, bool created)
{
    if (!slot->pending)
        return;
    set_pending(slot, kvm_dirty_starts_dirty(self));
    if (!kvm_dirty_starts_dirty(self))
        return;
    if (created && !clear(self, slot, 0, pages_of(slot), slot->pending))
        set_pending(slot, false);
    else
        kvm_dirty_mark_all(slot);
}

void kvm_dirty_expect(struct kvm_dirty *self, struct kvm_slot *slot)
{
    if (self->config->dirty_mode != KVM_DIRTY_RING)
        return;
    /* What is left of the slot that had this number, or from when this one logged before, is not ours. */
    kvm_dirty_rings_reap(&self->rings, self->config);
    self->rings.slots[slot->id] = slot;
}

void kvm_dirty_unexpect(struct kvm_dirty *self, struct kvm_slot *slot)
{
    if (self->config->dirty_mode == KVM_DIRTY_RING)
        self->rings.slots[slot->id] = NULL;
}

void kvm_dirty_begin(struct kvm_dirty *self, struct kvm_slot *slot, bool created)
{
    LIST_INSERT_HEAD(&self->slots, slot, logging);
    self->count++;
    self->stale = true;
    begin_pending(self, slot, created);
}

void kvm_dirty_end(struct kvm_dirty *self, struct kvm_slot *slot)
{
    LIST_REMOVE(slot, logging);
    self->count--;
    self->stale = true;
    kvm_dirty_unexpect(self, slot);
}

void kvm_dirty_mark_all(const struct kvm_slot *slot)
{
    dirty_mark(slot->block, slot->first_page * RAM_PAGE_SIZE, slot->size);
}

/* Adds what KVM's bitmap of the slot has. */
static int harvest_bitmap(struct kvm_dirty *self, struct kvm_slot *slot)
{
    uint64_t *bitmap = slot->pending ? slot->pending : self->buffer;
    int result = get(self, slot, bitmap);
    if (!result)
        dirty_merge(slot->block, slot->first_page, pages_of(slot), bitmap);
    return result;
}

int kvm_dirty_harvest(struct kvm_dirty *self, struct kvm_slot *slot)
{
    int result = 0;
    if (self->config->dirty_mode == KVM_DIRTY_RING)
        result = kvm_dirty_rings_reap(&self->rings, self->config);
    if (result >= 0 && has_bitmap(self))
        result = harvest_bitmap(self, slot);
    return result < 0 ? result : 0;
}

static struct kvm_dirty *from_source(struct dirty_source *source)
{
    return container_of(source, struct kvm_dirty, source);
}

static int sync_error(int result, struct error *err)
{
    return error_set_errno(err, -result, "KVM does not say which pages were written");
}

static int sync_bitmaps(struct kvm_dirty *self)
{
    struct kvm_slot *slot;
    int result = 0, failed;
    LIST_FOREACH (slot, &self->slots, logging) {
        failed = harvest_bitmap(self, slot);
        result = result ? result : failed;
    }
    return result;
}

/* vCPUs hand over what they know when they leave the guest. */
static int sync_rings(struct kvm_dirty *self)
{
    const struct kvm_listener_ops *ops = self->config->ops;
    if (ops->stop_vcpus)
        ops->stop_vcpus(self->config->opaque);
    int result = kvm_dirty_rings_reap(&self->rings, self->config);
    if (result >= 0 && self->config->ring_with_bitmap)
        result = sync_bitmaps(self);
    if (ops->resume_vcpus)
        ops->resume_vcpus(self->config->opaque);
    return result < 0 ? result : 0;
}

static int sync_source(struct dirty_source *source, struct error *err)
{
    struct kvm_dirty *self = from_source(source);
    int result = self->config->dirty_mode == KVM_DIRTY_RING ? sync_rings(self) : sync_bitmaps(self);
    return result ? sync_error(result, err) : 0;
}

/* ---- Mode clear: pages are taken ---- */

static int compare_places(const void *left, const void *right)
{
    const struct kvm_slot *a = ((const struct kvm_dirty_place *)left)->slot;
    const struct kvm_slot *b = ((const struct kvm_dirty_place *)right)->slot;
    if (a->block != b->block)
        return a->block < b->block ? -1 : 1;
    return a->first_page < b->first_page ? -1 : a->first_page > b->first_page;
}

static void sort_places(struct kvm_dirty *self)
{
    size_t count = 0;
    struct kvm_slot *slot;
    LIST_FOREACH (slot, &self->slots, logging)
        self->places[count++] = (struct kvm_dirty_place){.slot = slot};
    qsort(self->places, count, sizeof(*self->places), compare_places);
    for (size_t i = 0; i < count; i++) {
        struct kvm_dirty_place *place = &self->places[i];
        place->last_end = place->slot->first_page + pages_of(place->slot);
        if (i && place[-1].slot->block == place->slot->block && place[-1].last_end > place->last_end)
            place->last_end = place[-1].last_end;
    }
    self->stale = false;
}

/* How many places come before page `page` of `block`. */
static size_t places_before(const struct kvm_dirty *self, const struct ram_block *block, uint64_t page)
{
    size_t low = 0, high = self->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        const struct kvm_slot *slot = self->places[middle].slot;
        if (slot->block < block || (slot->block == block && slot->first_page < page))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Pages that a client takes. */
struct taken {
    struct ram_block *block;
    uint64_t first, count;
    const uint64_t *bitmap;
};

/* The 64 bits from page `page` of the block on; those outside of what is taken are 0. */
static uint64_t taken_bits(const struct taken *taken, uint64_t page)
{
    uint64_t bits = 0;
    __int128 at = (__int128)page - taken->first;
    unsigned shift = (unsigned)(at & (DIRTY_WORD_PAGES - 1));
    __int128 word = (at - shift) / DIRTY_WORD_PAGES;
    uint64_t words = (taken->count + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES;
    if (word >= 0 && word < words)
        bits = taken->bitmap[word] >> shift;
    if (shift && word + 1 >= 0 && word + 1 < words)
        bits |= taken->bitmap[word + 1] << (DIRTY_WORD_PAGES - shift);
    return bits;
}

/*
 * Clears, in KVM too, what is pending of the pages taken: by one call from the first to the last of them,
 * because KVM skips what is not set in between.
 */
static int clear_taken(struct kvm_dirty *self, struct kvm_slot *slot, const struct taken *taken)
{
    uint64_t pages = pages_of(slot), first = slot->first_page, end = first + pages;
    size_t from = taken->first > first ? (size_t)(taken->first - first) / DIRTY_WORD_PAGES : 0;
    uint64_t last = taken->first + taken->count < end ? taken->first + taken->count : end;
    size_t to = (size_t)(last - first + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES;
    for (size_t i = from; i < to; i++)
        self->buffer[i] = slot->pending[i] & taken_bits(taken, first + i * DIRTY_WORD_PAGES);
    while (from < to && !self->buffer[from])
        from++;
    while (from < to && !self->buffer[to - 1])
        to--;
    if (from == to)
        return 0;
    uint64_t start = from * DIRTY_WORD_PAGES, stop = to * DIRTY_WORD_PAGES;
    int result = clear(self, slot, start, (stop < pages ? stop : pages) - start, &self->buffer[from]);
    for (size_t i = from; i < to && !result; i++)
        slot->pending[i] &= ~self->buffer[i];
    return result;
}

static int watch_pending(struct kvm_dirty *self, const struct taken *taken)
{
    if (self->stale)
        sort_places(self);
    size_t i = places_before(self, taken->block, taken->first + taken->count);
    int result = 0;
    while (i-- > 0 && !result) {
        const struct kvm_dirty_place *place = &self->places[i];
        if (place->slot->block != taken->block || place->last_end <= taken->first)
            break;
        if (place->slot->first_page + pages_of(place->slot) > taken->first)
            result = clear_taken(self, place->slot, taken);
    }
    return result;
}

static int watch(struct dirty_source *source, struct ram_block *block, uint64_t first, uint64_t count,
                 const uint64_t *bitmap, struct error *err)
{
    struct kvm_dirty *self = from_source(source);
    int result = 0;
    if (self->config->dirty_mode == KVM_DIRTY_CLEAR)
        result = watch_pending(self, &(struct taken){block, first, count, bitmap});
    if (self->config->dirty_mode == KVM_DIRTY_RING)
        result = kvm_dirty_rings_settle(&self->rings, self->config);
    if (!result)
        return 0;
    return error_set_errno(err, -result, "RAM block %s: KVM does not watch its pages again", block->name);
}

static const struct dirty_source_ops source_ops = {.sync = sync_source, .watch = watch};

void kvm_dirty_init(struct kvm_dirty *self, const struct kvm_listener_config *config)
{
    *self = (struct kvm_dirty){.config = config, .source.ops = &source_ops};
    LIST_INIT(&self->slots);
}

void kvm_dirty_destroy(struct kvm_dirty *self)
{
    kvm_dirty_rings_destroy(&self->rings);
    free(self->buffer);
    free(self->places);
}
