/*
 * What the files of the fake KVM share.
 */
#pragma once

#include "tests/support/fake_kvm.h"

#define FAKE_PAGE 4096

/* A slot's dirty marks. `bits` is NULL where it does not log. */
struct fake_log {
    uint64_t *bits;
    uint64_t *backup; /* what was written without a vCPU, with rings */
};

struct fake_span {
    uint64_t start, size;
};

/* Lets vCPUs do what they do, if they run. */
void fake_meanwhile(struct fake_kvm *kvm);

/* Begins a call. Whether it is to fail, with kvm->fail_with. */
bool fake_call(struct fake_kvm *kvm);

/* Notes that a rule was broken. Returns -`code`. */
int fake_broken(struct fake_kvm *kvm, int code, const char *rule);

/* Makes an array of `size` bytes an item hold `count`. False where memory is short. */
bool fake_reserve(void *array, size_t count, size_t size);

/* Slots (fake_kvm.c). */
struct fake_log *fake_log_of(struct fake_kvm *kvm, uint32_t slot);

/* Ioeventfds and coalesced zones (fake_kvm_items.c). */
int fake_ioeventfd(void *opaque, const struct kvm_ioeventfd *request);
int fake_register_zone(void *opaque, const struct kvm_coalesced_mmio_zone *zone);
int fake_unregister_zone(void *opaque, const struct kvm_coalesced_mmio_zone *zone);
void fake_items_copy(struct fake_kvm *to, const struct fake_kvm *from);
bool fake_items_equal(const struct fake_kvm *a, const struct fake_kvm *b);
void fake_items_free(struct fake_kvm *kvm);

/* Dirty tracking (fake_kvm_dirty.c). A slot is about to have these flags and this many pages, or not be. */
int fake_log_change(struct fake_kvm *kvm, uint32_t slot, bool logs, uint64_t pages);
int fake_get_dirty_log(void *opaque, struct kvm_dirty_log *request);
int fake_clear_dirty_log(void *opaque, struct kvm_clear_dirty_log *request);
int fake_reset_dirty_rings(void *opaque);
void fake_stop_vcpus(void *opaque);
void fake_resume_vcpus(void *opaque);
void fake_dirty_free(struct fake_kvm *kvm);
