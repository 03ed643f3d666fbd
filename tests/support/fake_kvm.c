#include "tests/support/fake_kvm.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PAGE      4096
#define PAGES_MAX ((((uint64_t)1 << 31) - 1))

/* Whether this call is to fail. */
static bool injected(struct fake_kvm *kvm)
{
    return ++kvm->calls == kvm->fail_at;
}

static int broken(struct fake_kvm *kvm, int code, const char *rule)
{
    if (!kvm->broken++)
        snprintf(kvm->rule, sizeof(kvm->rule), "%s", rule);
    return -code;
}

static bool overlaps(const struct fake_kvm *kvm, const struct kvm_userspace_memory_region *region)
{
    for (unsigned i = 0; i < kvm->slots_max; i++) {
        const struct kvm_userspace_memory_region *slot = &kvm->slots[i];
        if (i != region->slot && slot->memory_size &&
            slot->guest_phys_addr < region->guest_phys_addr + region->memory_size &&
            region->guest_phys_addr < slot->guest_phys_addr + slot->memory_size)
            return true;
    }
    return false;
}

static int check_region(struct fake_kvm *kvm, const struct kvm_userspace_memory_region *region)
{
    if (region->slot >= kvm->slots_max)
        return broken(kvm, EINVAL, "slot number too high");
    if (region->flags & ~(unsigned)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
        return broken(kvm, EINVAL, "unknown slot flags");
    if ((region->memory_size | region->guest_phys_addr | region->userspace_addr) % PAGE)
        return broken(kvm, EINVAL, "slot not aligned");
    if (region->guest_phys_addr + region->memory_size < region->guest_phys_addr)
        return broken(kvm, EINVAL, "slot wraps");
    if (region->memory_size / PAGE > PAGES_MAX)
        return broken(kvm, EINVAL, "slot too large");
    return 0;
}

static int set_slot(void *opaque, const struct kvm_userspace_memory_region *region)
{
    struct fake_kvm *kvm = opaque;
    kvm->slot_calls++;
    if (injected(kvm))
        return kvm->fail_with;
    int result = check_region(kvm, region);
    if (result)
        return result;
    struct kvm_userspace_memory_region *slot = &kvm->slots[region->slot];
    if (!region->memory_size && !slot->memory_size)
        return broken(kvm, EINVAL, "no such slot to delete");
    if (region->memory_size && slot->memory_size) {
        if (region->userspace_addr != slot->userspace_addr || region->memory_size != slot->memory_size ||
            ((region->flags ^ slot->flags) & KVM_MEM_READONLY))
            return broken(kvm, EINVAL, "slot changed in place");
    }
    if (region->memory_size && overlaps(kvm, region))
        return broken(kvm, EEXIST, "slots overlap");
    *slot = *region;
    return 0;
}

/* Whether KVM would not know which of both to signal. */
static bool collide(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b)
{
    if (((a->flags ^ b->flags) & KVM_IOEVENTFD_FLAG_PIO) || a->addr != b->addr)
        return false;
    if (!a->len || !b->len)
        return true;
    bool both_match = a->flags & b->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
    return a->len == b->len && (!both_match || a->datamatch == b->datamatch);
}

static bool same(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b)
{
    unsigned flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH;
    return a->addr == b->addr && a->len == b->len && a->fd == b->fd && !((a->flags ^ b->flags) & flags) &&
           (!(a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) || a->datamatch == b->datamatch);
}

static int deassign(struct fake_kvm *kvm, const struct kvm_ioeventfd *request)
{
    for (size_t i = 0; i < kvm->ioeventfd_count; i++) {
        if (same(&kvm->ioeventfds[i], request)) {
            kvm->ioeventfds[i] = kvm->ioeventfds[--kvm->ioeventfd_count];
            return 0;
        }
    }
    return broken(kvm, ENOENT, "no such ioeventfd");
}

/* No rule of the listener's is broken: only the whole machine can know. What takes it back must not fail. */
static int collided(struct fake_kvm *kvm)
{
    kvm->fail_at = 0;
    return -EEXIST;
}

static int ioeventfd(void *opaque, const struct kvm_ioeventfd *request)
{
    struct fake_kvm *kvm = opaque;
    if (injected(kvm))
        return kvm->fail_with;
    if (request->len > 8 || (request->len & (request->len - 1)) ||
        (!request->len && (request->flags & KVM_IOEVENTFD_FLAG_DATAMATCH)))
        return broken(kvm, EINVAL, "bad length of an ioeventfd");
    if (request->addr + request->len < request->addr || request->fd < 0)
        return broken(kvm, EINVAL, "bad ioeventfd");
    if (request->flags & KVM_IOEVENTFD_FLAG_DEASSIGN)
        return deassign(kvm, request);
    for (size_t i = 0; i < kvm->ioeventfd_count; i++)
        if (collide(&kvm->ioeventfds[i], request))
            return collided(kvm);
    if (kvm->ioeventfd_count == FAKE_KVM_ITEMS_MAX)
        return -ENOSPC;
    kvm->ioeventfds[kvm->ioeventfd_count++] = *request;
    return 0;
}

static int register_zone(void *opaque, const struct kvm_coalesced_mmio_zone *zone)
{
    struct fake_kvm *kvm = opaque;
    if (injected(kvm))
        return kvm->fail_with;
    if (zone->pio > 1)
        return broken(kvm, EINVAL, "bad coalesced zone");
    if (kvm->zone_count == FAKE_KVM_ITEMS_MAX)
        return -ENOSPC;
    kvm->zones[kvm->zone_count++] = *zone;
    return 0;
}

static bool same_zone(const struct kvm_coalesced_mmio_zone *a, const struct kvm_coalesced_mmio_zone *b)
{
    return a->addr == b->addr && a->size == b->size && a->pio == b->pio;
}

static int unregister_zone(void *opaque, const struct kvm_coalesced_mmio_zone *zone)
{
    struct fake_kvm *kvm = opaque;
    if (injected(kvm))
        return kvm->fail_with;
    for (size_t i = 0; i < kvm->zone_count; i++) {
        if (same_zone(&kvm->zones[i], zone)) {
            kvm->zones[i] = kvm->zones[--kvm->zone_count];
            return 0;
        }
    }
    return broken(kvm, ENOENT, "no such coalesced zone");
}

const struct kvm_listener_ops fake_kvm_ops = {
    .set_user_memory_region = set_slot,
    .ioeventfd = ioeventfd,
    .register_coalesced = register_zone,
    .unregister_coalesced = unregister_zone,
};

const struct kvm_userspace_memory_region *fake_kvm_find(const struct fake_kvm *kvm, uint64_t address)
{
    for (unsigned i = 0; i < kvm->slots_max; i++) {
        const struct kvm_userspace_memory_region *slot = &kvm->slots[i];
        if (address >= slot->guest_phys_addr && address - slot->guest_phys_addr < slot->memory_size)
            return slot;
    }
    return NULL;
}

unsigned fake_kvm_slot_count(const struct fake_kvm *kvm)
{
    unsigned count = 0;
    for (unsigned i = 0; i < kvm->slots_max; i++)
        count += kvm->slots[i].memory_size != 0;
    return count;
}

static bool has_ioeventfd(const struct fake_kvm *kvm, const struct kvm_ioeventfd *wanted)
{
    for (size_t i = 0; i < kvm->ioeventfd_count; i++)
        if (same(&kvm->ioeventfds[i], wanted))
            return true;
    return false;
}

static bool has_zone(const struct fake_kvm *kvm, const struct kvm_coalesced_mmio_zone *wanted)
{
    for (size_t i = 0; i < kvm->zone_count; i++)
        if (same_zone(&kvm->zones[i], wanted))
            return true;
    return false;
}

static bool slots_equal(const struct fake_kvm *a, const struct fake_kvm *b)
{
    for (unsigned i = 0; i < a->slots_max; i++) {
        const struct kvm_userspace_memory_region *left = &a->slots[i], *right = &b->slots[i];
        if (left->memory_size != right->memory_size)
            return false;
        if (left->memory_size &&
            (left->guest_phys_addr != right->guest_phys_addr ||
             left->userspace_addr != right->userspace_addr || left->flags != right->flags))
            return false;
    }
    return true;
}

bool fake_kvm_equal(const struct fake_kvm *a, const struct fake_kvm *b)
{
    if (!slots_equal(a, b) || a->ioeventfd_count != b->ioeventfd_count || a->zone_count != b->zone_count)
        return false;
    for (size_t i = 0; i < a->ioeventfd_count; i++)
        if (!has_ioeventfd(b, &a->ioeventfds[i]))
            return false;
    for (size_t i = 0; i < a->zone_count; i++)
        if (!has_zone(b, &a->zones[i]))
            return false;
    return true;
}
