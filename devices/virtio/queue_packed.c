/*
 * The packed layout: one ring of descriptors that both sides write, and for each side a word in which it says
 * when it wants to be notified. Positions in the ring carry a wrap counter in their highest bit.
 * VIRTIO 1.2, section 2.8.
 */
#include "devices/virtio/queue_internal.h"
#include "memory/address_space.h"

#define DESCRIPTOR_LENGTH 8
#define DESCRIPTOR_ID     12
#define DESCRIPTOR_FLAGS  14
#define DESCRIPTOR_AVAIL  (1 << 7)
#define DESCRIPTOR_USED   (1 << 15)

/* Event suppression, of either side; section 2.8.10. */
#define EVENT_POSITION    0
#define EVENT_FLAGS       2
#define EVENT_SIZE        4
#define EVENTS_ENABLE     0
#define EVENTS_DISABLE    1
#define EVENTS_AT         2 /* with EVENT_IDX: when the descriptor at that position is written */
#define EVENTS_MASK       3

static unsigned index_of(uint16_t position)
{
    return position & (PACKED_WRAP - 1);
}

static uint16_t forward(const struct virtqueue *queue, uint16_t position, unsigned entries)
{
    unsigned index = index_of(position) + entries, wrap = position & PACKED_WRAP;
    if (index >= queue->config.size) {
        index -= queue->config.size;
        wrap ^= PACKED_WRAP;
    }
    return (uint16_t)(index | wrap);
}

static uint16_t back(const struct virtqueue *queue, uint16_t position, unsigned entries)
{
    return forward(queue, position, queue->config.size - entries) ^ PACKED_WRAP;
}

/* Counted over two rounds, of which the wrap counter tells which. */
static unsigned place(const struct virtqueue *queue, uint16_t position)
{
    return index_of(position) + (position & PACKED_WRAP ? queue->config.size : 0);
}

static size_t descriptor_at(uint16_t position)
{
    return (size_t)index_of(position) * DESCRIPTOR_SIZE;
}

static void sizes(const struct virtqueue_config *config, size_t sizes[AREAS])
{
    sizes[AREA_DESCRIPTORS] = (size_t)config->size * DESCRIPTOR_SIZE;
    sizes[AREA_DRIVER] = sizes[AREA_DEVICE] = EVENT_SIZE;
}

/* Section 2.8.1: the one bit is as our wrap counter, the other is not. */
static int available(struct virtqueue *queue)
{
    const char *descriptor = queue->map->areas[AREA_DESCRIPTORS] + descriptor_at(queue->avail);
    uint16_t flags =
        ring_load16_acquire(descriptor + DESCRIPTOR_FLAGS) & (DESCRIPTOR_AVAIL | DESCRIPTOR_USED);
    return flags == (queue->avail & PACKED_WRAP ? DESCRIPTOR_AVAIL : DESCRIPTOR_USED);
}

static int take(struct virtqueue *queue, struct chain *chain)
{
    struct table table = {
        .host = queue->map->areas[AREA_DESCRIPTORS],
        .count = queue->config.size,
        .index = index_of(queue->avail),
        .left = queue->config.size - queue->out_entries,
    };
    int result = chain_walk(queue, chain, &table);
    if (result)
        return result;
    chain->id = chain->last;
    if (chain->id >= queue->config.size)
        return virtqueue_break(queue, "buffer id %u in a ring of %u", chain->id, queue->config.size);
    queue->avail = forward(queue, queue->avail, chain->entries);
    return 0;
}

static void untake(struct virtqueue *queue, const struct chain *chain)
{
    queue->avail = back(queue, queue->avail, chain->entries);
}

/* The driver looks at the flags of the first before it looks at others; so these hide them all. */
static void put(struct virtqueue *queue, struct chain *chain)
{
    char *descriptor = queue->map->areas[AREA_DESCRIPTORS] + descriptor_at(queue->used);
    uint16_t flags = queue->used & PACKED_WRAP ? DESCRIPTOR_AVAIL | DESCRIPTOR_USED : 0;
    flags |= chain->written ? DESCRIPTOR_WRITE : 0;
    ring_store32(descriptor + DESCRIPTOR_LENGTH, chain->written);
    ring_store16(descriptor + DESCRIPTOR_ID, chain->id);
    if (queue->hidden) {
        ring_store16(descriptor + DESCRIPTOR_FLAGS, flags);
    } else {
        queue->first_put = queue->used;
        queue->first_flags = flags;
        queue->hidden = true;
    }
    chain->used = queue->used;
    queue->used = forward(queue, queue->used, chain->entries);
}

static void show(struct virtqueue *queue)
{
    char *descriptor = queue->map->areas[AREA_DESCRIPTORS] + descriptor_at(queue->first_put);
    ring_store16_release(descriptor + DESCRIPTOR_FLAGS, queue->first_flags);
    queue->hidden = false;
}

static void mark_put(struct virtqueue *queue, const struct chain *chain)
{
    virtqueue_mark(queue, AREA_DESCRIPTORS, descriptor_at(chain->used), DESCRIPTOR_SIZE);
}

/* A full fence came after the last show(). */
static bool wants_interrupt(struct virtqueue *queue, unsigned pushed)
{
    const char *event = queue->map->areas[AREA_DRIVER];
    unsigned flags = ring_load16_acquire(event + EVENT_FLAGS) & EVENTS_MASK;
    if (flags != EVENTS_AT || !queue->config.event_idx)
        return flags != EVENTS_DISABLE;
    unsigned cycle = 2 * queue->config.size;
    unsigned passed =
        (cycle + place(queue, queue->used) - place(queue, ring_load16(event + EVENT_POSITION))) % cycle;
    return passed ? passed <= pushed : cycle <= pushed;
}

static void tell(struct virtqueue *queue, uint16_t flags)
{
    ring_store16_release(queue->map->areas[AREA_DEVICE] + EVENT_FLAGS, flags);
    if (virtqueue_tracked(queue))
        virtqueue_mark(queue, AREA_DEVICE, 0, EVENT_SIZE);
}

static void ask_kicks(struct virtqueue *queue)
{
    if (queue->config.event_idx)
        ring_store16(queue->map->areas[AREA_DEVICE] + EVENT_POSITION, queue->avail);
    tell(queue, queue->config.event_idx ? EVENTS_AT : EVENTS_ENABLE);
}

static void decline_kicks(struct virtqueue *queue)
{
    tell(queue, EVENTS_DISABLE);
}

const struct ring_layout ring_packed = {
    .sizes = sizes,
    .writes_descriptors = true,
    .available = available,
    .take = take,
    .untake = untake,
    .put = put,
    .show = show,
    .mark_put = mark_put,
    .wants_interrupt = wants_interrupt,
    .ask_kicks = ask_kicks,
    .decline_kicks = decline_kicks,
};
