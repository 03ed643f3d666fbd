/*
 * KVM's memory slots: a table by address, and edits of it.
 *
 * An edit is planned from what a change of a view touches: slots that are right in every byte stay, those
 * that only begin or cease to log are relabelled, the others are doomed, and what is uncovered then gets new
 * ones. Where a doomed slot and a new one differ in nothing but their address, the slot moves. The plan ends
 * up as a list of steps: all deletions, all moves (in an order in which none goes where another still is; of
 * slots that change places in a circle one is deleted and made anew), all relabellings, all additions. They
 * are done one by one, and taken back in the reverse order. Only planning takes memory, and nothing looks at
 * slots that the change does not touch.
 *
 * vCPUs are stopped for an edit if one of its slots comes where one was before, or if a step could lose dirty
 * bits (memory/kvm_dirty.h) with vCPUs running. RAM that goes for good goes under running vCPUs; should KVM
 * refuse a later step, it is missing for a moment before it is put back.
 *
 * Everything belongs to the lock of `struct memory`.
 */
#pragma once

#include <bsd/sys/tree.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

struct error;
struct kvm_dirty;
struct kvm_listener_config;
struct memory_change;
struct memory_region;
struct ram_block;

enum kvm_slot_fate {
    KVM_SLOT_STAYS,
    KVM_SLOT_RELABELLED, /* stays, and begins or ceases to log */
    KVM_SLOT_GOES,
    KVM_SLOT_MOVES,
    KVM_SLOT_COMES,
};

struct kvm_slot {
    uint64_t address, size;
    char *host;
    bool readonly;
    bool logs; /* KVM notes who writes to it */
    uint32_t id;
    struct ram_block *block;
    uint64_t first_page; /* of the block */

    uint64_t *pending; /* memory/kvm_dirty.h, while it logs */
    bool all_pending;  /* whatever is in there */
    LIST_ENTRY(kvm_slot) logging;

    /* What the edit under way makes of it. */
    enum kvm_slot_fate fate;
    uint64_t new_address;
    bool new_logs;
    const struct memory_region *region; /* for errors */
    struct kvm_slot *waiting;           /* for this one to move away */
    bool visited, placed;               /* by the search for an order */

    TAILQ_ENTRY(kvm_slot) listed; /* in one of the edit's lists */
    RB_ENTRY(kvm_slot) by_address, by_host;
};

RB_HEAD(kvm_slot_tree, kvm_slot);
TAILQ_HEAD(kvm_slot_queue, kvm_slot);

struct kvm_slot_list {
    struct kvm_slot_queue slots;
    size_t count;
};

enum kvm_step_kind {
    KVM_STEP_DELETE,
    KVM_STEP_MOVE,
    KVM_STEP_RELABEL,
    KVM_STEP_CREATE,
};

struct kvm_step {
    enum kvm_step_kind kind;
    struct kvm_slot *slot;
};

struct kvm_slots {
    const struct kvm_listener_config *config;
    struct kvm_dirty *dirty;
    struct kvm_slot_tree tree; /* by address */
    size_t count;

    /* Numbers of slots: those from `ids` on were never used, the others that no slot has are a stack. */
    uint32_t ids;
    uint32_t *free_ids;
    size_t free_count, free_capacity;

    /* The edit under way. Numbers popped from the stack stay where they were until it is settled. */
    struct kvm_slot_list doomed, moving, exchanged, relabelled, added;
    struct kvm_step *steps;
    size_t step_count, step_capacity, done;
    bool stop, stop_back; /* vCPUs, while it is done and while it is taken back */
    bool going_back;
    bool lost; /* a slot could not be put back */
    uint32_t old_ids;
    size_t old_free_count;
};

/* A table without slots; `config` and `dirty` are borrowed. */
void kvm_slots_init(struct kvm_slots *slots, const struct kvm_listener_config *config,
                    struct kvm_dirty *dirty);

/* Takes out of KVM what is left, and frees the table. */
void kvm_slots_destroy(struct kvm_slots *slots);

/*
 * Plans an edit. -EINVAL for RAM that is not whole pages, -ENOSPC for too many slots, -ENOMEM; then nothing
 * is under way. (memory/kvm_slots_plan.c)
 */
int kvm_slots_plan(struct kvm_slots *slots, const struct memory_change *change, struct error *err);

/* Forgets a plan whose steps are not done, and frees the new slots. (memory/kvm_slots_plan.c) */
void kvm_slots_forget(struct kvm_slots *slots);

/* Begins with no plan. (memory/kvm_slots_plan.c) */
void kvm_slots_empty_lists(struct kvm_slots *slots);

/* Does the steps, or none of them; or takes them back again. KVM's -errno. */
int kvm_slots_apply(struct kvm_slots *slots, struct error *err);
int kvm_slots_revert(struct kvm_slots *slots, struct error *err);

/* Makes the table what the steps made of KVM; what it was if they failed, at the listener's end. */
void kvm_slots_commit(struct kvm_slots *slots);

/* The first slot that ends behind `address`; NULL: none. And the one behind it. */
struct kvm_slot *kvm_slots_from(const struct kvm_slots *slots, uint64_t address);
struct kvm_slot *kvm_slot_next(struct kvm_slot *slot);

static inline uint64_t kvm_slot_end(const struct kvm_slot *slot)
{
    return slot->address + slot->size;
}
