#include "memory/kvm_dirty_ring.h"

#include <errno.h>
#include <stdlib.h>

#include "memory/dirty.h"
#include "memory/internal.h"
#include "memory/kvm_listener.h"
#include "memory/kvm_slots.h"
#include "memory/ram_block.h"

void kvm_dirty_rings_destroy(struct kvm_dirty_rings *self)
{
    free(self->rings);
    free(self->slots);
}

int kvm_dirty_rings_add(struct kvm_dirty_rings *self, struct kvm_dirty_gfn *entries, size_t count)
{
    if (!memory_reserve(&self->rings, &self->capacity, self->count + 1, sizeof(*self->rings)))
        return -ENOMEM;
    self->rings[self->count++] = (struct kvm_dirty_ring){.entries = entries, .mask = (uint32_t)count - 1};
    return 0;
}

bool kvm_dirty_rings_reserve(struct kvm_dirty_rings *self, size_t numbers)
{
    size_t capacity = self->numbers;
    if (!memory_reserve(&self->slots, &capacity, numbers, sizeof(struct kvm_slot *)))
        return false;
    while (self->numbers < capacity)
        self->slots[self->numbers++] = NULL;
    return true;
}

/* Pages of one word of a slot's bitmap, to be merged all at once. */
struct batch {
    const struct kvm_slot *slot;
    uint64_t word, bits;
};

static void flush(struct batch *batch)
{
    if (batch->bits)
        dirty_merge(batch->slot->block, batch->slot->first_page + batch->word * DIRTY_WORD_PAGES,
                    DIRTY_WORD_PAGES, &batch->bits);
    batch->bits = 0;
}

/* `number` and `page` come from memory that the other side of the mapping writes too. */
static void add_page(const struct kvm_dirty_rings *self, struct batch *batch, uint32_t number, uint64_t page)
{
    const struct kvm_slot *slot = number < self->numbers ? self->slots[number] : NULL;
    if (!slot || page >= slot->size / RAM_PAGE_SIZE)
        return;
    if (slot != batch->slot || page / DIRTY_WORD_PAGES != batch->word)
        flush(batch);
    batch->slot = slot;
    batch->word = page / DIRTY_WORD_PAGES;
    batch->bits |= (uint64_t)1 << page % DIRTY_WORD_PAGES;
}

/* KVM's store of the flags comes after those of the rest; it takes the entry back when it sees ours. */
static int reap(const struct kvm_dirty_rings *self, struct kvm_dirty_ring *ring)
{
    struct batch batch = {0};
    int reaped = 0;
    for (; reaped <= (int)ring->mask; reaped++, ring->next++) {
        struct kvm_dirty_gfn *entry = &ring->entries[ring->next & ring->mask];
        uint32_t flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);
        if ((flags & (KVM_DIRTY_GFN_F_DIRTY | KVM_DIRTY_GFN_F_RESET)) != KVM_DIRTY_GFN_F_DIRTY)
            break;
        add_page(self, &batch, entry->slot, entry->offset);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    flush(&batch);
    return reaped;
}

int kvm_dirty_rings_settle(struct kvm_dirty_rings *self, const struct kvm_listener_config *config)
{
    int result = self->reset_due ? config->ops->reset_dirty_rings(config->opaque) : 0;
    self->reset_due = result != 0;
    return result;
}

int kvm_dirty_rings_reap(struct kvm_dirty_rings *self, const struct kvm_listener_config *config)
{
    int reaped = 0;
    for (size_t i = 0; i < self->count; i++)
        reaped += reap(self, &self->rings[i]);
    self->reset_due = self->reset_due || reaped;
    int result = kvm_dirty_rings_settle(self, config);
    return result ? result : reaped;
}
