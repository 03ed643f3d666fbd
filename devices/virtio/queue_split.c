/*
 * The split layout: a table of descriptors, and two rings of indices into it, each of which one side writes.
 * VIRTIO 1.2, section 2.7.
 */
#include "devices/virtio/queue_internal.h"
#include "memory/address_space.h"

/* Both rings: flags, index, entries, and behind them where the other side is to notify. */
#define RING_FLAGS         0
#define RING_INDEX         2
#define RING_ENTRIES       4
#define AVAIL_ENTRY        2
#define USED_ENTRY         8

#define AVAIL_NO_INTERRUPT 1
#define USED_NO_NOTIFY     1

static size_t used_event(const struct virtqueue *queue)
{
    return RING_ENTRIES + (size_t)queue->config.size * AVAIL_ENTRY;
}

static size_t avail_event(const struct virtqueue *queue)
{
    return RING_ENTRIES + (size_t)queue->config.size * USED_ENTRY;
}

static void sizes(const struct virtqueue_config *config, size_t sizes[AREAS])
{
    size_t event = config->event_idx ? sizeof(uint16_t) : 0;
    sizes[AREA_DESCRIPTORS] = (size_t)config->size * DESCRIPTOR_SIZE;
    sizes[AREA_DRIVER] = RING_ENTRIES + (size_t)config->size * AVAIL_ENTRY + event;
    sizes[AREA_DEVICE] = RING_ENTRIES + (size_t)config->size * USED_ENTRY + event;
}

static int available(struct virtqueue *queue)
{
    if (queue->avail == queue->avail_seen) {
        queue->avail_seen = ring_load16_acquire(queue->map->areas[AREA_DRIVER] + RING_INDEX);
        if ((uint16_t)(queue->avail_seen - queue->avail) > queue->config.size)
            return virtqueue_break(queue, "the available index jumps from %u to %u, in a ring of %u",
                                   queue->avail, queue->avail_seen, queue->config.size);
    }
    return queue->avail != queue->avail_seen;
}

static int take(struct virtqueue *queue, struct chain *chain)
{
    unsigned entry = queue->avail % queue->config.size;
    uint16_t head = ring_load16(queue->map->areas[AREA_DRIVER] + RING_ENTRIES + (size_t)entry * AVAIL_ENTRY);
    if (head >= queue->config.size)
        return virtqueue_break(queue, "available descriptor %u of %u", head, queue->config.size);
    struct table table = {
        .host = queue->map->areas[AREA_DESCRIPTORS],
        .count = queue->config.size,
        .index = head,
        .left = queue->config.size,
        .linked = true,
    };
    int result = chain_walk(queue, chain, &table);
    if (result)
        return result;
    chain->id = head;
    chain->entries = 1;
    queue->avail++;
    return 0;
}

static void untake(struct virtqueue *queue, const struct chain *chain)
{
    queue->avail--;
}

static size_t used_entry(const struct virtqueue *queue, uint16_t position)
{
    return RING_ENTRIES + (size_t)(position % queue->config.size) * USED_ENTRY;
}

static void put(struct virtqueue *queue, struct chain *chain)
{
    char *used = queue->map->areas[AREA_DEVICE];
    chain->used = queue->used++;
    size_t entry = used_entry(queue, chain->used);
    ring_store32(used + entry, chain->id);
    ring_store32(used + entry + sizeof(uint32_t), chain->written);
}

static void show(struct virtqueue *queue)
{
    ring_store16_release(queue->map->areas[AREA_DEVICE] + RING_INDEX, queue->used);
}

static void mark_put(struct virtqueue *queue, const struct chain *chain)
{
    virtqueue_mark(queue, AREA_DEVICE, used_entry(queue, chain->used), USED_ENTRY);
    virtqueue_mark(queue, AREA_DEVICE, RING_INDEX, sizeof(uint16_t));
}

/* Section 2.7.7. A full fence came after the last show(). */
static bool wants_interrupt(struct virtqueue *queue, unsigned pushed)
{
    const char *avail = queue->map->areas[AREA_DRIVER];
    if (!queue->config.event_idx)
        return !(ring_load16(avail + RING_FLAGS) & AVAIL_NO_INTERRUPT);
    uint16_t event = ring_load16(avail + used_event(queue));
    return (uint16_t)(queue->used - event - 1) < pushed;
}

static void store_device(struct virtqueue *queue, size_t offset, uint16_t value)
{
    ring_store16(queue->map->areas[AREA_DEVICE] + offset, value);
    if (virtqueue_tracked(queue))
        virtqueue_mark(queue, AREA_DEVICE, offset, sizeof(value));
}

/* Section 2.7.10. */
static void ask_kicks(struct virtqueue *queue)
{
    if (queue->config.event_idx)
        store_device(queue, avail_event(queue), queue->avail);
    else
        store_device(queue, RING_FLAGS, 0);
}

/*
 * With EVENT_IDX there is no way to say no but to name an entry that lies behind; that is so by itself once
 * the driver has passed the one that was named.
 */
static void decline_kicks(struct virtqueue *queue)
{
    if (!queue->config.event_idx) {
        store_device(queue, RING_FLAGS, USED_NO_NOTIFY);
        return;
    }
    uint16_t index = ring_load16(queue->map->areas[AREA_DRIVER] + RING_INDEX);
    if (queue->kicks == KICKS_UNKNOWN || queue->kick_at == index)
        store_device(queue, avail_event(queue), (uint16_t)(index - 1));
}

const struct ring_layout ring_split = {
    .sizes = sizes,
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
