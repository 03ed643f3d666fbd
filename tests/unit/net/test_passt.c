#include <limits.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "devices/net/passt.h"
#include "tests/unit/net/net_fixture.h"

#define FRAME_MIN 14
#define FRAME_MAX 65550

/* A backend, and a passt that does what the test does. */
struct fixture {
    char folder[64];
    struct sockaddr_un address;
    int listener, peer;
    int log_ends[2];
    struct log log;
    struct event_loop *loop;
    struct net_backend *backend;
    struct calls calls;
};

static const struct net_queue_events events = {.readable = count_readable, .writable = count_writable};

static void start_listening(struct fixture *fixture)
{
    unlink(fixture->address.sun_path);
    fixture->listener = socket(AF_UNIX, SOCK_STREAM, 0);
    cr_assert_eq(bind(fixture->listener, (struct sockaddr *)&fixture->address, sizeof(fixture->address)), 0);
    cr_assert_eq(listen(fixture->listener, 5), 0);
}

static void accept_peer(struct fixture *fixture)
{
    fixture->peer = accept(fixture->listener, NULL, NULL);
    cr_assert_geq(fixture->peer, 0);
}

static void start_queue(struct fixture *fixture)
{
    cr_assert_eq(net_backend_start(fixture->backend, 0, fixture->loop, &events, &fixture->calls), 0);
}

static void set_up(struct fixture *fixture)
{
    struct error err = {0};
    *fixture = (struct fixture){.loop = create_loop(), .address = {.sun_family = AF_UNIX}};
    fixture->calls.loop = fixture->loop;
    strcpy(fixture->folder, "/tmp/godwit-passt-XXXXXX");
    cr_assert(mkdtemp(fixture->folder));
    snprintf(fixture->address.sun_path, sizeof(fixture->address.sun_path), "%s/socket", fixture->folder);
    cr_assert_eq(pipe2(fixture->log_ends, O_NONBLOCK), 0);
    fixture->log = (struct log){.fd = fixture->log_ends[1], .level = LOG_WARN, .name = "test"};
    start_listening(fixture);
    const struct passt_config config = {fixture->address.sun_path, fixture->loop, &fixture->log};
    cr_assert_eq(passt_open(&config, &fixture->backend, &err), 0, "%s", err.message);
    net_backend_set_link_callback(fixture->backend, count_link, &fixture->calls);
    accept_peer(fixture);
    start_queue(fixture);
}

static void tear_down(struct fixture *fixture)
{
    net_backend_stop(fixture->backend, 0);
    net_backend_destroy(fixture->backend);
    event_loop_destroy(fixture->loop);
    close(fixture->listener);
    close(fixture->peer);
    close(fixture->log_ends[0]);
    close(fixture->log_ends[1]);
    unlink(fixture->address.sun_path);
    rmdir(fixture->folder);
}

/* Everything that is ready has been called back. */
static void settle(struct fixture *fixture)
{
    int ends[2];
    struct event_source *last;
    cr_assert_eq(pipe(ends), 0);
    close(ends[1]);
    cr_assert_eq(event_loop_add(fixture->loop, ends[0], POLLIN | POLLHUP, end_loop, fixture->loop, &last), 0);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(event_loop_run(fixture->loop), 0);
    event_loop_remove(fixture->loop, last);
    cr_assert_eq(event_loop_run((event_loop_quit(fixture->loop), fixture->loop)), 0);
    close(ends[0]);
}

/* A frame as it is in the stream, prefix included. Returns its size there. */
static size_t stream_frame(uint8_t *data, size_t size, unsigned seed)
{
    uint32_t prefix = htonl((uint32_t)size);
    memcpy(data, &prefix, sizeof(prefix));
    fill_frame(data + sizeof(prefix), size, seed);
    return sizeof(prefix) + size;
}

static void peer_writes(struct fixture *fixture, const void *data, size_t size)
{
    cr_assert_eq(send(fixture->peer, data, size, MSG_NOSIGNAL), (ssize_t)size, "%s", strerror(errno));
}

static void peer_sends(struct fixture *fixture, size_t size, unsigned seed)
{
    static uint8_t data[FRAME_MAX + 4];
    peer_writes(fixture, data, stream_frame(data, size, seed));
}

/* The next frame that is received has to be this one. */
static void receives(struct fixture *fixture, size_t size, unsigned seed)
{
    static uint8_t data[NET_FRAME_MAX], want[FRAME_MAX];
    memset(data, 0xEE, sizeof(data));
    cr_assert_eq(receive_one(fixture->backend, 0, data, sizeof(data)), NET_HEADER_SIZE + size);
    fill_frame(want, size, seed);
    cr_assert_eq(memcmp(data, "\0\0\0\0\0\0\0\0\0\0\0\0", NET_HEADER_SIZE), 0);
    cr_assert_eq(memcmp(data + NET_HEADER_SIZE, want, size), 0);
}

static bool receives_nothing(struct fixture *fixture)
{
    uint8_t data[100];
    return receive_one(fixture->backend, 0, data, sizeof(data)) == 0;
}

static unsigned sends(struct fixture *fixture, size_t size, unsigned seed)
{
    static uint8_t data[NET_FRAME_MAX + 1] = {0};
    fill_frame(data + NET_HEADER_SIZE, size, seed);
    return send_one(fixture->backend, 0, data, NET_HEADER_SIZE + size);
}

/* What the peer reads next has to be this frame. */
static void peer_reads(struct fixture *fixture, size_t size, unsigned seed)
{
    static uint8_t data[FRAME_MAX + 4], want[FRAME_MAX + 4];
    size_t whole = stream_frame(want, size, seed);
    cr_assert_eq(recv(fixture->peer, data, whole, MSG_WAITALL), (ssize_t)whole);
    cr_assert_eq(memcmp(data, want, whole), 0);
}

static void run_until_link(struct fixture *fixture, bool up)
{
    while (fixture->backend->link_up != up)
        run_until(&fixture->calls, 1);
}

static void logged(struct fixture *fixture, const char *text)
{
    char log[2000] = {0};
    cr_assert_gt(read(fixture->log_ends[0], log, sizeof(log) - 1), 0);
    cr_assert(strstr(log, text), "%s", log);
    cr_assert(strstr(log, fixture->address.sun_path), "%s", log);
}

/* It works in both directions. */
static void works(struct fixture *fixture)
{
    peer_sends(fixture, 100, 1);
    receives(fixture, 100, 1);
    cr_assert_eq(sends(fixture, 200, 2), 1);
    peer_reads(fixture, 200, 2);
}

Test(passt, frames_have_their_length_before_them)
{
    struct fixture fixture;
    set_up(&fixture);
    cr_assert(fixture.backend->queue_count == 1 && fixture.backend->offloads == 0 &&
              fixture.backend->mtu == 0);
    cr_assert_eq(fixture.backend->mac[0] & 3, 2);
    works(&fixture);
    cr_assert_eq(sends(&fixture, FRAME_MIN, 3), 1);
    cr_assert_eq(sends(&fixture, FRAME_MAX, 4), 1);
    peer_reads(&fixture, FRAME_MIN, 3);
    peer_reads(&fixture, FRAME_MAX, 4);
    peer_sends(&fixture, FRAME_MIN, 5);
    peer_sends(&fixture, FRAME_MAX, 6);
    receives(&fixture, FRAME_MIN, 5);
    receives(&fixture, FRAME_MAX, 6);
    cr_assert(receives_nothing(&fixture));
    tear_down(&fixture);
}

Test(passt, frames_come_in_any_pieces)
{
    struct fixture fixture;
    static uint8_t stream[40 * (2000 + 4)];
    size_t size = 0, sizes[40];
    set_up(&fixture);
    for (unsigned i = 0; i < 40; i++) {
        sizes[i] = FRAME_MIN + (i * 7919) % 1500;
        size += stream_frame(stream + size, sizes[i], i);
    }
    for (unsigned step = 1; step < 3000; step = step * 3 + 1) {
        unsigned next = 0;
        for (size_t sent = 0; sent < size; sent += step) {
            peer_writes(&fixture, stream + sent, smaller(step, size - sent));
            static uint8_t data[2000];
            for (uint32_t got; (got = receive_one(fixture.backend, 0, data, sizeof(data))) > 0; next++) {
                static uint8_t want[2000];
                fill_frame(want, sizes[next], next);
                cr_assert_eq(got, NET_HEADER_SIZE + sizes[next]);
                cr_assert_eq(memcmp(data + NET_HEADER_SIZE, want, sizes[next]), 0);
            }
        }
        cr_assert_eq(next, 40);
    }
    tear_down(&fixture);
}

Test(passt, many_frames_are_received_at_once)
{
    struct fixture fixture;
    static uint8_t data[10][300];
    struct iovec pieces[20];
    struct net_frame frames[10];
    set_up(&fixture);
    for (unsigned i = 0; i < 10; i++) {
        peer_sends(&fixture, 60 + 10 * i, i);
        pieces[2 * i] = (struct iovec){data[i], 7}; /* in the middle of the header */
        pieces[2 * i + 1] = (struct iovec){data[i] + 7, 293};
        frames[i] = (struct net_frame){.iov = &pieces[2 * i], .iov_count = 2};
    }
    cr_assert_eq(net_backend_receive(fixture.backend, 0, frames, 4), 4);
    cr_assert_eq(net_backend_receive(fixture.backend, 0, frames + 4, 6), 6);
    for (unsigned i = 0; i < 10; i++) {
        uint8_t want[300];
        fill_frame(want, 60 + 10 * i, i);
        cr_assert_eq(frames[i].length, NET_HEADER_SIZE + 60 + 10 * i);
        cr_assert_eq(memcmp(data[i] + NET_HEADER_SIZE, want, 60 + 10 * i), 0);
    }
    tear_down(&fixture);
}

Test(passt, what_does_not_fit_is_cut_off)
{
    struct fixture fixture;
    uint8_t data[NET_HEADER_SIZE + 20];
    set_up(&fixture);
    for (unsigned i = 0; i < 4; i++)
        peer_sends(&fixture, 1000, i);
    data[sizeof(data) - 1] = 0xEE;
    cr_assert_eq(receive_one(fixture.backend, 0, data, sizeof(data) - 1), sizeof(data) - 1);
    cr_assert_eq(data[sizeof(data) - 1], 0xEE);
    /* The next two have no room at all, and are lost. */
    struct iovec piece[2] = {{data, NET_HEADER_SIZE}, {data, 3}};
    struct net_frame frames[2] = {{.iov = piece, .iov_count = 1}, {.iov = piece + 1, .iov_count = 1}};
    cr_assert_eq(net_backend_receive(fixture.backend, 0, frames, 1), 0);
    for (unsigned i = 4; i < 6; i++)
        peer_sends(&fixture, 1000, i);
    cr_assert_eq(net_backend_receive(fixture.backend, 0, frames + 1, 1), 0);
    cr_assert(receives_nothing(&fixture));
    works(&fixture);
    tear_down(&fixture);
}

Test(passt, frames_that_cannot_be_sent_are_lost_alone)
{
    struct fixture fixture;
    static uint8_t data[5][NET_FRAME_MAX + 1];
    static const size_t sizes[] = {NET_HEADER_SIZE + 100, 3, NET_HEADER_SIZE + FRAME_MIN - 1,
                                   NET_FRAME_MAX + 1, NET_HEADER_SIZE + 100};
    struct iovec pieces[5];
    struct net_frame frames[5];
    set_up(&fixture);
    for (unsigned i = 0; i < 5; i++) {
        fill_frame(data[i] + NET_HEADER_SIZE, 100, i);
        pieces[i] = (struct iovec){data[i], sizes[i]};
        frames[i] = (struct net_frame){.iov = &pieces[i], .iov_count = 1, .length = (uint32_t)sizes[i]};
    }
    cr_assert_eq(net_backend_send(fixture.backend, 0, frames + 1, 3), 3);
    cr_assert_eq(net_backend_send(fixture.backend, 0, frames, 5), 5);
    peer_reads(&fixture, 100, 0);
    peer_reads(&fixture, 100, 4);
    works(&fixture);
    tear_down(&fixture);
}

/* More pieces than one system call takes: of all frames together, and of one alone, which is lost. */
Test(passt, frames_of_many_pieces)
{
    struct fixture fixture;
    static uint8_t data[5][NET_HEADER_SIZE + IOV_MAX];
    static struct iovec pieces[5][IOV_MAX];
    struct net_frame frames[5];
    set_up(&fixture);
    for (unsigned i = 0; i < 5; i++) {
        unsigned size = i == 2 ? IOV_MAX : 400;
        fill_frame(data[i] + NET_HEADER_SIZE, size - NET_HEADER_SIZE, i);
        for (unsigned j = 0; j < size; j++)
            pieces[i][j] = (struct iovec){data[i] + j, 1};
        frames[i] = (struct net_frame){pieces[i], size, size};
    }
    cr_assert_eq(net_backend_send(fixture.backend, 0, frames, 5), 5);
    for (unsigned i = 0; i < 5; i++) {
        if (i != 2)
            peer_reads(&fixture, 400 - NET_HEADER_SIZE, i);
    }
    works(&fixture);
    tear_down(&fixture);
}

enum {
    SLOW_BATCH = 100
};

static size_t slow_size(unsigned number)
{
    return FRAME_MIN + number * 7919 % 2900;
}

/* Sends frames from `next` on, until there is no room; returns the number of the first one that was not
 * taken. */
static unsigned fill(struct fixture *fixture, unsigned next)
{
    static uint8_t data[SLOW_BATCH][NET_HEADER_SIZE + 3000];
    struct iovec pieces[SLOW_BATCH];
    struct net_frame frames[SLOW_BATCH];
    unsigned taken;
    do {
        for (unsigned i = 0; i < SLOW_BATCH; i++) {
            size_t size = slow_size(next + i);
            fill_frame(data[i] + NET_HEADER_SIZE, size, next + i);
            pieces[i] = (struct iovec){data[i], NET_HEADER_SIZE + size};
            frames[i] = (struct net_frame){&pieces[i], 1, (uint32_t)(NET_HEADER_SIZE + size)};
        }
        taken = net_backend_send(fixture->backend, 0, frames, SLOW_BATCH);
        memset(data, 0xEE, sizeof(data));
        next += taken;
    } while (taken == SLOW_BATCH);
    return next;
}

/* The peer reads frames `from` to `to`, also if godwit has not sent all of them yet. */
static void read_patiently(struct fixture *fixture, unsigned from, unsigned to)
{
    static uint8_t want[FRAME_MAX + 4], got[FRAME_MAX + 4];
    for (; from < to; from++) {
        size_t whole = stream_frame(want, slow_size(from), from), have = 0;
        while (have < whole) {
            ssize_t size = recv(fixture->peer, got + have, whole - have, MSG_DONTWAIT);
            if (size > 0)
                have += (size_t)size;
            else
                settle(fixture);
        }
        cr_assert_eq(memcmp(want, got, whole), 0, "frame %u of %u", from, to);
    }
}

/* Sends until there is no room, in batches; the peer reads; all that was taken arrives. */
Test(passt, a_slow_peer_gets_all_that_was_taken)
{
    struct fixture fixture;
    unsigned next = 0, read = 0;
    set_up(&fixture);
    for (unsigned full = 0; full < 20; full++) {
        next = fill(&fixture, next);
        net_backend_watch(fixture.backend, 0, false, true);
        settle(&fixture);
        cr_assert_eq(fixture.calls.writable, 0, "there is room after %u frames", next);
        while (fixture.calls.writable == 0) {
            for (unsigned i = 0; i < 10 && read < next - 1; i++, read++)
                peer_reads(&fixture, slow_size(read), read);
            settle(&fixture);
        }
        net_backend_watch(fixture.backend, 0, false, false);
        settle(&fixture);
        fixture.calls.writable = 0;
    }
    /* The rest of the last frame leaves by itself. */
    next = fill(&fixture, next);
    read_patiently(&fixture, read, next);
    char byte;
    cr_assert_eq(recv(fixture.peer, &byte, 1, MSG_DONTWAIT), -1);
    works(&fixture);
    tear_down(&fixture);
}

/* Frames that have been read from the socket already are not waited for. */
Test(passt, calls_back_for_frames_that_are_buffered)
{
    struct fixture fixture;
    set_up(&fixture);
    for (unsigned i = 0; i < 3; i++)
        peer_sends(&fixture, 60, i);
    receives(&fixture, 60, 0);
    settle(&fixture);
    cr_assert_eq(fixture.calls.readable, 0);
    net_backend_watch(fixture.backend, 0, true, false);
    run_until(&fixture.calls, 3); /* for as long as it holds */
    net_backend_watch(fixture.backend, 0, false, false);
    settle(&fixture);
    unsigned calls = fixture.calls.readable;
    settle(&fixture);
    cr_assert_eq(fixture.calls.readable, calls);
    net_backend_watch(fixture.backend, 0, true, false);
    receives(&fixture, 60, 1);
    receives(&fixture, 60, 2);
    settle(&fixture);
    calls = fixture.calls.readable;
    settle(&fixture);
    cr_assert_eq(fixture.calls.readable, calls);
    peer_sends(&fixture, 60, 3);
    run_until(&fixture.calls, 1);
    receives(&fixture, 60, 3);
    tear_down(&fixture);
}

Test(passt, frames_wait_while_the_queue_is_stopped)
{
    struct fixture fixture;
    set_up(&fixture);
    for (unsigned i = 0; i < 3; i++)
        peer_sends(&fixture, 60, i);
    receives(&fixture, 60, 0);
    net_backend_stop(fixture.backend, 0);
    start_queue(&fixture);
    net_backend_watch(fixture.backend, 0, true, false);
    run_until(&fixture.calls, 1);
    receives(&fixture, 60, 1);
    receives(&fixture, 60, 2);
    works(&fixture);
    tear_down(&fixture);
}

static void stop_it(void *opaque, unsigned queue)
{
    struct fixture *fixture = opaque;
    fixture->calls.readable++;
    net_backend_stop(fixture->backend, 0);
    event_loop_quit(fixture->loop);
}

Test(passt, may_be_stopped_by_its_callbacks)
{
    static const struct net_queue_events stopping = {.readable = stop_it, .writable = stop_it};
    struct fixture fixture;
    set_up(&fixture);
    peer_sends(&fixture, 60, 0);
    peer_sends(&fixture, 60, 1);
    for (unsigned i = 0; i < 2; i++) {
        net_backend_stop(fixture.backend, 0);
        cr_assert_eq(net_backend_start(fixture.backend, 0, fixture.loop, &stopping, &fixture), 0);
        net_backend_watch(fixture.backend, 0, true, true);
        cr_assert_eq(event_loop_run(fixture.loop), 0);
        cr_assert_eq(fixture.calls.readable, i + 1);
        start_queue(&fixture);
        receives(&fixture, 60, i);
    }
    tear_down(&fixture);
}

/* ---- The end of the connection, and its return --------------------------------------------------------- */

static void comes_back(struct fixture *fixture)
{
    run_until_link(fixture, true);
    logged(fixture, "can be reached again");
    accept_peer(fixture);
    works(fixture);
}

static const uint32_t hostile_lengths[] = {0,          1,          FRAME_MIN - 1, FRAME_MAX + 1,
                                           0x7FFFFFFF, 0x80000000, 0xFFFFFFFF};

Test(passt, a_length_that_no_frame_has_breaks_the_connection)
{
    for (size_t i = 0; i < ARRAY_SIZE(hostile_lengths); i++) {
        struct fixture fixture;
        uint32_t prefix = htonl(hostile_lengths[i]);
        set_up(&fixture);
        net_backend_watch(fixture.backend, 0, true, false);
        peer_sends(&fixture, 60, 1);
        peer_writes(&fixture, &prefix, sizeof(prefix));
        peer_sends(&fixture, 60, 2);
        run_until(&fixture.calls, 1);
        receives(&fixture, 60, 1); /* it came before */
        cr_assert(receives_nothing(&fixture));
        run_until_link(&fixture, false);
        cr_assert(receives_nothing(&fixture));
        logged(&fixture, "sent what is no frame");
        char byte;
        cr_assert_leq(recv(fixture.peer, &byte, 1, 0), 0);
        if (i == 0) {
            close(fixture.peer);
            comes_back(&fixture);
        }
        tear_down(&fixture);
    }
}

Test(passt, its_end_in_mid_frame_is_the_end_of_that_frame)
{
    struct fixture fixture;
    uint8_t data[200];
    set_up(&fixture);
    net_backend_watch(fixture.backend, 0, true, false);
    peer_sends(&fixture, 60, 1);
    peer_writes(&fixture, data, stream_frame(data, 100, 2) - 50);
    receives(&fixture, 60, 1);
    cr_assert(receives_nothing(&fixture));
    close(fixture.peer);
    run_until(&fixture.calls, 1);
    cr_assert(receives_nothing(&fixture));
    run_until_link(&fixture, false);
    logged(&fixture, "has closed the connection");
    comes_back(&fixture);
    tear_down(&fixture);
}

Test(passt, its_end_is_noticed_whatever_is_watched_for)
{
    struct fixture fixture;
    set_up(&fixture);
    settle(&fixture);
    cr_assert(fixture.backend->link_up);
    close(fixture.peer);
    run_until_link(&fixture, false);
    cr_assert_eq(fixture.calls.link, 1);
    comes_back(&fixture);
    cr_assert_eq(fixture.calls.link, 2);
    cr_assert(fixture.calls.readable == 0 && fixture.calls.writable == 0);
    tear_down(&fixture);
}

Test(passt, frames_are_lost_while_it_is_away)
{
    struct fixture fixture;
    set_up(&fixture);
    /* Full, with a frame sent in part. */
    while (sends(&fixture, 60000, 1) == 1)
        ;
    net_backend_watch(fixture.backend, 0, false, true);
    settle(&fixture);
    cr_assert_eq(fixture.calls.writable, 0);
    close(fixture.peer);
    run_until_link(&fixture, false);
    run_until(&fixture.calls, 1);
    cr_assert_gt(fixture.calls.writable, 0);
    net_backend_watch(fixture.backend, 0, true, false);
    for (unsigned i = 0; i < 100; i++)
        cr_assert_eq(sends(&fixture, 60000, 1), 1);
    comes_back(&fixture);
    tear_down(&fixture);
}

Test(passt, sending_notices_its_end)
{
    struct fixture fixture;
    set_up(&fixture);
    close(fixture.peer);
    cr_assert_eq(sends(&fixture, 60, 1), 1);
    cr_assert(!fixture.backend->link_up);
    comes_back(&fixture);
    tear_down(&fixture);
}

/* It is away for a while, and with it its socket. */
Test(passt, is_waited_for)
{
    struct fixture fixture;
    set_up(&fixture);
    close(fixture.peer);
    close(fixture.listener);
    unlink(fixture.address.sun_path);
    run_until_link(&fixture, false);
    net_backend_stop(fixture.backend, 0);
    start_queue(&fixture); /* tries at once, in vain */
    settle(&fixture);
    cr_assert(!fixture.backend->link_up);
    start_listening(&fixture);
    logged(&fixture, "has closed");
    comes_back(&fixture);
    tear_down(&fixture);
}

Test(passt, its_end_is_noticed_when_the_queue_is_started)
{
    struct fixture fixture;
    set_up(&fixture);
    net_backend_stop(fixture.backend, 0);
    close(fixture.peer);
    settle(&fixture);
    cr_assert(fixture.backend->link_up);
    start_queue(&fixture);
    run_until_link(&fixture, false);
    net_backend_stop(fixture.backend, 0);
    start_queue(&fixture); /* tries at once */
    logged(&fixture, "has closed");
    comes_back(&fixture);
    tear_down(&fixture);
}

static void *run_loop(void *opaque)
{
    return event_loop_run(opaque) == 0 ? opaque : NULL;
}

static void stop_backend(void *opaque)
{
    net_backend_stop(opaque, 0);
}

/* The queue is served by another thread; links are the business of this one. */
Test(passt, tells_of_links_where_it_was_opened)
{
    struct fixture fixture;
    struct calls queue = {.limit = UINT_MAX};
    pthread_t thread;
    void *whole;
    set_up(&fixture);
    net_backend_stop(fixture.backend, 0);
    queue.loop = create_loop();
    cr_assert_eq(net_backend_start(fixture.backend, 0, queue.loop, &events, &queue), 0);
    cr_assert_eq(pthread_create(&thread, NULL, run_loop, queue.loop), 0);
    for (unsigned i = 0; i < 2; i++) {
        close(fixture.peer);
        run_until_link(&fixture, false);
        run_until_link(&fixture, true);
        accept_peer(&fixture);
    }
    cr_assert_geq(fixture.calls.link, 4);
    event_loop_call(queue.loop, stop_backend, fixture.backend);
    event_loop_quit(queue.loop);
    pthread_join(thread, &whole);
    cr_assert(whole);
    event_loop_destroy(queue.loop);
    start_queue(&fixture);
    works(&fixture);
    tear_down(&fixture);
}

/* ---- Opening ------------------------------------------------------------------------------------------- */

static void refuses(const char *path, int code, const char *says, const char *remedy)
{
    struct event_loop *loop = create_loop();
    const struct passt_config config = {.path = path, .loop = loop};
    struct net_backend *backend;
    struct error err = {0};
    int result = passt_open(&config, &backend, &err);
    cr_assert_eq(result, -code, "%d: %s", result, err.message);
    cr_assert(strstr(err.message, says) && strstr(err.message, remedy), "%s", err.message);
    event_loop_destroy(loop);
}

Test(passt_open, says_what_is_wrong)
{
    struct fixture fixture;
    char command[200], long_path[200];
    set_up(&fixture);
    snprintf(command, sizeof(command), "passt --socket %s", fixture.address.sun_path);
    close(fixture.listener);
    refuses(fixture.address.sun_path, ECONNREFUSED, "does not listen", command);
    unlink(fixture.address.sun_path);
    refuses(fixture.address.sun_path, ENOENT, "No such file", command);
    cr_assert_eq(mknod(fixture.address.sun_path, S_IFREG | 0600, 0), 0);
    refuses(fixture.address.sun_path, ECONNREFUSED, "does not listen", command);
    memset(long_path, 'x', sizeof(long_path));
    long_path[sizeof(long_path) - 1] = '\0';
    refuses(long_path, ENAMETOOLONG, "at most 107 bytes", "shorter");
    fixture.listener = -1;
    tear_down(&fixture);
}
