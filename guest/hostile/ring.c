#include "guest/hostile/ring.h"

#include "guest/lib/string.h"

#define PACKED_AVAILABLE (1 << 7)
#define PACKED_USED      (1 << 15)

void ring_begin(struct ring *ring, struct ring_memory *memory, bool packed)
{
    memset(memory, 0, sizeof(*memory));
    *ring = (struct ring){.memory = memory, .packed = packed, .wrap = true, .used_wrap = true};
}

uint16_t *descriptor_flags(const struct ring *ring, struct descriptor *descriptor)
{
    return ring->packed ? &descriptor->fourth : &descriptor->third;
}

uint16_t *descriptor_link(const struct ring *ring, struct descriptor *descriptor)
{
    return ring->packed ? &descriptor->third : &descriptor->fourth;
}

static struct descriptor *at(const struct ring *ring, unsigned n)
{
    return &ring->memory->descriptors[(ring->base + n) % RING_SIZE];
}

struct descriptor *ring_add(struct ring *ring, uint64_t address, uint32_t length, uint16_t flags)
{
    struct descriptor *descriptor = at(ring, ring->count++);

    descriptor->address = address;
    descriptor->length = length;
    /* In a packed ring all that may change before it is handed over is that of the wrap before. */
    *descriptor_link(ring, descriptor) = ring->packed ? ring->base : 0;
    if (ring->packed)
        flags |= ring->wrap ^ (ring->base + ring->count > RING_SIZE) ? PACKED_USED : PACKED_AVAILABLE;
    *descriptor_flags(ring, descriptor) = flags;
    if (ring->count > 1) {
        struct descriptor *before = at(ring, ring->count - 2);
        *descriptor_flags(ring, before) |= FLAG_NEXT;
        if (!ring->packed)
            *descriptor_link(ring, before) = (ring->base + ring->count - 1) % RING_SIZE;
    }
    return descriptor;
}

/* The first one last. */
static void offer_packed(struct ring *ring)
{
    for (unsigned n = ring->count; n-- > 0;) {
        struct descriptor *descriptor = at(ring, n);
        __atomic_store_n(&descriptor->fourth, descriptor->fourth ^ (PACKED_AVAILABLE | PACKED_USED),
                         __ATOMIC_SEQ_CST);
    }
    if (ring->base + ring->count >= RING_SIZE)
        ring->wrap = !ring->wrap;
}

void ring_offer_entries(struct ring *ring, uint16_t count)
{
    ring->available += count;
    __atomic_store_n(&ring->memory->driver[RING_INDEX], ring->available, __ATOMIC_SEQ_CST);
}

uint16_t ring_offer(struct ring *ring)
{
    uint16_t id = ring->base;

    ring->entries[id] = ring->count;
    if (ring->packed) {
        offer_packed(ring);
    } else {
        ring->memory->driver[RING_ENTRIES + ring->available % RING_SIZE] = id;
        ring_offer_entries(ring, 1);
    }
    ring->base = (ring->base + ring->count) % RING_SIZE;
    ring->count = 0;
    return id;
}

static int take_packed(struct ring *ring)
{
    const struct descriptor *descriptor = &ring->memory->descriptors[ring->used];
    uint16_t flags = __atomic_load_n(&descriptor->fourth, __ATOMIC_ACQUIRE);
    uint16_t want = ring->used_wrap ? PACKED_AVAILABLE | PACKED_USED : 0;
    uint16_t id = descriptor->third % RING_SIZE;

    if ((flags & (PACKED_AVAILABLE | PACKED_USED)) != want)
        return -1;
    ring->used += ring->entries[id];
    if (ring->used >= RING_SIZE) {
        ring->used -= RING_SIZE;
        ring->used_wrap = !ring->used_wrap;
    }
    return id;
}

int ring_take(struct ring *ring)
{
    const uint16_t *device = ring->memory->device;

    if (ring->packed)
        return take_packed(ring);
    if (__atomic_load_n(&device[RING_INDEX], __ATOMIC_ACQUIRE) == ring->used)
        return -1;
    return device[RING_ENTRIES + 4 * (ring->used++ % RING_SIZE)];
}
