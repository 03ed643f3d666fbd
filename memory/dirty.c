#include "memory/dirty.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/dirty_block.h"
#include "memory/internal.h"
#include "memory/memory.h"

struct dirty_client {
    struct memory *memory;
    unsigned number; /* the bit in masks of clients */
};

static uint64_t words_of(uint64_t pages)
{
    return (pages + DIRTY_WORD_PAGES - 1) / DIRTY_WORD_PAGES;
}

/* Shows those who mark who tracks. */
static void publish(struct memory *memory, unsigned clients)
{
    for (struct ram_block *block = memory->blocks; block; block = block->next)
        atomic_store(&block->clients, clients);
    atomic_store(&memory->clients, clients);
}

static int log_regions(struct memory *memory, unsigned clients, struct error *err)
{
    int result = 0;
    for (struct ram_block *block = memory->blocks; block && !result; block = block->next)
        for (struct memory_region *region = block->regions; region && !result; region = region->next_of_block)
            if (region->state.log != clients)
                result = memory_region_set_log(region, clients, err);
    return result;
}

/* Has the listeners log what the clients want, or leaves everything as it is. */
static int tell_listeners(struct memory *memory, struct error *err)
{
    memory_transaction_begin(memory);
    int result = log_regions(memory, atomic_load(&memory->clients), err);
    if (result)
        memory_undo_restore(memory);
    int committed = memory_transaction_commit(memory, result ? NULL : err);
    return result ? result : committed;
}

static int watch(struct memory *memory, struct ram_block *block, uint64_t first, uint64_t count,
                 const uint64_t *bitmap, struct error *err)
{
    int result = 0;
    for (struct dirty_source *source = memory->sources; source && !result; source = source->next)
        if (source->ops->watch)
            result = source->ops->watch(source, block, first, count, bitmap, err);
    return result;
}

/* Takes pages as dirty_take() does, after its checks. */
static int take(struct dirty_client *client, struct ram_block *block, uint64_t first, uint64_t count,
                uint64_t *bitmap, struct error *err)
{
    if (!dirty_block_take(block, client->number, first / DIRTY_WORD_PAGES, words_of(count), bitmap))
        return 0;
    int result = watch(client->memory, block, first, count, bitmap, err);
    if (result)
        dirty_block_merge(block, client->number, first, count, bitmap);
    return result;
}

/* Takes everything, so that every next write will be noticed. */
static int take_all(struct dirty_client *client, struct error *err)
{
    int result = 0;
    for (struct ram_block *block = client->memory->blocks; block && !result; block = block->next) {
        uint64_t pages = dirty_block_pages(block);
        uint64_t *bitmap = calloc(words_of(pages), sizeof(*bitmap));
        result = bitmap ? take(client, block, 0, pages, bitmap, err)
                        : error_set(err, ENOMEM, "RAM block %s: not enough memory to begin to track it",
                                    block->name);
        free(bitmap);
    }
    return result;
}

/*
 * Leaves out a client. The listeners may go on to log for it, where one fails or memory is short: this has no
 * effect but on speed, and ends when the next client comes or goes.
 */
static void leave(struct dirty_client *client)
{
    struct memory *memory = client->memory;
    publish(memory, atomic_load(&memory->clients) & ~(1u << client->number));
    tell_listeners(memory, NULL);
    for (struct ram_block *block = memory->blocks; block; block = block->next)
        dirty_block_drop(block, client->number);
}

static int fill_bitmaps(struct dirty_client *client, struct error *err)
{
    for (struct ram_block *block = client->memory->blocks; block; block = block->next)
        if (dirty_block_fill(block, client->number))
            return error_set(err, ENOMEM, "RAM block %s: not enough memory for its dirty bitmap",
                             block->name);
    return 0;
}

static int join(struct dirty_client *client, enum dirty_first first, struct error *err)
{
    struct memory *memory = client->memory;
    int result = fill_bitmaps(client, err);
    if (result)
        return result;
    publish(memory, atomic_load(&memory->clients) | 1u << client->number);
    result = tell_listeners(memory, err);
    if (!result && first == DIRTY_FROM_NOW)
        result = dirty_sync(memory, err); /* what sources still know from before */
    if (!result && first == DIRTY_FROM_NOW)
        result = take_all(client, err);
    if (result)
        leave(client);
    return result;
}

/* The number of a client to come. -EBUSY where none can. */
static int free_number(struct memory *memory, const char *name, struct error *err)
{
    if (memory->depth || memory->committing)
        return error_set(err, EBUSY, "%s: dirty tracking cannot start within a transaction", name);
    for (int number = 0; number < DIRTY_CLIENTS_MAX; number++)
        if (!(atomic_load(&memory->clients) >> number & 1))
            return number;
    return error_set(err, EBUSY, "%s: dirty tracking has %d clients already (end one)", name,
                     DIRTY_CLIENTS_MAX);
}

int dirty_start(struct memory *memory, const char *name, enum dirty_first first, struct dirty_client **out,
                struct error *err)
{
    struct dirty_client *client = malloc(sizeof(*client));
    if (!client)
        return error_set(err, ENOMEM, "%s: not enough memory for dirty tracking", name);
    pthread_mutex_lock(&memory->lock);
    int result = free_number(memory, name, err);
    if (result >= 0) {
        *client = (struct dirty_client){memory, (unsigned)result};
        result = join(client, first, err);
        if (result)
            error_prefix(err, result, "%s", name);
    }
    pthread_mutex_unlock(&memory->lock);
    if (result)
        free(client);
    else
        *out = client;
    return result;
}

void dirty_stop(struct dirty_client *client)
{
    if (!client)
        return;
    pthread_mutex_lock(&client->memory->lock);
    assert(!client->memory->depth && !client->memory->committing);
    leave(client);
    pthread_mutex_unlock(&client->memory->lock);
    free(client);
}

int dirty_sync(struct memory *memory, struct error *err)
{
    pthread_mutex_lock(&memory->lock);
    int result = 0;
    struct dirty_source *source = atomic_load(&memory->clients) ? memory->sources : NULL;
    for (; source; source = source->next) {
        int failed = source->ops->sync(source, result ? NULL : err);
        result = result ? result : failed;
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

uint64_t dirty_count(const struct dirty_client *client, const struct ram_block *block)
{
    struct memory *memory = client->memory;
    uint64_t count = 0;
    pthread_mutex_lock(&memory->lock);
    for (const struct ram_block *one = memory->blocks; one; one = one->next)
        if (!block || one == block)
            count += dirty_block_count(one, client->number);
    pthread_mutex_unlock(&memory->lock);
    return count;
}

static int check(const struct dirty_client *client, const struct ram_block *block, uint64_t first,
                 uint64_t count, struct error *err)
{
    uint64_t pages = dirty_block_pages(block);
    if (block->memory != client->memory)
        return error_set(err, EINVAL, "RAM block %s is in no region of the machine that is tracked",
                         block->name);
    bool inside = first <= pages && count <= pages - first;
    if (inside && first % DIRTY_WORD_PAGES == 0 && (count % DIRTY_WORD_PAGES == 0 || first + count == pages))
        return 0;
    return error_set(err, EINVAL,
                     "RAM block %s: %llu pages from page %llu are not whole words of %d of its %llu pages",
                     block->name, (unsigned long long)count, (unsigned long long)first, DIRTY_WORD_PAGES,
                     (unsigned long long)pages);
}

int dirty_take(struct dirty_client *client, struct ram_block *block, uint64_t first, uint64_t count,
               uint64_t *bitmap, struct error *err)
{
    pthread_mutex_lock(&client->memory->lock);
    int result = check(client, block, first, count, err);
    if (!result)
        result = take(client, block, first, count, bitmap, err);
    pthread_mutex_unlock(&client->memory->lock);
    return result;
}

int dirty_put_back(struct dirty_client *client, struct ram_block *block, uint64_t first, uint64_t count,
                   const uint64_t *bitmap, struct error *err)
{
    pthread_mutex_lock(&client->memory->lock);
    int result = check(client, block, first, count, err);
    if (!result)
        dirty_block_merge(block, client->number, first, count, bitmap);
    pthread_mutex_unlock(&client->memory->lock);
    return result;
}

void dirty_source_add(struct dirty_source *source, struct memory *memory)
{
    pthread_mutex_lock(&memory->lock);
    struct dirty_source **link = &memory->sources;
    while (*link)
        link = &(*link)->next;
    *link = source;
    source->next = NULL;
    source->memory = memory;
    pthread_mutex_unlock(&memory->lock);
}

void dirty_source_remove(struct dirty_source *source)
{
    struct memory *memory = source->memory;
    if (!memory)
        return;
    pthread_mutex_lock(&memory->lock);
    struct dirty_source **link = &memory->sources;
    while (*link != source)
        link = &(*link)->next;
    *link = source->next;
    source->memory = NULL;
    pthread_mutex_unlock(&memory->lock);
}
