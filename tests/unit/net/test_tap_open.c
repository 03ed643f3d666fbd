#include <limits.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sys/syscall.h>

#include "tests/unit/net/net_fixture.h"

/* An interface that lasts, made by somebody else. */
static void make_tap(const char *name, const char *options)
{
    shell("ip tuntap add dev %s mode tap %s", name, options);
}

/* With a loop that close_tap() finds again. */
static int try_config(struct tap_config config, struct net_backend **tap, struct error *err)
{
    config.loop = create_loop();
    int result = tap_open(&config, tap, err);
    if (result < 0)
        event_loop_destroy(config.loop);
    else
        net_backend_set_link_callback(*tap, NULL, config.loop);
    return result;
}

/* Opening fails with an error that says both. */
static void refuses(struct tap_config config, int code, const char *says, const char *remedy)
{
    struct net_backend *tap;
    struct error err = {0};
    int result = try_config(config, &tap, &err);
    cr_assert_eq(result, -code, "%s: %d instead of %d: %s", says, result, -code, err.message);
    cr_assert(strstr(err.message, says), "%s", err.message);
    cr_assert(strstr(err.message, remedy), "%s", err.message);
}

static void refuses_name(const char *name, unsigned queues, int code, const char *says, const char *remedy)
{
    refuses((struct tap_config){.name = name, .queues = queues}, code, says, remedy);
}

static void refuses_fd(int fd, int code, const char *says)
{
    char number[16];
    snprintf(number, sizeof(number), " %d", fd);
    refuses((struct tap_config){.fds = &fd, .queues = 1}, code, says, number);
}

/* A descriptor as somebody who starts godwit makes it. */
static int tun_descriptor(const char *name, int flags)
{
    int fd = open("/dev/net/tun", O_RDWR);
    struct ifreq request = {.ifr_flags = (short)flags};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    cr_assert_geq(fd, 0);
    cr_assert_eq(ioctl(fd, TUNSETIFF, &request), 0, "%s", strerror(errno));
    return fd;
}

static struct net_backend *open_config(struct tap_config config)
{
    struct net_backend *tap;
    struct error err = {0};
    cr_assert_eq(try_config(config, &tap, &err), 0, "%s", err.message);
    return tap;
}

static void close_tap(struct net_backend *tap)
{
    struct event_loop *loop = tap->link_opaque;
    net_backend_destroy(tap);
    event_loop_destroy(loop);
}

/* A frame gets through in both directions. */
static void works(struct net_backend *tap, const char *name)
{
    uint8_t data[200] = {0}, seen[200];
    int peer = packet_socket(name, TEST_PROTOCOL);
    fill_frame(data + NET_HEADER_SIZE, 100, 1);
    cr_assert_eq(send_one(tap, 0, data, NET_HEADER_SIZE + 100), 1);
    cr_assert_eq(recv(peer, seen, sizeof(seen), MSG_DONTWAIT), 100, "%s", strerror(errno));
    cr_assert_eq(memcmp(seen, data + NET_HEADER_SIZE, 100), 0);
    cr_assert_eq(send(peer, seen, 100, 0), 100);
    memset(data, 0xEE, sizeof(data));
    cr_assert_eq(receive_one(tap, 0, data, sizeof(data)), NET_HEADER_SIZE + 100);
    cr_assert_eq(memcmp(data, "\0\0\0\0\0\0\0\0\0\0", 10), 0);
    cr_assert_eq(memcmp(seen, data + NET_HEADER_SIZE, 100), 0);
    cr_assert_eq(receive_one(tap, 0, data, sizeof(data)), 0);
    close(peer);
}

static unsigned mtu_of(const char *name)
{
    struct ifreq request = {0};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    cr_assert_eq(ioctl(fd, SIOCGIFMTU, &request), 0, "%s", strerror(errno));
    close(fd);
    return (unsigned)request.ifr_mtu;
}

Test(tap_open, makes_an_interface_that_goes_with_it)
{
    enter_namespace();
    struct net_backend *tap = open_config((struct tap_config){.name = "mine", .queues = 1, .mtu = 9000});
    cr_assert_eq(tap->queue_count, 1);
    cr_assert_eq(tap->mtu, 9000);
    cr_assert_eq(mtu_of("mine"), 9000);
    works(tap, "mine");
    close_tap(tap);
    cr_assert_eq(if_nametoindex("mine"), 0);
}

Test(tap_open, leaves_an_interface_that_lasts_as_it_is)
{
    enter_namespace();
    make_tap("theirs", "");
    shell("ip link set theirs mtu 1400 up");
    for (unsigned i = 0; i < 2; i++) {
        struct net_backend *tap =
            open_config((struct tap_config){.name = "theirs", .queues = 1, .mtu = 9000});
        cr_assert_eq(tap->mtu, 1400);
        works(tap, "theirs");
        close_tap(tap);
    }
    cr_assert_eq(mtu_of("theirs"), 1400);
}

Test(tap_open, takes_one_queue_of_an_interface_with_several)
{
    enter_namespace();
    make_tap("wide", "multi_queue");
    shell("ip link set wide up");
    struct net_backend *tap = open_config((struct tap_config){.name = "wide", .queues = 1});
    works(tap, "wide");
    close_tap(tap);
    tap = open_config((struct tap_config){.name = "wide", .queues = NET_QUEUES_MAX});
    cr_assert_eq(tap->queue_count, NET_QUEUES_MAX);
    close_tap(tap);
}

Test(tap_open, warns_of_an_interface_that_is_down)
{
    int ends[2];
    char text[200] = {0};
    enter_namespace();
    cr_assert_eq(pipe(ends), 0);
    const struct log log = {.fd = ends[1], .level = LOG_WARN, .name = "test"};
    make_tap("down", "");
    close_tap(open_config((struct tap_config){.name = "down", .queues = 1, .log = &log}));
    close(ends[1]);
    cr_assert_gt(read(ends[0], text, sizeof(text) - 1), 0);
    cr_assert(strstr(text, "ip link set down up"), "%s", text);
}

Test(tap_open, refuses_names_that_no_interface_can_have)
{
    enter_namespace();
    refuses_name("a-very-long-name", 1, EINVAL, "too long", "15 characters");
    static const char *const bad[] = {"", ".", "..", "a/b", "a:b", "a b", "tap%d", "a\nb", "\x7F"};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        refuses_name(bad[i], 1, EINVAL, "cannot be the name", "choose another");
    close_tap(open_config((struct tap_config){.name = "exactly15chars_", .queues = 1}));
}

Test(tap_open, refuses_what_is_no_tap)
{
    enter_namespace();
    shell("ip tuntap add dev tun0 mode tun");
    shell("ip link add veth0 type veth peer name veth1");
    refuses_name("lo", 1, EINVAL, "interface lo is not a tap", "ip tuntap add");
    refuses_name("tun0", 1, EINVAL, "interface tun0 is not a tap", "ip tuntap add");
    refuses_name("veth0", 1, EINVAL, "interface veth0 is not a tap", "ip tuntap add");
}

Test(tap_open, refuses_several_queues_where_there_is_one)
{
    enter_namespace();
    make_tap("narrow", "");
    refuses_name("narrow", 2, EINVAL, "tap narrow was made for one queue", "multi_queue");
    close_tap(open_config((struct tap_config){.name = "narrow", .queues = 1}));
}

Test(tap_open, refuses_what_another_uses)
{
    enter_namespace();
    make_tap("one", "");
    make_tap("many", "multi_queue");
    struct net_backend *one = open_config((struct tap_config){.name = "one", .queues = 1});
    struct net_backend *many = open_config((struct tap_config){.name = "many", .queues = 2});
    struct net_backend *made = open_config((struct tap_config){.name = "made", .queues = 2});
    char by_us[64];
    snprintf(by_us, sizeof(by_us), "process %d (test_tap_open)", getpid());
    refuses_name("one", 1, EBUSY, "tap one is in use by", by_us);
    refuses_name("many", 1, EBUSY, "tap many is in use by", by_us);
    refuses_name("made", 2, EBUSY, "tap made is in use by", by_us);
    refuses_name("one", 2, EINVAL, "tap one was made for one queue", "multi_queue");
    cr_assert_eq(net_backend_use_queues(many, 1), 0);
    refuses_name("many", 2, EBUSY, "tap many is in use by", by_us);
    close_tap(one);
    close_tap(many);
    close_tap(made);
}

/* A descriptor that no process is seen to have, as it is under way through a socket. */
static int hide(int fd)
{
    int ends[2];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct msghdr message = {.msg_iov = &(struct iovec){"", 1},
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    cr_assert_eq(sendmsg(ends[0], &message, 0), 1);
    close(ends[0]);
    close(fd);
    return ends[1];
}

static void *close_it(void *fd)
{
    close(*(int *)fd);
    return NULL;
}

/* So it looks for a moment after a process was killed. */
Test(tap_open, waits_a_while_for_a_tap_that_nobody_has)
{
    pthread_t thread;
    enter_namespace();
    make_tap("lasts", "");
    int hidden = hide(tun_descriptor("lasts", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR));
    refuses_name("lasts", 1, EBUSY, "tap lasts is in use by another process", "use another");
    close(hidden);
    hidden = hide(tun_descriptor("goes", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR));
    cr_assert_eq(pthread_create(&thread, NULL, close_it, &hidden), 0);
    close_tap(open_config((struct tap_config){.name = "goes", .queues = 2}));
    pthread_join(thread, NULL);
}

static void drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}};
    cr_assert_eq(syscall(SYS_capset, &header, none), 0);
}

Test(tap_open, needs_permission_to_make_an_interface)
{
    enter_namespace();
    make_tap("ours", "user 0");
    drop_capabilities();
    refuses_name("new", 1, EPERM, "no tap new, and no permission", "ip tuntap add dev new mode tap user");
    struct net_backend *tap = open_config((struct tap_config){.name = "ours", .queues = 1});
    close_tap(tap);
}

Test(tap_open, takes_a_descriptor_again_and_again)
{
    enter_namespace();
    int fd = tun_descriptor("given", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    shell("ip link set given mtu 1300 up");
    for (unsigned i = 0; i < 3; i++) {
        struct net_backend *tap = open_config((struct tap_config){.fds = &fd, .queues = 1});
        cr_assert_eq(tap->mtu, 1300);
        cr_assert(tap->offloads & NET_OFFLOAD_CHECKSUM);
        works(tap, "given");
        close_tap(tap);
    }
    cr_assert(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    close(fd);
    cr_assert_eq(if_nametoindex("given"), 0);
}

Test(tap_open, does_without_the_header_where_a_descriptor_has_none)
{
    enter_namespace();
    int fd = tun_descriptor("bare", IFF_TAP | IFF_NO_PI);
    shell("ip link set bare up");
    struct net_backend *tap = open_config((struct tap_config){.fds = &fd, .queues = 1});
    cr_assert_eq(tap->offloads, 0);
    works(tap, "bare");
    cr_assert_eq(send_one(tap, 0, "", 1), 1);
    static uint8_t byte;
    static struct iovec pieces[IOV_MAX + 1];
    for (size_t i = 0; i < ARRAY_SIZE(pieces); i++)
        pieces[i] = (struct iovec){&byte, 1};
    const struct net_frame many = {
        .iov = pieces, .iov_count = ARRAY_SIZE(pieces), .length = ARRAY_SIZE(pieces)};
    cr_assert_eq(net_backend_send(tap, 0, &many, 1), 1);
    /* Without room behind the header the frame is lost. */
    uint8_t data[NET_HEADER_SIZE + 60];
    int peer = packet_socket("bare", TEST_PROTOCOL);
    for (unsigned seed = 0; seed < 3; seed++) {
        fill_frame(data, 60, seed);
        cr_assert_eq(send(peer, data, 60, 0), 60);
    }
    cr_assert_eq(receive_one(tap, 0, data, NET_HEADER_SIZE), 0);
    cr_assert_eq(receive_one(tap, 0, data, 5), 0);
    cr_assert_eq(receive_one(tap, 0, data, sizeof(data)), sizeof(data));
    cr_assert_eq(data[NET_HEADER_SIZE + ETHERNET_SIZE], (uint8_t)(2 * 37 + ETHERNET_SIZE));
    close(peer);
    close_tap(tap);
}

Test(tap_open, takes_descriptors_of_several_queues)
{
    enter_namespace();
    int fds[3];
    for (unsigned i = 0; i < 3; i++)
        fds[i] = tun_descriptor("wide", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE);
    shell("ip link set wide up");
    for (unsigned i = 0; i < 2; i++) {
        struct net_backend *tap = open_config((struct tap_config){.fds = fds, .queues = 3});
        cr_assert_eq(tap->queue_count, 3);
        cr_assert_eq(net_backend_use_queues(tap, 1), 0); /* the next one finds two of them detached */
        works(tap, "wide");
        close_tap(tap);
    }
}

/* An interface that cannot be asked about, as it is in another namespace, and one that only has its name. */
Test(tap_open, takes_a_descriptor_from_another_namespace)
{
    enter_namespace();
    int fd = tun_descriptor("far", IFF_TAP | IFF_NO_PI | IFF_VNET_HDR);
    shell("ip link set far mtu 1300 up");
    enter_namespace();
    struct net_backend *tap = open_config((struct tap_config){.fds = &fd, .queues = 1});
    cr_assert_eq(tap->mtu, 0);
    close_tap(tap);
    make_tap("far", "");
    tap = open_config((struct tap_config){.fds = &fd, .queues = 1});
    cr_assert_eq(tap->mtu, 0);
    close_tap(tap);
}

Test(tap_open, refuses_descriptors_that_are_none_of_a_tap)
{
    int ends[2];
    enter_namespace();
    cr_assert_eq(pipe(ends), 0);
    refuses_fd(999, EBADF, "must pass on");
    refuses_fd(ends[0], ENOTTY, "not that of a tap");
    refuses_fd(socket(AF_UNIX, SOCK_STREAM, 0), ENOTTY, "not that of a tap");
    refuses_fd(open("/dev/null", O_RDWR), ENOTTY, "not that of a tap");
    refuses_fd(open("/dev/net/tun", O_RDWR), EBADFD, "not that of a tap");
    refuses_fd(tun_descriptor("tun0", IFF_TUN | IFF_NO_PI), EINVAL, "tun interface");
    ends[0] = tun_descriptor("tap0", IFF_TAP);
    refuses((struct tap_config){.fds = ends, .queues = 1}, EINVAL, "tap tap0", "IFF_NO_PI");
}

Test(tap_open, refuses_descriptors_that_do_not_go_together)
{
    enter_namespace();
    const int flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    int single[] = {tun_descriptor("a", flags), -1};
    single[1] = single[0];
    refuses((struct tap_config){.fds = single, .queues = 2}, EINVAL, "tap a", "IFF_MULTI_QUEUE");
    int different[] = {tun_descriptor("b", flags | IFF_MULTI_QUEUE),
                       tun_descriptor("c", flags | IFF_MULTI_QUEUE)};
    refuses((struct tap_config){.fds = different, .queues = 2}, EINVAL, "different interfaces", "b and c");
}
