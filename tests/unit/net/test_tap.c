#include <limits.h>
#include <pthread.h>

#include "tests/unit/net/net_fixture.h"

struct fixture {
    struct event_loop *loop;
    struct net_backend *tap;
    int peer; /* sees what comes out of the interface, and puts frames into it */
    struct calls calls;
};

static const struct net_queue_events events = {.readable = count_readable, .writable = count_writable};

static void set_up(struct fixture *fixture)
{
    enter_namespace();
    *fixture = (struct fixture){.loop = create_loop()};
    fixture->calls.loop = fixture->loop;
    fixture->tap = open_tap(fixture->loop, "tap0", 1);
    fixture->peer = packet_socket("tap0", TEST_PROTOCOL);
    net_backend_set_link_callback(fixture->tap, count_link, &fixture->calls);
    cr_assert_eq(net_backend_start(fixture->tap, 0, fixture->loop, &events, &fixture->calls), 0);
}

static void tear_down(struct fixture *fixture)
{
    net_backend_stop(fixture->tap, 0);
    net_backend_destroy(fixture->tap);
    close(fixture->peer);
    event_loop_destroy(fixture->loop);
}

/* The kernel has the interface send a frame: it is there to be received. */
static void kernel_sends(struct fixture *fixture, size_t size, unsigned seed)
{
    uint8_t frame[2000];
    fill_frame(frame, size, seed);
    cr_assert_eq(send(fixture->peer, frame, size, 0), (ssize_t)size, "%s", strerror(errno));
}

static void check_frame(const uint8_t *data, size_t size, unsigned seed)
{
    uint8_t frame[2000];
    fill_frame(frame, size, seed);
    cr_assert_eq(memcmp(data, frame, size), 0);
}

Test(tap, receives_frames_in_order)
{
    struct fixture fixture;
    struct iovec pieces[8];
    struct net_frame frames[8];
    static uint8_t data[8][2000];
    set_up(&fixture);
    memset(data, 0xEE, sizeof(data));
    for (unsigned i = 0; i < 8; i++) {
        pieces[i] = (struct iovec){data[i], sizeof(data[i])};
        frames[i] = (struct net_frame){.iov = &pieces[i], .iov_count = 1};
    }
    cr_assert_eq(net_backend_receive(fixture.tap, 0, frames, 8), 0);
    for (unsigned i = 0; i < 5; i++)
        kernel_sends(&fixture, 60 + 300 * i, i);
    cr_assert_eq(net_backend_receive(fixture.tap, 0, frames, 3), 3);
    cr_assert_eq(net_backend_receive(fixture.tap, 0, frames + 3, 5), 2);
    for (unsigned i = 0; i < 5; i++) {
        cr_assert_eq(frames[i].length, NET_HEADER_SIZE + 60 + 300 * i);
        cr_assert_eq(memcmp(data[i], "\0\0\0\0\0\0\0\0\0\0", 10), 0);
        check_frame(data[i] + NET_HEADER_SIZE, 60 + 300 * i, i);
        cr_assert_eq(data[i][frames[i].length], 0xEE);
    }
    tear_down(&fixture);
}

/* 100 bytes in pieces of 1, 2, 3, ... bytes, the header's included. */
static unsigned scatter(uint8_t *data, size_t size, struct iovec *pieces)
{
    unsigned count = 0;
    for (size_t done = 0; done < size; done += pieces[count++].iov_len)
        pieces[count] = (struct iovec){data + done, smaller(count + 1, size - done)};
    return count;
}

Test(tap, scatters_and_gathers)
{
    struct fixture fixture;
    uint8_t data[NET_HEADER_SIZE + 100] = {0}, seen[200];
    struct iovec pieces[100];
    set_up(&fixture);
    struct net_frame frame = {.iov = pieces, .iov_count = scatter(data, sizeof(data), pieces)};
    kernel_sends(&fixture, 100, 1);
    cr_assert_eq(net_backend_receive(fixture.tap, 0, &frame, 1), 1);
    cr_assert_eq(frame.length, sizeof(data));
    check_frame(data + NET_HEADER_SIZE, 100, 1);
    fill_frame(data + NET_HEADER_SIZE, 100, 2);
    memset(data, 0, NET_HEADER_SIZE);
    cr_assert_eq(net_backend_send(fixture.tap, 0, &frame, 1), 1);
    cr_assert_eq(recv(fixture.peer, seen, sizeof(seen), 0), 100);
    check_frame(seen, 100, 2);
    tear_down(&fixture);
}

Test(tap, cuts_off_what_does_not_fit)
{
    struct fixture fixture;
    uint8_t data[NET_HEADER_SIZE + 64 + 1];
    set_up(&fixture);
    data[sizeof(data) - 1] = 0xEE;
    kernel_sends(&fixture, 1000, 3);
    kernel_sends(&fixture, 64, 4);
    cr_assert_eq(receive_one(fixture.tap, 0, data, sizeof(data) - 1), sizeof(data) - 1);
    check_frame(data + NET_HEADER_SIZE, 64, 3);
    cr_assert_eq(receive_one(fixture.tap, 0, data, sizeof(data) - 1), sizeof(data) - 1);
    check_frame(data + NET_HEADER_SIZE, 64, 4);
    cr_assert_eq(data[sizeof(data) - 1], 0xEE);
    tear_down(&fixture);
}

/* Less room than the header takes: these frames are lost, and the next one is not. */
Test(tap, loses_a_frame_without_room_alone)
{
    struct fixture fixture;
    uint8_t data[100], tiny[4];
    struct iovec pieces[3] = {{tiny, sizeof(tiny)}, {tiny, 0}, {data, sizeof(data)}};
    struct net_frame frames[3] = {{.iov = pieces, .iov_count = 1}, {.iov = pieces, .iov_count = 1}};
    set_up(&fixture);
    for (unsigned i = 0; i < 4; i++)
        kernel_sends(&fixture, 60, i);
    cr_assert_eq(net_backend_receive(fixture.tap, 0, frames, 2), 0);
    frames[0].iov = pieces + 1;
    cr_assert_eq(net_backend_receive(fixture.tap, 0, frames, 1), 0);
    cr_assert_eq(receive_one(fixture.tap, 0, data, sizeof(data)), NET_HEADER_SIZE + 60);
    check_frame(data + NET_HEADER_SIZE, 60, 3);
    tear_down(&fixture);
}

Test(tap, takes_and_loses_what_cannot_be_sent)
{
    static const struct {
        struct virtio_net_hdr_v1 header;
        size_t size;
    } bad[] = {
        {{0}, 0},
        {{0}, 1},
        {{0}, NET_HEADER_SIZE - 1},
        {{0}, NET_HEADER_SIZE},
        {{0}, NET_HEADER_SIZE + ETHERNET_SIZE - 1},
        {{.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 60000}, NET_HEADER_SIZE + 100},
        {{.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_start = 14, .csum_offset = 65535},
         NET_HEADER_SIZE + 100},
        {{.gso_type = 0x7F, .gso_size = 1}, NET_HEADER_SIZE + 100},
        {{.gso_type = VIRTIO_NET_HDR_GSO_TCPV4, .gso_size = 0}, NET_HEADER_SIZE + 100},
        {{.hdr_len = 65535}, NET_HEADER_SIZE + 100},
    };
    struct fixture fixture;
    uint8_t data[2000], seen[2000];
    set_up(&fixture);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        memcpy(data, &bad[i].header, sizeof(bad[i].header));
        fill_frame(data + NET_HEADER_SIZE, 100, 1);
        cr_assert_eq(send_one(fixture.tap, 0, data, bad[i].size), 1, "%zu", i);
    }
    memset(data, 0, NET_HEADER_SIZE);
    fill_frame(data + NET_HEADER_SIZE, 100, 7);
    cr_assert_eq(send_one(fixture.tap, 0, data, NET_HEADER_SIZE + 100), 1);
    cr_assert_eq(recv(fixture.peer, seen, sizeof(seen), 0), 100);
    check_frame(seen, 100, 7);
    tear_down(&fixture);
}

Test(tap, takes_and_loses_frames_of_too_many_or_too_large_pieces)
{
    struct fixture fixture;
    static uint8_t data[70000 + NET_HEADER_SIZE];
    static struct iovec pieces[IOV_MAX + 1];
    set_up(&fixture);
    fill_frame(data + NET_HEADER_SIZE, 1000, 1);
    for (unsigned i = 0; i < ARRAY_SIZE(pieces); i++)
        pieces[i] = (struct iovec){data + i, 1};
    struct net_frame frame = {.iov = pieces, .iov_count = ARRAY_SIZE(pieces)};
    cr_assert_eq(net_backend_send(fixture.tap, 0, &frame, 1), 1);
    frame.iov_count = IOV_MAX;
    cr_assert_eq(net_backend_send(fixture.tap, 0, &frame, 1), 1);
    cr_assert_eq(recv(fixture.peer, data, sizeof(data), MSG_TRUNC), IOV_MAX - NET_HEADER_SIZE);
    shell("ip link set tap0 down");
    cr_assert_eq(send_one(fixture.tap, 0, data, 100), 1);
    tear_down(&fixture);
}

Test(tap, calls_back_only_for_what_is_watched)
{
    struct fixture fixture;
    uint8_t data[100];
    struct event_source *last;
    set_up(&fixture);
    kernel_sends(&fixture, 60, 1);
    net_backend_watch(fixture.tap, 0, true, false);
    run_until(&fixture.calls, 3); /* for as long as it holds */
    cr_assert(fixture.calls.readable == 3 && fixture.calls.writable == 0);
    net_backend_watch(fixture.tap, 0, true, true);
    run_until(&fixture.calls, 6);
    cr_assert(fixture.calls.readable > 3 && fixture.calls.writable > 0);
    cr_assert_eq(receive_one(fixture.tap, 0, data, sizeof(data)), NET_HEADER_SIZE + 60);
    net_backend_watch(fixture.tap, 0, false, true);
    unsigned readable = fixture.calls.readable;
    run_until(&fixture.calls, 3);
    cr_assert_eq(fixture.calls.readable, readable);
    kernel_sends(&fixture, 60, 2);
    net_backend_watch(fixture.tap, 0, false, false);
    /* Something that is ready no earlier than the frame ends the loop. */
    int ended[2];
    cr_assert_eq(pipe(ended), 0);
    cr_assert_eq(event_loop_add(fixture.loop, ended[0], POLLIN | POLLHUP, end_loop, fixture.loop, &last), 0);
    close(ended[1]);
    unsigned writable = fixture.calls.writable;
    cr_assert_eq(event_loop_run(fixture.loop), 0);
    cr_assert(fixture.calls.readable == readable && fixture.calls.writable == writable);
    event_loop_remove(fixture.loop, last);
    close(ended[0]);
    tear_down(&fixture);
}

/* Frames wait in the interface while nobody serves the queue. */
Test(tap, starts_again_on_another_loop)
{
    struct fixture fixture;
    uint8_t data[100];
    set_up(&fixture);
    net_backend_watch(fixture.tap, 0, true, false);
    net_backend_stop(fixture.tap, 0);
    struct calls other = {.loop = create_loop()};
    kernel_sends(&fixture, 60, 9);
    cr_assert_eq(net_backend_start(fixture.tap, 0, other.loop, &events, &other), 0);
    net_backend_watch(fixture.tap, 0, true, false);
    run_until(&other, 1);
    cr_assert(other.readable == 1 && fixture.calls.readable == 0);
    cr_assert_eq(receive_one(fixture.tap, 0, data, sizeof(data)), NET_HEADER_SIZE + 60);
    net_backend_stop(fixture.tap, 0);
    event_loop_destroy(other.loop);
    cr_assert_eq(net_backend_start(fixture.tap, 0, fixture.loop, &events, &fixture.calls), 0);
    tear_down(&fixture);
}

static void *delete_interface(void *opaque)
{
    return system("ip link del tap0") == 0 ? opaque : NULL;
}

/* While the loop waits. */
Test(tap, has_its_link_down_when_the_interface_is_deleted)
{
    struct fixture fixture;
    uint8_t data[100];
    struct event_source *last;
    set_up(&fixture);
    cr_assert(fixture.tap->link_up);
    net_backend_watch(fixture.tap, 0, true, false);
    kernel_sends(&fixture, 60, 1);
    run_until(&fixture.calls, 1);
    cr_assert_gt(receive_one(fixture.tap, 0, data, sizeof(data)), 0);
    pthread_t thread;
    void *deleted;
    cr_assert_eq(pthread_create(&thread, NULL, delete_interface, &fixture), 0);
    while (fixture.tap->link_up)
        run_until(&fixture.calls, 1);
    pthread_join(thread, &deleted);
    cr_assert(deleted);
    fixture.calls.readable = 0;
    cr_assert_eq(fixture.calls.link, 1);
    cr_assert_eq(receive_one(fixture.tap, 0, data, sizeof(data)), 0);
    cr_assert_eq(send_one(fixture.tap, 0, data, sizeof(data)), 1);
    /* It does not go round and round. */
    int ended[2];
    cr_assert_eq(pipe(ended), 0);
    cr_assert_eq(event_loop_add(fixture.loop, ended[0], POLLIN | POLLHUP, end_loop, fixture.loop, &last), 0);
    close(ended[1]);
    for (unsigned i = 0; i < 3; i++) {
        net_backend_watch(fixture.tap, 0, true, false);
        cr_assert_eq(event_loop_run(fixture.loop), 0);
    }
    cr_assert_eq(fixture.calls.link, 1);
    cr_assert_eq(fixture.calls.readable, 0);
    event_loop_remove(fixture.loop, last);
    close(ended[0]);
    tear_down(&fixture);
}

/* Not by the loop, as nothing is watched for. */
Test(tap, notices_the_end_of_its_interface_by_receiving)
{
    struct fixture fixture;
    uint8_t data[100];
    set_up(&fixture);
    shell("ip link del tap0");
    cr_assert_eq(receive_one(fixture.tap, 0, data, sizeof(data)), 0);
    run_until(&fixture.calls, 1);
    cr_assert(!fixture.tap->link_up);
    tear_down(&fixture);
}

static void stop_it(void *opaque, unsigned queue)
{
    struct fixture *fixture = opaque;
    fixture->calls.readable++;
    net_backend_stop(fixture->tap, queue);
    event_loop_quit(fixture->loop);
}

Test(tap, may_be_stopped_by_its_callbacks)
{
    static const struct net_queue_events stopping = {.readable = stop_it, .writable = stop_it};
    struct fixture fixture;
    set_up(&fixture);
    kernel_sends(&fixture, 60, 1);
    net_backend_stop(fixture.tap, 0);
    cr_assert_eq(net_backend_start(fixture.tap, 0, fixture.loop, &stopping, &fixture), 0);
    net_backend_watch(fixture.tap, 0, true, true);
    cr_assert_eq(event_loop_run(fixture.loop), 0);
    cr_assert_eq(fixture.calls.readable, 1);
    cr_assert_eq(net_backend_start(fixture.tap, 0, fixture.loop, &events, &fixture.calls), 0);
    tear_down(&fixture);
}

Test(tap, suggests_an_address_of_its_own)
{
    struct fixture fixture;
    struct ifreq request = {.ifr_name = "tap0"};
    set_up(&fixture);
    cr_assert_eq(ioctl(fixture.peer, SIOCGIFHWADDR, &request), 0);
    cr_assert_neq(memcmp(fixture.tap->mac, request.ifr_hwaddr.sa_data, 6), 0);
    cr_assert_eq(fixture.tap->mac[0] & 3, 2); /* locally administered, of one station */
    tear_down(&fixture);
}
