/*
 * The dirty bits of KVM's slots, by KVM_GET_DIRTY_LOG with or without manual protection, or by rings
 * (memory/kvm_dirty_ring.h): a source for memory/dirty.h.
 *
 * A bit that is set in KVM means that the page is not protected: further writes to it go unnoticed, until the
 * bit is cleared. In mode get that is when it is read. In mode clear a bit that was read stays set, and the
 * page unprotected; it is `pending`. So three things hold for each page of a slot that logs:
 *
 *   1. A bit becomes pending only when this has marked the page for all clients there are.
 *   2. Only a client that takes a page unmarks it, and only for himself; and then, by kvm_dirty_watch(), the
 *      bit is cleared if it was pending. So while a bit is pending no client has seen the page as clean, and
 *      what is written to it unnoticed is in what they will copy.
 *   3. A bit that is not pending is never cleared, because other clients have not heard of it.
 *
 * A client that starts while bits are pending is the exception to 2: he takes all pages first, or else hears
 * of them once too often, because every sync reports pending bits too. That costs the others nothing: for
 * them these pages are marked already.
 *
 * A slot that begins to log in place does so for a client that starts, for whom all pages are marked: so
 * where KVM sets all bits initially they are all pending, and nothing is protected before a client takes it.
 * A slot that is created while others log must not report pages that nobody wrote, so it is cleared at once,
 * while the vCPUs are stopped. Where that fails, or bits cannot be read that are about to be lost, all pages
 * are marked.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>

#include "memory/dirty.h"
#include "memory/kvm_dirty_ring.h"

struct error;
struct kvm_listener_config;
struct kvm_slot;
struct ram_block;

LIST_HEAD(kvm_slot_logging, kvm_slot);

/* A slot by the pages it shows. */
struct kvm_dirty_place {
    struct kvm_slot *slot;
    uint64_t last_end; /* the greatest end, in the same block, of this slot and those before it */
};

struct kvm_dirty {
    const struct kvm_listener_config *config;
    struct dirty_source source;
    struct kvm_slot_logging slots; /* those that log */
    size_t count;
    uint64_t *buffer; /* enough for the bits of each slot that logs */
    size_t buffer_words;
    struct kvm_dirty_place *places; /* of all slots that log, sorted, unless stale */
    size_t place_capacity;
    bool stale;
    struct kvm_dirty_rings rings;
};

/* `config` is borrowed. */
void kvm_dirty_init(struct kvm_dirty *dirty, const struct kvm_listener_config *config);
void kvm_dirty_destroy(struct kvm_dirty *dirty);

/* Takes the memory that `slot` needs to log, under a number below `ids`. False where memory is short. */
bool kvm_dirty_reserve(struct kvm_dirty *dirty, struct kvm_slot *slot, size_t ids);

/* Frees that of a slot that does not log. */
void kvm_dirty_release(struct kvm_slot *slot);

/* KVM is about to log `slot`: vCPUs that run may put it into their rings as soon as it does. */
void kvm_dirty_expect(struct kvm_dirty *dirty, struct kvm_slot *slot);

/* It was not to be. */
void kvm_dirty_unexpect(struct kvm_dirty *dirty, struct kvm_slot *slot);

/* KVM has begun to log `slot`, which was expected, and which it has just created, or which was there before.
 */
void kvm_dirty_begin(struct kvm_dirty *dirty, struct kvm_slot *slot, bool created);

/* Adds what KVM knows of `slot`, which is about to go, to the bitmaps. vCPUs are stopped. KVM's -errno. */
int kvm_dirty_harvest(struct kvm_dirty *dirty, struct kvm_slot *slot);

/* KVM does not log it any more. */
void kvm_dirty_end(struct kvm_dirty *dirty, struct kvm_slot *slot);

/* Marks all its pages: nobody knows better. */
void kvm_dirty_mark_all(const struct kvm_slot *slot);

/* Pages of `block` that a client takes. */
struct kvm_dirty_taken {
    struct ram_block *block;
    uint64_t first, count;
    const uint64_t *bitmap;
};

/* Mode clear: has KVM protect those again that are pending. KVM's -errno. (memory/kvm_dirty_watch.c) */
int kvm_dirty_watch(struct kvm_dirty *dirty, const struct kvm_dirty_taken *taken);

/* Clears, in KVM, the bits of `bitmap` of which the first is page `first` of the slot. KVM's -errno. */
int kvm_dirty_clear(const struct kvm_dirty *dirty, const struct kvm_slot *slot, uint64_t first,
                    uint64_t count, uint64_t *bitmap);

/* Whether a slot that KVM creates starts with all bits set, so that it is to be cleared. */
bool kvm_dirty_starts_dirty(const struct kvm_dirty *dirty);
