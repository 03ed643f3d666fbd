/*
 * What the tests of virtqueues share: guest RAM at address 0 with a hole behind it, a queue in it, and random
 * numbers.
 */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/queue.h"
#include "memory/address_space.h"
#include "memory/dirty.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"

#define RAM_SIZE    (4 * MIB)
#define DESCRIPTORS 0x10000
#define DRIVER      0x20000
#define DEVICE      0x30000
#define TABLES      0x100000 /* indirect ones */
#define DATA        0x200000

struct fixture {
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root, ram, other;
    struct address_space *space;
    uint8_t *host;
    struct virtqueue_config config;
    struct virtqueue *queue;
    uint64_t random;
    struct error err;
};

static inline void fixture_start(struct fixture *f)
{
    *f = (struct fixture){.memory = memory_create(), .random = 1};
    cr_assert_eq(ram_block_create("ram", RAM_SIZE, 0, &f->block, NULL), 0);
    f->host = f->block->host;
    cr_assert_eq(memory_region_init_container(&f->root, f->memory, "root", MEMORY_SIZE_MAX, NULL), 0);
    cr_assert_eq(memory_region_init_ram(&f->ram, f->memory, "ram", f->block, 0, RAM_SIZE, NULL), 0);
    cr_assert_eq(memory_region_init_reservation(&f->other, f->memory, "other", 0x1000, NULL), 0);
    cr_assert_eq(memory_region_add_subregion(&f->root, 0, &f->ram, 0, NULL), 0);
    cr_assert_eq(memory_region_add_subregion(&f->root, GIB, &f->other, 0, NULL), 0);
    cr_assert_eq(address_space_create(f->memory, "memory", &f->root, &f->space, NULL), 0);
    f->config = (struct virtqueue_config){
        .name = "disk queue 0",
        .space = f->space,
        .size = 8,
        .descriptors = DESCRIPTORS,
        .driver = DRIVER,
        .device = DEVICE,
        .indirect = true,
    };
}

static inline void fixture_queue(struct fixture *f)
{
    cr_assert_eq(virtqueue_create(&f->config, &f->queue, &f->err), 0, "%s", f->err.message);
}

/* The first part of the end, after which other regions can be destroyed. */
static inline void fixture_take_down(struct fixture *f)
{
    virtqueue_destroy(f->queue);
    memory_synchronize(f->memory); /* a queue that still held a view would hold this up for ever */
    memory_region_remove_all_subregions(&f->root, NULL);
    address_space_destroy(f->space);
}

static inline void fixture_free(struct fixture *f)
{
    memory_region_destroy(&f->ram);
    memory_region_destroy(&f->other);
    memory_region_destroy(&f->root);
    memory_destroy(f->memory);
    ram_block_destroy(f->block);
}

static inline void fixture_end(struct fixture *f)
{
    fixture_take_down(f);
    fixture_free(f);
}

/* A number below `limit`. */
static inline unsigned pick(struct fixture *f, unsigned limit)
{
    f->random ^= f->random << 13;
    f->random ^= f->random >> 7;
    f->random ^= f->random << 17;
    return (unsigned)(f->random >> 16) % limit;
}
