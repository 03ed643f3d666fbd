#include "tests/unit/net/net_fixture.h"

#define QUEUES 4
#define FLOWS  200

/* The kernel sends a frame of each of many flows. */
static void send_flows(int peer)
{
    uint8_t frame[60];
    fill_frame(frame, sizeof(frame), 0);
    /* IPv4, UDP: what the kernel knows to tell flows apart by. */
    static const uint8_t headers[] = {0x08, 0x00, 0x45, 0,  0, 46, 0, 0, 0, 0, 64, 17, 0,  0, 10,
                                      0,    0,    1,    10, 0, 0,  2, 0, 0, 0, 9,  0,  26, 0, 0};
    memcpy(frame + 12, headers, sizeof(headers));
    for (unsigned flow = 0; flow < FLOWS; flow++) {
        frame[ETHERNET_SIZE + 20] = (uint8_t)(flow >> 8);
        frame[ETHERNET_SIZE + 21] = (uint8_t)flow;
        cr_assert_eq(send(peer, frame, sizeof(frame), 0), sizeof(frame), "%s", strerror(errno));
    }
}

/* All flows arrive once, on the first `count` queues, and on each of these. */
static void check_spread(struct net_backend *tap, int peer, unsigned count)
{
    unsigned seen[FLOWS] = {0}, total = 0;
    uint8_t data[100];
    send_flows(peer);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        unsigned received = 0;
        for (; receive_one(tap, queue, data, sizeof(data)) > 0; received++)
            seen[data[NET_HEADER_SIZE + ETHERNET_SIZE + 20] << 8 |
                 data[NET_HEADER_SIZE + ETHERNET_SIZE + 21]]++;
        cr_assert_eq(received > 0, queue < count, "queue %u of %u: %u", queue, count, received);
        total += received;
    }
    cr_assert_eq(total, FLOWS);
    for (unsigned flow = 0; flow < FLOWS; flow++)
        cr_assert_eq(seen[flow], 1);
}

Test(tap_queues, only_those_in_use_receive)
{
    enter_namespace();
    struct event_loop *loop = create_loop();
    struct net_backend *tap = open_tap(loop, "tap0", QUEUES);
    int peer = packet_socket("tap0", ETH_P_IP);
    static const unsigned counts[] = {4, 1, 3, 2, 2, 4};
    cr_assert_eq(tap->queue_count, QUEUES);
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        cr_assert_eq(net_backend_use_queues(tap, counts[i]), 0);
        check_spread(tap, peer, counts[i]);
    }
    cr_assert_eq(net_backend_use_queues(tap, 0), -EINVAL);
    cr_assert_eq(net_backend_use_queues(tap, QUEUES + 1), -EINVAL);
    net_backend_destroy(tap);
    close(peer);
    event_loop_destroy(loop);
}

/* Sending is for all of them at any time. */
Test(tap_queues, all_send)
{
    enter_namespace();
    struct event_loop *loop = create_loop();
    struct net_backend *tap = open_tap(loop, "tap0", QUEUES);
    int peer = packet_socket("tap0", TEST_PROTOCOL);
    uint8_t data[NET_HEADER_SIZE + 60] = {0}, seen[100];
    cr_assert_eq(net_backend_use_queues(tap, 2), 0);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        fill_frame(data + NET_HEADER_SIZE, 60, queue);
        cr_assert_eq(send_one(tap, queue, data, sizeof(data)), 1);
        cr_assert_eq(recv(peer, seen, sizeof(seen), MSG_DONTWAIT), 60);
        cr_assert_eq(memcmp(seen, data + NET_HEADER_SIZE, 60), 0);
    }
    net_backend_destroy(tap);
    close(peer);
    event_loop_destroy(loop);
}

struct waker {
    struct event_loop *loop;
    unsigned queue; /* that it was called for */
};

static void note_queue(void *opaque, unsigned queue)
{
    struct waker *waker = opaque;
    waker->queue = queue;
    event_loop_quit(waker->loop);
}

/* Each queue is served by a loop of its own and woken there for what it has. */
Test(tap_queues, each_wakes_its_loop)
{
    static const struct net_queue_events events = {.readable = note_queue, .writable = note_queue};
    enter_namespace();
    struct waker wakers[QUEUES];
    struct event_loop *loop = create_loop();
    struct net_backend *tap = open_tap(loop, "tap0", QUEUES);
    int peer = packet_socket("tap0", ETH_P_IP);
    uint8_t data[100];
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        wakers[queue] = (struct waker){.loop = create_loop(), .queue = QUEUES};
        cr_assert_eq(net_backend_start(tap, queue, wakers[queue].loop, &events, &wakers[queue]), 0);
        net_backend_watch(tap, queue, true, false);
    }
    send_flows(peer);
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        cr_assert_eq(event_loop_run(wakers[queue].loop), 0);
        cr_assert_eq(wakers[queue].queue, queue);
        cr_assert_gt(receive_one(tap, queue, data, sizeof(data)), 0);
        net_backend_stop(tap, queue);
        event_loop_destroy(wakers[queue].loop);
    }
    net_backend_destroy(tap);
    close(peer);
    event_loop_destroy(loop);
}
