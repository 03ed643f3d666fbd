#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "base/macros.h"
#include "devices/virtio/queue_internal.h"
#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "memory/guest_copy.h"

#define PIECES_FIRST 16
#define PIECES_MAX   IOV_MAX /* of a chain: what one readv() takes */

static_assert(PIECES_MAX >= VIRTQUEUE_SIZE_MAX, "a ring full of descriptors fits");

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags;
    uint16_t link; /* split: the next one; packed: the buffer id */
};

/* The chain that is being walked. */
struct walk {
    struct virtqueue *queue;
    struct chain *chain;
    struct table *table;
    bool writing; /* the second half has begun */
    unsigned count;
};

struct chain *chain_new(struct virtqueue *queue)
{
    struct chain *chain = queue->free_chains;
    if (chain) {
        queue->free_chains = chain->next;
        return chain;
    }
    chain = calloc(1, sizeof(*chain));
    if (!chain)
        return NULL;
    chain->queue = queue;
    chain->spare.next = queue->free_maps;
    queue->free_maps = &chain->spare;
    return chain;
}

void chain_free(struct chain *chain)
{
    chain->shown = (struct virtqueue_chain){0};
    chain->map = NULL;
    chain->finished = false;
    chain->next = chain->queue->free_chains;
    chain->queue->free_chains = chain;
}

void chain_free_all(struct virtqueue *queue)
{
    for (struct chain *chain; (chain = queue->free_chains);) {
        queue->free_chains = chain->next;
        free(chain->iov);
        free(chain->addresses);
        free(chain);
    }
}

static bool grow(struct chain *chain)
{
    unsigned capacity = chain->capacity ? 2 * chain->capacity : PIECES_FIRST;
    struct iovec *iov = realloc(chain->iov, capacity * sizeof(*iov));
    if (!iov)
        return false;
    chain->iov = iov;
    uint64_t *addresses = realloc(chain->addresses, capacity * sizeof(*addresses));
    if (!addresses)
        return false;
    chain->addresses = addresses;
    chain->capacity = capacity;
    return true;
}

static char *window_host(const struct window *window, uint64_t address, uint32_t length, bool writable)
{
    uint64_t offset = address - window->start;
    if (offset >= window->size || length > window->size - offset)
        return NULL;
    char *host = writable ? window->write : window->read;
    return host ? host + offset : NULL;
}

/* Looks the range up that holds `address`, if it is memory. */
static const struct window *open_window(struct ring_map *map, uint64_t address)
{
    const struct flat_range *range = flat_view_find(map->view, address);
    char *host = range ? flat_range_host(range, false) : NULL;
    if (!host)
        return NULL;
    struct window *window = &map->windows[map->next_window++ % WINDOWS];
    *window = (struct window){
        .start = range->start,
        .size = (uint64_t)range->size,
        .read = host,
        .write = flat_range_host(range, true),
    };
    return window;
}

/* Host memory of all of it, if it lies within one range. */
static char *find_host(struct ring_map *map, uint64_t address, uint32_t length, bool writable)
{
    for (unsigned i = 0; i < WINDOWS; i++) {
        char *host = window_host(&map->windows[i], address, length, writable);
        if (host)
            return host;
    }
    const struct window *window = open_window(map, address);
    return window ? window_host(window, address, length, writable) : NULL;
}

/* What lies over several ranges, in as many pieces as it takes. */
static int add_pieces(struct walk *walk, const struct descriptor *descriptor, bool writable)
{
    struct chain *chain = walk->chain;
    int count;
    while ((count = flat_view_map(walk->queue->map->view, descriptor->address, descriptor->length, writable,
                                  chain->iov + walk->count, chain->capacity - walk->count)) == -ENOSPC &&
           chain->capacity < PIECES_MAX)
        if (!grow(chain))
            return -ENOMEM;
    if (count < 0)
        return virtqueue_break(walk->queue, "0x%llx, %u bytes for the device to %s, is not %s",
                               (unsigned long long)descriptor->address, descriptor->length,
                               writable ? "write" : "read",
                               count == -ENOSPC ? "in few enough pieces" : "memory");
    uint64_t address = descriptor->address;
    for (int i = 0; i < count; i++, walk->count++) {
        chain->addresses[walk->count] = address;
        address += chain->iov[walk->count].iov_len;
    }
    return 0;
}

static int add_memory(struct walk *walk, const struct descriptor *descriptor, bool writable)
{
    struct chain *chain = walk->chain;
    if (walk->count == chain->capacity && chain->capacity < PIECES_MAX && !grow(chain))
        return -ENOMEM;
    char *host = walk->count < chain->capacity
                     ? find_host(walk->queue->map, descriptor->address, descriptor->length, writable)
                     : NULL;
    if (!host)
        return add_pieces(walk, descriptor, writable);
    chain->iov[walk->count] = (struct iovec){host, descriptor->length};
    chain->addresses[walk->count++] = descriptor->address;
    return 0;
}

static int add_buffer(struct walk *walk, const struct descriptor *descriptor)
{
    struct virtqueue_chain *shown = &walk->chain->shown;
    bool writable = descriptor->flags & DESCRIPTOR_WRITE;
    if (!writable && walk->writing)
        return virtqueue_break(walk->queue, "a buffer to read follows one to write");
    walk->writing = writable;
    uint32_t *bytes = writable ? &shown->in_bytes : &shown->out_bytes;
    if (__builtin_add_overflow(*bytes, descriptor->length, bytes))
        return virtqueue_break(walk->queue, "a chain of 4 GiB or more");
    unsigned before = walk->count;
    int result = descriptor->length ? add_memory(walk, descriptor, writable) : 0;
    if (writable)
        shown->in_count += walk->count - before;
    else
        shown->out_count += walk->count - before;
    return result;
}

static struct descriptor read_descriptor(const struct table *table)
{
    const char *host = table->host + (size_t)table->index * DESCRIPTOR_SIZE;
    uint64_t words[2];
    if ((uintptr_t)host % sizeof(words[0]) == 0) {
        words[0] = ring_load64(host);
        words[1] = ring_load64(host + sizeof(words[0]));
    } else { /* an indirect table may lie anywhere */
        guest_copy_from(words, host, sizeof(words));
        words[0] = le64toh(words[0]);
        words[1] = le64toh(words[1]);
    }
    uint16_t third = (uint16_t)(words[1] >> 32), fourth = (uint16_t)(words[1] >> 48);
    return (struct descriptor){
        .address = words[0],
        .length = (uint32_t)words[1],
        .flags = table->linked ? third : fourth,
        .link = table->linked ? fourth : third,
    };
}

/* Goes on in the indirect table that `descriptor` refers to. VIRTIO 1.2, sections 2.7.5.3 and 2.8.7. */
static int enter_table(struct walk *walk, const struct descriptor *descriptor)
{
    struct virtqueue *queue = walk->queue;
    struct table *table = walk->table;
    if (!queue->config.indirect)
        return virtqueue_break(queue, "an indirect table, which was not negotiated");
    if (table->indirect)
        return virtqueue_break(queue, "an indirect table within an indirect table");
    if (descriptor->flags & DESCRIPTOR_NEXT)
        return virtqueue_break(queue, "an indirect table that is not the end of its chain");
    if (queue->config.packed && walk->chain->entries > 1)
        return virtqueue_break(queue, "an indirect table behind other descriptors");
    if (descriptor->length == 0 || descriptor->length % DESCRIPTOR_SIZE)
        return virtqueue_break(queue, "an indirect table of %u bytes, no multiple of 16", descriptor->length);
    if (descriptor->length / DESCRIPTOR_SIZE > VIRTQUEUE_SIZE_MAX)
        return virtqueue_break(queue, "an indirect table of %u bytes, more than %u descriptors",
                               descriptor->length, VIRTQUEUE_SIZE_MAX);
    table->host = find_host(queue->map, descriptor->address, descriptor->length, false);
    if (!table->host)
        return virtqueue_break(queue,
                               "an indirect table at 0x%llx, %u bytes, which is not one piece of memory",
                               (unsigned long long)descriptor->address, descriptor->length);
    table->count = table->left = descriptor->length / DESCRIPTOR_SIZE;
    table->index = 0;
    table->indirect = true;
    return 0;
}

/* Whether another descriptor follows, to which `table` then points; -EPROTO if it cannot. */
static int advance(struct virtqueue *queue, struct table *table, const struct descriptor *descriptor)
{
    if (!table->linked && table->indirect) {
        table->index++;
        return table->left > 0;
    }
    if (!(descriptor->flags & DESCRIPTOR_NEXT))
        return 0;
    if (table->left == 0)
        return virtqueue_break(queue, "a chain that loops or does not fit into its %s of %u",
                               table->indirect ? "indirect table" : "ring", table->count);
    unsigned next = table->linked ? descriptor->link : table->index + 1;
    if (!table->linked && next == table->count)
        next = 0;
    if (next >= table->count)
        return virtqueue_break(queue, "next descriptor %u of %u", next, table->count);
    table->index = next;
    return 1;
}

static int walk_all(struct walk *walk)
{
    struct table *table = walk->table;
    int more = 1;
    while (more > 0) {
        struct descriptor descriptor = read_descriptor(table);
        bool refers = (descriptor.flags & DESCRIPTOR_INDIRECT) && (table->linked || !table->indirect);
        table->left--;
        if (!table->indirect) {
            walk->chain->entries++;
            walk->chain->last = descriptor.link;
        }
        int result = refers ? enter_table(walk, &descriptor) : add_buffer(walk, &descriptor);
        if (result)
            return result;
        if (!refers)
            more = advance(walk->queue, table, &descriptor);
    }
    return more;
}

int chain_walk(struct virtqueue *queue, struct chain *chain, struct table *table)
{
    struct walk walk = {.queue = queue, .chain = chain, .table = table};
    chain->entries = 0;
    int result = walk_all(&walk);
    if (result)
        return result;
    if (walk.count == 0)
        return virtqueue_break(queue, "a chain without a byte");
    chain->shown.out = chain->iov;
    chain->shown.in = chain->iov + chain->shown.out_count;
    return 0;
}

void chain_mark(const struct chain *chain)
{
    const struct virtqueue_chain *shown = &chain->shown;
    uint32_t left = shown->touched;
    for (unsigned i = 0; i < shown->in_count && left; i++) {
        uint32_t part = (uint32_t)smaller(shown->in[i].iov_len, left);
        flat_view_mark(chain->map->view, chain->addresses[shown->out_count + i], part);
        left -= part;
    }
}
