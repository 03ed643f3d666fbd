#include "guest/lib/virtqueue.h"

#include "guest/lib/exit.h"
#include "guest/lib/io.h"
#include "guest/lib/virtio.h"

#define NO_NOTIFY 1 /* flags of either split ring */

void virtqueue_begin(struct virtqueue *queue, uint16_t size, uint64_t features)
{
    queue->size = size;
    queue->packed = features & VIRTIO_F_RING_PACKED;
    queue->event_idx = features & VIRTIO_F_EVENT_IDX;
    queue->indirect = features & VIRTIO_F_INDIRECT;
    queue->left = size;
    for (unsigned id = 0; id < size; id++)
        queue->ids[id].next = id + 1;
    if (queue->packed)
        queue->next = queue->seen = queue->kicked = VIRTQUEUE_WRAP;
    virtqueue_set_interrupts(queue, false);
}

static uint16_t *used_event(struct virtqueue *queue)
{
    return &queue->available.ring[queue->size];
}

static uint16_t *available_event(struct virtqueue *queue)
{
    return (uint16_t *)&queue->used.ring[queue->size];
}

static uint16_t load16(const uint16_t *field)
{
    return __atomic_load_n(field, __ATOMIC_ACQUIRE);
}

static void store16(uint16_t *field, uint16_t value)
{
    __atomic_store_n(field, value, __ATOMIC_RELEASE);
}

static uint16_t take_id(struct virtqueue *queue)
{
    uint16_t id = queue->free;

    queue->free = queue->ids[id].next;
    return id;
}

static void give_id(struct virtqueue *queue, uint16_t id)
{
    queue->ids[id].next = queue->free;
    queue->free = id;
}

static uint16_t flags_of(const struct virtqueue_buffer *buffers, unsigned count, unsigned index)
{
    return (buffers[index].write ? VIRTQUEUE_WRITE : 0) | (index + 1 < count ? VIRTQUEUE_NEXT : 0);
}

/* Makes the indirect table of `id`, and the one buffer that stands for it in the ring. */
static struct virtqueue_buffer fill_table(struct virtqueue *queue, uint16_t id,
                                          const struct virtqueue_buffer *buffers, unsigned count)
{
    struct virtqueue_descriptor *table = queue->tables[id];

    for (unsigned i = 0; i < count; i++) {
        uint16_t flags = flags_of(buffers, count, i);
        table[i].address = (uint64_t)buffers[i].data;
        table[i].size = buffers[i].size;
        table[i].third = queue->packed ? 0 : flags;
        table[i].fourth = queue->packed ? flags & VIRTQUEUE_WRITE : i + 1;
    }
    return (struct virtqueue_buffer){table, count * sizeof(*table), false};
}

/* ---- Split rings ---- */

/* The descriptors of a chain are linked as their ids were when they were free. */
static void add_split(struct virtqueue *queue, uint16_t head, const struct virtqueue_buffer *buffers,
                      unsigned count, uint16_t more_flags)
{
    uint16_t id = head;

    for (unsigned i = 0; i < count; i++) {
        uint16_t next = i + 1 < count ? take_id(queue) : 0;
        queue->descriptors[id] = (struct virtqueue_descriptor){
            (uint64_t)buffers[i].data, buffers[i].size, flags_of(buffers, count, i) | more_flags, next};
        queue->ids[id].next = next;
        id = next;
    }
    queue->available.ring[queue->next % queue->size] = head;
    store16(&queue->available.index, ++queue->next);
}

static bool wants_kick_split(struct virtqueue *queue)
{
    uint16_t passed = queue->next - queue->kicked;

    if (!queue->event_idx)
        return !(load16(&queue->used.flags) & NO_NOTIFY);
    return (uint16_t)(queue->next - load16(available_event(queue)) - 1) < passed;
}

static bool is_back_split(const struct virtqueue *queue)
{
    return load16(&queue->used.index) != queue->seen;
}

static uint16_t take_split(struct virtqueue *queue, uint32_t *written)
{
    const struct virtqueue_used_entry *entry = &queue->used.ring[queue->seen % queue->size];
    uint16_t head = entry->id, id = head;

    if (entry->id >= queue->size || queue->ids[head].entries == 0)
        guest_panic("a chain comes back that was not handed over");
    for (unsigned i = 0; i < queue->ids[head].entries; i++) {
        uint16_t next = queue->ids[id].next;
        give_id(queue, id);
        id = next;
    }
    *written = entry->written;
    queue->seen++;
    return head;
}

static void tell_split(struct virtqueue *queue, bool wanted)
{
    if (queue->event_idx) /* not: for one that lies behind */
        store16(used_event(queue), wanted ? queue->seen : (uint16_t)(queue->seen - 1));
    else
        store16(&queue->available.flags, wanted ? 0 : NO_NOTIFY);
}

/* ---- Packed rings ---- */

static uint16_t forward(const struct virtqueue *queue, uint16_t position, unsigned entries)
{
    unsigned index = (position & ~VIRTQUEUE_WRAP) + entries;

    position &= VIRTQUEUE_WRAP;
    return index < queue->size ? position | index : (position ^ VIRTQUEUE_WRAP) | (index - queue->size);
}

/* The first descriptor becomes available last, and with it the chain. */
static void add_packed(struct virtqueue *queue, uint16_t id, const struct virtqueue_buffer *buffers,
                       unsigned count, uint16_t more_flags)
{
    struct virtqueue_descriptor *first = &queue->descriptors[queue->next & ~VIRTQUEUE_WRAP];
    uint16_t first_flags = 0;

    for (unsigned i = 0; i < count; i++) {
        struct virtqueue_descriptor *descriptor = &queue->descriptors[queue->next & ~VIRTQUEUE_WRAP];
        uint16_t flags = flags_of(buffers, count, i) | more_flags;
        flags |= queue->next & VIRTQUEUE_WRAP ? VIRTQUEUE_AVAILABLE : VIRTQUEUE_USED;
        descriptor->address = (uint64_t)buffers[i].data;
        descriptor->size = buffers[i].size;
        descriptor->third = id;
        if (i == 0)
            first_flags = flags;
        else
            descriptor->fourth = flags;
        queue->next = forward(queue, queue->next, 1);
    }
    store16(&first->fourth, first_flags);
}

/* Counted over two rounds, of which the wrap counter tells which. */
static unsigned place(const struct virtqueue *queue, uint16_t position)
{
    return (position & ~VIRTQUEUE_WRAP) + (position & VIRTQUEUE_WRAP ? queue->size : 0);
}

static bool wants_kick_packed(struct virtqueue *queue)
{
    uint16_t flags = load16(&queue->device_event.flags), at = load16(&queue->device_event.position);
    unsigned cycle = 2 * queue->size, next = place(queue, queue->next);

    if (flags != VIRTQUEUE_EVENT_AT)
        return flags == VIRTQUEUE_EVENT_ENABLE;
    return (cycle + next - place(queue, at) - 1) % cycle <
           (cycle + next - place(queue, queue->kicked)) % cycle;
}

static bool is_back_packed(const struct virtqueue *queue)
{
    uint16_t flags = load16(&queue->descriptors[queue->seen & ~VIRTQUEUE_WRAP].fourth);
    uint16_t both = VIRTQUEUE_AVAILABLE | VIRTQUEUE_USED;

    return (flags & both) == (queue->seen & VIRTQUEUE_WRAP ? both : 0);
}

static uint16_t take_packed(struct virtqueue *queue, uint32_t *written)
{
    const struct virtqueue_descriptor *descriptor = &queue->descriptors[queue->seen & ~VIRTQUEUE_WRAP];
    uint16_t id = descriptor->third;

    if (id >= queue->size || queue->ids[id].entries == 0)
        guest_panic("a chain comes back that was not handed over");
    *written = descriptor->size;
    queue->seen = forward(queue, queue->seen, queue->ids[id].entries);
    give_id(queue, id);
    return id;
}

static void tell_packed(struct virtqueue *queue, bool wanted)
{
    if (wanted && queue->event_idx)
        store16(&queue->driver_event.position, queue->seen);
    store16(&queue->driver_event.flags, !wanted            ? VIRTQUEUE_EVENT_DISABLE
                                        : queue->event_idx ? VIRTQUEUE_EVENT_AT
                                                           : VIRTQUEUE_EVENT_ENABLE);
}

/* ---- Both ---- */

bool virtqueue_add(struct virtqueue *queue, const struct virtqueue_buffer *buffers, unsigned count,
                   uint16_t token)
{
    bool indirect = queue->indirect && count > 1;
    unsigned entries = indirect ? 1 : count;
    struct virtqueue_buffer table;
    uint16_t id;

    if (queue->left < entries)
        return false;
    id = take_id(queue);
    if (indirect) {
        table = fill_table(queue, id, buffers, count);
        buffers = &table;
    }
    (queue->packed ? add_packed : add_split)(queue, id, buffers, entries, indirect ? VIRTQUEUE_INDIRECT : 0);
    queue->ids[id].token = token;
    queue->ids[id].entries = entries;
    queue->left -= entries;
    return true;
}

void virtqueue_kick(struct virtqueue *queue)
{
    bool wanted;

    if (queue->next == queue->kicked)
        return;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    wanted = queue->packed ? wants_kick_packed(queue) : wants_kick_split(queue);
    queue->kicked = queue->next;
    if (!wanted)
        return;
    queue->kicks++;
    if (queue->notify_wide)
        mmio_write32(queue->notify, queue->number);
    else
        mmio_write16(queue->notify, queue->number);
}

static bool is_back(const struct virtqueue *queue)
{
    return queue->packed ? is_back_packed(queue) : is_back_split(queue);
}

bool virtqueue_take(struct virtqueue *queue, uint16_t *token, uint32_t *written)
{
    uint16_t id;

    if (!is_back(queue))
        return false;
    id = queue->packed ? take_packed(queue, written) : take_split(queue, written);
    *token = queue->ids[id].token;
    queue->left += queue->ids[id].entries;
    queue->ids[id].entries = 0;
    return true;
}

bool virtqueue_set_interrupts(struct virtqueue *queue, bool wanted)
{
    (queue->packed ? tell_packed : tell_split)(queue, wanted);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return wanted && is_back(queue);
}
