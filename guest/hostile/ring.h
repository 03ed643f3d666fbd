/*
 * Virtqueues for a driver that keeps to no rule, split and packed: chains are put together well, and are then
 * to be spoilt in memory. No field is checked, no kick left out.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define RING_SIZE       256 /* what block devices have at most */

#define FLAG_NEXT       1
#define FLAG_WRITE      2
#define FLAG_INDIRECT   4

/* The words of `driver` and `device` in a split ring. */
#define RING_FLAGS      0
#define RING_INDEX      1
#define RING_ENTRIES    2
#define AVAILABLE_EVENT (RING_ENTRIES + RING_SIZE) /* of `driver`: when it wants to be interrupted */

/* Split: flags, then the next one. Packed: the buffer id, then flags. */
struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t third, fourth;
};

struct ring_memory {
    struct descriptor descriptors[RING_SIZE] __attribute__((aligned(4096)));
    uint16_t driver[RING_ENTRIES + RING_SIZE + 2] __attribute__((aligned(4096)));
    uint16_t device[RING_ENTRIES + 4 * RING_SIZE + 2] __attribute__((aligned(4096)));
};

struct ring {
    struct ring_memory *memory;
    bool packed;
    uint16_t base;      /* where the chain that is being made begins */
    uint16_t count;     /* its descriptors */
    uint16_t available; /* split: chains offered */
    uint16_t used;      /* split: chains taken back; packed: where the next one is */
    bool wrap, used_wrap;
    uint16_t entries[RING_SIZE]; /* of the chain that begins there */
};

/* Begins with an empty one. */
void ring_begin(struct ring *ring, struct ring_memory *memory, bool packed);

/* Adds a descriptor to the chain that is being made, and returns it. `flags` without NEXT, which the one
 * before gets. */
struct descriptor *ring_add(struct ring *ring, uint64_t address, uint32_t length, uint16_t flags);

/* The fields that the layouts keep in different places, of descriptors in rings and in tables. */
uint16_t *descriptor_flags(const struct ring *ring, struct descriptor *descriptor);
uint16_t *descriptor_link(const struct ring *ring, struct descriptor *descriptor);

/* Hands the chain over, and returns its id. No kick. */
uint16_t ring_offer(struct ring *ring);

/* Hands over `count` entries of the split ring that are there already. */
void ring_offer_entries(struct ring *ring, uint16_t count);

/* Takes a chain that has come back: its id, or -1 if there is none. */
int ring_take(struct ring *ring);
