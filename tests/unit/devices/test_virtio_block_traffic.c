/*
 * Many requests at the same time on all queues, with data checked, and resets in the middle of them.
 */
#include "tests/unit/devices/block_fixture.h"

#define DEPTH      16 /* chains out of each queue */
#define SLOT_BYTES 0x4000
#define DATA_MAX   8192
#define DISK_SLOT  (DISK_SIZE / QUEUES / DEPTH) /* of the disk, that only one slot uses */

/* One chain: its memory in the guest, and what its part of the disk holds. */
struct slot {
    uint64_t memory;
    bool reads, out;
    uint32_t offset, size; /* within its part of the disk */
    uint8_t shadow[DISK_SLOT];
};

struct traffic {
    struct block_fixture f;
    uint64_t random;
    uint64_t features;
    unsigned done;
    struct slot slots[QUEUES][DEPTH];
};

static uint32_t draw(struct traffic *t, uint32_t limit)
{
    t->random ^= t->random << 13;
    t->random ^= t->random >> 7;
    t->random ^= t->random << 17;
    return (uint32_t)(t->random >> 32) % limit;
}

static struct traffic *begin(enum disk_cache cache, uint64_t features)
{
    struct traffic *t = calloc(1, sizeof(*t));
    cr_assert(t);
    t->random = 0x9E3779B97F4A7C15u;
    t->features = features;
    fixture_start(&t->f, cache, false);
    for (unsigned i = 0; i < QUEUES * DEPTH; i++)
        t->slots[i / DEPTH][i % DEPTH].memory = MMIO_GUEST_DATA + (uint64_t)i * SLOT_BYTES;
    return t;
}

static void end(struct traffic *t)
{
    fixture_end(&t->f);
    free(t);
}

static uint8_t *memory(struct traffic *t, const struct slot *slot, uint32_t place)
{
    return mmio_guest_memory(&t->f.guest, slot->memory + place);
}

/* Header, data in up to three buffers, status. */
static void offer(struct traffic *t, unsigned queue, unsigned index)
{
    struct slot *slot = &t->slots[queue][index];
    struct queue_driver_buffer buffers[8] = {{slot->memory, sizeof(struct virtio_blk_outhdr), false}};
    uint64_t start = ((uint64_t)queue * DEPTH + index) * DISK_SLOT;
    unsigned count = 1;
    slot->reads = draw(t, 2);
    slot->size = (1 + draw(t, DATA_MAX / 512)) * 512;
    slot->offset = draw(t, (DISK_SLOT - slot->size) / 512 + 1) * 512;
    slot->out = true;
    uint32_t type = slot->reads ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
    struct virtio_blk_outhdr header = block_header(type, (start + slot->offset) / 512);
    memcpy(memory(t, slot, 0), &header, sizeof(header));
    for (uint32_t i = 0; i < slot->size; i++)
        *memory(t, slot, 512 + i) = slot->reads ? 0 : (uint8_t)draw(t, 256);
    for (uint32_t done = 0, part; done < slot->size; done += part) {
        part = count == 3 ? slot->size - done : 1 + draw(t, slot->size - done);
        buffers[count++] = (struct queue_driver_buffer){slot->memory + 512 + done, part, slot->reads};
    }
    *memory(t, slot, 256) = 0xEE;
    buffers[count++] = (struct queue_driver_buffer){slot->memory + 256, 1, true};
    bool indirect = t->features & BIT(VIRTIO_RING_F_INDIRECT_DESC) && draw(t, 2);
    if (!mmio_guest_offer(&t->f.guest, queue, index, buffers, count, indirect))
        slot->out = false;
}

/* Takes the oldest chain back and looks at it. */
static void take(struct traffic *t, unsigned queue)
{
    uint32_t written;
    unsigned index = wait_for_chain(&t->f, queue, &written);
    struct slot *slot = &t->slots[queue][index];
    cr_assert(slot->out);
    slot->out = false;
    cr_assert_eq(*memory(t, slot, 256), VIRTIO_BLK_S_OK);
    cr_assert_eq(written, slot->reads ? slot->size + 1 : 1);
    uint8_t *shadow = slot->shadow + slot->offset;
    if (slot->reads)
        cr_assert_eq(memcmp(memory(t, slot, 512), shadow, slot->size), 0);
    else
        memcpy(shadow, memory(t, slot, 512), slot->size);
    t->done++;
}

static unsigned out_of(struct traffic *t, unsigned queue)
{
    unsigned out = 0;
    for (unsigned i = 0; i < DEPTH; i++)
        out += t->slots[queue][i].out;
    return out;
}

static void fill(struct traffic *t, unsigned queue)
{
    for (unsigned i = 0; i < DEPTH; i++) {
        if (!t->slots[queue][i].out)
            offer(t, queue, i);
    }
}

static void check_disk(struct traffic *t)
{
    uint8_t found[DISK_SLOT];
    for (unsigned i = 0; i < QUEUES * DEPTH; i++) {
        cr_assert_eq(pread(t->f.file.fd, found, DISK_SLOT, (off_t)i * DISK_SLOT), DISK_SLOT);
        cr_assert_eq(memcmp(found, t->slots[i / DEPTH][i % DEPTH].shadow, DISK_SLOT), 0);
    }
}

static void run(enum disk_cache cache, uint64_t features)
{
    struct traffic *t = begin(cache, features);
    mmio_guest_start(&t->f.guest, features);
    while (t->done < 2000) {
        for (unsigned i = 0; i < QUEUES; i++) {
            fill(t, i);
            for (unsigned left = 1 + draw(t, out_of(t, i)); left > 0; left--)
                take(t, i);
        }
    }
    for (unsigned i = 0; i < QUEUES; i++)
        while (out_of(t, i))
            take(t, i);
    check_disk(t);
    end(t);
}

#define SPLIT  (BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_RING_F_INDIRECT_DESC))
#define PACKED (SPLIT | BIT(VIRTIO_F_RING_PACKED))

Test(virtio_block_traffic, split)
{
    run(DISK_CACHE_WRITEBACK, SPLIT);
}

Test(virtio_block_traffic, split_with_event_idx_and_direct_io)
{
    run(DISK_CACHE_NONE, SPLIT | BIT(VIRTIO_RING_F_EVENT_IDX));
}

Test(virtio_block_traffic, packed_with_event_idx)
{
    run(DISK_CACHE_UNSAFE, PACKED | BIT(VIRTIO_RING_F_EVENT_IDX));
}

Test(virtio_block_traffic, in_order_and_without_a_cache)
{
    run(DISK_CACHE_WRITEBACK, BIT(VIRTIO_F_IN_ORDER));
}

/* Memory that the driver has back is its own: nothing that was under way writes there later. */
static void take_memory_back(struct traffic *t)
{
    for (unsigned i = 0; i < QUEUES * DEPTH; i++) {
        struct slot *slot = &t->slots[i / DEPTH][i % DEPTH];
        memset(memory(t, slot, 0), 0x5A, SLOT_BYTES);
        slot->out = false;
    }
}

static void check_memory(struct traffic *t)
{
    for (unsigned i = 0; i < QUEUES * DEPTH; i++) {
        const uint8_t *bytes = memory(t, &t->slots[i / DEPTH][i % DEPTH], 0);
        cr_assert(bytes[0] == 0x5A && !memcmp(bytes, bytes + 1, SLOT_BYTES - 1));
    }
}

/* Reads and writes what it may; the disk's contents are anybody's guess. */
static void reset_in_the_middle(enum disk_cache cache, uint64_t features)
{
    struct traffic *t = begin(cache, features);
    take_memory_back(t);
    for (unsigned round = 0; round < 100; round++) {
        mmio_guest_start(&t->f.guest, features);
        check_memory(t);
        for (unsigned i = 0; i < QUEUES; i++)
            fill(t, i);
        if (draw(t, 2))
            wait_for_interrupt(&t->f);
        mmio_guest_reset(&t->f.guest);
        take_memory_back(t);
    }
    end(t);
}

Test(virtio_block_traffic, ends_at_a_reset)
{
    reset_in_the_middle(DISK_CACHE_WRITEBACK, SPLIT);
    reset_in_the_middle(DISK_CACHE_NONE, PACKED | BIT(VIRTIO_RING_F_EVENT_IDX));
    reset_in_the_middle(DISK_CACHE_WRITEBACK, BIT(VIRTIO_F_IN_ORDER));
}

/* The other queue goes on all the time, with the right data. */
Test(virtio_block_traffic, of_one_queue_ends_at_its_reset_alone)
{
    uint64_t features = SPLIT | BIT(VIRTIO_F_RING_RESET);
    struct traffic *t = begin(DISK_CACHE_WRITEBACK, features);
    struct mmio_guest *guest = &t->f.guest;
    mmio_guest_start(guest, features);
    for (unsigned round = 0; round < 100; round++) {
        fill(t, 0);
        fill(t, 1);
        take(t, 0);
        mmio_guest_set(guest, MMIO_GUEST_QUEUE_SEL, 1);
        mmio_guest_set(guest, MMIO_GUEST_QUEUE_RESET, 1);
        for (unsigned i = 0; i < DEPTH; i++)
            t->slots[1][i].out = false;
        mmio_guest_enable(guest, 1, features);
    }
    while (out_of(t, 0))
        take(t, 0);
    end(t);
}
