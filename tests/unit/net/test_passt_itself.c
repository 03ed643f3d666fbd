/* With Debian's passt(1) at the other end, and the kernel as the guest. */
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "devices/net/passt.h"
#include "tests/unit/net/wire.h"

struct fixture {
    char folder[64], path[80];
    struct event_loop *loop;
    struct net_backend *passt;
    pid_t child;
    int output; /* of the child's, which must not fail */
};

/* Returns when it listens, which it says. */
static void start_passt(struct fixture *fixture)
{
    int output[2];
    static char text[8192];
    size_t size = 0;
    cr_assert_eq(pipe(output), 0);
    fixture->child = fork();
    if (fixture->child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(output[1], 1);
        dup2(output[1], 2);
        close(output[0]);
        execlp("passt", "passt", "-f", "-e", "-4", "--runas", "0", "--socket", fixture->path, NULL);
        dprintf(2, "cannot start passt: %s", strerror(errno));
        _exit(1);
    }
    close(output[1]);
    memset(text, 0, sizeof(text));
    while (!strstr(text, "You can now start")) {
        ssize_t got = read(output[0], text + size, sizeof(text) - 1 - size);
        cr_assert_gt(got, 0, "passt ended: %s", text);
        size += (size_t)got;
    }
    fixture->output = output[0];
}

static void stop_passt(struct fixture *fixture)
{
    kill(fixture->child, SIGKILL);
    waitpid(fixture->child, NULL, 0);
    close(fixture->output);
}

/* The host's side: a namespace with an interface to the world, such as passt wants to see. */
static void set_up(struct fixture *fixture)
{
    struct error err = {0};
    enter_namespace();
    shell(
        "ip link set lo up && ip link add eth0 type veth peer name world && ip link set world up && "
        "ip link set eth0 up && ip addr add 192.168.7.2/24 dev eth0 && ip route add default via 192.168.7.1");
    *fixture = (struct fixture){.loop = create_loop()};
    strcpy(fixture->folder, "/tmp/godwit-passt-XXXXXX");
    cr_assert(mkdtemp(fixture->folder));
    snprintf(fixture->path, sizeof(fixture->path), "%s/socket", fixture->folder);
    start_passt(fixture);
    const struct passt_config config = {.path = fixture->path, .loop = fixture->loop};
    cr_assert_eq(passt_open(&config, &fixture->passt, &err), 0, "%s", err.message);
}

static void tear_down(struct fixture *fixture)
{
    event_loop_destroy(fixture->loop);
    stop_passt(fixture);
    unlink(fixture->path);
    rmdir(fixture->folder);
}

/* The guest calls the address of its router, which is what passt has for the host itself. */
Test(passt_itself, tcp_both_ways, .timeout = 60)
{
    struct fixture fixture;
    static struct wire wire = {.mtu = 65520};
    set_up(&fixture);
    wire.loop = fixture.loop;
    struct transfer tcp = {.loop = wire.loop, .address = "192.168.7.1", .to = listen_on_any()};
    enter_namespace();
    const struct tap_config config = {.name = "tap", .queues = 1, .mtu = 65520, .loop = fixture.loop};
    struct net_backend *tap;
    struct error err = {0};
    cr_assert_eq(tap_open(&config, &tap, &err), 0, "%s", err.message);
    shell("ip addr add 192.168.7.2/24 dev tap && ip route add default via 192.168.7.1");
    tcp.from = socket(AF_INET, SOCK_STREAM, 0);
    connect_end(&wire, 0, tap);
    connect_end(&wire, 1, fixture.passt);
    run_transfer(&wire, &tcp);
    disconnect_ends(&wire);
    tear_down(&fixture);
}

/* It answers for every address but the guest's. */
static void ask_for_address(struct net_backend *backend)
{
    static const uint8_t question[42] = {
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x52, 0x54, 0, 1, 2, 3, 8, 6, /* Ethernet: ARP */
        0,    1,    8,    0,    6,    4,    0,    1,                      /* a request */
        0x52, 0x54, 0,    1,    2,    3,    192,  168,  7, 2,             /* from the guest */
        0,    0,    0,    0,    0,    0,    192,  168,  7, 1,             /* for the router */
    };
    uint8_t frame[NET_HEADER_SIZE + sizeof(question)] = {0};
    memcpy(frame + NET_HEADER_SIZE, question, sizeof(question));
    cr_assert_eq(send_one(backend, 0, frame, sizeof(frame)), 1);
}

static bool is_answer(const uint8_t *frame, uint32_t size)
{
    return size >= NET_HEADER_SIZE + 42 && memcmp(frame + NET_HEADER_SIZE + 12, "\x08\x06", 2) == 0 &&
           frame[NET_HEADER_SIZE + 21] == 2 && memcmp(frame + NET_HEADER_SIZE, "\x52\x54\0\1\2\3", 6) == 0;
}

struct asker {
    struct event_loop *loop;
    struct net_backend *backend;
    unsigned answers, wanted;
    bool link_wanted;
};

static void take_answer(void *opaque, unsigned queue)
{
    struct asker *asker = opaque;
    uint8_t data[2000];
    uint32_t size;
    while ((size = receive_one(asker->backend, 0, data, sizeof(data))) > 0)
        asker->answers += is_answer(data, size);
    if (asker->wanted && asker->answers >= asker->wanted)
        event_loop_quit(asker->loop);
}

static void take_link(void *opaque)
{
    struct asker *asker = opaque;
    if (asker->backend->link_up == asker->link_wanted)
        event_loop_quit(asker->loop);
}

static void ask(struct asker *asker, unsigned count)
{
    asker->answers = 0;
    asker->wanted = count;
    for (unsigned i = 0; i < count; i++)
        ask_for_address(asker->backend);
    cr_assert_eq(event_loop_run(asker->loop), 0);
    asker->wanted = 0;
}

static void wait_for_link(struct asker *asker, bool up)
{
    asker->link_wanted = up;
    while (asker->backend->link_up != up)
        cr_assert_eq(event_loop_run(asker->loop), 0);
}

Test(passt_itself, killed_and_started_again, .timeout = 60)
{
    static const struct net_queue_events events = {.readable = take_answer};
    struct fixture fixture;
    set_up(&fixture);
    struct asker asker = {.loop = fixture.loop, .backend = fixture.passt};
    net_backend_set_link_callback(asker.backend, take_link, &asker);
    cr_assert_eq(net_backend_start(asker.backend, 0, asker.loop, &events, &asker), 0);
    net_backend_watch(asker.backend, 0, true, false);
    ask(&asker, 100);
    stop_passt(&fixture);
    wait_for_link(&asker, false);
    unlink(fixture.path);
    start_passt(&fixture);
    wait_for_link(&asker, true);
    ask(&asker, 100);
    net_backend_stop(asker.backend, 0);
    net_backend_destroy(asker.backend);
    tear_down(&fixture);
}
