/*
 * Keeps KVM in step with an address space: memslots, ioeventfds and coalesced zones.
 *
 * One instance serves the memory space (slots, and what hangs on memory-mapped I/O), another the port space
 * (no slots). KVM itself is reached through a table of functions, so all of this runs without one.
 *
 * Slots need not be flat ranges. KVM can neither resize a slot nor change whether it is read-only, so a
 * change deletes exactly those slots that are no longer right in every byte, leaves all others where they
 * are, and fills what is uncovered with new ones; where a slot that would be deleted and a new one differ in
 * nothing but their address the slot is moved in place. What a range shows decides, not its region: RAM seen
 * through a read-only alias, ROM, and a ROM device in ROMD mode get read-only slots; a ROM device outside of
 * it gets none. All deletions come before all moves, and these before all additions; if KVM refuses one,
 * those before it are taken back.
 *
 * vCPUs are kept out of the guest from the first to the last of these calls if RAM that is there before and
 * after would be missing in between; if a slot that logs is deleted or moved, so that what is harvested then
 * is all; or if one is created whose bits KVM sets initially, until they are cleared. Otherwise they run on.
 *
 * Dirty tracking (memory/dirty.h): the slots of ranges that have clients log, and the listener is a source.
 * KVM's bits are fetched once for each slot in each dirty_sync(), for all clients. How KVM watches again
 * depends on the mode:
 *   get    KVM_GET_DIRTY_LOG write-protects what it returns, all at once.
 *   clear  manual protect: the pages that dirty_take() hands out are cleared, and so protected, just then, by
 *          KVM_CLEAR_DIRTY_LOG of one 64-page-aligned chunk for each slot. With `initially_set`, KVM starts
 *          with all bits set and protects nothing, and so does this.
 *   ring   each vCPU has a ring of dirtied pages, reaped by kvm_listener_reap(); dirty_sync() takes the vCPUs
 *          out of the guest for a moment, so that they hand over what they know. What is written without a
 *          vCPU is in a bitmap, fetched as in mode get, where KVM has it (`ring_with_bitmap`).
 * A bit that KVM has for a slot that goes is in the bitmaps before the slot's memory is used again.
 *
 * Coalesced writes that KVM still holds back are dispatched by whoever next drains its ring, through the view
 * of that time: drain it before a change that moves or removes such a range, where that matters.
 *
 * Everything belongs to the lock of `struct memory`.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>

struct address_space;
struct error;
struct kvm_listener;

/* The ioctls of KVM's VM descriptor. Each returns 0 or -errno. Called with the memory lock held. */
struct kvm_listener_ops {
    int (*set_user_memory_region)(void *opaque, const struct kvm_userspace_memory_region *region);
    int (*ioeventfd)(void *opaque, const struct kvm_ioeventfd *ioeventfd);
    /* NULL, both, where the host does not have it: then nothing is held back. */
    int (*register_coalesced)(void *opaque, const struct kvm_coalesced_mmio_zone *zone);
    int (*unregister_coalesced)(void *opaque, const struct kvm_coalesced_mmio_zone *zone);

    int (*get_dirty_log)(void *opaque, struct kvm_dirty_log *log);
    int (*clear_dirty_log)(void *opaque, struct kvm_clear_dirty_log *log); /* mode clear */
    int (*reset_dirty_rings)(void *opaque);                                /* mode ring */

    /*
     * Takes all vCPUs out of the guest, and keeps them out until resume_vcpus(). Waits for nothing else: a
     * vCPU whose thread is in godwit, perhaps in the very call that made this change, counts as out. NULL,
     * both, where there are no vCPUs.
     */
    void (*stop_vcpus)(void *opaque);
    void (*resume_vcpus)(void *opaque);
};

enum kvm_dirty_mode {
    KVM_DIRTY_GET,
    KVM_DIRTY_CLEAR,
    KVM_DIRTY_RING,
};

struct kvm_listener_config {
    const struct kvm_listener_ops *ops; /* borrowed */
    void *opaque;
    bool ports;         /* the space is that of ports */
    unsigned slots_max; /* KVM_CAP_NR_MEMSLOTS; slots 0 to slots_max - 1 are used (not by ports) */
    enum kvm_dirty_mode dirty_mode;
    bool initially_set;    /* mode clear: KVM_DIRTY_LOG_INITIALLY_SET is on */
    bool ring_with_bitmap; /* mode ring: so is KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP */
};

/*
 * Creates a listener and registers it with `space`, so that KVM knows all that the space shows when this
 * returns. Later commits fail, and are undone, with
 *   -EINVAL  for RAM that does not begin and end at pages (named),
 *   -ENOSPC  where more slots would be needed than KVM has,
 * and with whatever error KVM has for a slot, an ioeventfd or a zone.
 */
int kvm_listener_create(struct address_space *space, const struct kvm_listener_config *config,
                        struct kvm_listener **listener, struct error *err);

/* Takes everything out of KVM again and frees the listener. NULL is allowed. */
void kvm_listener_destroy(struct kvm_listener *listener);

/*
 * Mode ring: adds a vCPU's ring of `count` (a power of two) entries, mapped until the listener is destroyed.
 * Before that vCPU runs. -ENOMEM.
 */
int kvm_listener_add_ring(struct kvm_listener *listener, struct kvm_dirty_gfn *ring, size_t count,
                          struct error *err);

/*
 * Mode ring: moves what is in the rings into the bitmaps and gives the entries back to KVM. For a vCPU whose
 * ring is full (KVM_EXIT_DIRTY_RING_FULL), on its thread, and for a thread that sees to it that none gets
 * full. Takes the memory lock. Returns how many pages there were, or KVM's -errno.
 */
int kvm_listener_reap(struct kvm_listener *listener, struct error *err);
