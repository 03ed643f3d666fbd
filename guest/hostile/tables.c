/* Indirect tables that make no sense. */
#include "guest/hostile/target.h"

static bool go(struct target *target)
{
    target_go(target);
    return true;
}

static void table_request(struct target *target)
{
    target_indirect_request(target, 0, REQUEST_READ, 0, target->memory->data, SECTOR);
}

static bool elsewhere(struct target *target, uint64_t value)
{
    table_request(target);
    target_part(target, 0)->address = bad_place(target, value, 3 * sizeof(struct descriptor));
    return go(target);
}

static bool odd_size(struct target *target, uint64_t value)
{
    static const uint32_t sizes[] = {
        0, 1, 8, 15, 17, 3 * sizeof(struct descriptor) + 8, (TABLE_SIZE + 1) * 16, 0xfffffff0, 0xffffffff,
    };

    table_request(target);
    target_part(target, 0)->length = sizes[value];
    return go(target);
}

/* An entry that refers to another table, or to its own. A packed ring's tables have no such flag. */
static bool nested(struct target *target, uint64_t value)
{
    struct descriptor *entry = &target->memory->table[1];

    table_request(target);
    *descriptor_flags(&target->ring, entry) |= FLAG_INDIRECT;
    if (!target->ring.packed) {
        entry->address = (uint64_t)&target->memory->table[value * TABLE_SIZE];
        entry->length = 3 * sizeof(struct descriptor);
        *descriptor_flags(&target->ring, entry) &= ~FLAG_NEXT;
    }
    return go(target);
}

static bool more_behind(struct target *target, uint64_t value)
{
    table_request(target);
    ring_add(&target->ring, (uint64_t)target->memory->data, SECTOR, FLAG_WRITE);
    return go(target);
}

/* The header before the table. */
static bool behind_others(struct target *target, uint64_t value)
{
    struct target_memory *memory = target->memory;
    unsigned slot = target_indirect_request(target, 0, REQUEST_READ, 0, memory->data, SECTOR);

    target->ring.count = 0;
    ring_add(&target->ring, (uint64_t)&memory->headers[slot], sizeof(struct request_header), 0);
    ring_add(&target->ring, (uint64_t)&memory->table[1], 2 * sizeof(struct descriptor), FLAG_INDIRECT);
    memory->table[1].fourth = 1;
    return go(target);
}

static bool behind_others_packed(struct target *target, uint64_t value)
{
    ring_add(&target->ring, (uint64_t)target->memory->headers, sizeof(struct request_header), 0);
    ring_add(&target->ring, (uint64_t)target->memory->table, 3 * sizeof(struct descriptor), FLAG_INDIRECT);
    return go(target);
}

static bool loop(struct target *target, uint64_t value)
{
    table_request(target);
    target->memory->table[2].third |= FLAG_NEXT;
    target->memory->table[2].fourth = value;
    return go(target);
}

static bool next_outside(struct target *target, uint64_t value)
{
    static const uint16_t places[] = {3, 4, TABLE_SIZE, 0x7fff, 0x8000, 0xffff};

    table_request(target);
    target->memory->table[0].fourth = places[value];
    return go(target);
}

static bool odd_place(struct target *target, uint64_t value)
{
    uint8_t *place = target->memory->data + DATA_SIZE / 2 + value;

    table_request(target);
    for (unsigned i = 0; i < 3 * sizeof(struct descriptor); i++)
        place[i] = ((const uint8_t *)target->memory->table)[i];
    target_part(target, 0)->address = (uint64_t)place;
    return go(target);
}

static void fill_table(struct target *target, unsigned slot, uint32_t size)
{
    struct target_memory *memory = target->memory;
    bool packed = target->ring.packed;

    for (unsigned i = 0; i < TABLE_SIZE; i++) {
        struct descriptor *entry = &memory->table[i];
        *entry = (struct descriptor){(uint64_t)memory->data + size * i, size, 0, 0};
        *descriptor_flags(&target->ring, entry) = FLAG_WRITE | (packed ? 0 : FLAG_NEXT);
        *descriptor_link(&target->ring, entry) = i + 1;
    }
    memory->table[0].address = (uint64_t)&memory->headers[slot];
    memory->table[0].length = sizeof(struct request_header);
    *descriptor_flags(&target->ring, &memory->table[0]) = packed ? 0 : FLAG_NEXT;
    memory->table[TABLE_SIZE - 1].address = (uint64_t)&memory->status[slot];
    memory->table[TABLE_SIZE - 1].length = 1;
    *descriptor_flags(&target->ring, &memory->table[TABLE_SIZE - 1]) = FLAG_WRITE;
}

/* As many entries as may be: with data, or with nothing in each. */
static bool full(struct target *target, uint64_t value)
{
    unsigned slot = target_indirect_request(target, 0, REQUEST_READ, 0, target->memory->data, SECTOR);

    fill_table(target, slot, value ? 0 : SECTOR);
    target_part(target, 0)->length = sizeof(struct descriptor) * TABLE_SIZE;
    return go(target);
}

/* The data overwrite what describes them. */
static bool data_over_table(struct target *target, uint64_t value)
{
    target_indirect_request(target, 0, REQUEST_READ, 0, target->memory->table, SECTOR);
    return go(target);
}

/* The ring is its own table. */
static bool ring_as_table(struct target *target, uint64_t value)
{
    table_request(target);
    target_part(target, 0)->address = (uint64_t)target->memory->ring.descriptors;
    return go(target);
}

static bool write_flag(struct target *target, uint64_t value)
{
    table_request(target);
    *descriptor_flags(&target->ring, target_part(target, 0)) |= FLAG_WRITE;
    return go(target);
}

const struct attack table_attacks[] = {
    {"a table elsewhere", elsewhere, PLACES, BREAKS, 0, 0},
    {"a table of odd size", odd_size, 9, BREAKS, 0, 0},
    {"a table in a table", nested, 2, BREAKS, SPLIT, 0},
    {"a flag without meaning", nested, 1, OK, PACKED, 0},
    {"more behind a table", more_behind, 1, BREAKS, 0, 0},
    {"a table behind other descriptors", behind_others, 1, OK, SPLIT, 0},
    {"a table behind other descriptors", behind_others_packed, 1, BREAKS, PACKED, 0},
    {"a table that loops", loop, 3, BREAKS, SPLIT, 0},
    {"next entry outside the table", next_outside, 6, BREAKS, SPLIT, 0},
    {"a table anywhere", odd_place, 17, OK, 0, 0},
    {"a full table", full, 2, OK, 0, 0},
    {"data over their table", data_over_table, 1, OK, 0, 0},
    {"the ring as a table", ring_as_table, 1, ANY, 0, 0},
    {"a table that may be written", write_flag, 1, OK, 0, 0},
    {0},
};
