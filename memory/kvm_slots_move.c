#include "memory/kvm_slots_plan.h"

/* By what cannot be changed in place; then by address. */
static int compare_hosts(const struct kvm_slot *a, const struct kvm_slot *b)
{
    if (a->host != b->host)
        return a->host < b->host ? -1 : 1;
    if (a->size != b->size)
        return a->size < b->size ? -1 : 1;
    if (a->readonly != b->readonly)
        return a->readonly ? -1 : 1;
    return a->address < b->address ? -1 : a->address > b->address;
}

RB_HEAD(twin_tree, kvm_slot);
RB_GENERATE_INTERNAL(twin_tree, kvm_slot, by_host, compare_hosts, __attribute__((unused)) static)

/* A doomed slot that can become `slot`: the one at the same address, or just any that logs if `slot` will. */
static struct kvm_slot *find_twin(struct twin_tree *doomed, const struct kvm_slot *slot, bool same_address)
{
    struct kvm_slot wanted = *slot;
    wanted.address = same_address ? slot->new_address : 0;
    struct kvm_slot *twin = RB_NFIND(twin_tree, doomed, &wanted);
    if (!twin || twin->host != slot->host || twin->size != slot->size || twin->readonly != slot->readonly)
        return NULL;
    bool fits = same_address ? twin->address == slot->new_address : twin->logs == slot->new_logs;
    return fits ? twin : NULL;
}

/* `twin` does not go but becomes the new `slot`. */
static void reuse(struct kvm_slots *self, struct kvm_slot *twin, const struct kvm_slot *slot)
{
    kvm_slot_list_drop(&self->doomed, twin);
    twin->fate = KVM_SLOT_STAYS;
    twin->new_address = slot->new_address;
    twin->new_logs = slot->new_logs;
    if (twin->new_address != twin->address) {
        twin->fate = KVM_SLOT_MOVES;
        twin->region = slot->region;
        kvm_slot_list_push(&self->moving, twin);
    } else if (twin->new_logs != twin->logs) {
        kvm_slots_relabel(self, twin, slot->new_logs, slot->region);
    }
}

static void reuse_twins(struct kvm_slots *self, struct twin_tree *doomed, bool same_address)
{
    struct kvm_slot *slot, *next;
    for (slot = TAILQ_FIRST(&self->added.slots); slot; slot = next) {
        next = TAILQ_NEXT(slot, listed);
        struct kvm_slot *twin = find_twin(doomed, slot, same_address);
        if (!twin)
            continue;
        RB_REMOVE(twin_tree, doomed, twin);
        reuse(self, twin, slot);
        kvm_slots_discard(self, slot);
    }
}

void kvm_slots_pair(struct kvm_slots *self)
{
    struct twin_tree doomed = RB_INITIALIZER(&doomed);
    struct kvm_slot *slot;
    if (!self->added.count)
        return;
    TAILQ_FOREACH (slot, &self->doomed.slots, listed)
        RB_INSERT(twin_tree, &doomed, slot);
    reuse_twins(self, &doomed, true);
    reuse_twins(self, &doomed, false);
}

/* A slot that lies where `slot` is to go and has not moved away yet; NULL: none. */
static struct kvm_slot *in_the_way(const struct kvm_slots *self, const struct kvm_slot *slot)
{
    uint64_t end = slot->new_address + slot->size;
    struct kvm_slot *other = kvm_slots_from(self, slot->new_address);
    for (; other && other->address < end; other = kvm_slot_next(other))
        if (other != slot && other->fate == KVM_SLOT_MOVES && !other->placed)
            return other;
    return NULL;
}

static void put_in_place(struct kvm_slots *self, struct kvm_slot *slot, struct kvm_slot_list *list)
{
    kvm_slot_list_drop(&self->moving, slot);
    slot->placed = true;
    kvm_slot_list_push(list, slot);
}

void kvm_slots_order_moves(struct kvm_slots *self)
{
    struct kvm_slot_list ordered;
    kvm_slot_list_empty(&ordered);
    while (!TAILQ_EMPTY(&self->moving.slots)) {
        struct kvm_slot *slot = TAILQ_FIRST(&self->moving.slots);
        slot->visited = true;
        slot->waiting = NULL;
        while (slot) {
            struct kvm_slot *other = slot->placed ? NULL : in_the_way(self, slot);
            if (!other) {
                if (!slot->placed)
                    put_in_place(self, slot, &ordered);
                slot = slot->waiting;
            } else if (other->visited) {
                put_in_place(self, other, &self->exchanged);
            } else {
                other->visited = true;
                other->waiting = slot;
                slot = other;
            }
        }
    }
    TAILQ_CONCAT(&self->moving.slots, &ordered.slots, listed);
    self->moving.count = ordered.count;
}
