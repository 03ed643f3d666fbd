/*
 * Frames through the network device, one after the other: in any layout, wanted and not, with too little room
 * on either side, and malformed.
 */
#include "memory/dirty.h"
#include "memory/ram_block.h"
#include "tests/unit/devices/net_fixture.h"

#define OK VIRTIO_NET_OK

static struct net_fixture f;
static uint8_t expected[NET_FRAME_MAX], found[NET_FRAME_MAX];
static const struct frame_kind plain = {.type = 0};

static void end(void)
{
    fixture_end(&f);
}

TestSuite(virtio_net_frames, .fini = end);

static void start(unsigned offloads, uint16_t mtu, uint64_t features)
{
    fixture_start(&f, offloads, mtu);
    negotiate(&f, features);
}

/* Nothing of the device's keeps an old view of memory alive; if it did, this would not return. */
static void change_memory(void)
{
    struct memory_region other_region;
    struct virtio_guest *guest = &f.guest.guest;
    cr_assert_eq(memory_region_init_reservation(&other_region, guest->memory, "other", 0x1000, NULL), 0);
    virtio_guest_map(guest, GIB, &other_region);
    virtio_guest_unmap(guest, &other_region);
    memory_region_destroy(&other_region);
}

/* ---- Sending ---- */

/* Waits for the next frame at the backend and holds it against `expected`. */
static void expect_sent(unsigned pair, uint32_t length)
{
    uint32_t got;
    while (!(got = fake_net_take(&f.backend, pair, found, sizeof(found))))
        sched_yield();
    cr_assert_eq(got, length);
    cr_assert_eq(memcmp(found, expected, length), 0);
}

static void expect_used(unsigned queue, unsigned token, uint32_t written)
{
    uint32_t got;
    cr_assert_eq(wait_for_chain(&f, queue, &got), token);
    cr_assert_eq(got, written);
}

/* Sends a frame in buffers of these sizes (0: no more). */
static void send_in_pieces(const uint32_t *sizes, bool indirect)
{
    struct queue_driver_buffer buffers[16];
    uint32_t length = 0;
    unsigned count = 0;
    for (; sizes[count]; length += sizes[count++])
        buffers[count] = (struct queue_driver_buffer){OUT + length, sizes[count], false};
    make_frame(expected, &(struct frame_kind){.header.hdr_len = 54}, length);
    memcpy(memory_at(&f, OUT), expected, length);
    cr_assert(mmio_guest_offer(&f.guest, transmit_queue(0), 9, buffers, count, indirect));
    expect_sent(0, length);
    expect_used(transmit_queue(0), 9, 0);
}

Test(virtio_net_frames, are_sent_in_any_layout)
{
    static const uint32_t layouts[][8] = {
        {HEADER, 60},
        {HEADER + 1514},
        {HEADER, 14, 20, 20, 1460},
        {1, 11, 1, 59},
        {HEADER + 14, 1},
        {5, 5, 5, 5, 6},
        {HEADER, 65550},
        {HEADER + 4096, 4096, 4096, 4096, 1},
    };
    static const uint64_t features[] = {
        BIT(VIRTIO_RING_F_INDIRECT_DESC),
        BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_F_RING_PACKED),
        BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_F_IN_ORDER) | BIT(VIRTIO_RING_F_EVENT_IDX),
    };
    start(0, 0, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        mmio_guest_reset(&f.guest);
        negotiate(&f, features[i]);
        for (unsigned j = 0; j < ARRAY_SIZE(layouts); j++) {
            send_in_pieces(layouts[j], false);
            send_in_pieces(layouts[j], true);
        }
    }
}

/* Each comes back; the frame behind it is sent. */
Test(virtio_net_frames, that_are_none_are_not_sent)
{
    static const struct queue_driver_buffer cases[][3] = {
        {{OUT, 1, false}},
        {{OUT, HEADER - 1, false}},
        {{OUT, HEADER, false}},
        {{IN, 2048, true}},
        {{OUT, HEADER, false}, {IN, 2048, true}},
        {{OUT, NET_FRAME_MAX + 1, false}},
        {{OUT, NET_FRAME_MAX, false}, {OUT, NET_FRAME_MAX, false}},
    };
    start(0, 0, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned count = 0;
        while (count < 3 && cases[i][count].length)
            count++;
        cr_assert(mmio_guest_offer(&f.guest, transmit_queue(0), i, cases[i], count, false));
        expect_used(transmit_queue(0), i, 0);
        send_in_pieces((uint32_t[]){HEADER, 100, 0}, false);
    }
}

Test(virtio_net_frames, with_room_for_the_device_to_write_are_sent)
{
    struct queue_driver_buffer buffers[] = {{OUT, HEADER + 60, false}, {IN, 100, true}};
    start(0, 0, 0);
    make_frame(expected, &plain, HEADER + 60);
    memcpy(memory_at(&f, OUT), expected, HEADER + 60);
    cr_assert(mmio_guest_offer(&f.guest, transmit_queue(0), 9, buffers, 2, false));
    expect_sent(0, HEADER + 60);
    expect_used(transmit_queue(0), 9, 0);
}

static void offer_to_send(unsigned token)
{
    struct queue_driver_buffer buffer = {OUT + token * 256, 200 + token, false};
    make_frame(memory_at(&f, buffer.address), &plain, buffer.length);
    cr_assert(mmio_guest_offer(&f.guest, transmit_queue(0), token, &buffer, 1, false));
}

static void expect_tokens_sent(unsigned first, unsigned end_token)
{
    for (unsigned i = first; i < end_token; i++) {
        make_frame(expected, &plain, 200 + i);
        expect_sent(0, 200 + i);
        expect_used(transmit_queue(0), i, 0);
    }
}

static void wait_for_room(uint64_t features)
{
    uint32_t written;
    unsigned token;
    start(0, 0, features);
    fake_net_set_room(&f.backend, 0, 3);
    for (unsigned i = 0; i < 40; i++)
        offer_to_send(i);
    expect_tokens_sent(0, 3);
    change_memory();
    cr_assert(!queue_driver_collect(&f.guest.drivers[transmit_queue(0)], &token, &written));
    cr_assert_eq(fake_net_take(&f.backend, 0, found, sizeof(found)), 0);
    fake_net_set_room(&f.backend, 0, 1);
    expect_tokens_sent(3, 4);
    fake_net_set_room(&f.backend, 0, FAKE_NET_ROOM_MAX);
    expect_tokens_sent(4, 40);
    cr_assert_leq(fake_net_calls(&f.backend, 0), 2);
    fake_net_set_room(&f.backend, 0, 0);
    offer_to_send(1);
    mmio_guest_reset(&f.guest);
    fake_net_set_room(&f.backend, 0, FAKE_NET_ROOM_MAX);
    negotiate(&f, features);
    offer_to_send(2);
    expect_tokens_sent(2, 3);
    fixture_end(&f);
}

Test(virtio_net_frames, wait_for_room)
{
    wait_for_room(0);
    wait_for_room(BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX));
    wait_for_room(BIT(VIRTIO_F_IN_ORDER));
    start(0, 0, 0);
}

/* ---- Receiving ---- */

/* Waits for a frame that fills the buffers in this order, each but the last up to its end. */
static void expect_received(unsigned pair, const struct queue_driver_buffer *buffers, unsigned count,
                            uint32_t length)
{
    uint16_t *number = (uint16_t *)(void *)(expected + offsetof(struct virtio_net_hdr_v1, num_buffers));
    *number = (uint16_t)count;
    for (uint32_t i = 0, done = 0; i < count; i++) {
        uint32_t part = smaller(buffers[i].length, length - done), written;
        wait_for_chain(&f, receive_queue(pair), &written);
        cr_assert_eq(written, part, "buffer %u: %u, not %u", i, written, part);
        cr_assert_eq(memcmp(memory_at(&f, buffers[i].address), expected + done, part), 0, "buffer %u", i);
        done += part;
    }
}

/* Has a frame received into one chain of these sizes. */
static void receive_in_pieces(const uint32_t *sizes, uint32_t length, bool indirect)
{
    struct queue_driver_buffer buffers[16], whole = {IN, 0, true};
    unsigned count = 0;
    for (; sizes[count]; whole.length += sizes[count++])
        buffers[count] = (struct queue_driver_buffer){IN + whole.length, sizes[count], true};
    memset(memory_at(&f, IN), 0xEE, length + 1);
    cr_assert(mmio_guest_offer(&f.guest, receive_queue(0), 3, buffers, count, indirect));
    make_frame(expected, &plain, length);
    fake_net_put(&f.backend, 0, expected, length);
    expect_received(0, &whole, 1, length);
    cr_assert_eq(*(uint8_t *)memory_at(&f, IN + length), 0xEE);
}

Test(virtio_net_frames, are_received_in_any_layout)
{
    static const uint32_t layouts[][8] = {
        {HEADER, 2000},
        {2000, 0},
        {1, 11, 13, 1, 1, 1973},
        {HEADER + 1, 1500},
        {HEADER + 5, 9, 14, 1, 1400, 65536},
    };
    static const uint64_t features[] = {
        BIT(VIRTIO_RING_F_INDIRECT_DESC),
        BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX),
        BIT(VIRTIO_RING_F_INDIRECT_DESC) | BIT(VIRTIO_F_IN_ORDER) | MERGE,
    };
    start(0, 0, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        mmio_guest_reset(&f.guest);
        negotiate(&f, features[i]);
        for (unsigned j = 0; j < ARRAY_SIZE(layouts); j++) {
            receive_in_pieces(layouts[j], HEADER + 60, false);
            receive_in_pieces(layouts[j], HEADER + 1500, true);
        }
    }
}

/* Cut into buffers of these sizes, in rotation. */
static unsigned offer_in_rotation(struct queue_driver_buffer *buffers, const uint32_t *sizes, unsigned count)
{
    uint64_t address = IN;
    for (unsigned i = 0; i < count; i++) {
        buffers[i] = (struct queue_driver_buffer){address, sizes[i % 3], true};
        address += sizes[i % 3];
        cr_assert(mmio_guest_offer(&f.guest, receive_queue(0), i, &buffers[i], 1, false));
    }
    return count;
}

static void receive_spread(uint64_t features, const uint32_t *sizes)
{
    static const uint32_t lengths[] = {HEADER + 14, HEADER + 1500, 8000, 60, 16000, 1536, 1537, 3072};
    struct queue_driver_buffer buffers[MMIO_GUEST_RING];
    start(ALL_OFFLOADS, 0, features | MERGE);
    unsigned offered = offer_in_rotation(buffers, sizes, MMIO_GUEST_RING), used = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(lengths); i++) {
        unsigned count = 0;
        for (uint32_t room = 0; room < lengths[i]; room += buffers[used + count++].length)
            ;
        make_frame(expected, &plain, lengths[i]);
        fake_net_put(&f.backend, 0, expected, lengths[i]);
        expect_received(0, buffers + used, count, lengths[i]);
        used += count;
        cr_assert_leq(used, offered);
        change_memory();
    }
    fixture_end(&f);
}

Test(virtio_net_frames, are_spread_over_several_buffers)
{
    static const uint64_t features[] = {
        0,
        BIT(VIRTIO_RING_F_EVENT_IDX),
        BIT(VIRTIO_F_RING_PACKED),
        BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_IN_ORDER),
        BIT(VIRTIO_F_IN_ORDER),
    };
    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        receive_spread(features[i], (uint32_t[]){1536, 1536, 1536});
        receive_spread(features[i], (uint32_t[]){700, 2000, 900});
    }
    start(0, 0, 0);
}

Test(virtio_net_frames, of_the_largest_size_are_received)
{
    struct queue_driver_buffer buffers[MMIO_GUEST_RING];
    start(ALL_OFFLOADS, 0, MERGE);
    offer_in_rotation(buffers, (uint32_t[]){1536, 1536, 1536}, 60);
    make_frame(expected, &plain, NET_FRAME_MAX);
    fake_net_put(&f.backend, 0, expected, NET_FRAME_MAX);
    expect_received(0, buffers, 43, NET_FRAME_MAX);
    put_frame(&f, 0, &plain, 3000);
    make_frame(expected, &plain, 3000);
    expect_received(0, buffers + 43, 2, 3000);
}

Test(virtio_net_frames, wait_for_buffers)
{
    start(0, 0, 0);
    for (unsigned i = 0; i < 10; i++)
        put_frame(&f, 0, &plain, 100 + i);
    for (unsigned i = 0; i < 10; i++) {
        unsigned calls = fake_net_calls(&f.backend, 0);
        cr_assert_eq(fake_net_waiting(&f.backend, 0), 10 - i);
        change_memory();
        cr_assert_eq(fake_net_calls(&f.backend, 0), calls, "the device asks for what it cannot take");
        struct queue_driver_buffer buffer = {IN, 2048, true};
        offer_buffer(&f, 0, IN, 2048);
        make_frame(expected, &plain, 100 + i);
        expect_received(0, &buffer, 1, 100 + i);
    }
}

static void wait_for_enough_buffers(uint64_t features)
{
    struct queue_driver_buffer buffers[20];
    start(0, 0, features | MERGE);
    put_frame(&f, 0, &plain, 20 * 1024);
    put_frame(&f, 0, &plain, 100);
    for (unsigned i = 0; i < 20; i++) {
        unsigned token;
        uint32_t written;
        buffers[i] = (struct queue_driver_buffer){IN + i * 4096, 1024, true};
        cr_assert(!queue_driver_collect(&f.guest.drivers[0], &token, &written));
        offer_buffer(&f, 0, buffers[i].address, 1024);
        change_memory();
    }
    make_frame(expected, &plain, 20 * 1024);
    expect_received(0, buffers, 20, 20 * 1024);
    offer_buffer(&f, 0, IN, 1024);
    make_frame(expected, &plain, 100);
    expect_received(0, buffers, 1, 100);
    fixture_end(&f);
}

Test(virtio_net_frames, wait_for_enough_buffers)
{
    wait_for_enough_buffers(0);
    wait_for_enough_buffers(BIT(VIRTIO_RING_F_EVENT_IDX));
    wait_for_enough_buffers(BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX));
    wait_for_enough_buffers(BIT(VIRTIO_F_IN_ORDER));
    start(0, 0, 0);
}

/* A ring that is full and has too little room will never have more. */
Test(virtio_net_frames, for_which_there_is_never_enough_room_are_lost)
{
    struct queue_driver_buffer buffers[MMIO_GUEST_RING];
    start(0, 0, MERGE);
    put_frame(&f, 0, &plain, 64 * 512 + 1);
    put_frame(&f, 0, &plain, 600);
    offer_in_rotation(buffers, (uint32_t[]){512, 512, 512}, MMIO_GUEST_RING);
    make_frame(expected, &plain, 600);
    expect_received(0, buffers, 2, 600);
    for (unsigned i = 0; i < 2; i++)
        cr_assert(mmio_guest_offer(&f.guest, receive_queue(0), i, &buffers[i], 1, false));
    put_frame(&f, 0, &plain, 64 * 512 + 1);
    put_frame(&f, 0, &plain, 700);
    make_frame(expected, &plain, 700);
    expect_received(0, buffers + 2, 2, 700);
}

/* Too long ones are dropped, and their buffer serves the next. */
Test(virtio_net_frames, that_do_not_fit_into_their_buffer_are_lost)
{
    struct queue_driver_buffer buffer = {IN, 200, true};
    start(0, 0, 0);
    offer_buffer(&f, 0, IN, 200);
    put_frame(&f, 0, &plain, 201);
    put_frame(&f, 0, &plain, 1514);
    put_frame(&f, 0, &plain, HEADER + 13);
    put_frame(&f, 0, &plain, 200);
    make_frame(expected, &plain, 200);
    expect_received(0, &buffer, 1, 200);
}

Test(virtio_net_frames, skip_buffers_that_have_no_room_for_a_header)
{
    static const struct queue_driver_buffer useless[] = {
        {OUT, 100, false}, {IN, 1, true}, {IN, HEADER - 1, true}};
    for (unsigned merges = 0; merges < 2; merges++) {
        struct queue_driver_buffer buffer = {IN + 4096, 2048, true};
        start(0, 0, merges ? MERGE : 0);
        for (unsigned i = 0; i < ARRAY_SIZE(useless); i++)
            cr_assert(mmio_guest_offer(&f.guest, 0, i, &useless[i], 1, false));
        offer_buffer(&f, 0, buffer.address, buffer.length);
        put_frame(&f, 0, &plain, 1000);
        for (unsigned i = 0; i < ARRAY_SIZE(useless); i++)
            expect_used(0, i, 0);
        make_frame(expected, &plain, 1000);
        expect_received(0, &buffer, 1, 1000);
        fixture_end(&f);
    }
    start(0, 0, 0);
}

/* ---- Wanted no longer ---- */

static const uint8_t other[] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x57};
static const uint8_t broadcast[] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};

/* One that waited for buffers while the driver changed its mind. */
Test(virtio_net_frames, that_wait_and_are_no_longer_wanted_are_lost)
{
    struct queue_driver_buffer buffer = {IN, 1024, true};
    start(0, 0, ALL_FILTERS | MERGE);
    offer_buffer(&f, 0, IN, 1024);
    put_frame(&f, 0, &(struct frame_kind){.destination = broadcast}, 3000);
    while (fake_net_waiting(&f.backend, 0))
        sched_yield();
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, (uint8_t[]){1}, 1), OK);
    put_frame(&f, 0, &plain, 100);
    for (unsigned i = 1; i < 4; i++)
        offer_buffer(&f, 0, IN + i * 4096, 1024);
    make_frame(expected, &plain, 100);
    expect_received(0, &buffer, 1, 100);
}

/* ---- Dirty pages ---- */

#define PAGES (VIRTIO_GUEST_RAM / RAM_PAGE_SIZE)

static uint8_t before[VIRTIO_GUEST_RAM], after[VIRTIO_GUEST_RAM];

static void copy_memory(void *to)
{
    memcpy(to, memory_at(&f, 0), VIRTIO_GUEST_RAM);
}

/* Whatever the device has written since `before` was copied is marked. */
static void check_marks(struct dirty_client *client)
{
    static uint64_t marks[PAGES / 64];
    struct ram_block *block = f.guest.guest.block;
    unsigned written = 0;
    memset(marks, 0, sizeof(marks));
    cr_assert_eq(dirty_take(client, block, 0, PAGES, marks, NULL), 0);
    for (unsigned page = 0; page < PAGES; page++) {
        size_t offset = (size_t)page * RAM_PAGE_SIZE;
        bool differs = memcmp(before + offset, after + offset, RAM_PAGE_SIZE);
        cr_assert(!differs || marks[page / 64] >> page % 64 & 1, "page %u", page);
        written += differs;
    }
    cr_assert_gt(written, 1);
}

static void write_pages(uint64_t features)
{
    static const struct {
        const uint8_t *destination;
        uint32_t length;
    } frames[] = {{other, 6000}, {net_mac, 100},   {net_mac, 3000}, {other, 20000},
                  {other, 9000}, {net_mac, 16000}, {net_mac, 7000}, {other, 5000}};
    struct dirty_client *client;
    start(ALL_OFFLOADS, 0, features | ALL_FILTERS | MERGE);
    struct event_loop *loop = io_thread_loop(f.threads[0]);
    for (unsigned i = 0; i < 20; i++)
        offer_buffer(&f, 0, IN + i * 2 * 4096, 2 * 4096);
    cr_assert_eq(dirty_start(f.guest.guest.memory, "test", DIRTY_FROM_NOW, &client, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(frames); i++) {
        event_loop_call(loop, copy_memory, before);
        fake_net_set_link(&f.backend, false);
        put_frame(&f, 0, &(struct frame_kind){.destination = frames[i].destination}, frames[i].length);
        put_frame(&f, 0, &plain, 100 + i);
        put_frame(&f, 0, &(struct frame_kind){.destination = other}, 8000 - i);
        fake_net_set_link(&f.backend, true); /* all at once */
        while (fake_net_waiting(&f.backend, 0))
            sched_yield();
        event_loop_call(loop, copy_memory, after);
        check_marks(client);
    }
    dirty_stop(client);
    fixture_end(&f);
}

Test(virtio_net_frames, leave_no_page_unmarked)
{
    write_pages(0);
    write_pages(BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX));
    write_pages(BIT(VIRTIO_F_IN_ORDER));
    start(0, 0, 0);
}

/* ---- Queues that break, and that are taken away ---- */

Test(virtio_net_frames, go_on_the_other_way_where_one_queue_is_broken)
{
    struct queue_driver_buffer nowhere = {0xE0000000, 2048, true}, buffer = {IN, 2048, true};
    for (unsigned broken = 0; broken < 2; broken++) {
        start(0, 0, 0);
        nowhere.writable = broken == 0;
        cr_assert(mmio_guest_offer(&f.guest, broken, 1, &nowhere, 1, false));
        put_frame(&f, 0, &plain, 100);
        while (!(mmio_guest_get(&f.guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET))
            sched_yield();
        if (broken == 0)
            send_in_pieces((uint32_t[]){HEADER, 100, 0}, false);
        else
            offer_buffer(&f, 0, IN, 2048);
        make_frame(expected, &plain, 100);
        if (broken == 1)
            expect_received(0, &buffer, 1, 100);
        mmio_guest_reset(&f.guest);
        negotiate(&f, 0);
        send_in_pieces((uint32_t[]){HEADER, 100, 0}, false);
        offer_buffer(&f, 0, IN, 2048);
        put_frame(&f, 0, &plain, 100);
        make_frame(expected, &plain, 100);
        expect_received(0, &buffer, 1, 100);
        fixture_end(&f);
    }
    start(0, 0, 0);
}

/* Frames that are spread over buffers of which one is nowhere. */
Test(virtio_net_frames, survive_buffers_that_are_nowhere)
{
    struct queue_driver_buffer buffers[] = {{IN, 1024, true}, {0xE0000000, 1024, true}};
    for (unsigned i = 0; i < 3; i++) {
        start(ALL_OFFLOADS, 0,
              MERGE | (i == 1   ? BIT(VIRTIO_F_RING_PACKED)
                       : i == 2 ? BIT(VIRTIO_F_IN_ORDER)
                                : 0));
        cr_assert(mmio_guest_offer(&f.guest, 0, 1, &buffers[0], 1, false));
        cr_assert(mmio_guest_offer(&f.guest, 0, 2, &buffers[1], 1, false));
        put_frame(&f, 0, &plain, 2000);
        while (!(mmio_guest_get(&f.guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET))
            sched_yield();
        change_memory();
        fixture_end(&f);
    }
    start(0, 0, 0);
}

static void reset_queue(unsigned queue)
{
    mmio_guest_set(&f.guest, MMIO_GUEST_QUEUE_SEL, queue);
    mmio_guest_set(&f.guest, MMIO_GUEST_QUEUE_RESET, 1);
    mmio_guest_enable(&f.guest, queue, f.features);
}

Test(virtio_net_frames, go_on_after_a_queue_was_reset)
{
    struct queue_driver_buffer buffer = {IN, 2048, true};
    start(0, 0, BIT(VIRTIO_F_RING_RESET) | MERGE);
    put_frame(&f, 0, &plain, 5000); /* will wait for more buffers, and be lost */
    offer_buffer(&f, 0, IN, 2048);
    fake_net_set_room(&f.backend, 0, 0);
    offer_to_send(1);
    while (fake_net_waiting(&f.backend, 0))
        sched_yield();
    reset_queue(0);
    reset_queue(1);
    fake_net_set_room(&f.backend, 0, FAKE_NET_ROOM_MAX);
    offer_to_send(2);
    expect_tokens_sent(2, 3);
    put_frame(&f, 0, &plain, 100);
    offer_buffer(&f, 0, IN, 2048);
    make_frame(expected, &plain, 100);
    expect_received(0, &buffer, 1, 100);
    reset_queue(0);
    offer_to_send(3);
    expect_tokens_sent(3, 4);
}

Test(virtio_net_frames, wait_while_the_link_is_down)
{
    struct queue_driver_buffer buffer = {IN, 2048, true};
    start(0, 0, BIT(VIRTIO_NET_F_STATUS));
    fake_net_set_link(&f.backend, false);
    offer_buffer(&f, 0, IN, 2048);
    put_frame(&f, 0, &plain, 100);
    offer_to_send(7);
    expect_used(transmit_queue(0), 7, 0);
    cr_assert_eq(fake_net_take(&f.backend, 0, found, sizeof(found)), 0);
    cr_assert_eq(fake_net_waiting(&f.backend, 0), 1);
    fake_net_set_link(&f.backend, true);
    make_frame(expected, &plain, 100);
    expect_received(0, &buffer, 1, 100);
}

/* Offers `count` times the same buffer and kicks once; returns how many interrupts it took to get all back.
 */
static unsigned offer_many(unsigned queue, const struct queue_driver_buffer *buffer, unsigned count)
{
    struct queue_driver *driver = &f.guest.drivers[queue];
    unsigned interrupts = 0;
    for (unsigned i = 0; i < count; i++)
        cr_assert(queue_driver_offer(driver, i, buffer, 1, QUEUE_DRIVER_NONE, 0));
    cr_assert(queue_driver_must_kick(driver));
    mmio_guest_set(&f.guest, MMIO_GUEST_QUEUE_NOTIFY, queue);
    for (unsigned i = 0; i < count; i++) {
        uint32_t written;
        unsigned token;
        while (!queue_driver_collect(driver, &token, &written)) {
            if (queue_driver_unmask(driver, 0))
                continue;
            wait_for_interrupt(&f);
            interrupts++;
        }
        cr_assert_eq(token, i);
    }
    return interrupts;
}

Test(virtio_net_frames, go_in_batches)
{
    start(0, 0, 0);
    cr_assert_leq(offer_many(transmit_queue(0), &(struct queue_driver_buffer){OUT, 100, false}, 64), 5);
    cr_assert_eq(f.backend.queues[0].largest_batch, 32);
    for (unsigned i = 0; i < 64; i++)
        put_frame(&f, 0, &plain, 100);
    cr_assert_leq(offer_many(receive_queue(0), &(struct queue_driver_buffer){IN, 2048, true}, 64), 5);
}

/* More than a queue is served for at a time: it goes on with the rest afterwards. */
Test(virtio_net_frames, are_not_forgotten_when_there_are_many)
{
    struct queue_driver_buffer out = {OUT, NET_FRAME_MAX, false}, in = {IN, NET_FRAME_MAX, true};
    struct queue_driver_buffer answer = {ANSWER, 1, true};
    for (unsigned merges = 0; merges < 2; merges++) {
        start(0, 0, CONTROL | (merges ? MERGE : 0));
        for (unsigned i = 0; i < 64; i++)
            put_frame(&f, 0, &plain, NET_FRAME_MAX);
        offer_many(transmit_queue(0), &out, 64);
        offer_many(receive_queue(0), &in, 64);
        offer_many(control_queue(&f), &answer, 64);
        cr_assert_eq(*(uint8_t *)memory_at(&f, ANSWER), VIRTIO_NET_ERR);
        offer_many(control_queue(&f), &answer, 1);
        fixture_end(&f);
    }
    start(0, 0, 0);
}
