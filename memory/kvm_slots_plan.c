#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/internal.h"
#include "memory/kvm_dirty.h"
#include "memory/kvm_listener.h"
#include "memory/kvm_slots_plan.h"
#include "memory/ram_block.h"

/* KVM takes less than 2^31 pages in a slot; this is half of that, so that all boundaries are round. */
#define SLOT_SIZE_MAX ((uint64_t)RAM_PAGE_SIZE << 30)

void kvm_slots_empty_lists(struct kvm_slots *self)
{
    kvm_slot_list_empty(&self->doomed);
    kvm_slot_list_empty(&self->moving);
    kvm_slot_list_empty(&self->exchanged);
    kvm_slot_list_empty(&self->relabelled);
    kvm_slot_list_empty(&self->added);
    self->step_count = self->done = 0;
}

/* Puts slots back into the state of those that a change does not touch. */
static void spare(struct kvm_slot_list *list)
{
    struct kvm_slot *slot;
    TAILQ_FOREACH (slot, &list->slots, listed) {
        slot->fate = KVM_SLOT_STAYS;
        slot->region = NULL;
        slot->visited = slot->placed = false;
        if (!slot->logs)
            kvm_dirty_release(slot);
    }
    kvm_slot_list_empty(list);
}

void kvm_slots_discard(struct kvm_slots *self, struct kvm_slot *slot)
{
    kvm_slot_list_drop(&self->added, slot);
    kvm_dirty_release(slot);
    free(slot);
}

/* Gives up what is planned; the numbers are as they were. */
static void start_over(struct kvm_slots *self)
{
    struct kvm_slot *next;
    for (struct kvm_slot *slot = TAILQ_FIRST(&self->added.slots); slot; slot = next) {
        next = TAILQ_NEXT(slot, listed);
        kvm_dirty_release(slot);
        free(slot);
    }
    spare(&self->doomed);
    spare(&self->moving);
    spare(&self->exchanged);
    spare(&self->relabelled);
    kvm_slots_empty_lists(self);
}

void kvm_slots_forget(struct kvm_slots *self)
{
    start_over(self);
    self->ids = self->old_ids;
    self->free_count = self->old_free_count;
}

/* ---- What goes ---- */

/* Whether `view` shows, wherever `slot` is, just what it maps; and whether somebody wants to know of writes.
 */
static bool slot_right(const struct kvm_slot *slot, const struct flat_view *view, bool *logs)
{
    uint64_t at = slot->address, end = kvm_slot_end(slot);
    const struct flat_range *range = flat_view_from(view, at);
    for (*logs = false; at < end; range = flat_view_next(view, range)) {
        if (!range || range->start > at)
            return false;
        const char *host = flat_range_host(range, false);
        bool readonly = !flat_range_host(range, true);
        if (!host || readonly != slot->readonly ||
            host + (at - range->start) != slot->host + (at - slot->address))
            return false;
        *logs = *logs || (range->log && !readonly);
        at = flat_range_end(range) < end ? (uint64_t)flat_range_end(range) : end;
    }
    return true;
}

static void doom(struct kvm_slots *self, struct kvm_slot *slot)
{
    slot->fate = KVM_SLOT_GOES;
    slot->new_logs = false;
    kvm_slot_list_push(&self->doomed, slot);
}

void kvm_slots_relabel(struct kvm_slots *self, struct kvm_slot *slot, bool logs,
                       const struct memory_region *region)
{
    slot->fate = KVM_SLOT_RELABELLED;
    slot->new_address = slot->address;
    slot->new_logs = logs;
    slot->region = region;
    kvm_slot_list_push(&self->relabelled, slot);
}

/* Decides about the slots that lie in `window`. `*span` grows to hold the doomed ones. */
static void judge(struct kvm_slots *self, const struct flat_view *view, const struct memory_window *window,
                  struct span *span)
{
    *span = span_hull(*span, (struct span){window->start, (__int128)window->end});
    struct kvm_slot *slot = kvm_slots_from(self, window->start);
    for (; slot && slot->address < window->end; slot = kvm_slot_next(slot)) {
        bool logs;
        if (slot->fate != KVM_SLOT_STAYS)
            continue;
        if (!slot_right(slot, view, &logs)) {
            doom(self, slot);
            *span = span_hull(*span, (struct span){slot->address, kvm_slot_end(slot)});
        } else if (logs != slot->logs) {
            kvm_slots_relabel(self, slot, logs, flat_view_find(view, slot->address)->region);
        }
    }
}

/* ---- What comes ---- */

static int add_slot(struct kvm_slots *self, const struct flat_range *range, uint64_t start, uint64_t size,
                    struct error *err)
{
    struct kvm_slot *slot = calloc(1, sizeof(*slot));
    if (!slot)
        return error_set(err, ENOMEM, "region %s: not enough memory for its slots", range->region->name);
    uint64_t offset = start - range->start;
    slot->size = size;
    slot->host = (char *)flat_range_host(range, false) + offset;
    slot->readonly = !flat_range_host(range, true);
    slot->block = range->region->block;
    slot->first_page = (range->region->block_offset + range->offset_in_region + offset) / RAM_PAGE_SIZE;
    slot->fate = KVM_SLOT_COMES;
    slot->new_address = slot->address = start;
    slot->new_logs = range->log && !slot->readonly;
    slot->region = range->region;
    kvm_slot_list_push(&self->added, slot);
    return 0;
}

static int add_slots(struct kvm_slots *self, const struct flat_range *range, uint64_t start, uint64_t end,
                     struct error *err)
{
    int result = 0;
    for (uint64_t size; start < end && !result; start += size) {
        size = end - start < SLOT_SIZE_MAX ? end - start : SLOT_SIZE_MAX;
        result = add_slot(self, range, start, size, err);
    }
    return result;
}

/* Adds what the slots that stay leave uncovered of `range` from `at` to `end`. */
static int cover_range(struct kvm_slots *self, const struct flat_range *range, uint64_t at, uint64_t end,
                       struct error *err)
{
    struct kvm_slot *slot = kvm_slots_from(self, at);
    for (; slot && slot->address < end; slot = kvm_slot_next(slot)) {
        if (slot->fate == KVM_SLOT_GOES)
            continue;
        int result = slot->address > at ? add_slots(self, range, at, slot->address, err) : 0;
        if (result)
            return result;
        at = kvm_slot_end(slot) < end ? kvm_slot_end(slot) : end;
    }
    return add_slots(self, range, at, end, err);
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

/* Adds what is to be mapped in `span` and is not. */
static int cover(struct kvm_slots *self, const struct flat_view *view, struct span span, struct error *err)
{
    const struct flat_range *range = flat_view_from(view, (uint64_t)span.start);
    for (; range && range->start < span.end; range = flat_view_next(view, range)) {
        if (!flat_range_host(range, false))
            continue;
        int result = check_mappable(range, err);
        struct span part = span_intersect(span, (struct span){range->start, (__int128)flat_range_end(range)});
        if (!result)
            result = cover_range(self, range, (uint64_t)part.start, (uint64_t)part.end, err);
        if (result)
            return result;
    }
    return 0;
}

/* What the windows ask for, slots that reach out of them included. */
static int plan_windows(struct kvm_slots *self, const struct memory_change *change, struct error *err)
{
    int result = 0;
    for (size_t i = 0; i < change->window_count && !result;) {
        struct span span = {0, 0};
        do
            judge(self, change->new_view, &change->windows[i++], &span);
        while (i < change->window_count && change->windows[i].start < span.end);
        result = cover(self, change->new_view, span, err);
    }
    return result;
}

/* The same as if there were no slots, so that each range has as few as possible. */
static int plan_afresh(struct kvm_slots *self, const struct flat_view *view, struct error *err)
{
    for (struct kvm_slot *slot = kvm_slots_from(self, 0); slot; slot = kvm_slot_next(slot))
        doom(self, slot);
    return cover(self, view, (struct span){0, (__int128)MEMORY_SIZE_MAX}, err);
}

/* ---- The steps ---- */

static bool reserve_logs(struct kvm_slots *self, const struct kvm_slot_list *list)
{
    struct kvm_slot *slot;
    TAILQ_FOREACH (slot, &list->slots, listed)
        if (slot->new_logs && !kvm_dirty_reserve(self->dirty, slot, self->ids + self->added.count))
            return false;
    return true;
}

/* Makes sure that nothing after this needs memory. */
static int reserve(struct kvm_slots *self, struct error *err)
{
    size_t count = self->count + self->added.count;
    size_t steps = self->doomed.count + 2 * self->moving.count + self->relabelled.count + self->added.count;
    if (memory_reserve(&self->steps, &self->step_capacity, steps, sizeof(*self->steps)) &&
        memory_reserve(&self->free_ids, &self->free_capacity, count, sizeof(uint32_t)) &&
        reserve_logs(self, &self->moving) && reserve_logs(self, &self->relabelled) &&
        reserve_logs(self, &self->added))
        return 0;
    return error_set(err, ENOMEM, "not enough memory for %zu memory slots", count);
}

/* Numbers the new slots. Those of doomed slots can be used again, because deletions come first. */
static void number_slots(struct kvm_slots *self)
{
    struct kvm_slot *slot;
    TAILQ_FOREACH (slot, &self->doomed.slots, listed)
        self->free_ids[self->free_count++] = slot->id;
    TAILQ_FOREACH (slot, &self->added.slots, listed)
        slot->id = self->free_count ? self->free_ids[--self->free_count] : self->ids++;
}

static void add_steps(struct kvm_slots *self, const struct kvm_slot_list *list, enum kvm_step_kind kind)
{
    struct kvm_slot *slot;
    TAILQ_FOREACH (slot, &list->slots, listed)
        self->steps[self->step_count++] = (struct kvm_step){kind, slot};
}

/* Whether the slot comes, or moves, to where one is that goes or moves: for a moment nothing would be there.
 */
static bool leaves_hole(const struct kvm_slots *self, const struct kvm_step *step)
{
    const struct kvm_slot *slot = step->slot;
    if (step->kind != KVM_STEP_MOVE && step->kind != KVM_STEP_CREATE)
        return false;
    const struct kvm_slot *other = kvm_slots_from(self, slot->new_address);
    return other && other->address < slot->new_address + slot->size;
}

/*
 * Whether dirty bits need the vCPUs stopped for a step: for the last bits of a slot that goes or moves; and
 * between a slot's creation and its first clear, where KVM sets all bits initially.
 */
static bool loses_bits(const struct kvm_slots *self, const struct kvm_step *step, bool back)
{
    bool goes = step->kind != KVM_STEP_CREATE && step->slot->logs;
    bool comes = step->kind != KVM_STEP_DELETE && step->slot->new_logs;
    if (step->kind == KVM_STEP_RELABEL)
        return false;
    return (back ? comes : goes) || ((back ? goes : comes) && kvm_dirty_starts_dirty(self->dirty));
}

static void choose_stops(struct kvm_slots *self)
{
    self->stop = self->stop_back = false;
    for (size_t i = 0; i < self->step_count; i++) {
        const struct kvm_step *step = &self->steps[i];
        bool hole = leaves_hole(self, step);
        self->stop = self->stop || hole || loses_bits(self, step, false);
        self->stop_back = self->stop_back || hole || loses_bits(self, step, true);
    }
}

static void make_steps(struct kvm_slots *self)
{
    add_steps(self, &self->doomed, KVM_STEP_DELETE);
    add_steps(self, &self->exchanged, KVM_STEP_DELETE);
    add_steps(self, &self->moving, KVM_STEP_MOVE);
    add_steps(self, &self->relabelled, KVM_STEP_RELABEL);
    add_steps(self, &self->added, KVM_STEP_CREATE);
    add_steps(self, &self->exchanged, KVM_STEP_CREATE);
}

/* Finds out whether what is planned needs no more slots than there are. */
static int fit(struct kvm_slots *self, struct error *err)
{
    kvm_slots_pair(self);
    size_t count = self->count - self->doomed.count + self->added.count;
    if (!self->added.count || count <= self->config->slots_max)
        return 0;
    return error_set(err, ENOSPC, "region %s: this needs %zu memory slots, and KVM has only %u",
                     TAILQ_LAST(&self->added.slots, kvm_slot_queue)->region->name, count,
                     self->config->slots_max);
}

static int plan(struct kvm_slots *self, const struct memory_change *change, struct error *err)
{
    int result = plan_windows(self, change, err);
    if (!result)
        result = fit(self, err);
    if (result != -ENOSPC || self->count == self->doomed.count + self->moving.count)
        return result;
    /* Slots that grew piece by piece may fit when each range has one again. */
    start_over(self);
    result = plan_afresh(self, change->new_view, err);
    return result ? result : fit(self, err);
}

int kvm_slots_plan(struct kvm_slots *self, const struct memory_change *change, struct error *err)
{
    self->old_ids = self->ids;
    self->old_free_count = self->free_count;
    int result = plan(self, change, err);
    if (!result)
        result = reserve(self, err);
    if (result) {
        start_over(self);
        return result;
    }
    number_slots(self);
    kvm_slots_order_moves(self);
    make_steps(self);
    choose_stops(self);
    return 0;
}
