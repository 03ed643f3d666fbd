/* Chains of descriptors, and requests, that make no sense. */
#include "guest/hostile/target.h"

#define FAR_PIECE (24u << 20)

static bool go(struct target *target)
{
    target_go(target);
    return true;
}

static void read_request(struct target *target)
{
    target_request(target, REQUEST_READ, 0, target->memory->data, 8 * SECTOR);
}

static void set_link(struct target *target, unsigned n, uint16_t value)
{
    *descriptor_link(&target->ring, target_part(target, n)) = value;
}

static void add_flags(struct target *target, unsigned n, uint16_t flags)
{
    *descriptor_flags(&target->ring, target_part(target, n)) |= flags;
}

/* ---- Rings ---- */

static bool short_loop(struct target *target, uint64_t value)
{
    read_request(target);
    add_flags(target, 2, FLAG_NEXT);
    set_link(target, 2, value);
    return go(target);
}

/* Every descriptor there is, and round again. */
static bool long_loop(struct target *target, uint64_t value)
{
    for (unsigned i = 0; i < RING_SIZE; i++)
        ring_add(&target->ring, (uint64_t)target->memory->data, 16, value ? FLAG_WRITE : 0);
    add_flags(target, RING_SIZE - 1, FLAG_NEXT);
    return go(target);
}

/* With a queue of half as many entries as there are good descriptors in memory. */
static bool begin_small(struct target *target)
{
    if (!target_negotiate(target, target->features))
        return false;
    target_set_up_queue(target);
    device_set_queue_size(&target->device, RING_SIZE / 2);
    device_enable_queue(&target->device);
    target_driver_ok(target);
    target->ring.base = RING_SIZE / 2;
    return true;
}

static const uint16_t outside[] = {RING_SIZE / 2, RING_SIZE - 1, RING_SIZE, 0x7fff, 0x8000, 0xffff};

static bool next_outside(struct target *target, uint64_t value)
{
    if (!begin_small(target))
        return false;
    read_request(target);
    target->memory->ring.descriptors[0] = *target_part(target, 0);
    target->memory->ring.descriptors[0].fourth = value ? outside[value] : RING_SIZE / 2 + 1;
    target->memory->ring.driver[RING_ENTRIES] = 0;
    ring_offer_entries(&target->ring, 1);
    device_notify(&target->device, 0);
    return true;
}

static bool head_outside(struct target *target, uint64_t value)
{
    if (!begin_small(target))
        return false;
    target_indirect_request(target, 0, REQUEST_READ, 0, target->memory->data, SECTOR);
    target->memory->ring.driver[RING_ENTRIES] = outside[value];
    ring_offer_entries(&target->ring, 1);
    device_notify(&target->device, 0);
    return true;
}

static bool index_jumps(struct target *target, uint64_t value)
{
    static const uint16_t steps[] = {RING_SIZE + 1, 0x7fff, 0x8000, 0xffff};

    read_request(target);
    ring_offer_entries(&target->ring, steps[value]);
    device_notify(&target->device, 0);
    return true;
}

/* The index goes back behind a request that was answered. */
static bool index_goes_back(struct target *target, uint64_t value)
{
    unsigned slot = target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);

    target_go(target);
    if (!target_await(target, OK, slot))
        return false;
    ring_offer_entries(&target->ring, -1);
    device_notify(&target->device, 0);
    return true;
}

static bool id_outside(struct target *target, uint64_t value)
{
    static const uint16_t ids[] = {RING_SIZE, 0x7fff, 0x8000, 0xffff};

    read_request(target);
    set_link(target, 2, ids[value]);
    return go(target);
}

/* Two requests by one name: the second may come when the first is done. */
static bool same_twice(struct target *target, uint64_t value)
{
    uint16_t head = target->ring.base;

    read_request(target);
    ring_offer(&target->ring);
    if (target->ring.packed) {
        read_request(target);
        set_link(target, 2, head);
        ring_offer(&target->ring);
    } else {
        target->memory->ring.driver[RING_ENTRIES + 1] = head;
        ring_offer_entries(&target->ring, 1);
    }
    device_notify(&target->device, 0);
    return true;
}

/* ---- Addresses and lengths ---- */

static bool elsewhere(struct target *target, unsigned n, uint64_t value)
{
    read_request(target);
    target_part(target, n)->address = bad_place(target, value, 8 * SECTOR);
    return go(target);
}

static bool header_elsewhere(struct target *target, uint64_t value)
{
    read_request(target);
    target_part(target, 0)->address = bad_place(target, value, sizeof(struct request_header)) + 1;
    return go(target);
}

static bool data_elsewhere(struct target *target, uint64_t value)
{
    return elsewhere(target, 1, value);
}

/* Two places have RAM for one byte. */
static bool status_elsewhere(struct target *target, uint64_t value)
{
    read_request(target);
    target_part(target, 2)->length = 32;
    target_part(target, 2)->address = bad_place(target, value, 32);
    return go(target);
}

static bool too_long(struct target *target, uint64_t value)
{
    static const uint32_t lengths[] = {0x7fffffff, 0x80000000, 0xfffffe00, 0xffffffff};
    uint32_t length = value < 4 ? lengths[value] : target->ram_end - (uint64_t)target->memory->data + 1;

    read_request(target);
    target_part(target, 1)->length = length;
    return go(target);
}

/* All of it is RAM, many times over; none of it may be written. */
static bool much_memory(struct target *target, unsigned pieces)
{
    target_request(target, REQUEST_READ, 0, 0, 0);
    target->ring.count--;
    for (unsigned i = 0; i < pieces; i++)
        ring_add(&target->ring, (uint64_t)target->memory, FAR_PIECE, FLAG_WRITE);
    ring_add(&target->ring, (uint64_t)&target->memory->status[(target->slot - 1) % SLOTS], 1, FLAG_WRITE);
    return go(target);
}

static bool four_gigabytes(struct target *target, uint64_t value)
{
    return much_memory(target, (4ull << 30) / FAR_PIECE + 1 + value);
}

static bool two_gigabytes(struct target *target, uint64_t value)
{
    return much_memory(target, (2ull << 30) / FAR_PIECE);
}

static bool all_empty(struct target *target, uint64_t value)
{
    read_request(target);
    for (unsigned n = 0; n < 3; n++)
        target_part(target, n)->length = 0;
    return go(target);
}

/* Where nothing is to be read it does not matter from where. */
static bool empty_elsewhere(struct target *target, uint64_t value)
{
    read_request(target);
    target_part(target, 1)->address = bad_place(target, value, 16);
    target_part(target, 1)->length = 0;
    return go(target);
}

/* ---- Requests ---- */

static bool write_before_read(struct target *target, uint64_t value)
{
    ring_add(&target->ring, (uint64_t)target->memory->data, SECTOR, FLAG_WRITE);
    read_request(target);
    return go(target);
}

static bool not_negotiated(struct target *target, uint64_t value)
{
    target_indirect_request(target, 0, REQUEST_READ, 0, target->memory->data, SECTOR);
    return go(target);
}

static bool no_status(struct target *target, uint64_t value)
{
    target_request(target, REQUEST_WRITE, 0, target->memory->data, SECTOR);
    *descriptor_flags(&target->ring, target_part(target, 2)) &= ~FLAG_WRITE;
    return go(target);
}

static bool short_header(struct target *target, uint64_t value)
{
    static const uint32_t lengths[] = {0, 1, 8, sizeof(struct request_header) - 1};

    read_request(target);
    target_part(target, 0)->length = lengths[value];
    return go(target);
}

/* Made of bytes that lie where they like. */
static bool header_in_bytes(struct target *target, uint64_t value)
{
    struct request_header header = {REQUEST_READ, 0, 0};
    uint8_t *bytes = target->memory->data + DATA_SIZE / 2;

    for (unsigned i = 0; i < sizeof(header); i++) {
        bytes[4097 * i] = ((uint8_t *)&header)[i];
        ring_add(&target->ring, (uint64_t)&bytes[4097 * i], 1, 0);
    }
    ring_add(&target->ring, (uint64_t)target->memory->data, SECTOR, FLAG_WRITE);
    ring_add(&target->ring, (uint64_t)&target->memory->status[target->slot % SLOTS], 1, FLAG_WRITE);
    target->slot++;
    return go(target);
}

static bool half_sector(struct target *target, uint64_t value)
{
    static const uint32_t lengths[] = {1, SECTOR - 1, SECTOR + 1};

    target_request(target, value & 1, 0, target->memory->data, lengths[value / 2]);
    return go(target);
}

static bool both_ways(struct target *target, uint64_t value)
{
    unsigned slot = target->slot++ % SLOTS;
    struct target_memory *memory = target->memory;

    memory->headers[slot] = (struct request_header){value, 0, 0};
    ring_add(&target->ring, (uint64_t)&memory->headers[slot], sizeof(struct request_header), 0);
    ring_add(&target->ring, (uint64_t)memory->data, SECTOR, 0);
    ring_add(&target->ring, (uint64_t)memory->data, SECTOR, FLAG_WRITE);
    ring_add(&target->ring, (uint64_t)&memory->status[slot], 1, FLAG_WRITE);
    return go(target);
}

static bool unknown_type(struct target *target, uint64_t value)
{
    static const uint32_t types[] = {2, 3, 5, 6, 7, 9, 10, 12, 14, 15, 0x80000000, 0xffffffff};

    target_request(target, types[value], 0, target->memory->data, SECTOR);
    return go(target);
}

static bool far_sector(struct target *target, uint64_t value)
{
    const uint64_t sectors[] = {
        target->sectors, target->sectors - 1, 1ull << 55, 1ull << 63, UINT64_MAX / SECTOR, UINT64_MAX,
    };

    target_request(target, value & 1, sectors[value / 2], target->memory->data, 2 * SECTOR);
    return go(target);
}

/* ---- Ranges of writes of zeroes ---- */

struct range {
    uint64_t sector;
    uint32_t count, flags;
};

static bool odd_ranges(struct target *target, uint64_t value)
{
    static const uint32_t lengths[] = {0, 1, 15, 17, 17 * sizeof(struct range), DATA_SIZE};

    target_request(target, REQUEST_ZEROES, 0, target->memory->data, lengths[value]);
    return go(target);
}

static bool zero_range(struct target *target, struct range range)
{
    *(struct range *)target->memory->data = range;
    target_request(target, REQUEST_ZEROES, 0, target->memory->data, sizeof(range));
    return go(target);
}

static bool far_range(struct target *target, uint64_t value)
{
    const struct range ranges[] = {
        {target->sectors, 1, 0}, {target->sectors - 1, 2, 0}, {UINT64_MAX, 1, 1},
        {0, UINT32_MAX, 0},      {1ull << 55, 1, 0},          {UINT64_MAX / SECTOR, 0x80, 0},
    };

    return zero_range(target, ranges[value]);
}

static bool unknown_flags(struct target *target, uint64_t value)
{
    return zero_range(target, (struct range){0, 1, 2u << 10 * value});
}

/* ---- The rings as data ---- */

static bool data_over_ring(struct target *target, uint64_t value)
{
    struct ring_memory *ring = &target->memory->ring;
    void *const places[] = {ring->descriptors, ring->driver, ring->device};

    target_request(target, REQUEST_READ, 0, places[value], SECTOR);
    return go(target);
}

static bool status_over_ring(struct target *target, uint64_t value)
{
    struct ring_memory *ring = &target->memory->ring;
    void *const places[] = {ring->descriptors, &ring->driver[RING_INDEX], &ring->device[RING_INDEX]};

    read_request(target);
    target_part(target, 2)->address = (uint64_t)places[value];
    return go(target);
}

/* What a driver says of interrupts is its own loss. */
static bool odd_wishes(struct target *target, uint64_t value)
{
    static const uint16_t words[] = {1, 2, 3, RING_SIZE - 1, RING_SIZE, 0x7fff, 0x8000, 0xffff};
    uint16_t *driver = target->memory->ring.driver;

    driver[RING_FLAGS] = words[value];
    if (target->ring.packed)
        driver[1] = next_random(target);
    else
        driver[AVAILABLE_EVENT] = words[value];
    read_request(target);
    return go(target);
}

/* It has an index of its own, which it tells. */
static bool used_spoilt(struct target *target, uint64_t value)
{
    uint16_t *device = target->memory->ring.device;

    for (unsigned i = 0; i < sizeof(target->memory->ring.device) / sizeof(*device); i++)
        device[i] = value ? 0xffff : next_random(target) | 0x8000;
    read_request(target);
    target_go(target);
    for (unsigned i = 0; !target->ring.packed && device[RING_INDEX] >= 0x8000 && i < RING_SIZE * RING_SIZE;
         i++)
        device_notify(&target->device, 0);
    return true;
}

const struct attack chain_attacks[] = {
    {"a short loop", short_loop, 3, BREAKS, SPLIT, 0},
    {"a loop of the whole ring", long_loop, 2, BREAKS, 0, 0},
    {"next descriptor outside the ring", next_outside, 6, BREAKS, SPLIT, 0},
    {"first descriptor outside the ring", head_outside, 6, BREAKS, SPLIT, 0},
    {"the index jumps", index_jumps, 4, BREAKS, SPLIT, 0},
    {"the index goes back", index_goes_back, 1, BREAKS, SPLIT, 0},
    {"buffer id outside the ring", id_outside, 4, BREAKS, PACKED, 0},
    {"the same twice", same_twice, 1, ANY, 0, 0},
    {"header elsewhere", header_elsewhere, PLACES, BREAKS, 0, 0},
    {"data elsewhere", data_elsewhere, PLACES, BREAKS, 0, 0},
    {"status elsewhere", status_elsewhere, PLACES, BREAKS, 0, 0},
    {"data longer than memory", too_long, 5, BREAKS, 0, 0},
    {"more than 4 GiB", four_gigabytes, 2, BREAKS, 0, 0},
    {"more than the disk", two_gigabytes, 1, ERROR, 0, 0},
    {"nothing at all", all_empty, 1, BREAKS, 0, 0},
    {"nothing, from elsewhere", empty_elsewhere, 4, OK, 0, 0},
    {"write before read", write_before_read, 1, BREAKS, 0, 0},
    {"indirect, which was not negotiated", not_negotiated, 1, BREAKS, 0, F_INDIRECT},
    {"no status", no_status, 1, RETURNED, 0, 0},
    {"a short header", short_header, 4, ERROR, 0, 0},
    {"a header in bytes", header_in_bytes, 1, OK, 0, 0},
    {"half a sector", half_sector, 6, ERROR, 0, 0},
    {"data both ways", both_ways, 2, ERROR, 0, 0},
    {"unknown requests", unknown_type, 12, UNSUPPORTED, 0, 0},
    {"sectors behind the end", far_sector, 12, ERROR, 0, 0},
    {"odd ranges", odd_ranges, 6, ERROR, 0, 0},
    {"ranges behind the end", far_range, 6, ERROR, 0, 0},
    {"unknown flags of ranges", unknown_flags, 4, UNSUPPORTED, 0, 0},
    {"write of zeroes, which was not negotiated", odd_ranges, 6, UNSUPPORTED, 0, F_WRITE_ZEROES},
    {"data over the ring", data_over_ring, 3, ANY, 0, 0},
    {"status over the ring", status_over_ring, 3, ANY, 0, 0},
    {"odd wishes for interrupts", odd_wishes, 8, OK, 0, 0},
    {"the device's area spoilt", used_spoilt, 2, OK, 0, 0},
    {0},
};
