#include <stdlib.h>
#include <string.h>

#include "memory/kvm_dirty.h"
#include "memory/kvm_slots.h"
#include "memory/ram_block.h"

static uint64_t pages_of(const struct kvm_slot *slot)
{
    return slot->size / RAM_PAGE_SIZE;
}

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

/* Words of a slot's bitmap. */
struct words {
    size_t from, to;
};

/* Those that cover what is taken, which the slot shows in part at least. */
static struct words words_taken(const struct kvm_slot *slot, const struct kvm_dirty_taken *taken)
{
    uint64_t first = slot->first_page, end = first + pages_of(slot), taken_end = taken->first + taken->count;
    uint64_t from = taken->first > first ? taken->first - first : 0;
    uint64_t to = (taken_end < end ? taken_end : end) - first;
    return (struct words){from / DIRTY_WORD_PAGES, (to + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES};
}

/* Word `index` of what is taken; what lies outside is 0. */
static uint64_t taken_word(const struct kvm_dirty_taken *taken, int64_t index)
{
    uint64_t words = (taken->count + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES;
    return index >= 0 && (uint64_t)index < words ? taken->bitmap[index] : 0;
}

/* Puts what is pending of the pages taken into words of `bits`: those of the slot. */
static void find_pending(const struct kvm_slot *slot, const struct kvm_dirty_taken *taken, struct words words,
                         uint64_t *bits)
{
    int64_t distance = (int64_t)(slot->first_page - taken->first);
    unsigned shift = (uint64_t)distance % DIRTY_WORD_PAGES;
    int64_t offset = (distance - shift) / DIRTY_WORD_PAGES;
    if (shift == 0) { /* the usual case, and then no word lies outside */
        for (size_t i = words.from; i < words.to; i++)
            bits[i] = slot->pending[i] & taken->bitmap[offset + (int64_t)i];
        return;
    }
    for (size_t i = words.from; i < words.to; i++) {
        uint64_t low = taken_word(taken, offset + (int64_t)i);
        uint64_t high = taken_word(taken, offset + (int64_t)i + 1);
        bits[i] = slot->pending[i] & (low >> shift | high << (DIRTY_WORD_PAGES - shift));
    }
}

/*
 * Clears, in KVM too, what is pending of the pages taken: by one call from the first to the last of them,
 * because KVM skips what is not set in between.
 */
static int clear_taken(struct kvm_dirty *self, struct kvm_slot *slot, const struct kvm_dirty_taken *taken)
{
    struct words words = words_taken(slot, taken);
    uint64_t *bits = self->buffer, pages = pages_of(slot);
    if (slot->all_pending)
        memset(slot->pending, 0xff, (pages + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES * sizeof(uint64_t));
    slot->all_pending = false;
    find_pending(slot, taken, words, bits);
    while (words.from < words.to && !bits[words.from])
        words.from++;
    while (words.from < words.to && !bits[words.to - 1])
        words.to--;
    if (words.from == words.to)
        return 0;
    uint64_t first = words.from * DIRTY_WORD_PAGES, end = words.to * DIRTY_WORD_PAGES;
    int result = kvm_dirty_clear(self, slot, first, (end < pages ? end : pages) - first, &bits[words.from]);
    for (size_t i = words.from; i < words.to && !result; i++)
        slot->pending[i] &= ~bits[i];
    return result;
}

int kvm_dirty_watch(struct kvm_dirty *self, const struct kvm_dirty_taken *taken)
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
