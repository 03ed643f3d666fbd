/*
 * Virtqueues against drivers that break the rules, one rule at a time: the queue is broken, says why once,
 * and is silent from then on.
 */
#include <stdlib.h>

#include "tests/support/failing_malloc.h"
#include "tests/unit/devices/virtqueue_fixture.h"

#define NEXT     1
#define WRITE    2
#define INDIRECT 4
#define AVAIL    0x80
#define USED     0x8000

#define ROM      (8 * MIB)
#define MMIO     (9 * MIB)
#define PIECES   (16 * MIB) /* RAM that is in many pieces of host memory */
#define HUGE_RAM (8 * GIB)
#define LAST     (UINT64_MAX - 0xFFF) /* a page of RAM at the end of the address space */

static struct fixture f;
static struct memory_region rom, mmio, last;

static void add(struct memory_region *region, uint64_t address)
{
    cr_assert_eq(memory_region_add_subregion(&f.root, address, region, 0, NULL), 0);
}

static void start(void)
{
    static const struct memory_region_ops ops = {0};
    fixture_start(&f);
    cr_assert_eq(memory_region_init_rom(&rom, f.memory, "rom", f.block, 0, 0x4000, NULL), 0);
    cr_assert_eq(memory_region_init_mmio(&mmio, f.memory, "mmio", &ops, NULL, 0x4000, NULL), 0);
    cr_assert_eq(memory_region_init_ram(&last, f.memory, "last", f.block, 0, 0x1000, NULL), 0);
    add(&rom, ROM);
    add(&mmio, MMIO);
    add(&last, LAST);
}

static void end(void)
{
    fixture_take_down(&f);
    memory_region_destroy(&rom);
    memory_region_destroy(&mmio);
    memory_region_destroy(&last);
    fixture_free(&f);
}

TestSuite(virtqueue_attacks, .init = start, .fini = end);

static void put(uint64_t address, const void *data, size_t size)
{
    memcpy(f.host + address, data, size);
}

static void put16(uint64_t address, uint16_t value)
{
    put(address, &value, sizeof(value));
}

static uint16_t get16(uint64_t address)
{
    uint16_t value;
    memcpy(&value, f.host + address, sizeof(value));
    return value;
}

/* `third` and `fourth`: flags and next in split rings, id and flags in packed ones. */
static void put_descriptor(uint64_t table, unsigned index, uint64_t address, uint32_t length, unsigned third,
                           unsigned fourth)
{
    struct {
        uint64_t address;
        uint32_t length;
        uint16_t third, fourth;
    } descriptor = {address, length, (uint16_t)third, (uint16_t)fourth};
    put(table + 16 * (uint64_t)index, &descriptor, sizeof(descriptor));
}

static void split(unsigned index, uint64_t address, uint32_t length, unsigned flags, unsigned next)
{
    put_descriptor(DESCRIPTORS, index, address, length, flags, next);
}

static void table(unsigned index, uint64_t address, uint32_t length, unsigned flags, unsigned next)
{
    put_descriptor(TABLES, index, address, length, flags, next);
}

/* Of the first round; the flags that make it available are added. */
static void packed(unsigned index, uint64_t address, uint32_t length, unsigned id, unsigned flags)
{
    put_descriptor(DESCRIPTORS, index, address, length, id, flags | AVAIL);
}

static void offer(unsigned head)
{
    uint16_t index = get16(DRIVER + 2);
    put16(DRIVER + 4 + 2 * (uint64_t)(index % f.config.size), (uint16_t)head);
    put16(DRIVER + 2, index + 1);
}

static void split_queue(void)
{
    f.config.packed = false;
    fixture_queue(&f);
}

static void packed_queue(void)
{
    f.config.packed = true;
    fixture_queue(&f);
}

static struct virtqueue_chain *pop(void)
{
    struct virtqueue_chain *chain = NULL;
    cr_assert_eq(virtqueue_pop(f.queue, &chain, &f.err), 1, "%s", f.err.message);
    return chain;
}

/* The next pop finds a broken queue, for a reason that its message has; nothing comes after it. */
static void assert_breaks(const char *why)
{
    struct virtqueue_chain *chain;
    f.err.message[0] = 0;
    cr_assert_eq(virtqueue_pop(f.queue, &chain, &f.err), -EPROTO);
    cr_assert(strstr(f.err.message, why), "%s", f.err.message);
    cr_assert_eq(strncmp(f.err.message, "disk queue 0: ", 14), 0, "%s", f.err.message);
    cr_assert(virtqueue_broken(f.queue));
    struct error again = {"nothing"};
    cr_assert_eq(virtqueue_pop(f.queue, &chain, &again), -EPROTO);
    cr_assert_str_eq(again.message, "nothing", "said once");
    cr_assert(!virtqueue_set_kicks(f.queue, true));
    cr_assert(!virtqueue_wants_interrupt(f.queue));
}

/* One descriptor, offered in a new queue. */
static void assert_split_breaks(uint64_t address, uint32_t length, unsigned flags, unsigned next,
                                const char *why)
{
    split_queue();
    split(0, address, length, flags, next);
    offer(0);
    assert_breaks(why);
}

static uint64_t count_dirty(struct dirty_client *client)
{
    uint64_t count = dirty_count(client, f.block);
    static uint64_t bitmap[RAM_SIZE / RAM_PAGE_SIZE / 64];
    cr_assert_eq(dirty_take(client, f.block, 0, RAM_SIZE / RAM_PAGE_SIZE, bitmap, NULL), 0);
    return count;
}

static bool dirty_at(struct dirty_client *client, const uint64_t *addresses, unsigned count)
{
    uint64_t bitmap[RAM_SIZE / RAM_PAGE_SIZE / 64], wanted[RAM_SIZE / RAM_PAGE_SIZE / 64] = {0};
    cr_assert_eq(dirty_take(client, f.block, 0, RAM_SIZE / RAM_PAGE_SIZE, bitmap, NULL), 0);
    for (unsigned i = 0; i < count; i++)
        wanted[addresses[i] / RAM_PAGE_SIZE / 64] |= (uint64_t)1 << addresses[i] / RAM_PAGE_SIZE % 64;
    return memcmp(bitmap, wanted, sizeof(bitmap)) == 0;
}

/* ---- What is set up ---- */

static void assert_refused(const char *why)
{
    cr_assert_eq(virtqueue_create(&f.config, &f.queue, &f.err), -EINVAL);
    cr_assert(strstr(f.err.message, why), "%s", f.err.message);
}

Test(virtqueue_attacks, sizes)
{
    for (unsigned layout = 0; layout < 2; layout++) {
        f.config.packed = layout;
        f.config.size = 0;
        assert_refused("0 entries");
        f.config.size = VIRTQUEUE_SIZE_MAX + 1;
        assert_refused("1025 entries");
        f.config.size = 32768;
        assert_refused("32768 entries");
    }
    f.config.packed = false;
    f.config.size = 6;
    assert_refused("no power of two");
}

Test(virtqueue_attacks, alignment)
{
    f.config.descriptors += 8;
    assert_refused("descriptor area at 0x10008 is not aligned to 16 bytes");
    f.config.descriptors -= 8;
    f.config.driver += 1;
    assert_refused("driver area");
    f.config.driver += 1;
    f.config.packed = true;
    assert_refused("driver area");
    f.config.driver -= 2;
    f.config.device += 2;
    assert_refused("device area");
    f.config.packed = false;
    assert_refused("device area");
}

Test(virtqueue_attacks, rings_outside_of_ram)
{
    const uint64_t places[] = {MMIO, 64 * MIB, RAM_SIZE - 16, UINT64_MAX - 15};
    for (unsigned i = 0; i < ARRAY_SIZE(places) * 6; i++) {
        struct virtqueue_config config = f.config;
        f.config.packed = i % 2;
        uint64_t *areas[] = {&f.config.descriptors, &f.config.driver, &f.config.device};
        unsigned area = i / 2 % 3;
        *areas[area] = places[i / 6];
        if (f.config.packed && area > 0)
            *areas[area] = places[i / 6] == RAM_SIZE - 16 ? RAM_SIZE : 64 * MIB; /* of 4 bytes */
        fixture_queue(&f);
        assert_breaks("is not one piece of RAM");
        virtqueue_destroy(f.queue);
        f.config = config;
    }
    split_queue();
}

Test(virtqueue_attacks, rings_that_the_device_writes_in_rom)
{
    f.config.descriptors = f.config.driver = ROM;
    split_queue();
    struct virtqueue_chain *chain;
    cr_assert_eq(virtqueue_pop(f.queue, &chain, NULL), 0, "it only reads these");
    virtqueue_destroy(f.queue);
    f.config.device = ROM;
    split_queue();
    assert_breaks("device area");
    virtqueue_destroy(f.queue);
    f.config.driver = DRIVER;
    f.config.device = DEVICE;
    packed_queue();
    assert_breaks("descriptor area");
}

/* Shows `count` pages of RAM from the last to the first, so no two of them are one piece of host memory. */
static struct memory_region *show_pieces(unsigned count)
{
    struct memory_region *pieces = calloc(count, sizeof(*pieces));
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < count; i++) {
        uint64_t offset = DATA + (uint64_t)(count - 1 - i) % 256 * 0x1000;
        cr_assert_eq(memory_region_init_alias(&pieces[i], f.memory, "piece", &f.ram, offset, 0x1000, NULL),
                     0);
        add(&pieces[i], PIECES + i * (uint64_t)0x1000);
    }
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    return pieces;
}

static void hide_pieces(struct memory_region *pieces, unsigned count)
{
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(memory_region_remove_subregion(&pieces[i], NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    for (unsigned i = 0; i < count; i++)
        memory_region_destroy(&pieces[i]);
    free(pieces);
}

Test(virtqueue_attacks, rings_in_pieces)
{
    struct memory_region *pieces = show_pieces(2);
    f.config.descriptors = PIECES + 0x1000 - 64;
    split_queue();
    assert_breaks("descriptor area");
    hide_pieces(pieces, 2);
}

Test(virtqueue_attacks, rings_that_host_memory_does_not_align)
{
    struct memory_region odd;
    cr_assert_eq(memory_region_init_alias(&odd, f.memory, "odd", &f.ram, DEVICE + 1, 0x1000, NULL), 0);
    add(&odd, PIECES);
    f.config.device = PIECES;
    split_queue();
    assert_breaks("device area");
    cr_assert_eq(memory_region_remove_subregion(&odd, NULL), 0);
    memory_region_destroy(&odd);
}

Test(virtqueue_attacks, positions)
{
    packed_queue();
    virtqueue_set_position(f.queue, 7, 0x8008);
    assert_breaks("position 7 or 8 in a ring of 8");
}

/* ---- Split rings ---- */

Test(virtqueue_attacks, index_that_jumps)
{
    split_queue();
    put16(DRIVER + 2, 9);
    assert_breaks("jumps from 0 to 9");
    virtqueue_destroy(f.queue);
    split_queue();
    put16(DRIVER + 2, 0xFFFF);
    assert_breaks("jumps from 0 to 65535");
}

Test(virtqueue_attacks, index_that_goes_back)
{
    split_queue();
    split(0, DATA, 16, 0, 0);
    offer(0);
    virtqueue_push(f.queue, pop(), 0);
    put16(DRIVER + 2, 0);
    assert_breaks("jumps from 1 to 0");
}

Test(virtqueue_attacks, head_out_of_range)
{
    split_queue();
    offer(8);
    assert_breaks("descriptor 8 of 8");
}

Test(virtqueue_attacks, head_offered_twice)
{
    split_queue();
    split(3, DATA, 16, 0, 0);
    offer(3);
    offer(3);
    struct virtqueue_chain *chain = pop();
    assert_breaks("buffer 3 is offered again");
    virtqueue_push(f.queue, chain, 0);
    cr_assert_eq(get16(DEVICE + 2), 0, "nothing is said any more");
}

Test(virtqueue_attacks, more_than_the_ring_holds)
{
    f.config.size = 2;
    split_queue();
    struct virtqueue_chain *chains[2];
    for (unsigned i = 0; i < 2; i++) {
        split(i, DATA, 16, 0, 0);
        offer(i);
        chains[i] = pop();
    }
    offer(0);
    assert_breaks("more is offered than a ring of 2 holds");
    virtqueue_drop(f.queue, chains[0]);
    virtqueue_drop(f.queue, chains[1]);
}

Test(virtqueue_attacks, loops)
{
    assert_split_breaks(DATA, 16, NEXT, 0, "loops");
    virtqueue_destroy(f.queue);
    put16(DRIVER + 2, 0);
    split_queue();
    for (unsigned i = 0; i < 8; i++)
        split(i, DATA, 16, NEXT, (i + 1) % 8);
    offer(5);
    assert_breaks("loops");
}

Test(virtqueue_attacks, chain_of_the_whole_ring_is_none)
{
    split_queue();
    for (unsigned i = 0; i < 8; i++)
        split(i, DATA + 16 * i, 16, i < 7 ? NEXT : 0, i + 1);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(chain->out_count, 8);
    virtqueue_push(f.queue, chain, 0);
}

Test(virtqueue_attacks, next_out_of_range)
{
    assert_split_breaks(DATA, 16, NEXT, 8, "next descriptor 8 of 8");
}

Test(virtqueue_attacks, read_behind_write)
{
    split_queue();
    split(0, DATA, 16, NEXT | WRITE, 1);
    split(1, DATA, 16, 0, 0);
    offer(0);
    assert_breaks("to read follows one to write");
}

Test(virtqueue_attacks, empty_chain)
{
    assert_split_breaks(DATA, 0, 0, 0, "without a byte");
    virtqueue_destroy(f.queue);
    put16(DRIVER + 2, 0);
    split_queue();
    split(0, 0, 0, NEXT, 1);
    split(1, MMIO, 0, WRITE, 0);
    offer(0);
    assert_breaks("without a byte");
}

Test(virtqueue_attacks, empty_buffers_point_anywhere)
{
    split_queue();
    split(0, MMIO, 0, NEXT, 1);
    split(1, DATA, 16, NEXT | WRITE, 2);
    split(2, UINT64_MAX, 0, WRITE, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert(chain->out_count == 0 && chain->in_count == 1 && chain->in_bytes == 16);
    virtqueue_push(f.queue, chain, 0);
}

Test(virtqueue_attacks, empty_buffer_to_read_behind_write)
{
    split_queue();
    split(0, DATA, 16, NEXT | WRITE, 1);
    split(1, DATA, 0, 0, 0);
    offer(0);
    assert_breaks("to read follows one to write");
    virtqueue_destroy(f.queue);
    put16(DRIVER + 2, 0);
    split_queue();
    split(0, DATA, 0, NEXT | WRITE, 1);
    split(1, DATA, 16, 0, 0);
    offer(0);
    assert_breaks("to read follows one to write");
}

Test(virtqueue_attacks, buffers_outside_of_ram)
{
    const struct {
        uint64_t address;
        uint32_t length;
        unsigned flags;
    } buffers[] = {
        {MMIO, 1, 0},
        {MMIO, 1, WRITE},
        {64 * MIB, 16, 0},
        {ROM, 16, WRITE},
        {ROM + 0x3FFF, 2, 0},
        {RAM_SIZE - 1, 2, 0},
        {RAM_SIZE - 1, 2, WRITE},
        {0, UINT32_MAX, 0},
        {UINT64_MAX, 2, 0},
        {UINT64_MAX - 1, UINT32_MAX, WRITE},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(buffers); i++) {
        put16(DRIVER + 2, 0);
        assert_split_breaks(buffers[i].address, buffers[i].length, buffers[i].flags, 0, "is not memory");
        virtqueue_destroy(f.queue);
    }
    split_queue();
}

Test(virtqueue_attacks, rom_may_be_read)
{
    split_queue();
    split(0, ROM + 4, 16, 0, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(chain->out[0].iov_base, f.host + 4);
    virtqueue_push(f.queue, chain, 0);
}

Test(virtqueue_attacks, last_byte_of_the_address_space)
{
    split_queue();
    split(0, UINT64_MAX, 1, WRITE, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(chain->in[0].iov_base, f.host + 0xFFF);
    virtqueue_push(f.queue, chain, 1);
}

Test(virtqueue_attacks, lengths_that_overflow)
{
    struct ram_block *block;
    struct memory_region huge;
    cr_assert_eq(ram_block_create("huge", 4 * GIB, 0, &block, NULL), 0);
    cr_assert_eq(memory_region_init_ram(&huge, f.memory, "huge", block, 0, 4 * GIB, NULL), 0);
    add(&huge, HUGE_RAM);
    split_queue();
    split(0, HUGE_RAM, UINT32_MAX, NEXT, 1);
    split(1, HUGE_RAM, UINT32_MAX, WRITE, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert(chain->out_bytes == UINT32_MAX && chain->in_bytes == UINT32_MAX);
    virtqueue_push(f.queue, chain, UINT32_MAX);
    split(1, HUGE_RAM, 1, 0, 0);
    offer(0);
    assert_breaks("4 GiB");
    cr_assert_eq(memory_region_remove_subregion(&huge, NULL), 0);
    memory_region_destroy(&huge);
    ram_block_destroy(block);
}

Test(virtqueue_attacks, buffers_in_pieces)
{
    struct memory_region *pieces = show_pieces(3);
    struct dirty_client *client;
    cr_assert_eq(dirty_start(f.memory, "test", DIRTY_FROM_NOW, &client, NULL), 0);
    split_queue();
    split(0, PIECES + 0xFF0, 0x1020, NEXT, 1);
    split(1, PIECES + 0x1FFF, 2, WRITE, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert(chain->out_count == 3 && chain->in_count == 2);
    cr_assert_eq(chain->out[0].iov_base, f.host + DATA + 0x2FF0);
    cr_assert_eq(chain->out[1].iov_base, f.host + DATA + 0x1000);
    cr_assert_eq(chain->out[2].iov_base, f.host + DATA);
    cr_assert_eq(virtqueue_write(chain, 0, "ab", 2), 2);
    cr_assert(f.host[DATA + 0x1FFF] == 'a' && f.host[DATA] == 'b');
    virtqueue_push(f.queue, chain, 2);
    cr_assert(dirty_at(client, (uint64_t[]){DEVICE, DATA, DATA + 0x1000}, 3));
    dirty_stop(client);
    hide_pieces(pieces, 3);
}

Test(virtqueue_attacks, too_many_pieces)
{
    struct memory_region *pieces = show_pieces(1025);
    split_queue();
    split(0, PIECES, 1024 * 0x1000, 0, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(chain->out_count, 1024);
    virtqueue_push(f.queue, chain, 0);
    split(0, PIECES, 1025 * 0x1000, 0, 0);
    offer(0);
    assert_breaks("in few enough pieces");
    hide_pieces(pieces, 1025);
}

/* ---- Indirect tables ---- */

Test(virtqueue_attacks, indirect_not_negotiated)
{
    f.config.indirect = false;
    table(0, DATA, 16, 0, 0);
    assert_split_breaks(TABLES, 16, INDIRECT, 0, "not negotiated");
}

Test(virtqueue_attacks, indirect_lengths)
{
    const uint32_t lengths[] = {0, 1, 15, 17, 24, UINT32_MAX};
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        put16(DRIVER + 2, 0);
        assert_split_breaks(TABLES, lengths[i], INDIRECT, 0, "no multiple of 16");
        virtqueue_destroy(f.queue);
    }
    put16(DRIVER + 2, 0);
    assert_split_breaks(TABLES, 16 * (VIRTQUEUE_SIZE_MAX + 1), INDIRECT, 0, "more than 1024");
    virtqueue_destroy(f.queue);
    put16(DRIVER + 2, 0);
    assert_split_breaks(TABLES, UINT32_MAX - 15, INDIRECT, 0, "more than 1024");
}

Test(virtqueue_attacks, indirect_tables_longer_than_the_ring)
{
    for (unsigned i = 0; i < VIRTQUEUE_SIZE_MAX; i++)
        table(i, DATA + i, 1, NEXT | WRITE, i + 1);
    table(VIRTQUEUE_SIZE_MAX - 1, DATA, 1, WRITE, 0);
    split_queue();
    split(0, TABLES, 16 * VIRTQUEUE_SIZE_MAX, INDIRECT, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(chain->in_count, VIRTQUEUE_SIZE_MAX);
    virtqueue_push(f.queue, chain, VIRTQUEUE_SIZE_MAX);
    split(0, DATA, 1, NEXT, 1);
    split(1, TABLES, 16 * VIRTQUEUE_SIZE_MAX, INDIRECT, 0);
    offer(0);
    assert_breaks("in few enough pieces");
}

Test(virtqueue_attacks, nested_indirect)
{
    table(0, TABLES, 16, INDIRECT, 0);
    assert_split_breaks(TABLES, 16, INDIRECT, 0, "within an indirect table");
}

Test(virtqueue_attacks, indirect_with_next)
{
    table(0, DATA, 16, 0, 0);
    assert_split_breaks(TABLES, 16, INDIRECT | NEXT, 1, "not the end of its chain");
}

Test(virtqueue_attacks, indirect_loops_and_ends)
{
    table(0, DATA, 16, NEXT, 1);
    table(1, DATA, 16, NEXT, 0);
    assert_split_breaks(TABLES, 32, INDIRECT, 0, "fit into its indirect table of 2");
    virtqueue_destroy(f.queue);
    put16(DRIVER + 2, 0);
    table(1, DATA, 16, NEXT, 3);
    assert_split_breaks(TABLES, 48, INDIRECT, 0, "next descriptor 3 of 3");
}

Test(virtqueue_attacks, indirect_outside_of_memory)
{
    const uint64_t places[] = {MMIO, 64 * MIB, RAM_SIZE - 16, UINT64_MAX - 7};
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        put16(DRIVER + 2, 0);
        assert_split_breaks(places[i], 32, INDIRECT, 0, "which is not one piece of memory");
        virtqueue_destroy(f.queue);
    }
    struct memory_region *pieces = show_pieces(2);
    put16(DRIVER + 2, 0);
    assert_split_breaks(PIECES + 0xFF0, 32, INDIRECT, 0, "which is not one piece of memory");
    hide_pieces(pieces, 2);
}

/* ---- Packed rings ---- */

Test(virtqueue_attacks, packed_ids)
{
    packed_queue();
    packed(0, DATA, 16, 8, 0);
    assert_breaks("buffer id 8 in a ring of 8");
    virtqueue_destroy(f.queue);
    packed_queue();
    packed(0, DATA, 16, 7, 0);
    packed(1, DATA, 16, 7, 0);
    struct virtqueue_chain *chain = pop();
    assert_breaks("buffer 7 is offered again");
    virtqueue_drop(f.queue, chain);
}

Test(virtqueue_attacks, packed_chain_without_end)
{
    packed_queue();
    for (unsigned i = 0; i < 8; i++)
        packed(i, DATA, 16, 0, NEXT);
    assert_breaks("does not fit into its ring of 8");
}

Test(virtqueue_attacks, packed_chain_over_what_is_out)
{
    packed_queue();
    packed(0, DATA, 16, 0, 0);
    for (unsigned i = 1; i < 8; i++)
        packed(i, DATA, 16, 1, NEXT);
    struct virtqueue_chain *chain = pop();
    assert_breaks("does not fit into its ring of 8");
    virtqueue_drop(f.queue, chain);
}

Test(virtqueue_attacks, packed_more_than_the_ring_holds)
{
    f.config.size = 2;
    packed_queue();
    packed(0, DATA, 16, 0, NEXT);
    packed(1, DATA, 16, 1, 0);
    struct virtqueue_chain *chain = pop();
    put_descriptor(DESCRIPTORS, 0, DATA, 16, 0, USED);
    assert_breaks("more is offered than a ring of 2 holds");
    virtqueue_drop(f.queue, chain);
}

Test(virtqueue_attacks, packed_indirect_in_a_chain)
{
    put_descriptor(TABLES, 0, DATA, 16, 0, 0);
    packed_queue();
    packed(0, DATA, 16, 0, NEXT);
    packed(1, TABLES, 16, 0, INDIRECT);
    assert_breaks("behind other descriptors");
    virtqueue_destroy(f.queue);
    packed_queue();
    packed(0, TABLES, 16, 0, INDIRECT | NEXT);
    assert_breaks("not the end of its chain");
}

Test(virtqueue_attacks, packed_indirect_lengths)
{
    packed_queue();
    packed(0, TABLES, 8, 0, INDIRECT);
    assert_breaks("no multiple of 16");
    virtqueue_destroy(f.queue);
    packed_queue();
    packed(0, TABLES, 0, 0, INDIRECT);
    assert_breaks("no multiple of 16");
}

Test(virtqueue_attacks, packed_flags_that_say_neither)
{
    packed_queue();
    const unsigned flags[] = {0, USED, AVAIL | USED};
    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++) {
        put_descriptor(DESCRIPTORS, 0, DATA, 16, 0, flags[i]);
        struct virtqueue_chain *chain;
        cr_assert_eq(virtqueue_pop(f.queue, &chain, NULL), 0);
    }
}

/* Positions that no ring has, and reserved flags, do no harm. */
Test(virtqueue_attacks, packed_events_out_of_range)
{
    f.config.event_idx = true;
    packed_queue();
    for (unsigned i = 0; i < 8; i++) {
        packed(i, DATA, 16, i, 0);
        put16(DRIVER, (uint16_t)(0x7FFF - i * 0x1234));
        put16(DRIVER + 2, 2);
        virtqueue_push(f.queue, pop(), 0);
        virtqueue_wants_interrupt(f.queue);
    }
    put_descriptor(DESCRIPTORS, 0, DATA, 16, 0, USED);
    put16(DRIVER + 2, 3);
    virtqueue_push(f.queue, pop(), 0);
    cr_assert(virtqueue_wants_interrupt(f.queue));
}

/* ---- Memory that changes ---- */

Test(virtqueue_attacks, rings_that_vanish_while_a_chain_is_out)
{
    split_queue();
    split(0, DATA, 16, WRITE, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(memory_region_set_enabled(&f.ram, false, NULL), 0);
    cr_assert_eq(virtqueue_write(chain, 0, "still there", 11), 11);
    virtqueue_push(f.queue, chain, 11);
    cr_assert_eq(get16(DEVICE + 2), 0);
    cr_assert_eq(memcmp(f.host + DATA, "still there", 11), 0);
    cr_assert(virtqueue_broken(f.queue));
    assert_breaks("is not one piece of RAM");
}

Test(virtqueue_attacks, broken_queue_is_worth_a_look)
{
    f.config.device = MMIO;
    split_queue();
    cr_assert(virtqueue_set_kicks(f.queue, true), "so that the device learns of it");
    assert_breaks("device area");
}

/* The rings are where they are now; a chain stays where it was found. */
Test(virtqueue_attacks, rings_that_move_while_a_chain_is_out)
{
    struct memory_region *pieces = show_pieces(2);
    f.config.device = PIECES;
    split_queue();
    split(0, PIECES + 0x1000, 16, WRITE, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(memory_region_set_alias_offset(&pieces[0], DEVICE, NULL), 0);
    cr_assert_eq(memory_region_set_alias_offset(&pieces[1], TABLES, NULL), 0);
    virtqueue_write(chain, 0, "x", 1);
    virtqueue_push(f.queue, chain, 1);
    cr_assert_eq(f.host[DATA], 'x');
    cr_assert_eq(get16(DATA + 0x1000 + 2), 0);
    cr_assert_eq(get16(DEVICE + 2), 1);
    hide_pieces(pieces, 2);
}

/* A queue with nothing to do holds no view, however it came to that: else this would not return. */
static void change_memory(void)
{
    cr_assert_eq(memory_region_set_enabled(&f.other, false, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(&f.other, true, NULL), 0);
    memory_synchronize(f.memory);
}

Test(virtqueue_attacks, idle_queues_hold_nobody_up)
{
    struct virtqueue_chain *chain;
    split_queue();
    cr_assert_eq(virtqueue_pop(f.queue, &chain, NULL), 0);
    change_memory();
    split(0, DATA, 16, WRITE, 0);
    offer(0);
    virtqueue_unpop(f.queue, pop());
    change_memory();
    virtqueue_push(f.queue, pop(), 0);
    cr_assert(virtqueue_wants_interrupt(f.queue));
    change_memory();
    virtqueue_set_kicks(f.queue, false);
    cr_assert(!virtqueue_set_kicks(f.queue, true));
    change_memory();
    offer(0);
    virtqueue_drop(f.queue, pop());
    change_memory();
    offer(8);
    assert_breaks("descriptor 8 of 8");
    change_memory();
}

/* ---- Dirty pages, drops, short memory ---- */

static void check_dirty(bool in_packed_ring)
{
    struct dirty_client *client;
    cr_assert_eq(dirty_start(f.memory, "test", DIRTY_FROM_NOW, &client, NULL), 0);
    f.config.packed = in_packed_ring;
    fixture_queue(&f);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(count_dirty(client), 0, "nothing is written yet");
    virtqueue_unpop(f.queue, chain);
    cr_assert_eq(count_dirty(client), 3, "the device may have begun to write");
    chain = pop();
    virtqueue_push(f.queue, chain, 0x1001);
    cr_assert(dirty_at(client,
                       (uint64_t[]){in_packed_ring ? DESCRIPTORS : DEVICE, DATA + 0x1000, DATA + 0x2000}, 3));
    virtqueue_set_kicks(f.queue, false);
    cr_assert(dirty_at(client, (uint64_t[]){DEVICE}, 1));
    dirty_stop(client);
}

Test(virtqueue_attacks, pages_that_the_driver_is_not_told_of_are_marked)
{
    struct dirty_client *client;
    cr_assert_eq(dirty_start(f.memory, "test", DIRTY_FROM_NOW, &client, NULL), 0);
    split_queue();
    split(0, DATA, 0x1000, NEXT | WRITE, 1);
    split(1, DATA + 0x1000, 1, WRITE, 0);
    offer(0);
    struct virtqueue_chain *chain = pop();
    cr_assert_eq(virtqueue_write(chain, 0x1000, "", 1), 1);
    virtqueue_push(f.queue, chain, 0);
    cr_assert(dirty_at(client, (uint64_t[]){DEVICE, DATA, DATA + 0x1000}, 3));
    offer(0);
    chain = pop();
    chain->touched = 5;
    virtqueue_push(f.queue, chain, 0);
    cr_assert(dirty_at(client, (uint64_t[]){DEVICE, DATA}, 2));
    offer(0);
    virtqueue_push(f.queue, pop(), 0);
    cr_assert(dirty_at(client, (uint64_t[]){DEVICE}, 1));
    dirty_stop(client);
}

Test(virtqueue_attacks, pages_written_are_marked_in_split_rings)
{
    split(0, DATA, 0x1000, NEXT, 1);
    split(1, DATA + 0x1000, 0x1000, NEXT | WRITE, 2);
    split(2, DATA + 0x2000, 0x1010, WRITE, 0);
    offer(0);
    check_dirty(false);
}

Test(virtqueue_attacks, pages_written_are_marked_in_packed_rings)
{
    packed(0, DATA, 0x1000, 0, NEXT);
    packed(1, DATA + 0x1000, 0x1000, 0, NEXT | WRITE);
    packed(2, DATA + 0x2000, 0x1010, 0, WRITE);
    check_dirty(true);
}

/* Two more: IN_ORDER, one that was taken before one that is dropped is not seen either. */
static void check_push_after_drop(bool in_order)
{
    struct virtqueue_chain *chains[2];
    for (unsigned i = 0; i < 2; i++) {
        offer(i);
        chains[i] = pop();
    }
    virtqueue_drop(f.queue, chains[1]);
    virtqueue_push(f.queue, chains[0], 0);
    cr_assert_eq(get16(DEVICE + 2), in_order ? 0 : 1);
}

Test(virtqueue_attacks, dropped_chains_are_not_seen_and_their_pages_marked)
{
    for (unsigned in_order = 0; in_order < 2; in_order++) {
        put16(DRIVER + 2, 0);
        f.config.in_order = in_order;
        split_queue();
        struct virtqueue_chain *chains[3];
        for (unsigned i = 0; i < 3; i++) {
            split(i, DATA + i * 0x1000, 16, WRITE, 0);
            offer(i);
            chains[i] = pop();
        }
        struct dirty_client *client;
        cr_assert_eq(dirty_start(f.memory, "test", DIRTY_FROM_NOW, &client, NULL), 0);
        if (in_order)
            virtqueue_push(f.queue, chains[2], 1);
        virtqueue_drop(f.queue, chains[1]);
        virtqueue_drop(f.queue, chains[0]);
        if (!in_order)
            virtqueue_drop(f.queue, chains[2]);
        cr_assert(dirty_at(client, (uint64_t[]){DATA, DATA + 0x1000, DATA + 0x2000}, 3));
        cr_assert_eq(get16(DEVICE + 2), 0);
        cr_assert(!virtqueue_wants_interrupt(f.queue));
        check_push_after_drop(in_order);
        dirty_stop(client);
        virtqueue_destroy(f.queue);
        put16(DEVICE + 2, 0);
    }
    split_queue();
}

Test(virtqueue_attacks, short_memory)
{
    split_queue();
    split(0, TABLES, 16 * 40, INDIRECT, 0);
    for (unsigned i = 0; i < 40; i++)
        table(i, DATA + i, 1, i < 39 ? NEXT : 0, i + 1);
    offer(0);
    struct virtqueue_chain *chain = NULL;
    int result;
    unsigned number = 0;
    do {
        failing_malloc_arm(++number);
        f.err.message[0] = 0;
        result = virtqueue_pop(f.queue, &chain, &f.err);
        cr_assert(result == 1 || (result == -ENOMEM && strstr(f.err.message, "disk queue 0")));
    } while (result != 1);
    failing_malloc_arm(0);
    cr_assert_gt(number, 3);
    cr_assert_eq(chain->out_count, 40, "it has waited");
    virtqueue_push(f.queue, chain, 0);
}

Test(virtqueue_attacks, short_memory_for_a_queue)
{
    f.config.in_order = true;
    for (unsigned number = 1; number < 3; number++) {
        failing_malloc_arm(number);
        cr_assert_eq(virtqueue_create(&f.config, &f.queue, &f.err), -ENOMEM);
    }
    failing_malloc_arm(0);
    split_queue();
}
