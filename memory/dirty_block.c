#include "memory/dirty_block.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/internal.h"

/* GCC refuses to compile the fence of C11 for ThreadSanitizer, which does not know it. */
static void full_fence(void)
{
    __sync_synchronize();
}

static size_t bitmap_bytes(const struct ram_block *block)
{
    return align_up(dirty_block_pages(block), DIRTY_WORD_PAGES) / 8;
}

static void join(struct ram_block *block, struct memory *memory, unsigned clients)
{
    block->memory = memory;
    block->next = memory->blocks;
    block->link = &memory->blocks;
    if (block->next)
        block->next->link = &block->next;
    memory->blocks = block;
    atomic_store(&block->clients, clients);
}

static void leave(struct ram_block *block)
{
    atomic_store(&block->clients, 0);
    for (unsigned client = 0; client < DIRTY_CLIENTS_MAX; client++)
        dirty_block_drop(block, client);
    *block->link = block->next;
    if (block->next)
        block->next->link = block->link;
    block->memory = NULL;
}

static int prepare_to_join(struct ram_block *block, unsigned clients, struct error *err)
{
    for (unsigned client = 0; client < DIRTY_CLIENTS_MAX; client++)
        if ((clients >> client & 1) && dirty_block_fill(block, client))
            return error_set(err, ENOMEM, "RAM block %s: not enough memory for its dirty bitmaps",
                             block->name);
    return 0;
}

int dirty_block_add_region(struct ram_block *block, struct memory_region *region, struct error *err)
{
    struct memory *memory = region->memory;
    unsigned clients = atomic_load(&memory->clients);
    if (block->memory && block->memory != memory)
        return error_set(err, EINVAL, "region %s: RAM block %s is another machine's", region->name,
                         block->name);
    if (!block->memory) {
        int result = prepare_to_join(block, clients, err);
        if (result)
            return result;
        join(block, memory, clients);
    }
    region->state.log = clients;
    region->next_of_block = block->regions;
    region->link_of_block = &block->regions;
    if (region->next_of_block)
        region->next_of_block->link_of_block = &region->next_of_block;
    block->regions = region;
    return 0;
}

void dirty_block_remove_region(struct memory_region *region)
{
    struct ram_block *block = region->block;
    *region->link_of_block = region->next_of_block;
    if (region->next_of_block)
        region->next_of_block->link_of_block = region->link_of_block;
    if (!block->regions)
        leave(block);
}

void dirty_block_free(struct ram_block *block)
{
    for (unsigned client = 0; client < DIRTY_CLIENTS_MAX; client++)
        if (block->bitmaps[client])
            munmap((void *)block->bitmaps[client], bitmap_bytes(block));
}

int dirty_block_fill(struct ram_block *block, unsigned client)
{
    if (!block->bitmaps[client]) {
        void *bitmap = mmap(NULL, bitmap_bytes(block), PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (bitmap == MAP_FAILED)
            return -ENOMEM;
        block->bitmaps[client] = bitmap;
    }
    uint64_t pages = dirty_block_pages(block), whole = pages / DIRTY_WORD_PAGES;
    _Atomic uint64_t *bitmap = block->bitmaps[client];
    /* All at once takes half the time of a fault for each page; if it fails, that is what happens. */
    madvise((void *)bitmap, bitmap_bytes(block), MADV_POPULATE_WRITE);
    for (uint64_t i = 0; i < whole; i++)
        atomic_store_explicit(&bitmap[i], UINT64_MAX, memory_order_relaxed);
    if (pages % DIRTY_WORD_PAGES)
        atomic_store_explicit(&bitmap[whole], ((uint64_t)1 << pages % DIRTY_WORD_PAGES) - 1,
                              memory_order_relaxed);
    return 0;
}

void dirty_block_drop(struct ram_block *block, unsigned client)
{
    if (block->bitmaps[client])
        madvise((void *)block->bitmaps[client], bitmap_bytes(block), MADV_DONTNEED);
}

uint64_t dirty_block_count(const struct ram_block *block, unsigned client)
{
    uint64_t count = 0;
    for (uint64_t i = 0; i < bitmap_bytes(block) / sizeof(uint64_t); i++)
        count += (uint64_t)__builtin_popcountll(
            atomic_load_explicit(&block->bitmaps[client][i], memory_order_relaxed));
    return count;
}

/* Most of a bitmap is zero: that many words are passed over at a time. */
#define RUN 8

static uint64_t any_of_run(const _Atomic uint64_t *words)
{
    uint64_t any = 0;
    for (size_t i = 0; i < RUN; i++)
        any |= atomic_load_explicit(&words[i], memory_order_relaxed);
    return any;
}

bool dirty_block_take(struct ram_block *block, unsigned client, uint64_t first, uint64_t words,
                      uint64_t *bitmap)
{
    _Atomic uint64_t *from = &block->bitmaps[client][first];
    uint64_t all = 0;
    for (uint64_t i = 0; i < words; i++) {
        for (; i + RUN <= words && !any_of_run(&from[i]); i += RUN)
            memset(&bitmap[i], 0, RUN * sizeof(uint64_t));
        if (i == words)
            break;
        bitmap[i] = 0;
        if (atomic_load_explicit(&from[i], memory_order_relaxed))
            bitmap[i] = atomic_exchange(&from[i], 0);
        all |= bitmap[i];
    }
    full_fence();
    return all;
}

static void set_bits(_Atomic uint64_t *word, uint64_t bits)
{
    if (bits & ~atomic_load_explicit(word, memory_order_relaxed))
        atomic_fetch_or(word, bits);
}

/* Word `index` of a bitmap of `count` bits, zero behind its end. */
static uint64_t word_at(const uint64_t *bitmap, uint64_t count, uint64_t index)
{
    uint64_t before = index * DIRTY_WORD_PAGES;
    if (before >= count)
        return 0;
    uint64_t left = count - before;
    return left < DIRTY_WORD_PAGES ? bitmap[index] & (((uint64_t)1 << left) - 1) : bitmap[index];
}

void dirty_block_merge(struct ram_block *block, unsigned client, uint64_t first, uint64_t count,
                       const uint64_t *bitmap)
{
    unsigned shift = first % DIRTY_WORD_PAGES;
    _Atomic uint64_t *to = &block->bitmaps[client][first / DIRTY_WORD_PAGES];
    uint64_t carried = 0, whole = count / DIRTY_WORD_PAGES;
    for (uint64_t i = 0; i * DIRTY_WORD_PAGES < shift + count; i++) {
        while (!carried && i + RUN <= whole && !any_of_run((const _Atomic uint64_t *)&bitmap[i]))
            i += RUN;
        if (i * DIRTY_WORD_PAGES >= shift + count)
            break;
        uint64_t word = word_at(bitmap, count, i);
        uint64_t bits = word << shift | carried;
        if (bits)
            set_bits(&to[i], bits);
        carried = shift ? word >> (DIRTY_WORD_PAGES - shift) : 0;
    }
}

/* Sets the bits of pages `first` to `last`. */
static void set_range(_Atomic uint64_t *bitmap, uint64_t first, uint64_t last)
{
    const uint64_t in_word = DIRTY_WORD_PAGES - 1;
    for (uint64_t page = first; page <= last; page = (page | in_word) + 1) {
        uint64_t bits = UINT64_MAX << page % DIRTY_WORD_PAGES;
        if ((page | in_word) == (last | in_word))
            bits &= UINT64_MAX >> (in_word - last % DIRTY_WORD_PAGES);
        set_bits(&bitmap[page / DIRTY_WORD_PAGES], bits);
    }
}

/* Who tracks the block, as seen after what the caller has stored. */
static unsigned clients_after_store(const struct ram_block *block)
{
    full_fence();
    return atomic_load(&block->clients);
}

void dirty_mark(struct ram_block *block, uint64_t offset, uint64_t length)
{
    unsigned clients = clients_after_store(block);
    if (!clients || offset >= block->size || !length)
        return;
    if (length > block->size - offset)
        length = block->size - offset;
    for (; clients; clients &= clients - 1)
        set_range(block->bitmaps[__builtin_ctz(clients)], offset / RAM_PAGE_SIZE,
                  (offset + length - 1) / RAM_PAGE_SIZE);
}

void dirty_merge(struct ram_block *block, uint64_t first, uint64_t count, const uint64_t *bitmap)
{
    uint64_t pages = dirty_block_pages(block);
    unsigned clients = clients_after_store(block);
    if (first >= pages)
        return;
    if (count > pages - first)
        count = pages - first;
    for (; clients; clients &= clients - 1)
        dirty_block_merge(block, (unsigned)__builtin_ctz(clients), first, count, bitmap);
}

bool dirty_tracked(const struct memory *memory)
{
    full_fence();
    return atomic_load(&memory->clients);
}
