/*
 * Virtqueues over guest memory that a hostile driver fills: what the fuzz targets of both layouts share.
 *
 * The first bytes of an input choose the queue; the next are the first contents of its rings and of an
 * indirect table; those that are left are steps: of the device (pop, push, unpop, drop, look at
 * notifications, save and restore) or of the driver (store into a ring), or a change of what the address
 * space shows, or of who tracks what is written. Every piece of a chain must lie in RAM where the descriptor
 * said, the sums must be right, no more chains may be out than the queue has entries, and every page that
 * the device has changed must be dirty.
 */
#pragma once

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/queue.h"
#include "memory/address_space.h"
#include "memory/dirty.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(truth) ((truth) ? (void)0 : abort())

#define PAGES          16
#define RAM_SIZE       (PAGES * RAM_PAGE_SIZE)
#define STEPS_MAX      256
#define RINGS          0x200 /* bytes of the first page: descriptors, driver area, device area, indirect table */
#define AREA           0x100
#define CHAINS         64

struct fuzz {
    const uint8_t *data;
    size_t size;
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root, ram, rom, mmio, swapped;
    struct address_space *space;
    struct virtqueue_config config;
    struct virtqueue *queue;
    struct virtqueue_chain *out[CHAINS]; /* in the order of taking */
    unsigned count;
    struct dirty_client *client; /* NULL: nobody tracks */
    uint8_t clean[RAM_SIZE];     /* as its pages were taken last, and what the driver has stored since */
};

static inline uint8_t fuzz_next(struct fuzz *fuzz)
{
    if (!fuzz->size)
        return 0;
    fuzz->size--;
    return *fuzz->data++;
}

/* RAM from 0, two of its pages once more in the other order, ROM and a device: in all 24 pages. */
static inline void fuzz_setup_memory(struct fuzz *fuzz)
{
    static const struct memory_region_ops ops = {0};
    REQUIRE((fuzz->memory = memory_create()));
    REQUIRE(!ram_block_create("ram", RAM_SIZE, 0, &fuzz->block, NULL));
    REQUIRE(!memory_region_init_container(&fuzz->root, fuzz->memory, "root", MEMORY_SIZE_MAX, NULL));
    REQUIRE(!memory_region_init_ram(&fuzz->ram, fuzz->memory, "ram", fuzz->block, 0, RAM_SIZE, NULL));
    REQUIRE(!memory_region_init_rom(&fuzz->rom, fuzz->memory, "rom", fuzz->block, 0, 0x1000, NULL));
    REQUIRE(!memory_region_init_mmio(&fuzz->mmio, fuzz->memory, "mmio", &ops, NULL, 0x1000, NULL));
    REQUIRE(
        !memory_region_init_alias(&fuzz->swapped, fuzz->memory, "swapped", &fuzz->ram, 0x3000, 0x1000, NULL));
    memory_transaction_begin(fuzz->memory);
    REQUIRE(!memory_region_add_subregion(&fuzz->root, 0, &fuzz->ram, 0, NULL));
    REQUIRE(!memory_region_add_subregion(&fuzz->root, 0x5000, &fuzz->swapped, 1, NULL));
    REQUIRE(!memory_region_add_subregion(&fuzz->root, 0x8000, &fuzz->rom, 1, NULL));
    REQUIRE(!memory_region_add_subregion(&fuzz->root, 0xA000, &fuzz->mmio, 1, NULL));
    REQUIRE(!memory_transaction_commit(fuzz->memory, NULL));
    REQUIRE(!address_space_create(fuzz->memory, "memory", &fuzz->root, &fuzz->space, NULL));
}

static inline void fuzz_teardown_memory(struct fuzz *fuzz)
{
    dirty_stop(fuzz->client);
    memory_synchronize(fuzz->memory);
    REQUIRE(!memory_region_remove_all_subregions(&fuzz->root, NULL));
    address_space_destroy(fuzz->space);
    struct memory_region *regions[] = {&fuzz->swapped, &fuzz->mmio, &fuzz->rom, &fuzz->ram, &fuzz->root};
    for (unsigned i = 0; i < ARRAY_SIZE(regions); i++)
        memory_region_destroy(regions[i]);
    memory_destroy(fuzz->memory);
    ram_block_destroy(fuzz->block);
}

/* Mostly in the first page; or anywhere in the first 64 KiB, where other things are too. */
static inline uint64_t fuzz_area(struct fuzz *fuzz, unsigned area)
{
    uint8_t choice = fuzz_next(fuzz);
    return choice % 16 ? area * (uint64_t)AREA : (uint64_t)choice << 8 | (fuzz_next(fuzz) & 0xF0);
}

static inline bool fuzz_setup_queue(struct fuzz *fuzz, bool packed)
{
    uint8_t features = fuzz_next(fuzz), size = fuzz_next(fuzz);
    fuzz->config = (struct virtqueue_config){
        .name = "queue",
        .space = fuzz->space,
        .size = packed ? size % 9 : (uint16_t)(1 << size % 4),
        .descriptors = fuzz_area(fuzz, 0),
        .driver = fuzz_area(fuzz, 1),
        .device = fuzz_area(fuzz, 2),
        .packed = packed,
        .event_idx = features & 1,
        .indirect = features & 2,
        .in_order = features & 4,
    };
    size_t filled = smaller(fuzz->size, RINGS);
    memcpy(fuzz->block->host, fuzz->data, filled);
    fuzz->data += filled;
    fuzz->size -= filled;
    return !virtqueue_create(&fuzz->config, &fuzz->queue, NULL);
}

static inline void fuzz_check_pieces(const struct fuzz *fuzz, const struct iovec *iov, unsigned count,
                                     uint32_t bytes)
{
    uint64_t sum = 0;
    REQUIRE(count <= 1024);
    for (unsigned i = 0; i < count; i++) {
        const char *piece = iov[i].iov_base, *host = fuzz->block->host;
        REQUIRE(iov[i].iov_len && piece >= host && iov[i].iov_len <= (size_t)(host + RAM_SIZE - piece));
        sum += iov[i].iov_len;
    }
    REQUIRE(sum == bytes);
}

static inline void fuzz_pop(struct fuzz *fuzz)
{
    struct virtqueue_chain *chain;
    bool broken = virtqueue_broken(fuzz->queue);
    struct error err = {""};
    int result = virtqueue_pop(fuzz->queue, &chain, &err);
    REQUIRE(result == 1 || result == 0 || result == -EPROTO);
    REQUIRE((result == -EPROTO) == virtqueue_broken(fuzz->queue) && (!broken || result < 0));
    if (result != 1)
        return;
    fuzz_check_pieces(fuzz, chain->out, chain->out_count, chain->out_bytes);
    fuzz_check_pieces(fuzz, chain->in, chain->in_count, chain->in_bytes);
    REQUIRE(chain->out_count + chain->in_count);
    REQUIRE(fuzz->count < fuzz->config.size);
    fuzz->out[fuzz->count++] = chain;
}

static inline struct virtqueue_chain *fuzz_take(struct fuzz *fuzz, unsigned index)
{
    struct virtqueue_chain *chain = fuzz->out[index];
    memmove(&fuzz->out[index], &fuzz->out[index + 1], (--fuzz->count - index) * sizeof(*fuzz->out));
    return chain;
}

static inline void fuzz_push(struct fuzz *fuzz)
{
    if (!fuzz->count)
        return;
    struct virtqueue_chain *chain = fuzz_take(fuzz, fuzz_next(fuzz) % fuzz->count);
    uint8_t bytes[64] = {0xA5};
    virtqueue_read(chain, fuzz_next(fuzz), bytes, sizeof(bytes));
    size_t written = virtqueue_write(chain, 0, bytes, fuzz_next(fuzz) % sizeof(bytes));
    virtqueue_push(fuzz->queue, chain, (uint32_t)written);
}

/* IN_ORDER: chains that have been pushed may still be out, so then nothing can be said of which is the last.
 */
static inline void fuzz_unpop(struct fuzz *fuzz)
{
    if (fuzz->count && !fuzz->config.in_order)
        virtqueue_unpop(fuzz->queue, fuzz_take(fuzz, fuzz->count - 1));
}

static inline void fuzz_drop_all(struct fuzz *fuzz)
{
    while (fuzz->count)
        virtqueue_drop(fuzz->queue, fuzz_take(fuzz, 0));
}

static inline void fuzz_restart(struct fuzz *fuzz)
{
    fuzz_drop_all(fuzz);
    uint16_t avail, used;
    virtqueue_get_position(fuzz->queue, &avail, &used);
    if (fuzz_next(fuzz) % 2)
        avail = used = (uint16_t)(fuzz_next(fuzz) << 8 | fuzz_next(fuzz));
    virtqueue_destroy(fuzz->queue);
    REQUIRE(!virtqueue_create(&fuzz->config, &fuzz->queue, NULL));
    virtqueue_set_position(fuzz->queue, avail, used);
}

static inline void fuzz_change_memory(struct fuzz *fuzz)
{
    struct memory_region *regions[] = {&fuzz->swapped, &fuzz->rom, &fuzz->mmio};
    uint8_t choice = fuzz_next(fuzz);
    REQUIRE(!memory_region_set_address(regions[choice % 3], (uint64_t)(choice / 3 % 20) * 0x800, NULL));
}

static inline void fuzz_store(struct fuzz *fuzz)
{
    uint8_t *ring = fuzz->block->host;
    unsigned place = (unsigned)(fuzz_next(fuzz) << 8 | fuzz_next(fuzz)) % RINGS;
    ring[place] = fuzz->clean[place] = fuzz_next(fuzz);
}

static inline void fuzz_take_dirty(struct fuzz *fuzz)
{
    const uint8_t *host = fuzz->block->host;
    uint64_t dirty;
    REQUIRE(!dirty_take(fuzz->client, fuzz->block, 0, PAGES, &dirty, NULL));
    for (unsigned page = 0; page < PAGES; page++) {
        size_t offset = page * RAM_PAGE_SIZE;
        REQUIRE(dirty >> page & 1 || !memcmp(host + offset, fuzz->clean + offset, RAM_PAGE_SIZE));
    }
    memcpy(fuzz->clean, host, RAM_SIZE);
}

/* Begins, takes, or takes and ends. */
static inline void fuzz_track(struct fuzz *fuzz)
{
    if (!fuzz->client) {
        REQUIRE(!dirty_start(fuzz->memory, "client", DIRTY_FROM_NOW, &fuzz->client, NULL));
        memcpy(fuzz->clean, fuzz->block->host, RAM_SIZE);
        return;
    }
    fuzz_take_dirty(fuzz);
    if (fuzz_next(fuzz) % 4)
        return;
    dirty_stop(fuzz->client);
    fuzz->client = NULL;
}

static inline void fuzz_step(struct fuzz *fuzz)
{
    uint8_t choice = fuzz_next(fuzz);
    switch (choice % 16) {
    case 0:
        fuzz_unpop(fuzz);
        break;
    case 1:
        fuzz_restart(fuzz);
        break;
    case 2:
        fuzz_change_memory(fuzz);
        break;
    case 3:
        if (choice & 16)
            virtqueue_wants_interrupt(fuzz->queue);
        else
            fuzz_track(fuzz);
        break;
    case 4:
        virtqueue_set_kicks(fuzz->queue, choice & 16);
        break;
    case 5:
    case 6:
    case 7:
        fuzz_push(fuzz);
        break;
    case 8:
    case 9:
    case 10:
    case 11:
        fuzz_store(fuzz);
        break;
    default:
        fuzz_pop(fuzz);
        break;
    }
}

static inline void fuzz_virtqueue(const uint8_t *data, size_t size, bool packed)
{
    struct fuzz fuzz = {.data = data, .size = size};
    fuzz_setup_memory(&fuzz);
    if (fuzz_setup_queue(&fuzz, packed)) {
        fuzz_pop(&fuzz);
        for (unsigned step = 0; fuzz.size && step < STEPS_MAX; step++)
            fuzz_step(&fuzz);
        fuzz_drop_all(&fuzz);
        if (fuzz.client)
            fuzz_take_dirty(&fuzz);
    }
    virtqueue_destroy(fuzz.queue);
    fuzz_teardown_memory(&fuzz);
}
