/*
 * A KVM that has only the rules of its memory ioctls, for tests of memory/kvm_listener.h. Written from what
 * the real one checks (virt/kvm/kvm_main.c, eventfd.c, coalesced_mmio.c; Documentation/virt/kvm/api.rst), and
 * stricter in one place: removing a coalesced zone that is not there is an error.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/kvm_listener.h"

#define FAKE_KVM_SLOTS_MAX 128
#define FAKE_KVM_ITEMS_MAX 256

struct fake_kvm {
    unsigned slots_max; /* set it before use, to FAKE_KVM_SLOTS_MAX or less */
    struct kvm_userspace_memory_region slots[FAKE_KVM_SLOTS_MAX]; /* by number; memory_size 0: unused */
    struct kvm_ioeventfd ioeventfds[FAKE_KVM_ITEMS_MAX];
    size_t ioeventfd_count;
    struct kvm_coalesced_mmio_zone zones[FAKE_KVM_ITEMS_MAX];
    size_t zone_count;

    unsigned calls;      /* made so far */
    unsigned slot_calls; /* of them, to slots */
    unsigned fail_at;    /* the number of the call that fails with `fail_with`; 0: none */
    int fail_with;       /* -errno */
    unsigned broken;     /* calls that broke a rule */
    char rule[128];      /* the first one broken */
};

extern const struct kvm_listener_ops fake_kvm_ops; /* opaque: the struct fake_kvm */

/* The slot that maps the page at `address`; NULL: none. */
const struct kvm_userspace_memory_region *fake_kvm_find(const struct fake_kvm *kvm, uint64_t address);

/* Slots in use. */
unsigned fake_kvm_slot_count(const struct fake_kvm *kvm);

/* Whether both have the same slots under the same numbers, ioeventfds and zones, in any order. */
bool fake_kvm_equal(const struct fake_kvm *a, const struct fake_kvm *b);
