/*
 * Many frames in both directions at the same time, with data, order and grouping checked while the driver,
 * the device and its backend run on threads of their own; commands meanwhile; and resets in the middle of it.
 */
#include <stdlib.h>

#include "tests/unit/devices/net_fixture.h"

#define SLOT      4096 /* bytes of RAM for one buffer */
#define IN_SLOTS  48   /* of each pair */
#define OUT_SLOTS 16
#define FRAME_MAX 9000
#define FRAMES    500 /* each way, of each pair */

/* One direction of one pair: frames carry their number, and come out as they went in. */
struct stream {
    unsigned put, taken;
    bool out[IN_SLOTS]; /* the device has these buffers */
};

struct traffic {
    struct net_fixture f;
    uint64_t random, features;
    struct stream in[PAIRS], outward[PAIRS];
    uint8_t frame[FRAME_MAX], expected[FRAME_MAX];
};

static uint32_t draw(struct traffic *t, uint32_t limit)
{
    t->random ^= t->random << 13;
    t->random ^= t->random >> 7;
    t->random ^= t->random << 17;
    return (uint32_t)(t->random >> 32) % limit;
}

/* Each frame's length and content follow from its number. */
static uint32_t length_of(unsigned number)
{
    uint32_t mixed = number * 2654435761u;
    return HEADER + 18 + (mixed >> 8) % (mixed & 0x80 ? FRAME_MAX - HEADER - 18 : 1500);
}

static uint32_t make(uint8_t *frame, unsigned pair, unsigned number)
{
    uint32_t length = make_frame(frame, &(struct frame_kind){.type = 0}, length_of(number));
    memcpy(frame + HEADER + 14, &number, sizeof(number));
    frame[HEADER + 6] = (uint8_t)pair;
    return length;
}

static struct traffic *begin(uint64_t features)
{
    struct traffic *t = calloc(1, sizeof(*t));
    cr_assert(t);
    t->random = 0x9E3779B97F4A7C15u;
    t->features = features | CONTROL | MERGE | BIT(VIRTIO_NET_F_MQ) | BIT(VIRTIO_NET_F_CTRL_RX);
    fixture_start(&t->f, ALL_OFFLOADS, 0);
    return t;
}

static void end(struct traffic *t)
{
    fixture_end(&t->f);
    free(t);
}

static void use_all_pairs(struct traffic *t)
{
    uint16_t pairs = PAIRS;
    cr_assert_eq(send_command(&t->f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, 2),
                 VIRTIO_NET_OK);
}

static void connect(struct traffic *t)
{
    negotiate(&t->f, t->features);
    use_all_pairs(t);
}

/* ---- To the guest ---- */

static uint64_t in_slot(unsigned pair, unsigned slot)
{
    return IN + (uint64_t)(pair * IN_SLOTS + slot) * SLOT;
}

/* Small enough for the longest frame to need several, and for slots to hold them. */
static uint32_t buffer_size(const struct traffic *t, unsigned slot)
{
    return slot % 3 ? 1536 : 700;
}

static void offer_buffers(struct traffic *t, unsigned pair)
{
    struct stream *in = &t->in[pair];
    for (unsigned slot = 0; slot < IN_SLOTS; slot++) {
        struct queue_driver_buffer buffer = {in_slot(pair, slot), buffer_size(t, slot), true};
        if (!in->out[slot] && draw(t, 4))
            in->out[slot] = mmio_guest_offer(&t->f.guest, receive_queue(pair), slot, &buffer, 1, false);
    }
}

static void put_frames(struct traffic *t, unsigned pair)
{
    struct stream *in = &t->in[pair];
    for (unsigned left = draw(t, 8); left > 0 && in->put < FRAMES && in->put - in->taken < 64; left--)
        fake_net_put(&t->f.backend, pair, t->frame, make(t->frame, pair, in->put++));
}

/* One buffer of a frame, which must be there. */
static uint32_t take_buffer(struct traffic *t, unsigned pair, uint32_t done)
{
    unsigned slot;
    uint32_t written;
    cr_assert(queue_driver_collect(&t->f.guest.drivers[receive_queue(pair)], &slot, &written),
              "a part of a frame is not there with the others");
    cr_assert(t->in[pair].out[slot]);
    t->in[pair].out[slot] = false;
    cr_assert(written <= buffer_size(t, slot) && done + written <= FRAME_MAX);
    memcpy(t->frame + done, memory_at(&t->f, in_slot(pair, slot)), written);
    return written;
}

/* False if there is none. */
static bool take_frame(struct traffic *t, unsigned pair)
{
    struct queue_driver *driver = &t->f.guest.drivers[receive_queue(pair)];
    if (!queue_driver_unmask(driver, 0))
        return false;
    uint32_t length = take_buffer(t, pair, 0);
    const struct virtio_net_hdr_v1 *header = (const void *)t->frame;
    unsigned buffers = header->num_buffers;
    for (unsigned i = 1; i < buffers; i++)
        length += take_buffer(t, pair, length);
    cr_assert_eq(length, make(t->expected, pair, t->in[pair].taken++));
    cr_assert_eq(memcmp(t->frame + HEADER, t->expected + HEADER, length - HEADER), 0);
    return true;
}

/* ---- From the guest ---- */

static uint64_t out_slot(unsigned pair, unsigned slot)
{
    return IN + (uint64_t)PAIRS * IN_SLOTS * SLOT + (uint64_t)(pair * OUT_SLOTS + slot) * SLOT;
}

/* Up to a slot long, in up to three pieces. */
static void send_frames(struct traffic *t, unsigned pair)
{
    struct stream *out = &t->outward[pair];
    for (unsigned slot = 0; slot < OUT_SLOTS && out->put < FRAMES; slot++) {
        if (out->out[slot] || draw(t, 3) == 0)
            continue;
        struct queue_driver_buffer buffers[3];
        unsigned count = 0;
        uint32_t length = make(t->frame, pair, out->put);
        if (length > SLOT)
            length = SLOT;
        memcpy(memory_at(&t->f, out_slot(pair, slot)), t->frame, length);
        for (uint32_t done = 0, part; done < length; done += part) {
            part = count == 2 ? length - done : 1 + draw(t, length - done);
            buffers[count++] = (struct queue_driver_buffer){out_slot(pair, slot) + done, part, false};
        }
        bool indirect = t->features & BIT(VIRTIO_RING_F_INDIRECT_DESC) && draw(t, 2);
        out->out[slot] = mmio_guest_offer(&t->f.guest, transmit_queue(pair), slot, buffers, count, indirect);
        out->put += out->out[slot];
    }
}

static void take_sent(struct traffic *t, unsigned pair)
{
    struct stream *out = &t->outward[pair];
    unsigned slot;
    uint32_t written, length;
    while (queue_driver_collect(&t->f.guest.drivers[transmit_queue(pair)], &slot, &written)) {
        cr_assert(out->out[slot] && written == 0);
        out->out[slot] = false;
    }
    while ((length = fake_net_take(&t->f.backend, pair, t->frame, FRAME_MAX))) {
        uint32_t whole = make(t->expected, pair, out->taken++);
        cr_assert_eq(length, smaller(whole, SLOT));
        cr_assert_eq(memcmp(t->frame, t->expected, length), 0);
    }
    if (draw(t, 8) == 0)
        fake_net_set_room(&t->f.backend, pair, draw(t, 3) ? draw(t, 10) : FAKE_NET_ROOM_MAX);
}

/* ---- Both ---- */

static bool is_over(const struct traffic *t)
{
    for (unsigned i = 0; i < PAIRS; i++)
        if (t->in[i].taken < FRAMES || t->outward[i].taken < FRAMES)
            return false;
    return true;
}

/* Commands that change nothing for these frames, but what receiving reads. */
static void send_commands(struct traffic *t)
{
    uint8_t on = draw(t, 2) != 0;
    uint8_t mode = draw(t, 2) ? VIRTIO_NET_CTRL_RX_PROMISC : VIRTIO_NET_CTRL_RX_ALLMULTI;
    cr_assert_eq(send_command(&t->f, VIRTIO_NET_CTRL_RX, mode, &on, 1), VIRTIO_NET_OK);
}

static void step(struct traffic *t)
{
    for (unsigned pair = 0; pair < PAIRS; pair++) {
        offer_buffers(t, pair);
        put_frames(t, pair);
        send_frames(t, pair);
        for (unsigned left = 1 + draw(t, 6); left > 0 && take_frame(t, pair); left--)
            ;
        take_sent(t, pair);
    }
    if (draw(t, 16) == 0)
        send_commands(t);
}

static void run(uint64_t features)
{
    struct traffic *t = begin(features);
    connect(t);
    while (!is_over(t))
        step(t);
    for (unsigned i = 0; i < QUEUES; i++)
        cr_assert(!t->f.guest.drivers[i].failed);
    end(t);
}

#define SPLIT  BIT(VIRTIO_RING_F_INDIRECT_DESC)
#define PACKED (SPLIT | BIT(VIRTIO_F_RING_PACKED))

Test(virtio_net_traffic, split)
{
    run(SPLIT);
    run(SPLIT | BIT(VIRTIO_RING_F_EVENT_IDX));
}

Test(virtio_net_traffic, packed)
{
    run(PACKED);
    run(PACKED | BIT(VIRTIO_RING_F_EVENT_IDX));
}

Test(virtio_net_traffic, in_order)
{
    run(BIT(VIRTIO_F_IN_ORDER) | BIT(VIRTIO_RING_F_EVENT_IDX));
    run(BIT(VIRTIO_F_IN_ORDER) | BIT(VIRTIO_F_RING_PACKED));
}

/* ---- Resets ---- */

/* Memory that the driver has back is its own: the device writes there no more. */
static void take_memory_back(struct traffic *t)
{
    memset(memory_at(&t->f, IN), 0x5A, (size_t)PAIRS * IN_SLOTS * SLOT);
    for (unsigned pair = 0; pair < PAIRS; pair++) {
        memset(t->in[pair].out, 0, sizeof(t->in[pair].out));
        memset(t->outward[pair].out, 0, sizeof(t->outward[pair].out));
    }
}

static void check_memory(struct traffic *t)
{
    const uint8_t *bytes = memory_at(&t->f, IN);
    cr_assert(bytes[0] == 0x5A && !memcmp(bytes, bytes + 1, (size_t)PAIRS * IN_SLOTS * SLOT - 1));
}

static void reset_in_the_middle(uint64_t features)
{
    struct traffic *t = begin(features);
    take_memory_back(t);
    for (unsigned round = 0; round < 60; round++) {
        connect(t);
        for (unsigned i = 0; i < 10; i++)
            fake_net_put(&t->f.backend, round % PAIRS, t->frame, make(t->frame, 0, i));
        check_memory(t);
        for (unsigned pair = 0; pair < PAIRS; pair++) {
            offer_buffers(t, pair);
            send_frames(t, pair);
        }
        if (draw(t, 2))
            wait_for_interrupt(&t->f);
        mmio_guest_reset(&t->f.guest);
        take_memory_back(t);
    }
    end(t);
}

Test(virtio_net_traffic, ends_at_a_reset)
{
    reset_in_the_middle(SPLIT);
    reset_in_the_middle(PACKED | BIT(VIRTIO_RING_F_EVENT_IDX));
    reset_in_the_middle(BIT(VIRTIO_F_IN_ORDER));
}

/* The other pair goes on all the time, with the right data. */
Test(virtio_net_traffic, of_one_queue_ends_at_its_reset_alone)
{
    struct traffic *t = begin(SPLIT | BIT(VIRTIO_F_RING_RESET));
    struct mmio_guest *guest = &t->f.guest;
    connect(t);
    for (unsigned round = 0; round < 200; round++) {
        unsigned queue = receive_queue(1) + round % 2;
        put_frames(t, 0);
        offer_buffers(t, 0);
        offer_buffers(t, 1);
        send_frames(t, 1);
        fake_net_put(&t->f.backend, 1, t->frame, make(t->frame, 1, round));
        while (take_frame(t, 0))
            ;
        mmio_guest_set(guest, MMIO_GUEST_QUEUE_SEL, queue);
        mmio_guest_set(guest, MMIO_GUEST_QUEUE_RESET, 1);
        memset(round % 2 ? t->outward[1].out : t->in[1].out, 0, sizeof(t->in[1].out));
        mmio_guest_enable(guest, queue, t->features);
    }
    end(t);
}
