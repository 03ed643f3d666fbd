/*
 * For tests of network backends: a network namespace for each test, and helpers to look at interfaces from
 * the kernel's side. ctest starts these programs as root of a user namespace, so anybody may run them; by
 * hand: unshare --user --map-root-user --net PROGRAM.
 */
#pragma once

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/net/net_backend.h"
#include "devices/net/tap.h"

#define TEST_PROTOCOL 0x88B5 /* for local experiments */
#define ETHERNET_SIZE 14

static inline void enter_namespace(void)
{
    cr_assert_eq(unshare(CLONE_NEWNET), 0,
                 "no network namespace for this test (%s): start it by ctest, or by unshare --user "
                 "--map-root-user --net",
                 strerror(errno));
    /* Which would send frames by itself. */
    int fd = open("/proc/sys/net/ipv6/conf/default/disable_ipv6", O_WRONLY);
    cr_assert(write(fd, "1", 1) == 1 || fd < 0, "%s", strerror(errno));
    close(fd);
}

/* Runs a command of the shell, which has to succeed. */
static inline __attribute__((format(printf, 1, 2))) void shell(const char *format, ...)
{
    char command[512];
    va_list args;
    va_start(args, format);
    vsnprintf(command, sizeof(command), format, args);
    va_end(args);
    cr_assert_eq(system(command), 0, "%s", command);
}

static inline struct event_loop *create_loop(void)
{
    struct event_loop *loop;
    struct error err = {0};
    cr_assert_eq(event_loop_create(&loop, &err), 0, "%s", err.message);
    return loop;
}

/* An interface of its own, which godwit makes. */
static inline struct net_backend *open_tap(struct event_loop *loop, const char *name, unsigned queues)
{
    const struct tap_config config = {.name = name, .queues = queues, .loop = loop};
    struct net_backend *tap;
    struct error err = {0};
    cr_assert_eq(tap_open(&config, &tap, &err), 0, "%s", err.message);
    return tap;
}

/* A socket that sends and receives whole frames on an interface; `protocol` is ETH_P_ALL to see all. */
static inline int packet_socket(const char *interface, unsigned protocol)
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons((uint16_t)protocol),
        .sll_ifindex = (int)if_nametoindex(interface),
    };
    cr_assert_geq(fd, 0, "%s", strerror(errno));
    cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0, "%s", strerror(errno));
    return fd;
}

/* Fills in a frame of the test's protocol, `size` bytes from its Ethernet header on, told apart by `seed`. */
static inline void fill_frame(uint8_t *frame, size_t size, unsigned seed)
{
    memset(frame, 0xFF, 6);
    memcpy(frame + 6, "\x02\x00\x00\x00\x00\x01", 6);
    frame[12] = TEST_PROTOCOL >> 8;
    frame[13] = TEST_PROTOCOL & 0xFF;
    for (size_t i = ETHERNET_SIZE; i < size; i++)
        frame[i] = (uint8_t)(seed * 37 + i);
}

/* Receives one frame in one piece of at most `size` bytes; its length, header included, or 0. */
static inline uint32_t receive_one(struct net_backend *backend, unsigned queue, uint8_t *data, size_t size)
{
    struct iovec piece = {data, size};
    struct net_frame frame = {.iov = &piece, .iov_count = 1};
    return net_backend_receive(backend, queue, &frame, 1) ? frame.length : 0;
}

/* Sends one frame in one piece, header included. */
static inline unsigned send_one(struct net_backend *backend, unsigned queue, const void *data, size_t size)
{
    struct iovec piece = {(void *)data, size};
    struct net_frame frame = {.iov = &piece, .iov_count = 1, .length = (uint32_t)size};
    return net_backend_send(backend, queue, &frame, 1);
}

/* What a queue was called for. */
struct calls {
    struct event_loop *loop;
    unsigned readable, writable, link;
    unsigned limit; /* of all together: then the loop ends */
};

static inline void count_call(struct calls *calls, unsigned *kind)
{
    ++*kind;
    if (calls->readable + calls->writable + calls->link >= calls->limit)
        event_loop_quit(calls->loop);
}

static inline void count_readable(void *opaque, unsigned queue)
{
    struct calls *calls = opaque;
    count_call(calls, &calls->readable);
}

static inline void count_writable(void *opaque, unsigned queue)
{
    struct calls *calls = opaque;
    count_call(calls, &calls->writable);
}

static inline void count_link(void *opaque)
{
    struct calls *calls = opaque;
    count_call(calls, &calls->link);
}

static inline void run_until(struct calls *calls, unsigned limit)
{
    calls->limit = calls->readable + calls->writable + calls->link + limit;
    cr_assert_eq(event_loop_run(calls->loop), 0);
}

/* All that is ready is called back, and no more. */
static inline void end_loop(void *opaque, unsigned events)
{
    event_loop_quit(opaque);
}
