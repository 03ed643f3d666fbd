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

int kvm_dirty_clear(const struct kvm_dirty *self, const struct kvm_slot *slot, uint64_t first, uint64_t count,
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

/* Clears all bits of a new slot, or lets all its pages count as dirty. */
static void begin_clean(struct kvm_dirty *self, struct kvm_slot *slot)
{
    size_t size = words_of(slot) * sizeof(uint64_t);
    memset(slot->pending, 0xff, size);
    if (kvm_dirty_clear(self, slot, 0, pages_of(slot), slot->pending))
        kvm_dirty_mark_all(slot);
    else
        memset(slot->pending, 0, size);
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
    if (!kvm_dirty_starts_dirty(self))
        return;
    if (created)
        begin_clean(self, slot);
    else
        slot->all_pending = true;
}

void kvm_dirty_end(struct kvm_dirty *self, struct kvm_slot *slot)
{
    LIST_REMOVE(slot, logging);
    self->count--;
    self->stale = true;
    kvm_dirty_unexpect(self, slot);
    if (slot->pending)
        memset(slot->pending, 0, words_of(slot) * sizeof(uint64_t)); /* it may begin again */
    slot->all_pending = false;
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
    if (result)
        return result;
    slot->all_pending = false;
    dirty_merge(slot->block, slot->first_page, pages_of(slot), bitmap);
    return 0;
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

static int watch(struct dirty_source *source, struct ram_block *block, uint64_t first, uint64_t count,
                 const uint64_t *bitmap, struct error *err)
{
    struct kvm_dirty *self = from_source(source);
    int result = 0;
    if (self->config->dirty_mode == KVM_DIRTY_CLEAR)
        result = kvm_dirty_watch(self, &(struct kvm_dirty_taken){block, first, count, bitmap});
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
