/*
 * What the planning of slot edits (kvm_slots_plan.c) and its choice of moves (kvm_slots_move.c) share.
 */
#pragma once

#include "memory/kvm_slots.h"

static inline void kvm_slot_list_empty(struct kvm_slot_list *list)
{
    TAILQ_INIT(&list->slots);
    list->count = 0;
}

static inline void kvm_slot_list_push(struct kvm_slot_list *list, struct kvm_slot *slot)
{
    TAILQ_INSERT_TAIL(&list->slots, slot, listed);
    list->count++;
}

static inline void kvm_slot_list_drop(struct kvm_slot_list *list, struct kvm_slot *slot)
{
    TAILQ_REMOVE(&list->slots, slot, listed);
    list->count--;
}

/* Plans that `slot` begins or ceases to log, as `region` (for errors) asks for. */
void kvm_slots_relabel(struct kvm_slots *slots, struct kvm_slot *slot, bool logs,
                       const struct memory_region *region);

/* Frees a slot that was to be added. */
void kvm_slots_discard(struct kvm_slots *slots, struct kvm_slot *slot);

/* Makes slots move that would be deleted and, but for their address, added again. */
void kvm_slots_pair(struct kvm_slots *slots);

/*
 * Orders the moves: each slot waits until those in its way have moved. Of slots that wait for each other in a
 * circle one is taken out, to be made anew.
 */
void kvm_slots_order_moves(struct kvm_slots *slots);
