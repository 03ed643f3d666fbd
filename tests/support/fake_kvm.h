/*
 * A KVM that has only the rules of its memory ioctls, for tests of memory/kvm_listener.h. Written from what
 * the real one checks (virt/kvm/kvm_main.c, dirty_ring.c, eventfd.c, coalesced_mmio.c;
 * Documentation/virt/kvm/api.rst), and stricter in three places: removing a coalesced zone that is not there,
 * deleting or moving a slot that logs while vCPUs run, and stopping vCPUs that are stopped, are errors.
 *
 * There is no memory behind its slots: a guest's store is played by fake_kvm_write(), which leaves nothing
 * but the mark that the page is dirty. A page whose mark is set is not protected, so further stores to it
 * are not noticed until its mark is cleared, just as with the real one.
 *
 * `struct fake_kvm` starts as zeroes but for the fields that are to be set before use. Everything else may be
 * read, and is changed by the calls only.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/kvm_listener.h"

#define FAKE_KVM_SLOTS_MAX 32764 /* what the real one has on x86 */
#define FAKE_KVM_RINGS_MAX 4
#define FAKE_KVM_PML_MAX   512

struct fake_ring {
    struct kvm_dirty_gfn *entries;
    uint32_t count, next_dirty, next_reset;
};

struct fake_kvm {
    /* To be set before use. */
    unsigned slots_max;
    bool manual_protect, initially_set; /* KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 */
    bool dirty_ring;                    /* KVM_CAP_DIRTY_LOG_RING */
    bool ring_with_bitmap;              /* and its extension */
    bool pml; /* with rings: what a vCPU dirties gets into its ring only when it leaves the guest */
    /* Called before each call, and after those that concern slots, while vCPUs run, for what they do
     * meanwhile. */
    void (*meanwhile)(struct fake_kvm *kvm);
    void *opaque; /* for it */

    unsigned calls;      /* made so far, but for stops and resumes */
    unsigned slot_calls; /* of them, to slots */
    unsigned move_calls; /* of these, that moved one */
    unsigned get_calls, clear_calls, reset_calls;
    unsigned stops; /* of vCPUs */
    bool stopped;
    unsigned fail_at;  /* the number of the call that fails with `fail_with`; 0: none */
    int fail_with;     /* -errno */
    bool failed_move;  /* that call was to move a slot, which can be done in another way */
    bool failed_clear; /* or to clear dirty bits, or to take rings back, which can wait */
    bool refuse_moves; /* every move fails with -EINVAL */
    unsigned broken;   /* calls that broke a rule */
    char rule[128];    /* the first one broken */

    struct kvm_userspace_memory_region *slots; /* by number; memory_size 0: unused */
    unsigned slot_numbers;                     /* of the array */
    struct kvm_ioeventfd *ioeventfds;
    size_t ioeventfd_count;
    struct kvm_coalesced_mmio_zone *zones;
    size_t zone_count;
    struct fake_ring rings[FAKE_KVM_RINGS_MAX];
    unsigned ring_count;

    /* Private. */
    struct fake_log *logs; /* of slots, by number */
    uint32_t *by_address;  /* numbers of slots */
    size_t used_slots;
    uint32_t *buckets, *next_ioeventfd; /* ioeventfds by address: 1 + index */
    size_t bucket_count, zone_capacity;
    struct fake_span *holes; /* what vanished while vCPUs ran */
    size_t hole_count, hole_capacity;
    bool watching;
    struct kvm_dirty_gfn pml_entries[FAKE_KVM_PML_MAX];
    unsigned pml_count;
};

extern const struct kvm_listener_ops fake_kvm_ops; /* opaque: the struct fake_kvm */

/* The slot that maps the page at `address`; NULL: none. */
const struct kvm_userspace_memory_region *fake_kvm_find(const struct fake_kvm *kvm, uint64_t address);

/* Slots in use. */
unsigned fake_kvm_slot_count(const struct fake_kvm *kvm);

/* Makes `to`, zeroes or a copy of earlier, a copy of slots, ioeventfds and zones, to be compared with. */
void fake_kvm_copy(struct fake_kvm *to, const struct fake_kvm *from);

/* Whether both have the same slots under the same numbers, ioeventfds and zones, in any order. */
bool fake_kvm_equal(const struct fake_kvm *a, const struct fake_kvm *b);

/* Frees what it holds, rings too, and leaves zeroes. */
void fake_kvm_free(struct fake_kvm *kvm);

/*
 * A store by vCPU 0 to the page at `address`. -ENOENT where no slot maps it and -EACCES where that is
 * read-only: the real one would exit. -EAGAIN where the ring is full. -EBUSY while vCPUs are stopped.
 */
int fake_kvm_write(struct fake_kvm *kvm, uint64_t address);

/* The same by KVM itself, outside of any vCPU. */
int fake_kvm_write_without_vcpu(struct fake_kvm *kvm, uint64_t address);

/* A vCPU's dirty ring of `count` entries, a power of two. */
struct kvm_dirty_gfn *fake_kvm_add_ring(struct fake_kvm *kvm, uint32_t count);

/*
 * Between these, what vanishes while vCPUs run is noted; if it is there again at the end, a rule was broken.
 */
void fake_kvm_begin_change(struct fake_kvm *kvm);
void fake_kvm_end_change(struct fake_kvm *kvm);
