/*
 * A guest physical address space that has nothing but RAM, from 0 on, for tests of what is written to guest
 * memory or read from it. Memory is in one piece at `host`, so tests can look without asking the code under
 * test.
 */
#pragma once

#include <criterion/criterion.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"

struct guest_ram {
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root, ram;
    struct address_space *space;
    uint8_t *host;
};

static inline void guest_ram_create(struct guest_ram *guest, uint64_t size)
{
    struct error err = {0};
    guest->memory = memory_create();
    cr_assert(guest->memory);
    int result = ram_block_create("ram", size, 0, &guest->block, &err);
    if (result == 0)
        result = memory_region_init_container(&guest->root, guest->memory, "memory", MEMORY_SIZE_MAX, &err);
    if (result == 0)
        result = memory_region_init_ram(&guest->ram, guest->memory, "ram", guest->block, 0, size, &err);
    if (result == 0)
        result = memory_region_add_subregion(&guest->root, 0, &guest->ram, 0, &err);
    if (result == 0)
        result = address_space_create(guest->memory, "memory", &guest->root, &guest->space, &err);
    cr_assert_eq(result, 0, "%s", err.message);
    guest->host = guest->block->host;
}

static inline void guest_ram_destroy(struct guest_ram *guest)
{
    address_space_destroy(guest->space);
    memory_region_remove_subregion(&guest->ram, NULL);
    memory_region_destroy(&guest->ram);
    memory_region_destroy(&guest->root);
    ram_block_destroy(guest->block);
    memory_destroy(guest->memory);
}
