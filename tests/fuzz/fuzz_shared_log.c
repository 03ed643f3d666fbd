/*
 * A log of dirty pages that a hostile process fills, while the view changes: what is marked must be all that
 * its bits meant, and nothing else, by an oracle that looks at the view a small unit at a time.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "memory/address_space.h"
#include "memory/dirty.h"
#include "memory/flat_view.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "memory/shared_log.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define UNIT       512 /* places, offsets and sizes are multiples of this */
#define PAGE_UNITS (RAM_PAGE_SIZE / UNIT)
#define PAGES      64 /* of the block */
#define LOG_BYTES  10 /* of which the process sets bits */
#define ALIASES    4
#define STEPS_MAX  64

struct fuzz {
    const uint8_t *data;
    size_t size;
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root, ram, aliases[ALIASES];
    struct address_space *space;
    struct shared_log *log;
    struct dirty_client *client;
    uint8_t *bytes;
    uint64_t must, may; /* pages of the block that are marked next time, for certain and at most */
};

#define REQUIRE(truth) ((truth) ? (void)0 : abort())

static uint8_t next(struct fuzz *fuzz)
{
    if (!fuzz->size)
        return 0;
    fuzz->size--;
    return *fuzz->data++;
}

static void setup(struct fuzz *fuzz)
{
    REQUIRE((fuzz->memory = memory_create()));
    REQUIRE(!ram_block_create("block", PAGES * RAM_PAGE_SIZE, 0, &fuzz->block, NULL));
    REQUIRE(!memory_region_init_container(&fuzz->root, fuzz->memory, "root", MEMORY_SIZE_MAX, NULL));
    REQUIRE(
        !memory_region_init_ram(&fuzz->ram, fuzz->memory, "ram", fuzz->block, 0, fuzz->block->size, NULL));
    REQUIRE(!address_space_create(fuzz->memory, "space", &fuzz->root, &fuzz->space, NULL));
    for (unsigned i = 0; i < ALIASES; i++) {
        struct memory_region *alias = &fuzz->aliases[i];
        REQUIRE(!memory_region_init_alias(alias, fuzz->memory, "alias", &fuzz->ram, 0, UNIT, NULL));
        REQUIRE(!memory_region_add_subregion(&fuzz->root, i * RAM_PAGE_SIZE, alias, (int)i, NULL));
    }
    REQUIRE(!shared_log_create(fuzz->space, &fuzz->log, NULL));
    fuzz->bytes = mmap(NULL, shared_log_size(fuzz->log), PROT_READ | PROT_WRITE, MAP_SHARED,
                       shared_log_fd(fuzz->log), 0);
    REQUIRE(fuzz->bytes != MAP_FAILED);
    REQUIRE(!dirty_start(fuzz->memory, "client", DIRTY_FROM_NOW, &fuzz->client, NULL));
}

static void teardown(struct fuzz *fuzz)
{
    munmap(fuzz->bytes, shared_log_size(fuzz->log));
    shared_log_destroy(fuzz->log);
    dirty_stop(fuzz->client);
    for (unsigned i = 0; i < ALIASES; i++) {
        memory_region_remove_subregion(&fuzz->aliases[i], NULL);
        memory_region_destroy(&fuzz->aliases[i]);
    }
    address_space_destroy(fuzz->space);
    memory_region_destroy(&fuzz->ram);
    memory_region_destroy(&fuzz->root);
    memory_destroy(fuzz->memory);
    ram_block_destroy(fuzz->block);
}

/* The pages of the block that the bits of a log mean. */
static uint64_t meaning(struct fuzz *fuzz, const uint8_t *bytes)
{
    uint64_t pages = 0;
    struct flat_view *view = flat_view_get(fuzz->space);
    for (uint64_t unit = 0; unit < LOG_BYTES * 8 * PAGE_UNITS; unit++) {
        uint64_t page = unit / PAGE_UNITS;
        bool set = bytes[page / 8] >> page % 8 & 1;
        const struct flat_range *range = set ? flat_view_find(view, unit * UNIT) : NULL;
        if (!range || range->readonly)
            continue;
        uint64_t offset = range->offset_in_region + (unit * UNIT - range->start);
        pages |= (uint64_t)1 << offset / RAM_PAGE_SIZE;
    }
    flat_view_put(view);
    return pages;
}

static void change(struct fuzz *fuzz)
{
    struct memory_region *alias = &fuzz->aliases[next(fuzz) % ALIASES];
    uint8_t before[LOG_BYTES];
    memcpy(before, fuzz->bytes, LOG_BYTES);
    uint64_t meant = meaning(fuzz, before);
    memory_transaction_begin(fuzz->memory);
    memory_region_set_enabled(alias, next(fuzz) % 8, NULL);
    memory_region_set_readonly(alias, next(fuzz) % 8 == 0, NULL);
    memory_region_set_address(
        alias, (uint64_t)(next(fuzz) % 80 * PAGE_UNITS + next(fuzz) % PAGE_UNITS) * UNIT, NULL);
    memory_region_set_alias_offset(
        alias, (uint64_t)(next(fuzz) % PAGES * PAGE_UNITS + next(fuzz) % PAGE_UNITS) * UNIT, NULL);
    memory_region_set_size(alias, (1 + (memory_size)next(fuzz)) * UNIT, NULL);
    REQUIRE(!memory_transaction_commit(fuzz->memory, NULL));
    fuzz->must |= meant;
    fuzz->may |= meant | meaning(fuzz, before);
}

static void take(struct fuzz *fuzz)
{
    uint64_t meant = meaning(fuzz, fuzz->bytes), taken;
    fuzz->must |= meant;
    fuzz->may |= meant;
    REQUIRE(!dirty_sync(fuzz->memory, NULL));
    REQUIRE(!dirty_take(fuzz->client, fuzz->block, 0, PAGES, &taken, NULL));
    REQUIRE(!(fuzz->must & ~taken) && !(taken & ~fuzz->may));
    REQUIRE(!meaning(fuzz, fuzz->bytes));
    fuzz->must = fuzz->may = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz fuzz = {.data = data, .size = size};
    setup(&fuzz);
    for (unsigned step = 0; fuzz.size && step < STEPS_MAX; step++) {
        switch (next(&fuzz) % 4) {
        case 0:
            change(&fuzz);
            break;
        case 1:
            take(&fuzz);
            break;
        default:
            fuzz.bytes[next(&fuzz) % LOG_BYTES] |= next(&fuzz);
            break;
        }
    }
    take(&fuzz);
    teardown(&fuzz);
    return 0;
}
