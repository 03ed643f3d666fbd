/*
 * What the tests of memory/ share: a memory system with one address space, regions made in a line, and views
 * as text.
 */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"

#define PAGE      0x1000
#define BLOCK     (64 * PAGE)
#define REGIONS   32
#define TEXT_SIZE 4096

struct fixture {
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root;
    struct address_space *space;
    struct memory_region regions[REGIONS];
    unsigned count;
    struct error err;
    char text[TEXT_SIZE];
};

static inline uint64_t fixture_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0x8877665544332211u >> 8 * (offset % 8);
}

static inline void fixture_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
}

static const struct memory_region_ops fixture_ops = {
    .read = fixture_read,
    .write = fixture_write,
    .impl = {.max = 8, .unaligned = true},
    .valid = {.unaligned = true},
};

static inline void fixture_start(struct fixture *fixture)
{
    *fixture = (struct fixture){.memory = memory_create()};
    cr_assert_eq(ram_block_create("block", BLOCK, 0, &fixture->block, &fixture->err), 0);
    cr_assert_eq(memory_region_init_container(&fixture->root, fixture->memory, "root", MEMORY_SIZE_MAX, NULL),
                 0);
    cr_assert_eq(address_space_create(fixture->memory, "space", &fixture->root, &fixture->space, NULL), 0);
}

/* Takes everything apart: aliases were made after what they show. */
static inline void fixture_end(struct fixture *fixture)
{
    for (unsigned i = 0; i < fixture->count; i++)
        memory_region_remove_subregion(&fixture->regions[i], NULL);
    address_space_destroy(fixture->space);
    memory_synchronize(fixture->memory);
    for (unsigned i = fixture->count; i-- > 0;)
        memory_region_destroy(&fixture->regions[i]);
    memory_region_destroy(&fixture->root);
    memory_destroy(fixture->memory);
    ram_block_destroy(fixture->block);
}

static inline struct memory_region *next_region(struct fixture *fixture)
{
    cr_assert_lt(fixture->count, REGIONS);
    return &fixture->regions[fixture->count++];
}

static inline struct memory_region *container(struct fixture *fixture, const char *name, memory_size size)
{
    struct memory_region *region = next_region(fixture);
    cr_assert_eq(memory_region_init_container(region, fixture->memory, name, size, NULL), 0);
    return region;
}

static inline struct memory_region *ram(struct fixture *fixture, const char *name, memory_size size)
{
    struct memory_region *region = next_region(fixture);
    cr_assert_eq(memory_region_init_ram(region, fixture->memory, name, fixture->block, 0, size, NULL), 0);
    return region;
}

static inline struct memory_region *rom(struct fixture *fixture, const char *name, memory_size size)
{
    struct memory_region *region = next_region(fixture);
    cr_assert_eq(memory_region_init_rom(region, fixture->memory, name, fixture->block, 0, size, NULL), 0);
    return region;
}

static inline struct memory_region *rom_device(struct fixture *fixture, const char *name, memory_size size)
{
    struct memory_region *region = next_region(fixture);
    cr_assert_eq(memory_region_init_rom_device(region, fixture->memory, name, &fixture_ops, NULL,
                                               fixture->block, 0, size, NULL),
                 0);
    return region;
}

static inline struct memory_region *mmio(struct fixture *fixture, const char *name, memory_size size)
{
    struct memory_region *region = next_region(fixture);
    cr_assert_eq(memory_region_init_mmio(region, fixture->memory, name, &fixture_ops, NULL, size, NULL), 0);
    return region;
}

static inline struct memory_region *reservation(struct fixture *fixture, const char *name, memory_size size)
{
    struct memory_region *region = next_region(fixture);
    cr_assert_eq(memory_region_init_reservation(region, fixture->memory, name, size, NULL), 0);
    return region;
}

static inline struct memory_region *alias(struct fixture *fixture, const char *name,
                                          struct memory_region *target, uint64_t offset, memory_size size)
{
    struct memory_region *region = next_region(fixture);
    cr_assert_eq(memory_region_init_alias(region, fixture->memory, name, target, offset, size, NULL), 0);
    return region;
}

static inline void add(struct memory_region *container, uint64_t offset, struct memory_region *child,
                       int priority)
{
    struct error err = {""};
    int result = memory_region_add_subregion(container, offset, child, priority, &err);
    cr_assert_eq(result, 0, "%s", err.message);
}

/*
 * A view as text: "START+SIZE NAME@OFFSET" for each range, in hexadecimal, with "r" for read-only, "d" for
 * ROMD mode, "u" for unmergeable behind it.
 */
static inline const char *show(struct fixture *fixture, const struct flat_view *view)
{
    size_t length = 0;
    fixture->text[0] = 0;
    for (const struct flat_range *range = flat_view_from(view, 0); range;
         range = flat_view_next(view, range)) {
        const char *flags[] = {range->readonly ? "r" : "", range->romd_mode ? "d" : "",
                               range->unmergeable ? "u" : ""};
        bool whole = range->size == MEMORY_SIZE_MAX;
        length += (size_t)snprintf(
            fixture->text + length, TEXT_SIZE - length, "%s%llx+%s%llx %s@%llx%s%s%s%s", length ? ", " : "",
            (unsigned long long)range->start, whole ? "1:" : "", (unsigned long long)range->size,
            range->region->name, (unsigned long long)range->offset_in_region,
            range->readonly || range->romd_mode || range->unmergeable ? " " : "", flags[0], flags[1],
            flags[2]);
        cr_assert_lt(length, TEXT_SIZE);
    }
    return fixture->text;
}

static inline const char *shown(struct fixture *fixture)
{
    struct flat_view *view = flat_view_get(fixture->space);
    show(fixture, view);
    flat_view_put(view);
    return fixture->text;
}

#define assert_shows(fixture, text) cr_assert_str_eq(shown(fixture), text)
