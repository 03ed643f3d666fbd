/*
 * Keeps KVM in step with an address space: memslots, ioeventfds and coalesced zones.
 *
 * One instance serves the memory space (slots, and what hangs on memory-mapped I/O), another the port space
 * (no slots). KVM itself is reached through a table of functions, so all of this runs without one.
 *
 * Slots need not be flat ranges. KVM can neither resize a slot nor change whether it is read-only, so a
 * change deletes exactly those slots that are no longer right in every byte, leaves all others where they
 * are, and fills what is uncovered with new ones. What a range shows decides, not its region: RAM seen
 * through a read-only alias, ROM, and a ROM device in ROMD mode get read-only slots; a ROM device outside of
 * it gets none. All deletions come before all additions; if KVM refuses one, those before it are taken back.
 *
 * Coalesced writes that KVM still holds back are dispatched by whoever next drains its ring, through the view
 * of that time: drain it before a change that moves or removes such a range, where that matters.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>

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
};

struct kvm_listener_config {
    const struct kvm_listener_ops *ops; /* borrowed */
    void *opaque;
    bool ports;         /* the space is that of ports */
    unsigned slots_max; /* KVM_CAP_NR_MEMSLOTS; slots 0 to slots_max - 1 are used (not by ports) */
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
