#include "memory/kvm_slots.h"

#include <stdlib.h>

#include "base/error.h"
#include "memory/kvm_dirty.h"
#include "memory/kvm_listener.h"
#include "memory/region.h"

/* Where a slot is, before or after an edit. */
struct place {
    uint64_t address;
    bool logs;
};

static int compare_addresses(const struct kvm_slot *a, const struct kvm_slot *b)
{
    return a->address < b->address ? -1 : a->address > b->address;
}

RB_GENERATE_INTERNAL(kvm_slot_tree, kvm_slot, by_address, compare_addresses, __attribute__((unused)) static)

struct kvm_slot *kvm_slots_from(const struct kvm_slots *self, uint64_t address)
{
    struct kvm_slot *found = NULL;
    for (struct kvm_slot *slot = RB_ROOT(&self->tree); slot;) {
        bool behind = kvm_slot_end(slot) > address;
        found = behind ? slot : found;
        slot = behind ? RB_LEFT(slot, by_address) : RB_RIGHT(slot, by_address);
    }
    return found;
}

struct kvm_slot *kvm_slot_next(struct kvm_slot *slot)
{
    return RB_NEXT(kvm_slot_tree, , slot);
}

static int set_slot(const struct kvm_slots *self, const struct kvm_slot *slot, struct place place,
                    uint64_t size)
{
    uint32_t flags = (slot->readonly ? KVM_MEM_READONLY : 0) | (place.logs ? KVM_MEM_LOG_DIRTY_PAGES : 0);
    struct kvm_userspace_memory_region region = {
        .slot = slot->id,
        .flags = size ? flags : 0,
        .guest_phys_addr = place.address,
        .memory_size = size,
        .userspace_addr = (uintptr_t)slot->host,
    };
    return self->config->ops->set_user_memory_region(self->config->opaque, &region);
}

/* KVM is about to forget what was written to the slot. On the way back that is no reason to fail. */
static int harvest(struct kvm_slots *self, struct kvm_slot *slot)
{
    int result = kvm_dirty_harvest(self->dirty, slot);
    if (!result || !self->going_back)
        return result;
    kvm_dirty_mark_all(slot);
    return 0;
}

static int delete_slot(struct kvm_slots *self, struct kvm_slot *slot, struct place from)
{
    int result = from.logs ? harvest(self, slot) : 0;
    if (!result)
        result = set_slot(self, slot, from, 0);
    if (!result && from.logs)
        kvm_dirty_end(self->dirty, slot);
    return result;
}

/* A slot that may begin to log. */
static int set_logging_slot(struct kvm_slots *self, struct kvm_slot *slot, struct place to)
{
    if (to.logs)
        kvm_dirty_expect(self->dirty, slot);
    int result = set_slot(self, slot, to, slot->size);
    if (result && to.logs)
        kvm_dirty_unexpect(self->dirty, slot);
    return result;
}

static int create_slot(struct kvm_slots *self, struct kvm_slot *slot, struct place to)
{
    int result = set_logging_slot(self, slot, to);
    if (!result && to.logs)
        kvm_dirty_begin(self->dirty, slot, true);
    return result;
}

static int relabel_slot(struct kvm_slots *self, struct kvm_slot *slot, struct place to)
{
    int result = set_logging_slot(self, slot, to);
    if (result)
        return result;
    if (!to.logs) {
        kvm_dirty_end(self->dirty, slot);
        return 0;
    }
    kvm_dirty_begin(self->dirty, slot, false);
    if (self->going_back)
        kvm_dirty_mark_all(slot);
    return 0;
}

/* KVM keeps the dirty bits of a slot that it moves. */
static int move_slot(struct kvm_slots *self, struct kvm_slot *slot, struct place from, struct place to)
{
    if (!set_slot(self, slot, to, slot->size))
        return 0;
    int result = delete_slot(self, slot, from);
    if (result)
        return result;
    result = create_slot(self, slot, to);
    if (result && create_slot(self, slot, from))
        self->lost = true;
    return result;
}

static int do_step(struct kvm_slots *self, const struct kvm_step *step)
{
    struct kvm_slot *slot = step->slot;
    struct place old = {slot->address, slot->logs}, new = {slot->new_address, slot->new_logs};
    bool back = self->going_back;
    switch (step->kind) {
    case KVM_STEP_DELETE:
        return back ? create_slot(self, slot, old) : delete_slot(self, slot, old);
    case KVM_STEP_CREATE:
        return back ? delete_slot(self, slot, new) : create_slot(self, slot, new);
    case KVM_STEP_MOVE:
        return back ? move_slot(self, slot, new, old) : move_slot(self, slot, old, new);
    case KVM_STEP_RELABEL:
        return relabel_slot(self, slot, back ? old : new);
    }
    return 0;
}

static int step_error(const struct kvm_step *step, int result, struct error *err)
{
    const struct kvm_slot *slot = step->slot;
    bool comes = step->kind == KVM_STEP_CREATE || step->kind == KVM_STEP_MOVE;
    unsigned long long first = comes ? slot->new_address : slot->address, last = first + slot->size - 1;
    if (step->kind == KVM_STEP_DELETE)
        return error_set_errno(err, -result, "KVM cannot remove the memory slot from 0x%llx to 0x%llx", first,
                               last);
    const char *what = comes ? "map it" : slot->new_logs ? "log writes to it" : "stop logging writes to it";
    return error_set_errno(err, -result, "region %s: KVM cannot %s from 0x%llx to 0x%llx", slot->region->name,
                           what, first, last);
}

static int do_steps(struct kvm_slots *self, struct error *err)
{
    for (self->done = 0; self->done < self->step_count; self->done++) {
        const struct kvm_step *step = &self->steps[self->done];
        int result = do_step(self, step);
        if (result)
            return step_error(step, result, err);
    }
    return 0;
}

/* Undoes the steps done so far. Returns KVM's first error. */
static int take_back(struct kvm_slots *self)
{
    int result = 0;
    self->going_back = true;
    while (self->done) {
        int failed = do_step(self, &self->steps[--self->done]);
        result = result ? result : failed;
    }
    self->going_back = false;
    return result;
}

static void stop_vcpus(const struct kvm_slots *self, bool wanted)
{
    if (wanted && self->config->ops->stop_vcpus)
        self->config->ops->stop_vcpus(self->config->opaque);
}

static void resume_vcpus(const struct kvm_slots *self, bool stopped)
{
    if (stopped && self->config->ops->resume_vcpus)
        self->config->ops->resume_vcpus(self->config->opaque);
}

int kvm_slots_apply(struct kvm_slots *self, struct error *err)
{
    bool stopped = self->stop;
    stop_vcpus(self, stopped);
    int result = do_steps(self, err);
    if (result) {
        stop_vcpus(self, !stopped && self->stop_back);
        stopped = stopped || self->stop_back;
        if (take_back(self) || self->lost)
            error_prefix(err, 0, "memory slots are lost, because KVM could not go back after");
        self->lost = false;
    }
    resume_vcpus(self, stopped);
    return result;
}

int kvm_slots_revert(struct kvm_slots *self, struct error *err)
{
    stop_vcpus(self, self->stop_back);
    int result = take_back(self);
    resume_vcpus(self, self->stop_back);
    self->lost = false;
    return result ? error_set_errno(err, -result, "KVM does not take a memory slot again") : 0;
}

/* Takes what goes or moves out of the tree. */
static void unlink_old(struct kvm_slots *self)
{
    for (size_t i = 0; i < self->step_count; i++) {
        const struct kvm_step *step = &self->steps[i];
        if (step->kind == KVM_STEP_DELETE || step->kind == KVM_STEP_MOVE)
            RB_REMOVE(kvm_slot_tree, &self->tree, step->slot);
    }
}

static void settle(struct kvm_slots *self, const struct kvm_step *step)
{
    struct kvm_slot *slot = step->slot;
    if (step->kind == KVM_STEP_DELETE && slot->fate == KVM_SLOT_GOES) {
        kvm_dirty_release(slot);
        free(slot);
        return;
    }
    if (step->kind == KVM_STEP_DELETE)
        return; /* it comes again */
    slot->address = slot->new_address;
    slot->logs = slot->new_logs;
    slot->region = NULL;
    slot->fate = KVM_SLOT_STAYS;
    slot->visited = slot->placed = false;
    if (step->kind != KVM_STEP_RELABEL)
        RB_INSERT(kvm_slot_tree, &self->tree, slot);
    if (!slot->logs)
        kvm_dirty_release(slot);
}

void kvm_slots_commit(struct kvm_slots *self)
{
    if (self->done < self->step_count) {
        kvm_slots_forget(self);
        return;
    }
    unlink_old(self);
    for (size_t i = 0; i < self->step_count; i++)
        settle(self, &self->steps[i]);
    self->count = self->count + self->added.count - self->doomed.count;
    kvm_slots_empty_lists(self);
}

void kvm_slots_init(struct kvm_slots *self, const struct kvm_listener_config *config, struct kvm_dirty *dirty)
{
    *self = (struct kvm_slots){.config = config, .dirty = dirty};
    RB_INIT(&self->tree);
    kvm_slots_empty_lists(self);
}

void kvm_slots_destroy(struct kvm_slots *self)
{
    self->going_back = true;
    stop_vcpus(self, self->count);
    for (struct kvm_slot *slot; (slot = RB_MIN(kvm_slot_tree, &self->tree));) {
        delete_slot(self, slot, (struct place){slot->address, slot->logs});
        RB_REMOVE(kvm_slot_tree, &self->tree, slot);
        kvm_dirty_release(slot);
        free(slot);
    }
    resume_vcpus(self, self->count);
    free(self->free_ids);
    free(self->steps);
}
