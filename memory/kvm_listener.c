#include "memory/kvm_listener.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/internal.h"
#include "memory/ram_block.h"

/* KVM takes less than 2^31 pages in a slot; this is half of that, so that all boundaries are round. */
#define SLOT_SIZE_MAX ((uint64_t)RAM_PAGE_SIZE << 30)

struct slot {
    uint64_t address, size;
    char *host;
    bool readonly;
    bool doomed; /* by the change under way */
    bool gone;   /* and KVM has been told */
    uint32_t id;
    const struct memory_region *region; /* of a new slot, for errors; stale afterwards */
};

struct kvm_listener {
    struct memory_listener listener;
    struct kvm_listener_config config;
    struct slot *slots; /* by address */
    size_t count, capacity;

    /* Numbers of slots: those from `ids` on were never used, the others that no slot has are a stack. */
    uint32_t ids;
    uint32_t *free_ids;
    size_t free_count, free_capacity;

    /* The change under way: slots marked doomed go, and these come, of which `mapped` are there. */
    struct slot *added;
    size_t added_count, added_capacity, mapped;
    /* What it must leave behind if nothing comes of it. Popped numbers stay where they were until then. */
    uint32_t old_ids;
    size_t old_free_count;
};

static uint64_t slot_end(const struct slot *slot)
{
    return slot->address + slot->size;
}

/* The first slot that ends behind `address`. */
static size_t slot_from(const struct kvm_listener *self, uint64_t address)
{
    size_t low = 0, high = self->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (slot_end(&self->slots[middle]) > address)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Whether `view` shows, wherever `slot` is, just what it maps. */
static bool slot_right(const struct slot *slot, const struct flat_view *view)
{
    uint64_t at = slot->address, end = slot_end(slot);
    const struct flat_range *range = flat_view_from(view, at);
    for (; at < end; range = flat_view_next(view, range)) {
        if (!range || range->start > at)
            return false;
        const char *host = flat_range_host(range, false);
        bool readonly = !flat_range_host(range, true);
        if (!host || readonly != slot->readonly ||
            host + (at - range->start) != slot->host + (at - slot->address))
            return false;
        at = flat_range_end(range) < end ? (uint64_t)flat_range_end(range) : end;
    }
    return true;
}

/*
 * Marks the slots that are no longer right. Returns how many, and in `*span` the addresses where slots may be
 * missing then: of the change, and of all of each such slot.
 */
static size_t doom(struct kvm_listener *self, const struct memory_change *change, struct span *span)
{
    size_t doomed = 0;
    uint64_t start = change->windows->start;
    memory_size end = change->windows[change->window_count - 1].end;
    *span = (struct span){start, (__int128)end};
    for (size_t i = slot_from(self, start); i < self->count; i++) {
        struct slot *slot = &self->slots[i];
        if (slot->address >= end)
            break;
        slot->doomed = !slot_right(slot, change->new_view);
        doomed += slot->doomed;
        if (slot->doomed)
            *span = span_hull(*span, (struct span){slot->address, slot_end(slot)});
    }
    return doomed;
}

static bool add_slot(struct kvm_listener *self, const struct flat_range *range, uint64_t start, uint64_t end)
{
    for (uint64_t size; start < end; start += size) {
        size = end - start < SLOT_SIZE_MAX ? end - start : SLOT_SIZE_MAX;
        if (!memory_reserve(&self->added, &self->added_capacity, self->added_count + 1, sizeof(struct slot)))
            return false;
        self->added[self->added_count++] = (struct slot){
            .address = start,
            .size = size,
            .host = (char *)flat_range_host(range, false) + (start - range->start),
            .readonly = !flat_range_host(range, true),
            .region = range->region,
        };
    }
    return true;
}

/* Adds what the slots that stay leave uncovered of `range`. */
static bool cover(struct kvm_listener *self, const struct flat_range *range)
{
    uint64_t at = range->start, end = (uint64_t)flat_range_end(range);
    for (size_t i = slot_from(self, at); i < self->count && self->slots[i].address < end; i++) {
        const struct slot *slot = &self->slots[i];
        if (slot->doomed)
            continue;
        if (slot->address > at && !add_slot(self, range, at, slot->address))
            return false;
        at = slot_end(slot) < end ? slot_end(slot) : end;
    }
    return add_slot(self, range, at, end);
}

static int check_mappable(const struct flat_range *range, struct error *err)
{
    if (flat_range_end(range) == MEMORY_SIZE_MAX)
        return error_set(err, EINVAL, "region %s: KVM cannot map RAM in the last page of the address space",
                         range->region->name);
    uint64_t host = (uintptr_t)flat_range_host(range, false);
    if ((range->start | (uint64_t)range->size | host) % RAM_PAGE_SIZE == 0)
        return 0;
    return error_set(
        err, EINVAL,
        "region %s: its RAM from 0x%llx to 0x%llx does not begin and end at pages of %d, which KVM "
        "cannot map",
        range->region->name, (unsigned long long)range->start,
        (unsigned long long)(flat_range_end(range) - 1), RAM_PAGE_SIZE);
}

/* Adds what is to be mapped and is not in `span`. */
static int cover_all(struct kvm_listener *self, const struct flat_view *view, struct span span,
                     struct error *err)
{
    const struct flat_range *range = flat_view_from(view, (uint64_t)span.start);
    for (; range && range->start < span.end; range = flat_view_next(view, range)) {
        if (!flat_range_host(range, false))
            continue;
        int result = check_mappable(range, err);
        if (result)
            return result;
        if (!cover(self, range))
            return error_set(err, ENOMEM, "region %s: not enough memory for its slots", range->region->name);
    }
    return 0;
}

/* Makes sure that nothing after this needs memory, and that KVM has enough slots. */
static int reserve(struct kvm_listener *self, size_t doomed, struct error *err)
{
    size_t count = self->count + self->added_count;
    if (self->added_count && count - doomed > self->config.slots_max)
        return error_set(err, ENOSPC, "region %s: this needs %zu memory slots, and KVM has only %u",
                         self->added[self->added_count - 1].region->name, count - doomed,
                         self->config.slots_max);
    if (!memory_reserve(&self->slots, &self->capacity, count, sizeof(struct slot)) ||
        !memory_reserve(&self->free_ids, &self->free_capacity, count, sizeof(uint32_t)))
        return error_set(err, ENOMEM, "not enough memory for %zu memory slots", count);
    return 0;
}

static struct kvm_listener *from_listener(struct memory_listener *listener)
{
    return container_of(listener, struct kvm_listener, listener);
}

/* Numbers the new slots. Those of doomed slots can be used again, because deletions come first. */
static void number_slots(struct kvm_listener *self)
{
    self->old_ids = self->ids;
    self->old_free_count = self->free_count;
    for (size_t i = 0; i < self->count; i++)
        if (self->slots[i].doomed)
            self->free_ids[self->free_count++] = self->slots[i].id;
    for (size_t i = 0; i < self->added_count; i++)
        self->added[i].id = self->free_count ? self->free_ids[--self->free_count] : self->ids++;
}

/* Ends the change under way; the slots are as they were before it. */
static void forget_change(struct kvm_listener *self)
{
    for (size_t i = 0; i < self->count; i++)
        self->slots[i].doomed = false;
    self->added_count = 0;
}

/* Plans what to add, in `span`, when the doomed slots have gone. On failure nothing is planned or doomed. */
static int plan(struct kvm_listener *self, const struct flat_view *view, struct span span, size_t doomed,
                struct error *err)
{
    int result = cover_all(self, view, span, err);
    if (!result)
        result = reserve(self, doomed, err);
    if (result)
        forget_change(self);
    else
        number_slots(self);
    return result;
}

static int prepare(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct kvm_listener *self = from_listener(listener);
    if (self->config.ports)
        return 0;
    struct span span;
    size_t doomed = doom(self, change, &span);
    int result = plan(self, change->new_view, span, doomed, err);
    if (result == -ENOSPC && self->count > doomed) {
        /* Slots that grew piece by piece may fit when each range has one again. */
        for (size_t i = 0; i < self->count; i++)
            self->slots[i].doomed = true;
        result = plan(self, change->new_view, (struct span){0, (__int128)MEMORY_SIZE_MAX}, self->count, err);
    }
    return result;
}

static int set_slot(struct kvm_listener *self, const struct slot *slot, bool present)
{
    struct kvm_userspace_memory_region region = {
        .slot = slot->id,
        .flags = present && slot->readonly ? KVM_MEM_READONLY : 0,
        .guest_phys_addr = slot->address,
        .memory_size = present ? slot->size : 0,
        .userspace_addr = (uintptr_t)slot->host,
    };
    return self->config.ops->set_user_memory_region(self->config.opaque, &region);
}

/* Undoes the slot ioctls made so far. Returns the first error of KVM. */
static int take_back(struct kvm_listener *self)
{
    int result = 0;
    while (self->mapped) {
        int failed = set_slot(self, &self->added[--self->mapped], false);
        result = result ? result : failed;
    }
    for (size_t i = self->count; i-- > 0;) {
        struct slot *slot = &self->slots[i];
        int failed = slot->gone ? set_slot(self, slot, true) : 0;
        result = result ? result : failed;
        slot->gone = false;
    }
    return result;
}

static int slot_error(const struct slot *slot, int result, struct error *err)
{
    unsigned long long first = slot->address, last = slot_end(slot) - 1;
    if (!slot->region)
        return error_set_errno(err, -result, "KVM cannot remove the memory slot from 0x%llx to 0x%llx", first,
                               last);
    return error_set_errno(err, -result, "region %s: KVM cannot map it from 0x%llx to 0x%llx",
                           slot->region->name, first, last);
}

static int delete_doomed(struct kvm_listener *self, struct error *err)
{
    for (size_t i = 0; i < self->count; i++) {
        struct slot *slot = &self->slots[i];
        int result = slot->doomed ? set_slot(self, slot, false) : 0;
        if (result)
            return slot_error(slot, result, err);
        slot->gone = slot->doomed;
    }
    return 0;
}

static int map_added(struct kvm_listener *self, struct error *err)
{
    for (self->mapped = 0; self->mapped < self->added_count; self->mapped++) {
        const struct slot *slot = &self->added[self->mapped];
        int result = set_slot(self, slot, true);
        if (result)
            return slot_error(slot, result, err);
    }
    return 0;
}

static int apply(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct kvm_listener *self = from_listener(listener);
    int result = delete_doomed(self, err);
    if (!result)
        result = map_added(self, err);
    if (result && take_back(self))
        error_prefix(err, 0, "memory slots are lost, because KVM could not go back after");
    return result;
}

static int revert(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    int result = take_back(from_listener(listener));
    return result ? error_set_errno(err, -result, "KVM does not take a memory slot again") : 0;
}

static void insert(struct kvm_listener *self, const struct slot *slot)
{
    size_t at = slot_from(self, slot->address);
    memmove(&self->slots[at + 1], &self->slots[at], (self->count++ - at) * sizeof(*slot));
    self->slots[at] = *slot;
    self->slots[at].region = NULL;
}

static void commit(struct memory_listener *listener, const struct memory_change *change)
{
    struct kvm_listener *self = from_listener(listener);
    size_t kept = 0;
    for (size_t i = 0; i < self->count; i++)
        if (!self->slots[i].doomed)
            self->slots[kept++] = self->slots[i];
    self->count = kept;
    for (size_t i = 0; i < self->added_count; i++)
        insert(self, &self->added[i]);
    self->added_count = self->mapped = 0;
}

static void abort_change(struct memory_listener *listener, const struct memory_change *change)
{
    struct kvm_listener *self = from_listener(listener);
    if (self->config.ports)
        return;
    self->ids = self->old_ids;
    self->free_count = self->old_free_count;
    forget_change(self);
}

static int set_ioeventfd(struct memory_listener *listener, const struct flat_ioeventfd *ioeventfd,
                         uint32_t flags, struct error *err)
{
    const struct kvm_listener *self = from_listener(listener);
    flags |= self->config.ports ? KVM_IOEVENTFD_FLAG_PIO : 0;
    flags |= ioeventfd->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0;
    struct kvm_ioeventfd request = {
        .datamatch = ioeventfd->data,
        .addr = ioeventfd->address,
        .len = ioeventfd->length,
        .fd = ioeventfd->fd,
        .flags = flags,
    };
    int result = self->config.ops->ioeventfd(self->config.opaque, &request);
    if (!result)
        return 0;
    return error_set_errno(err, -result, "region %s: KVM refuses to %s the ioeventfd at 0x%llx",
                           ioeventfd->region->name, flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? "remove" : "add",
                           (unsigned long long)ioeventfd->address);
}

static int ioeventfd_del(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return set_ioeventfd(listener, ioeventfd, KVM_IOEVENTFD_FLAG_DEASSIGN, err);
}

static int ioeventfd_add(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return set_ioeventfd(listener, ioeventfd, 0, err);
}

static int set_zone(struct memory_listener *listener, const struct flat_zone *zone,
                    int (*set)(void *, const struct kvm_coalesced_mmio_zone *), struct error *err)
{
    const struct kvm_listener *self = from_listener(listener);
    if (!set)
        return 0;
    struct kvm_coalesced_mmio_zone request = {
        .addr = zone->address,
        .size = (uint32_t)zone->size,
        .pio = self->config.ports,
    };
    int result = zone->size > UINT32_MAX ? -EINVAL : set(self->config.opaque, &request);
    if (!result)
        return 0;
    return error_set_errno(err, -result, "region %s: KVM refuses the coalesced range at 0x%llx",
                           zone->region->name, (unsigned long long)zone->address);
}

static int coalesced_del(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err)
{
    return set_zone(listener, zone, from_listener(listener)->config.ops->unregister_coalesced, err);
}

static int coalesced_add(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err)
{
    return set_zone(listener, zone, from_listener(listener)->config.ops->register_coalesced, err);
}

static const struct memory_listener_ops listener_ops = {
    .prepare = prepare,
    .coalesced_del = coalesced_del,
    .coalesced_add = coalesced_add,
    .ioeventfd_del = ioeventfd_del,
    .ioeventfd_add = ioeventfd_add,
    .apply = apply,
    .revert = revert,
    .commit = commit,
    .abort = abort_change,
};

int kvm_listener_create(struct address_space *space, const struct kvm_listener_config *config,
                        struct kvm_listener **out, struct error *err)
{
    struct kvm_listener *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "not enough memory for a KVM listener");
    self->config = *config;
    self->listener = (struct memory_listener){
        .name = config->ports ? "kvm-ports" : "kvm-memory",
        .priority = MEMORY_LISTENER_PRIORITY_ACCELERATOR,
        .ops = &listener_ops,
    };
    int result = memory_listener_register(&self->listener, space, err);
    if (result)
        kvm_listener_destroy(self);
    else
        *out = self;
    return result;
}

void kvm_listener_destroy(struct kvm_listener *self)
{
    if (!self)
        return;
    memory_listener_unregister(&self->listener);
    free(self->slots);
    free(self->free_ids);
    free(self->added);
    free(self);
}
