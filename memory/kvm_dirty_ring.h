/*
 * The dirty rings of vCPUs (KVM_CAP_DIRTY_LOG_RING; Documentation/virt/kvm/api.rst).
 *
 * KVM fills each ring with entries that name a slot and a page of it. To reap takes them out in order: each
 * is merged into the bitmaps, then given back; KVM_RESET_DIRTY_RINGS makes KVM protect the pages again. Until
 * that has succeeded no client may take them, or he would miss further writes. An entry that names no page of
 * a slot that logs is dropped.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvm_listener_config;
struct kvm_slot;

struct kvm_dirty_ring {
    struct kvm_dirty_gfn *entries;
    uint32_t mask, next; /* the number of entries is mask + 1 */
};

struct kvm_dirty_rings {
    struct kvm_dirty_ring *rings;
    size_t count, capacity;
    bool reset_due;          /* entries were given back that KVM has not taken yet */
    struct kvm_slot **slots; /* that log, by number */
    size_t numbers;
};

void kvm_dirty_rings_destroy(struct kvm_dirty_rings *rings);

/* Adds a ring of `count` entries, a power of two. -ENOMEM. */
int kvm_dirty_rings_add(struct kvm_dirty_rings *rings, struct kvm_dirty_gfn *entries, size_t count);

/* Makes room for slots with numbers below `numbers`. False where memory is short. */
bool kvm_dirty_rings_reserve(struct kvm_dirty_rings *rings, size_t numbers);

/* Reaps all rings. How many entries there were, or KVM's -errno. */
int kvm_dirty_rings_reap(struct kvm_dirty_rings *rings, const struct kvm_listener_config *config);

/* Has KVM take back the entries that it has not taken yet. KVM's -errno. */
int kvm_dirty_rings_settle(struct kvm_dirty_rings *rings, const struct kvm_listener_config *config);
