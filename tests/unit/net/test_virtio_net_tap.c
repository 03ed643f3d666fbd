/*
 * The network device on a tap: what the kernel sends reaches the guest, and the other way round, whatever the
 * driver does to its pairs of queues meanwhile.
 */
#include <pthread.h>
#include <stdatomic.h>

#include "tests/unit/devices/net_fixture.h"
#include "tests/unit/net/net_fixture.h"

#define FLOWS      50 /* as many frames as a queue has buffers, at most */
#define FRAME_SIZE 60

static struct net_fixture f;
static struct event_loop *loop;
static struct net_backend *tap;
static int peer;

static void start(void)
{
    enter_namespace();
    loop = create_loop();
    tap = open_tap(loop, "tap0", PAIRS);
    fixture_start_on(&f, tap);
    negotiate(&f, mmio_guest_offered(&f.guest) & ~BIT(VIRTIO_F_RING_PACKED));
    peer = packet_socket("tap0", ETH_P_IP);
}

static void end(void)
{
    fixture_end_on(&f);
    net_backend_destroy(tap);
    event_loop_destroy(loop);
    close(peer);
}

TestSuite(virtio_net_tap, .init = start, .fini = end, .timeout = 60);

/* IPv4, UDP: what the kernel knows to tell flows apart by. */
static void make_flow(uint8_t frame[FRAME_SIZE], unsigned flow)
{
    static const uint8_t headers[] = {0x08, 0x00, 0x45, 0,  0, 46, 0, 0, 0, 0, 64, 17, 0,  0, 10,
                                      0,    0,    1,    10, 0, 0,  2, 0, 0, 0, 9,  0,  26, 0, 0};
    fill_frame(frame, FRAME_SIZE, 0);
    memcpy(frame + 12, headers, sizeof(headers));
    frame[ETHERNET_SIZE + 20] = (uint8_t)(flow >> 8);
    frame[ETHERNET_SIZE + 21] = (uint8_t)flow;
}

static void send_flows(void)
{
    uint8_t frame[FRAME_SIZE];
    for (unsigned flow = 0; flow < FLOWS; flow++) {
        make_flow(frame, flow);
        cr_assert_eq(send(peer, frame, sizeof(frame), 0), sizeof(frame), "%s", strerror(errno));
    }
}

static void set_pairs(uint16_t pairs)
{
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, sizeof(pairs)),
                 VIRTIO_NET_OK);
}

/* Takes what there is in a pair's buffers, and offers these again. Returns how many frames. */
static unsigned take_frames(unsigned pair)
{
    struct queue_driver *driver = &f.guest.drivers[receive_queue(pair)];
    unsigned count = 0, token;
    uint32_t written;
    for (; queue_driver_collect(driver, &token, &written); count++) {
        uint64_t address = IN + (uint64_t)token * 4096;
        const uint8_t *data = memory_at(&f, address);
        uint8_t expected[FRAME_SIZE];
        make_flow(expected, data[HEADER + ETHERNET_SIZE + 21]);
        cr_assert_eq(written, HEADER + FRAME_SIZE);
        cr_assert_eq(memcmp(data + HEADER, expected, FRAME_SIZE), 0);
        offer_buffer(&f, pair, address, 2048);
    }
    return count;
}

/* Waits until `total` frames have come; says how many by each pair. */
static void count_frames(unsigned counts[PAIRS], unsigned total)
{
    memset(counts, 0, PAIRS * sizeof(*counts));
    for (unsigned seen = 0; seen < total;) {
        bool more = false;
        for (unsigned pair = 0; pair < PAIRS; pair++) {
            unsigned count = take_frames(pair);
            counts[pair] += count;
            seen += count;
            more |= queue_driver_unmask(&f.guest.drivers[receive_queue(pair)], 0);
        }
        if (seen < total && !more)
            wait_for_interrupt(&f);
    }
}

static void offer_buffers(void)
{
    for (unsigned pair = 0; pair < PAIRS; pair++)
        for (unsigned i = 0; i < FLOWS; i++)
            offer_buffer(&f, pair, IN + (pair * FLOWS + i) * 4096, 2048);
}

Test(virtio_net_tap, receives_by_the_pairs_in_use)
{
    unsigned counts[PAIRS];
    offer_buffers();
    for (unsigned round = 0; round < 20; round++) {
        if (round) /* at first there is one */
            set_pairs(round % 2 ? 2 : 1);
        send_flows();
        count_frames(counts, FLOWS);
        cr_assert_eq(counts[1] > 0, round % 2, "%u and %u", counts[0], counts[1]);
        cr_assert_gt(counts[0], 0);
    }
}

static atomic_bool over;

static void *flood(void *opaque)
{
    while (!atomic_load(&over))
        send_flows();
    return NULL;
}

/* Commands while frames come in; those that find no buffer are lost. */
Test(virtio_net_tap, receives_by_pairs_that_come_and_go)
{
    pthread_t sender;
    unsigned counts[PAIRS];
    offer_buffers();
    cr_assert_eq(pthread_create(&sender, NULL, flood, NULL), 0);
    for (unsigned round = 0; round < 400; round++) {
        set_pairs(round % 2 ? 1 : 2);
        take_frames(0);
        take_frames(1);
    }
    set_pairs(2);
    atomic_store(&over, true);
    pthread_join(sender, NULL);
    for (counts[0] = counts[1] = 0; counts[0] == 0 || counts[1] == 0;) {
        unsigned more[PAIRS];
        send_flows();
        count_frames(more, 1);
        counts[0] += more[0];
        counts[1] += more[1];
    }
}

Test(virtio_net_tap, sends)
{
    uint8_t seen[FRAME_SIZE], expected[FRAME_SIZE];
    for (unsigned i = 0; i < 40; i++) {
        struct queue_driver_buffer buffer = {OUT + i * 256, HEADER + FRAME_SIZE, false};
        uint8_t *frame = memory_at(&f, buffer.address);
        uint32_t written;
        memset(frame, 0, HEADER);
        make_flow(expected, i);
        memcpy(frame + HEADER, expected, FRAME_SIZE);
        cr_assert(mmio_guest_offer(&f.guest, transmit_queue(i % PAIRS), i, &buffer, 1, false));
        cr_assert_eq(recv(peer, seen, sizeof(seen), 0), FRAME_SIZE);
        cr_assert_eq(memcmp(seen, expected, FRAME_SIZE), 0);
        cr_assert_eq(wait_for_chain(&f, transmit_queue(i % PAIRS), &written), i);
    }
}
