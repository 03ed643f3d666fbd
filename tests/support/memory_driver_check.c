#include <errno.h>

#include "memory/flat_view.h"
#include "memory/ram_block.h"
#include "tests/support/memory_driver_internal.h"

static void check_view(struct driver *driver, const struct side *side)
{
    struct flat_view *view = flat_view_get(side->space);
    const struct flat_range *range = flat_view_from(view, 0);
    for (unsigned i = 0; i < side->shown.range_count; i++, range = flat_view_next(view, range)) {
        const struct oracle_range *wanted = &side->shown.ranges[i];
        EXPECT(driver, range != NULL);
        EXPECT(driver, driver_node(driver, range->region) == (uint64_t)wanted->first.node);
        EXPECT(driver, range->offset_in_region == wanted->first.offset);
        EXPECT(driver, range->start == wanted->start && range->size == wanted->size);
        EXPECT(driver, range->readonly == wanted->first.readonly);
        EXPECT(driver, range->unmergeable == wanted->first.unmergeable);
        EXPECT(driver, range->romd_mode == wanted->first.romd);
        EXPECT(driver, range->log == wanted->first.log);
    }
    EXPECT(driver, range == NULL);
    flat_view_put(view);
}

char *host_of(const struct driver *driver, const struct oracle_answer *answer)
{
    const struct oracle_node *node = &driver->begun.nodes[answer->node];
    return (char *)driver->block->host + node->block_offset + answer->offset;
}

/* What reading one byte must give. */
static int expected_read(const struct driver *driver, const struct oracle_answer *answer, uint8_t *byte)
{
    *byte = 0xff;
    if (answer->node == ORACLE_NONE)
        return -ENXIO;
    if (oracle_mapped(&driver->begun, answer, false)) {
        *byte = (uint8_t)*host_of(driver, answer);
        return 0;
    }
    if (driver->begun.nodes[answer->node].kind == MEMORY_REGION_RESERVATION)
        return -ENXIO;
    *byte = (uint8_t)(answer->offset + 16 * (uint64_t)answer->node);
    return 0;
}

/* What writing one byte must give, and where it must be then; NULL: nowhere. */
static int expected_write(const struct driver *driver, const struct oracle_answer *answer, char **host)
{
    *host = NULL;
    if (answer->node == ORACLE_NONE)
        return -ENXIO;
    if (answer->readonly)
        return -EACCES;
    if (oracle_mapped(&driver->begun, answer, true)) {
        *host = host_of(driver, answer);
        return 0;
    }
    return driver->begun.nodes[answer->node].kind == MEMORY_REGION_RESERVATION ? -ENXIO : 0;
}

static void check_write(struct driver *driver, const struct side *side, unsigned unit)
{
    const struct oracle_answer *answer = &side->shown.answers[unit];
    uint64_t address = unit_address(driver, unit);
    char *host, byte = 0x5e;
    int result = expected_write(driver, answer, &host);
    char before = host ? *host : 0;
    EXPECT(driver, address_space_write(side->space, address, &byte, 1) == result);
    EXPECT(driver, !host || *host == byte);
    if (host)
        *host = before;
}

static void check_access(struct driver *driver, const struct side *side, unsigned unit)
{
    const struct oracle_answer *answer = &side->shown.answers[unit];
    uint64_t address = unit_address(driver, unit);
    uint8_t wanted, byte = 0;
    int result = expected_read(driver, answer, &wanted);
    EXPECT(driver, address_space_read(side->space, address, &byte, 1) == result);
    EXPECT(driver, byte == wanted);
    for (int write = 0; write < 2; write++) {
        struct guest_mapping mapping;
        bool mapped = oracle_mapped(&driver->begun, answer, write);
        EXPECT(driver, guest_map(side->space, address, 1, write, &mapping) == (mapped ? 0 : -EFAULT));
        if (!mapped)
            continue;
        EXPECT(driver, mapping.count == 1 && mapping.iov[0].iov_base == host_of(driver, answer));
        guest_unmap(&mapping, 0);
    }
}

void check_side(struct driver *driver, struct side *side)
{
    check_view(driver, side);
    for (unsigned i = 0; i < driver->begun.units; i++) {
        check_access(driver, side, i);
        if (!dirty_clients(driver))
            check_write(driver, side, i); /* which marks pages */
    }
}

static bool kvm_has(const struct fake_kvm *kvm, const struct oracle_ioeventfd *wanted)
{
    for (size_t i = 0; i < kvm->ioeventfd_count; i++) {
        const struct kvm_ioeventfd *found = &kvm->ioeventfds[i];
        unsigned flags = wanted->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0;
        if (found->addr == wanted->place && found->len == wanted->length && found->fd == wanted->fd &&
            found->flags == flags && found->datamatch == wanted->data)
            return true;
    }
    return false;
}

static bool kvm_has_zone(const struct fake_kvm *kvm, const struct oracle_zone *wanted)
{
    for (size_t i = 0; i < kvm->zone_count; i++)
        if (kvm->zones[i].addr == wanted->place && kvm->zones[i].size == wanted->size && !kvm->zones[i].pio)
            return true;
    return false;
}

static void check_slot(struct driver *driver, unsigned unit)
{
    uint64_t address = unit_address(driver, unit);
    const struct oracle_answer *answer = &driver->sides[0].shown.answers[unit];
    const struct kvm_userspace_memory_region *slot = fake_kvm_find(&driver->kvm, address);
    EXPECT(driver, !slot == !oracle_mapped(&driver->begun, answer, false));
    if (!slot)
        return;
    bool writable = oracle_mapped(&driver->begun, answer, true);
    bool logs = slot->flags & KVM_MEM_LOG_DIRTY_PAGES;
    EXPECT(driver, !(slot->flags & KVM_MEM_READONLY) == writable);
    EXPECT(driver, logs ? writable : !writable || !answer->log);
    EXPECT(driver, !logs || answer->log || log_differs(driver));
    EXPECT(driver,
           slot->userspace_addr + (address - slot->guest_phys_addr) == (uintptr_t)host_of(driver, answer));
}

/* Whether every page of `slot` is still what it was. */
static bool slot_right(const struct driver *driver, const struct kvm_userspace_memory_region *slot)
{
    for (uint64_t at = 0; at < slot->memory_size; at += driver->begun.unit) {
        uint64_t unit = (slot->guest_phys_addr + at - driver->begun.base) / driver->begun.unit;
        const struct oracle_answer *answer = &driver->sides[0].shown.answers[unit];
        bool writable = !(slot->flags & KVM_MEM_READONLY);
        if (!oracle_mapped(&driver->begun, answer, false) ||
            oracle_mapped(&driver->begun, answer, true) != writable ||
            (uintptr_t)host_of(driver, answer) != slot->userspace_addr + at)
            return false;
    }
    return true;
}

typedef const struct kvm_userspace_memory_region slot_type;

/* Whether both map the same memory in the same way, wherever they do. */
static bool same_memory(slot_type *a, slot_type *b)
{
    return a->memory_size == b->memory_size && a->userspace_addr == b->userspace_addr &&
           !((a->flags ^ b->flags) & KVM_MEM_READONLY);
}

static bool same_slot(slot_type *a, slot_type *b)
{
    return same_memory(a, b) && a->guest_phys_addr == b->guest_phys_addr;
}

/* How many slots of `kvm` map the memory of `slot`; `*last` is one of them. */
static unsigned count_same(const struct fake_kvm *kvm, slot_type *slot, slot_type **last)
{
    unsigned count = 0;
    for (unsigned i = 0; i < kvm->slot_numbers; i++) {
        if (!kvm->slots[i].memory_size || !same_memory(&kvm->slots[i], slot))
            continue;
        *last = &kvm->slots[i];
        count++;
    }
    return count;
}

/* Whether a slot of `before` that is still there, here or elsewhere, lay where `slot` is. */
static bool was_in_the_way(const struct driver *driver, const struct fake_kvm *before, slot_type *slot)
{
    for (unsigned i = 0; i < before->slot_numbers; i++) {
        slot_type *old = &before->slots[i], *new;
        if (old->memory_size && !same_memory(old, slot) &&
            old->guest_phys_addr < slot->guest_phys_addr + slot->memory_size &&
            slot->guest_phys_addr < old->guest_phys_addr + old->memory_size &&
            count_same(&driver->kvm, old, &new))
            return true;
    }
    return false;
}

/*
 * A slot that has gone from where it was: if it is the only one that can have become another, it has moved.
 * One that begins or ceases to log on its way is made anew; it does so where a region still logs, because a
 * client could not be stopped, and the one that comes in its place does not.
 */
static void check_moved(struct driver *driver, const struct fake_kvm *before, unsigned number)
{
    slot_type *old = &before->slots[number], *other, *new;
    if (count_same(before, old, &other) != 1 || count_same(&driver->kvm, old, &new) != 1)
        return;
    if ((old->flags ^ new->flags) & KVM_MEM_LOG_DIRTY_PAGES)
        return;
    if (!was_in_the_way(driver, before, new))
        EXPECT(driver, number < driver->kvm.slot_numbers && new == &driver->kvm.slots[number]);
}

void check_kept(struct driver *driver, const struct fake_kvm *before)
{
    for (unsigned i = 0; i < before->slot_numbers; i++) {
        slot_type *old = &before->slots[i];
        if (!old->memory_size || same_slot(&driver->kvm.slots[i], old))
            continue;
        EXPECT(driver, !slot_right(driver, old));
        if (!has_failed(driver))
            check_moved(driver, before, i);
    }
}

void check_kvm(struct driver *driver)
{
    const struct oracle_view *view = &driver->sides[0].shown;
    const struct fake_kvm *kvm = &driver->kvm;
    EXPECT(driver, !kvm->broken);
    for (unsigned i = 0; i < driver->begun.units; i++)
        check_slot(driver, i);
    EXPECT(driver, kvm->ioeventfd_count == view->ioeventfd_count);
    for (unsigned i = 0; i < view->ioeventfd_count; i++)
        EXPECT(driver, kvm_has(kvm, &view->ioeventfds[i]));
    EXPECT(driver, kvm->zone_count == view->zone_count);
    for (unsigned i = 0; i < view->zone_count; i++)
        EXPECT(driver, kvm_has_zone(kvm, &view->zones[i]));
}
