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

/* `slot` and `offset` come from memory that the other side of the mapping writes too. */
static void merge(const struct kvm_dirty_rings *self, uint32_t number, uint64_t offset)
{
    const struct kvm_slot *slot = number < self->numbers ? self->slots[number] : NULL;
    if (slot && offset < slot->size / RAM_PAGE_SIZE)
        dirty_mark(slot->block, (slot->first_page + offset) * RAM_PAGE_SIZE, RAM_PAGE_SIZE);
}

/* KVM's store of the flags comes after those of the rest; it takes the entry back when it sees ours. */
static int reap(const struct kvm_dirty_rings *self, struct kvm_dirty_ring *ring)
{
    int reaped = 0;
    for (; reaped <= (int)ring->mask; reaped++, ring->next++) {
        struct kvm_dirty_gfn *entry = &ring->entries[ring->next & ring->mask];
        uint32_t flags = __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE);
        if ((flags & (KVM_DIRTY_GFN_F_DIRTY | KVM_DIRTY_GFN_F_RESET)) != KVM_DIRTY_GFN_F_DIRTY)
            break;
        merge(self, entry->slot, entry->offset);
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
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
