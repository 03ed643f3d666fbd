#include "tests/support/fake_kvm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fake_kvm_internal.h"

#define PAGES_MAX ((((uint64_t)1 << 31) - 1))

void fake_meanwhile(struct fake_kvm *kvm)
{
    if (kvm->meanwhile && !kvm->stopped)
        kvm->meanwhile(kvm);
}

bool fake_call(struct fake_kvm *kvm)
{
    fake_meanwhile(kvm);
    return ++kvm->calls == kvm->fail_at;
}

int fake_broken(struct fake_kvm *kvm, int code, const char *rule)
{
    if (!kvm->broken++)
        snprintf(kvm->rule, sizeof(kvm->rule), "%s", rule);
    return -code;
}

bool fake_reserve(void *array, size_t count, size_t size)
{
    void **place = array, *grown = reallocarray(*place, count, size);
    if (grown)
        *place = grown;
    return grown;
}

static uint64_t slot_end(const struct kvm_userspace_memory_region *slot)
{
    return slot->guest_phys_addr + slot->memory_size;
}

/* The place, in order of address, of the first slot that ends behind `address`. */
static size_t place_of(const struct fake_kvm *kvm, uint64_t address)
{
    size_t low = 0, high = kvm->used_slots;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (slot_end(&kvm->slots[kvm->by_address[middle]]) > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

static void link_slot(struct fake_kvm *kvm, uint32_t number)
{
    size_t place = place_of(kvm, kvm->slots[number].guest_phys_addr);
    uint32_t *at = &kvm->by_address[place];
    memmove(at + 1, at, (kvm->used_slots++ - place) * sizeof(*at));
    *at = number;
}

static void unlink_slot(struct fake_kvm *kvm, uint32_t number)
{
    size_t place = place_of(kvm, kvm->slots[number].guest_phys_addr);
    uint32_t *at = &kvm->by_address[place];
    memmove(at, at + 1, (--kvm->used_slots - place) * sizeof(*at));
}

static bool overlaps(const struct fake_kvm *kvm, const struct kvm_userspace_memory_region *region)
{
    for (size_t i = place_of(kvm, region->guest_phys_addr); i < kvm->used_slots; i++) {
        if (kvm->slots[kvm->by_address[i]].guest_phys_addr >= slot_end(region))
            return false;
        if (kvm->by_address[i] != region->slot)
            return true;
    }
    return false;
}

static int check_region(struct fake_kvm *kvm, const struct kvm_userspace_memory_region *region)
{
    if (region->slot >= kvm->slots_max)
        return fake_broken(kvm, EINVAL, "slot number too high");
    if (region->flags & ~(unsigned)(KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY))
        return fake_broken(kvm, EINVAL, "unknown slot flags");
    if ((region->memory_size | region->guest_phys_addr | region->userspace_addr) % FAKE_PAGE)
        return fake_broken(kvm, EINVAL, "slot not aligned");
    if (region->guest_phys_addr + region->memory_size < region->guest_phys_addr)
        return fake_broken(kvm, EINVAL, "slot wraps");
    if (region->memory_size / FAKE_PAGE > PAGES_MAX)
        return fake_broken(kvm, EINVAL, "slot too large");
    return 0;
}

/* Makes room for slots up to and with `number`. */
static bool reserve(struct fake_kvm *kvm, uint32_t number)
{
    if (number < kvm->slot_numbers)
        return true;
    unsigned wanted = kvm->slot_numbers ? 2 * kvm->slot_numbers : 16;
    while (wanted <= number)
        wanted *= 2;
    if (!fake_reserve(&kvm->slots, wanted, sizeof(*kvm->slots)) ||
        !fake_reserve(&kvm->by_address, wanted, sizeof(*kvm->by_address)) ||
        !fake_reserve(&kvm->logs, wanted, sizeof(*kvm->logs)))
        return false;
    unsigned added = wanted - kvm->slot_numbers;
    memset(&kvm->slots[kvm->slot_numbers], 0, added * sizeof(*kvm->slots));
    memset(&kvm->logs[kvm->slot_numbers], 0, added * sizeof(*kvm->logs));
    kvm->slot_numbers = wanted;
    return true;
}

struct fake_log *fake_log_of(struct fake_kvm *kvm, uint32_t slot)
{
    return slot < kvm->slot_numbers && kvm->logs[slot].bits ? &kvm->logs[slot] : NULL;
}

/* A slot is about to leave its place. */
static int vanish(struct fake_kvm *kvm, const struct kvm_userspace_memory_region *slot)
{
    if (kvm->stopped)
        return 0;
    if (slot->flags & KVM_MEM_LOG_DIRTY_PAGES)
        return fake_broken(kvm, EBUSY, "slot that logs deleted or moved while vCPUs run");
    if (!kvm->watching)
        return 0;
    if (kvm->hole_count == kvm->hole_capacity) {
        size_t wanted = kvm->hole_capacity ? 2 * kvm->hole_capacity : 16;
        if (!fake_reserve(&kvm->holes, wanted, sizeof(*kvm->holes)))
            return -ENOMEM;
        kvm->hole_capacity = wanted;
    }
    kvm->holes[kvm->hole_count++] = (struct fake_span){slot->guest_phys_addr, slot->memory_size};
    return 0;
}

/* The slot is there before and after. */
static int check_change(struct fake_kvm *kvm, const struct kvm_userspace_memory_region *slot,
                        const struct kvm_userspace_memory_region *region)
{
    if (region->userspace_addr != slot->userspace_addr || region->memory_size != slot->memory_size ||
        ((region->flags ^ slot->flags) & KVM_MEM_READONLY))
        return fake_broken(kvm, EINVAL, "slot changed in place");
    if (region->guest_phys_addr == slot->guest_phys_addr)
        return 0;
    kvm->move_calls++;
    return kvm->refuse_moves ? -EINVAL : 0;
}

static int check_set(struct fake_kvm *kvm, const struct kvm_userspace_memory_region *slot,
                     const struct kvm_userspace_memory_region *region)
{
    if (!region->memory_size && !slot->memory_size)
        return fake_broken(kvm, EINVAL, "no such slot to delete");
    int result = region->memory_size && slot->memory_size ? check_change(kvm, slot, region) : 0;
    if (!result && region->memory_size && overlaps(kvm, region))
        return fake_broken(kvm, EEXIST, "slots overlap");
    bool leaves =
        slot->memory_size && (!region->memory_size || region->guest_phys_addr != slot->guest_phys_addr);
    return !result && leaves ? vanish(kvm, slot) : result;
}

static bool is_move(const struct fake_kvm *kvm, const struct kvm_userspace_memory_region *region)
{
    return region->slot < kvm->slot_numbers && region->memory_size && kvm->slots[region->slot].memory_size &&
           kvm->slots[region->slot].guest_phys_addr != region->guest_phys_addr;
}

static int set_slot(void *opaque, const struct kvm_userspace_memory_region *region)
{
    struct fake_kvm *kvm = opaque;
    kvm->slot_calls++;
    if (fake_call(kvm)) {
        kvm->failed_move = is_move(kvm, region);
        return kvm->fail_with;
    }
    int result = check_region(kvm, region);
    if (!result && !reserve(kvm, region->slot))
        result = -ENOMEM;
    if (result)
        return result;
    struct kvm_userspace_memory_region *slot = &kvm->slots[region->slot];
    result = check_set(kvm, slot, region);
    bool logs = region->memory_size && (region->flags & KVM_MEM_LOG_DIRTY_PAGES);
    if (!result)
        result = fake_log_change(kvm, region->slot, logs, region->memory_size / FAKE_PAGE);
    if (result)
        return result;
    if (slot->memory_size)
        unlink_slot(kvm, region->slot);
    *slot = *region;
    if (slot->memory_size)
        link_slot(kvm, region->slot);
    fake_meanwhile(kvm);
    return 0;
}

const struct kvm_listener_ops fake_kvm_ops = {
    .set_user_memory_region = set_slot,
    .ioeventfd = fake_ioeventfd,
    .register_coalesced = fake_register_zone,
    .unregister_coalesced = fake_unregister_zone,
    .get_dirty_log = fake_get_dirty_log,
    .clear_dirty_log = fake_clear_dirty_log,
    .reset_dirty_rings = fake_reset_dirty_rings,
    .stop_vcpus = fake_stop_vcpus,
    .resume_vcpus = fake_resume_vcpus,
};

const struct kvm_userspace_memory_region *fake_kvm_find(const struct fake_kvm *kvm, uint64_t address)
{
    size_t place = place_of(kvm, address);
    if (place == kvm->used_slots)
        return NULL;
    const struct kvm_userspace_memory_region *slot = &kvm->slots[kvm->by_address[place]];
    return slot->guest_phys_addr <= address ? slot : NULL;
}

unsigned fake_kvm_slot_count(const struct fake_kvm *kvm)
{
    return (unsigned)kvm->used_slots;
}

/* Copies are for tests, which end where memory does. */
static void must(bool had_memory)
{
    if (!had_memory)
        abort();
}

void fake_kvm_copy(struct fake_kvm *to, const struct fake_kvm *from)
{
    to->slots_max = from->slots_max;
    to->used_slots = from->used_slots;
    must(!from->slot_numbers || reserve(to, from->slot_numbers - 1));
    if (to->slot_numbers)
        memset(to->slots, 0, to->slot_numbers * sizeof(*to->slots));
    if (from->slot_numbers) {
        memcpy(to->slots, from->slots, from->slot_numbers * sizeof(*to->slots));
        memcpy(to->by_address, from->by_address, from->used_slots * sizeof(*to->by_address));
    }
    fake_items_copy(to, from);
}

static bool slots_equal(const struct fake_kvm *a, const struct fake_kvm *b)
{
    if (a->used_slots != b->used_slots)
        return false;
    for (size_t i = 0; i < a->used_slots; i++) {
        uint32_t number = a->by_address[i];
        const struct kvm_userspace_memory_region *left = &a->slots[number], *right = &b->slots[number];
        if (b->by_address[i] != number || left->memory_size != right->memory_size ||
            left->guest_phys_addr != right->guest_phys_addr ||
            left->userspace_addr != right->userspace_addr || left->flags != right->flags)
            return false;
    }
    return true;
}

bool fake_kvm_equal(const struct fake_kvm *a, const struct fake_kvm *b)
{
    return slots_equal(a, b) && fake_items_equal(a, b);
}

void fake_kvm_free(struct fake_kvm *kvm)
{
    fake_dirty_free(kvm);
    fake_items_free(kvm);
    free(kvm->slots);
    free(kvm->by_address);
    free(kvm->logs);
    free(kvm->holes);
    *kvm = (struct fake_kvm){0};
}

void fake_kvm_begin_change(struct fake_kvm *kvm)
{
    kvm->watching = true;
    kvm->hole_count = 0;
}

void fake_kvm_end_change(struct fake_kvm *kvm)
{
    kvm->watching = false;
    for (size_t i = 0; i < kvm->hole_count; i++) {
        const struct fake_span *hole = &kvm->holes[i];
        size_t place = place_of(kvm, hole->start);
        if (place < kvm->used_slots &&
            kvm->slots[kvm->by_address[place]].guest_phys_addr < hole->start + hole->size)
            fake_broken(kvm, EBUSY, "RAM in use vanished for a moment while vCPUs ran");
    }
}
