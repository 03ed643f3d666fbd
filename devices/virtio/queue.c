#include "devices/virtio/queue.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/macros.h"
#include "devices/virtio/queue_internal.h"
#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "memory/guest_copy.h"

#define PUSHED_MAX 0x10000 /* more is as much: a ring's position has come round */

static struct chain *chain_of(struct virtqueue_chain *shown)
{
    return container_of(shown, struct chain, shown);
}

int virtqueue_break(struct virtqueue *queue, const char *format, ...)
{
    if (queue->broken)
        return -EPROTO;
    queue->broken = true;
    char cause[256];
    va_list args;
    va_start(args, format);
    vsnprintf(cause, sizeof(cause), format, args);
    va_end(args);
    return error_set(&queue->why, EPROTO, "%s: broken by its driver: %s", queue->config.name, cause);
}

bool virtqueue_broken(const struct virtqueue *queue)
{
    return queue->broken;
}

static int tell_broken(struct virtqueue *queue, struct error *err)
{
    if (!queue->told && err)
        *err = queue->why;
    queue->told = true;
    return -EPROTO;
}

/* ---- The rings as host memory ---- */

static void put_map(struct virtqueue *queue, struct ring_map *map)
{
    if (!map || --map->references)
        return;
    flat_view_put(map->view);
    map->next = queue->free_maps;
    queue->free_maps = map;
}

/* A view that nothing holds any more can go: called where the queue may have nothing to do for long. */
static void rest(struct virtqueue *queue)
{
    if (queue->out)
        return;
    put_map(queue, queue->map);
    queue->map = NULL;
}

/* Rings are accessed by atomic operations, so what is aligned in the guest must be so in host memory. */
static int map_area(struct virtqueue *queue, struct ring_map *map, enum area area, size_t size)
{
    const struct virtqueue_config *config = &queue->config;
    static const char *const names[] = {"descriptor", "driver", "device"};
    uint64_t address[] = {config->descriptors, config->driver, config->device};
    bool writable = area == AREA_DEVICE || (area == AREA_DESCRIPTORS && queue->layout->writes_descriptors);
    struct iovec iov;
    if (flat_view_map(map->view, address[area], size, writable, &iov, 1) != 1 ||
        (uintptr_t)iov.iov_base % sizeof(uint32_t) != address[area] % sizeof(uint32_t))
        return virtqueue_break(queue, "its %s area at 0x%llx, %zu bytes, is not one piece of RAM",
                               names[area], (unsigned long long)address[area], size);
    map->areas[area] = iov.iov_base;
    return 0;
}

static int map_rings(struct virtqueue *queue)
{
    put_map(queue, queue->map); /* first: there are just as many as chains out, and one */
    struct ring_map *map = queue->free_maps;
    queue->free_maps = map->next;
    *map = (struct ring_map){.view = flat_view_get(queue->config.space), .references = 1};
    queue->map = map;
    size_t sizes[AREAS];
    queue->layout->sizes(&queue->config, sizes);
    int result = 0;
    for (enum area area = 0; area < AREAS && !result; area++)
        result = map_area(queue, map, area, sizes[area]);
    return result;
}

/* Makes sure that the rings can be accessed, as memory is now; -EPROTO for a broken queue. */
static inline int begin(struct virtqueue *queue)
{
    if (queue->broken)
        return -EPROTO;
    if (queue->map && flat_view_is_current(queue->map->view))
        return 0;
    return map_rings(queue);
}

bool virtqueue_tracked(const struct virtqueue *queue)
{
    return flat_view_tracked(queue->map->view);
}

void virtqueue_mark(const struct virtqueue *queue, enum area area, size_t offset, size_t length)
{
    const struct virtqueue_config *config = &queue->config;
    uint64_t address[] = {config->descriptors, config->driver, config->device};
    flat_view_mark(queue->map->view, address[area] + offset, length);
}

/* ---- Life ---- */

static int check_config(const struct virtqueue_config *config, struct error *err)
{
    if (config->size == 0 || config->size > VIRTQUEUE_SIZE_MAX)
        return error_set(err, EINVAL, "%s: a queue of %u entries; 1 to %u can be had", config->name,
                         config->size, VIRTQUEUE_SIZE_MAX);
    if (!config->packed && (config->size & (config->size - 1)))
        return error_set(err, EINVAL, "%s: a split queue of %u entries, which is no power of two",
                         config->name, config->size);
    const struct {
        const char *name;
        uint64_t address;
        unsigned alignment; /* sections 2.7 and 2.8.10.1 */
    } areas[] = {
        {"descriptor", config->descriptors, 16},
        {"driver", config->driver, config->packed ? 4 : 2},
        {"device", config->device, 4},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(areas); i++)
        if (areas[i].address % areas[i].alignment)
            return error_set(err, EINVAL, "%s: its %s area at 0x%llx is not aligned to %u bytes",
                             config->name, areas[i].name, (unsigned long long)areas[i].address,
                             areas[i].alignment);
    return 0;
}

int virtqueue_create(const struct virtqueue_config *config, struct virtqueue **out, struct error *err)
{
    int result = check_config(config, err);
    if (result)
        return result;
    struct virtqueue *queue = calloc(1, sizeof(*queue));
    struct chain **order = config->in_order ? calloc(config->size, sizeof(struct chain *)) : NULL;
    if (!queue || (config->in_order && !order)) {
        free(queue);
        free(order);
        return error_set(err, ENOMEM, "%s: not enough memory for a queue", config->name);
    }
    queue->config = *config;
    queue->layout = config->packed ? &ring_packed : &ring_split;
    queue->avail = queue->used = config->packed ? PACKED_WRAP : 0;
    queue->order = order;
    queue->kicks_wanted = true;
    queue->free_maps = &queue->first_map;
    *out = queue;
    return 0;
}

void virtqueue_destroy(struct virtqueue *queue)
{
    if (!queue)
        return;
    assert(queue->out == 0);
    rest(queue);
    chain_free_all(queue);
    free(queue->order);
    free(queue);
}

void virtqueue_get_position(const struct virtqueue *queue, uint16_t *next_avail, uint16_t *next_used)
{
    assert(queue->out == 0);
    *next_avail = queue->avail;
    *next_used = queue->used;
}

void virtqueue_set_position(struct virtqueue *queue, uint16_t next_avail, uint16_t next_used)
{
    assert(queue->out == 0);
    uint16_t size = queue->config.size, mask = PACKED_WRAP - 1;
    if (queue->config.packed && ((next_avail & mask) >= size || (next_used & mask) >= size))
        virtqueue_break(queue, "position %u or %u in a ring of %u", next_avail & mask, next_used & mask,
                        size);
    queue->avail = queue->avail_seen = next_avail;
    queue->used = next_used;
    queue->pushed = 0;
    queue->kicks = KICKS_UNKNOWN;
}

/* ---- Chains come ---- */

/* Whether the driver knows that it is to kick for the next chain. */
static bool kick_is_asked(const struct virtqueue *queue)
{
    return queue->kicks == KICKS_ASKED && (!queue->config.event_idx || queue->kick_at == queue->avail);
}

/*
 * Whether a chain is there: 1, 0 or -EPROTO. Before it is not, the driver has been asked for a kick if one is
 * wanted: then the ring is looked at again, behind a full fence.
 */
static int look(struct virtqueue *queue)
{
    int there = queue->layout->available(queue);
    if (there || !queue->kicks_wanted || kick_is_asked(queue))
        return there;
    queue->layout->ask_kicks(queue);
    queue->kicks = KICKS_ASKED;
    queue->kick_at = queue->avail;
    return queue->layout->available(queue);
}

static bool id_is_out(const struct virtqueue *queue, uint16_t id)
{
    return queue->ids[id / 64] >> id % 64 & 1;
}

static void flip_id(struct virtqueue *queue, uint16_t id)
{
    queue->ids[id / 64] ^= (uint64_t)1 << id % 64;
}

static void go_out(struct virtqueue *queue, struct chain *chain)
{
    flip_id(queue, chain->id);
    chain->map = queue->map;
    chain->map->references++;
    if (queue->order)
        queue->order[(queue->oldest + queue->out) % queue->config.size] = chain;
    queue->out++;
    queue->out_entries += chain->entries;
}

static int take(struct virtqueue *queue, struct virtqueue_chain **out)
{
    if (queue->out_entries >= queue->config.size)
        return virtqueue_break(queue, "more is offered than a ring of %u holds", queue->config.size);
    struct chain *chain = chain_new(queue);
    if (!chain)
        return -ENOMEM;
    int result = queue->layout->take(queue, chain);
    if (!result && id_is_out(queue, chain->id))
        result = virtqueue_break(queue, "buffer %u is offered again before it was used", chain->id);
    if (result) {
        chain_free(chain);
        return result;
    }
    go_out(queue, chain);
    *out = &chain->shown;
    return 1;
}

int virtqueue_pop(struct virtqueue *queue, struct virtqueue_chain **chain, struct error *err)
{
    int result = begin(queue);
    if (!result)
        result = look(queue);
    if (result > 0)
        result = take(queue, chain);
    if (result > 0)
        return result;
    rest(queue);
    if (result == -ENOMEM)
        return error_set(err, ENOMEM, "%s: not enough memory for a request", queue->config.name);
    return result ? tell_broken(queue, err) : 0;
}

/* ---- Chains go ---- */

static void come_back(struct virtqueue *queue, struct chain *chain)
{
    flip_id(queue, chain->id);
    queue->out--;
    queue->out_entries -= chain->entries;
    put_map(queue, chain->map);
    chain_free(chain);
    if (queue->broken)
        rest(queue);
}

/* Puts all of a list back into the ring. */
static void put_all(struct virtqueue *queue, struct chain *list)
{
    for (struct chain *chain = list; chain; chain = chain->next) {
        queue->layout->put(queue, chain);
        if (queue->pushed < PUSHED_MAX)
            queue->pushed += chain->entries;
    }
    queue->layout->show(queue);
}

/* One fence, that which orders what is shown before the driver's wish for interrupts, serves the marks too:
 * for all that were found through the same view. */
static void give_back(struct virtqueue *queue, struct chain *list)
{
    bool seen = !queue->dropping && !begin(queue), tracked = false;
    if (seen)
        put_all(queue, list);
    const struct flat_view *view = NULL;
    for (struct chain *chain = list, *next; chain; chain = next) {
        next = chain->next;
        if (chain->map->view != view)
            tracked = flat_view_tracked(chain->map->view);
        view = chain->map->view;
        if (tracked) {
            chain_mark(chain);
            if (seen)
                queue->layout->mark_put(queue, chain);
        }
        come_back(queue, chain);
    }
}

/* A list of those that are finished and that none taken earlier is out before. */
static struct chain *leave_order(struct virtqueue *queue)
{
    struct chain *list = NULL, **end = &list;
    for (unsigned left = queue->out; left && queue->order[queue->oldest]->finished; left--) {
        *end = queue->order[queue->oldest];
        end = &(*end)->next;
        queue->oldest = (queue->oldest + 1) % queue->config.size;
    }
    *end = NULL;
    return list;
}

static void finish(struct virtqueue *queue, struct chain *chain, uint32_t written)
{
    assert(written <= chain->shown.in_bytes);
    if (chain->shown.touched < written)
        chain->shown.touched = written;
    chain->written = written;
    chain->finished = true;
    chain->next = NULL;
}

static void finish_all(struct virtqueue *queue, struct virtqueue_chain *const *chains,
                       const uint32_t *written, unsigned count)
{
    struct chain *list = NULL, **end = &list;
    for (unsigned i = 0; i < count; i++) {
        struct chain *chain = chain_of(chains[i]);
        finish(queue, chain, written ? written[i] : 0);
        *end = chain;
        end = &chain->next;
    }
    if (queue->order)
        list = leave_order(queue);
    if (list)
        give_back(queue, list);
}

void virtqueue_push(struct virtqueue *queue, struct virtqueue_chain *chain, uint32_t written)
{
    finish_all(queue, &chain, &written, 1);
}

void virtqueue_push_all(struct virtqueue *queue, struct virtqueue_chain *const *chains,
                        const uint32_t *written, unsigned count)
{
    finish_all(queue, chains, written, count);
}

/* How much of it has been written nobody says. */
void virtqueue_drop(struct virtqueue *queue, struct virtqueue_chain *chain)
{
    queue->dropping = true;
    chain->touched = chain->in_bytes;
    finish_all(queue, &chain, NULL, 1);
    queue->dropping = queue->order && queue->out;
    rest(queue);
}

void virtqueue_unpop(struct virtqueue *queue, struct virtqueue_chain *shown)
{
    struct chain *chain = chain_of(shown);
    assert(!queue->order || queue->order[(queue->oldest + queue->out - 1) % queue->config.size] == chain);
    queue->layout->untake(queue, chain);
    shown->touched = shown->in_bytes;
    if (flat_view_tracked(chain->map->view))
        chain_mark(chain);
    come_back(queue, chain);
    rest(queue);
}

/* ---- Notifications ---- */

bool virtqueue_wants_interrupt(struct virtqueue *queue)
{
    unsigned pushed = queue->pushed;
    queue->pushed = 0;
    bool wanted = pushed && !begin(queue) && queue->layout->wants_interrupt(queue, pushed);
    rest(queue);
    return wanted;
}

static void decline_kicks(struct virtqueue *queue)
{
    if (queue->kicks != KICKS_DECLINED)
        queue->layout->decline_kicks(queue);
    queue->kicks = KICKS_DECLINED;
}

bool virtqueue_set_kicks(struct virtqueue *queue, bool wanted)
{
    queue->kicks_wanted = wanted;
    int there = begin(queue);
    if (!there && wanted)
        there = look(queue);
    else if (!there)
        decline_kicks(queue);
    if (queue->broken || (wanted && !there))
        rest(queue);
    return wanted && (there > 0 || (queue->broken && !queue->told));
}

bool virtqueue_peek(struct virtqueue *queue)
{
    bool there = !begin(queue) && queue->layout->available(queue) > 0;
    return there || (queue->broken && !queue->told);
}

/* ---- Contents ---- */

/* Copies between `data` and a half of a chain, piece by piece. */
static size_t copy(const struct iovec *iov, unsigned count, size_t offset, char *in, const char *out,
                   size_t size)
{
    size_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        if (offset >= iov[i].iov_len) {
            offset -= iov[i].iov_len;
            continue;
        }
        size_t part = smaller(iov[i].iov_len - offset, size - done);
        char *host = (char *)iov[i].iov_base + offset;
        if (in)
            guest_copy_from(in + done, host, part);
        else
            guest_copy_to(host, out + done, part);
        done += part;
        offset = 0;
    }
    return done;
}

size_t virtqueue_read(const struct virtqueue_chain *chain, size_t offset, void *data, size_t size)
{
    return copy(chain->out, chain->out_count, offset, data, NULL, size);
}

size_t virtqueue_write(struct virtqueue_chain *chain, size_t offset, const void *data, size_t size)
{
    size_t done = copy(chain->in, chain->in_count, offset, NULL, data, size);
    if (done && chain->touched < offset + done)
        chain->touched = (uint32_t)(offset + done);
    return done;
}
