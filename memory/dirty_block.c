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

#define GROUP_WORDS 64
#define GROUP_BYTES (GROUP_WORDS * sizeof(uint64_t))

static const uint64_t no_words[GROUP_WORDS];

static size_t group_count(const struct ram_block *block)
{
    return align_up(dirty_block_pages(block), GROUP_WORDS * DIRTY_WORD_PAGES) /
           (GROUP_WORDS * DIRTY_WORD_PAGES);
}

static size_t word_count(const struct ram_block *block)
{
    return group_count(block) * GROUP_WORDS;
}

/* Of both halves and the groups. */
static size_t bitmap_bytes(const struct ram_block *block)
{
    return 2 * word_count(block) * sizeof(uint64_t) + group_count(block);
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
        if (block->bitmaps[client].gathered)
            munmap(block->bitmaps[client].gathered, bitmap_bytes(block));
}

static int create_bitmap(const struct ram_block *block, struct dirty_bitmap *bitmap)
{
    void *memory = mmap(NULL, bitmap_bytes(block), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED)
        return -ENOMEM;
    bitmap->gathered = memory;
    bitmap->marked = (_Atomic uint64_t *)memory + word_count(block);
    bitmap->groups = (atomic_uchar *)(bitmap->marked + word_count(block));
    return 0;
}

int dirty_block_fill(struct ram_block *block, unsigned client)
{
    struct dirty_bitmap *bitmap = &block->bitmaps[client];
    if (!bitmap->gathered && create_bitmap(block, bitmap))
        return -ENOMEM;
    uint64_t pages = dirty_block_pages(block), whole = pages / DIRTY_WORD_PAGES;
    /* All at once takes half the time of a fault for each page; if it fails, that is what happens. */
    madvise(bitmap->gathered, word_count(block) * sizeof(uint64_t), MADV_POPULATE_WRITE);
    memset(bitmap->gathered, 0xff, whole * sizeof(uint64_t));
    if (pages % DIRTY_WORD_PAGES)
        bitmap->gathered[whole] = ((uint64_t)1 << pages % DIRTY_WORD_PAGES) - 1;
    return 0;
}

void dirty_block_drop(struct ram_block *block, unsigned client)
{
    if (block->bitmaps[client].gathered)
        madvise(block->bitmaps[client].gathered, bitmap_bytes(block), MADV_DONTNEED);
}

static bool group_marked(const struct dirty_bitmap *bitmap, uint64_t word)
{
    return atomic_load_explicit(&bitmap->groups[word / GROUP_WORDS], memory_order_relaxed);
}

uint64_t dirty_block_count(const struct ram_block *block, unsigned client)
{
    const struct dirty_bitmap *bitmap = &block->bitmaps[client];
    uint64_t count = 0;
    for (uint64_t i = 0; i < word_count(block); i++) {
        uint64_t marked = group_marked(bitmap, i) ? atomic_load(&bitmap->marked[i]) : 0;
        count += (uint64_t)__builtin_popcountll(bitmap->gathered[i] | marked);
    }
    return count;
}

/* Moves words of one group from the half of the lock's owner. */
static bool take_gathered(uint64_t *from, size_t words, uint64_t *to)
{
    size_t bytes = words * sizeof(*to);
    memcpy(to, from, bytes);
    if (memcmp(from, no_words, bytes) == 0)
        return false;
    memset(from, 0, bytes);
    return true;
}

/* Moves words of one group from the half of those who mark. */
static bool take_marked(struct dirty_bitmap *bitmap, uint64_t first, size_t words, uint64_t *to)
{
    if (!group_marked(bitmap, first))
        return false;
    uint64_t all = 0;
    if (words == GROUP_WORDS)
        atomic_exchange(&bitmap->groups[first / GROUP_WORDS], 0);
    for (size_t i = 0; i < words; i++) {
        if (!atomic_load(&bitmap->marked[first + i]))
            continue;
        uint64_t bits = atomic_exchange(&bitmap->marked[first + i], 0);
        to[i] |= bits;
        all |= bits;
    }
    return all;
}

bool dirty_block_take(struct ram_block *block, unsigned client, uint64_t first, uint64_t words, uint64_t *to)
{
    struct dirty_bitmap *bitmap = &block->bitmaps[client];
    uint64_t end = first + words;
    bool any = false;
    for (uint64_t at = first, next; at < end; to += next - at, at = next) {
        next = align_down(at, GROUP_WORDS) + GROUP_WORDS;
        next = next < end ? next : end;
        any |= take_gathered(&bitmap->gathered[at], next - at, to);
        any |= take_marked(bitmap, at, next - at, to);
    }
    full_fence();
    return any;
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

/* Adds whole words. */
static void merge_words(uint64_t *to, const uint64_t *from, uint64_t count)
{
    for (uint64_t at = 0, next; at < count; at = next) {
        next = at + GROUP_WORDS < count ? at + GROUP_WORDS : count;
        if (memcmp(&from[at], no_words, (next - at) * sizeof(*to)) == 0)
            continue;
        for (uint64_t i = at; i < next; i++)
            to[i] |= from[i];
    }
}

void dirty_block_merge(struct ram_block *block, unsigned client, uint64_t first, uint64_t count,
                       const uint64_t *bitmap)
{
    unsigned shift = first % DIRTY_WORD_PAGES;
    uint64_t *to = &block->bitmaps[client].gathered[first / DIRTY_WORD_PAGES];
    uint64_t whole = shift ? 0 : count / DIRTY_WORD_PAGES, carried = 0;
    merge_words(to, bitmap, whole);
    for (uint64_t i = whole; i * DIRTY_WORD_PAGES < shift + count; i++) {
        uint64_t word = word_at(bitmap, count, i), bits = word << shift | carried;
        if (bits)
            to[i] |= bits;
        carried = shift ? word >> (DIRTY_WORD_PAGES - shift) : 0;
    }
}

static void set_bits(const struct dirty_bitmap *bitmap, uint64_t word, uint64_t bits)
{
    _Atomic uint64_t *marked = &bitmap->marked[word];
    atomic_uchar *group = &bitmap->groups[word / GROUP_WORDS];
    if (bits & ~atomic_load(marked))
        atomic_fetch_or(marked, bits);
    if (!atomic_load(group))
        atomic_store(group, 1);
}

/* Sets the bits of pages `first` to `last`. */
static void set_range(const struct dirty_bitmap *bitmap, uint64_t first, uint64_t last)
{
    const uint64_t in_word = DIRTY_WORD_PAGES - 1;
    for (uint64_t page = first; page <= last; page = (page | in_word) + 1) {
        uint64_t bits = UINT64_MAX << page % DIRTY_WORD_PAGES;
        if ((page | in_word) == (last | in_word))
            bits &= UINT64_MAX >> (in_word - last % DIRTY_WORD_PAGES);
        set_bits(bitmap, page / DIRTY_WORD_PAGES, bits);
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
        set_range(&block->bitmaps[__builtin_ctz(clients)], offset / RAM_PAGE_SIZE,
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
