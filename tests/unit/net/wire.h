/*
 * A wire between two network backends, at the ends of which are TCP/IP stacks that are not godwit's: the
 * kernel's in two network namespaces, or passt's. What passes is looked at; a large transfer by TCP over it
 * is the oracle.
 */
#pragma once

#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <pthread.h>

#include "tests/unit/net/net_fixture.h"

#define TRANSFER (4 << 20)
#define TCP_PORT 5000

/* RFC 1071, as it is written there. */
static inline uint16_t internet_checksum(uint32_t sum, const uint8_t *data, size_t size)
{
    for (; size > 1; data += 2, size -= 2)
        sum += (uint32_t)(data[0] << 8 | data[1]);
    if (size > 0)
        sum += (uint32_t)(data[0] << 8);
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)~sum;
}

static inline uint32_t pseudo_header(const struct iphdr *ip, uint32_t length)
{
    uint32_t from = ntohl(ip->saddr), to = ntohl(ip->daddr);
    return (from >> 16) + (from & 0xFFFF) + (to >> 16) + (to & 0xFFFF) + ip->protocol + length;
}

/* Whether the checksum of a frame's TCP segment is right, from the Ethernet header on. */
static inline bool tcp_checksum_right(const uint8_t *frame)
{
    struct iphdr ip;
    memcpy(&ip, frame + ETHERNET_SIZE, sizeof(ip));
    uint32_t length = ntohs(ip.tot_len) - ip.ihl * 4u;
    return internet_checksum(pseudo_header(&ip, length), frame + ETHERNET_SIZE + ip.ihl * 4, length) == 0;
}

/* What two kernels, each with its interface, are connected by: a wire that looks at what passes. */
struct wire {
    struct event_loop *loop;
    struct net_backend *ends[2];
    unsigned mtu;        /* of both */
    unsigned large;      /* frames that are longer */
    unsigned unsummed;   /* with an incomplete checksum */
    unsigned malformed;  /* that should not have been sent as they are */
    uint32_t waiting[2]; /* bytes of a frame of each end that the other one has no room for */
    uint8_t data[2][NET_FRAME_MAX];
};

static inline void look(struct wire *wire, const uint8_t *data, uint32_t size)
{
    struct virtio_net_hdr_v1 header;
    const uint8_t *frame = data + NET_HEADER_SIZE;
    memcpy(&header, data, sizeof(header));
    if (frame[12] != 8 || frame[13] != 0 || frame[ETHERNET_SIZE + 9] != IPPROTO_TCP)
        return;
    bool large = size > NET_HEADER_SIZE + ETHERNET_SIZE + wire->mtu;
    bool unsummed = header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
    bool tso = (header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV4;
    wire->large += large;
    wire->unsummed += unsummed;
    wire->malformed += large && !(tso && unsummed && header.gso_size > 0 && header.gso_size < wire->mtu);
    wire->malformed += !unsummed && !tcp_checksum_right(frame);
}

/* From one end to the other, until there is no more, or no room: what was received waits then, and so does
 * its sender. */
static inline void pass_on(struct wire *wire, unsigned from)
{
    struct net_backend *source = wire->ends[from], *target = wire->ends[!from];
    uint8_t *data = wire->data[from];
    while (wire->waiting[from] > 0 ||
           (wire->waiting[from] = receive_one(source, 0, data, NET_FRAME_MAX)) > 0) {
        if (send_one(target, 0, data, wire->waiting[from]) == 0)
            break;
        look(wire, data, wire->waiting[from]);
        wire->waiting[from] = 0;
    }
}

static inline void serve_wire(void *opaque, unsigned queue)
{
    struct wire *wire = opaque;
    for (unsigned i = 0; i < 2; i++)
        pass_on(wire, i);
    for (unsigned i = 0; i < 2; i++)
        net_backend_watch(wire->ends[i], 0, !wire->waiting[i], wire->waiting[!i]);
}

static const struct net_queue_events wire_events = {.readable = serve_wire, .writable = serve_wire};

static inline void connect_end(struct wire *wire, unsigned end, struct net_backend *backend)
{
    cr_assert_eq(net_backend_start(backend, 0, wire->loop, &wire_events, wire), 0);
    net_backend_watch(backend, 0, true, false);
    wire->ends[end] = backend;
}

static inline void disconnect_ends(struct wire *wire)
{
    for (unsigned i = 0; i < 2; i++) {
        net_backend_stop(wire->ends[i], 0);
        net_backend_destroy(wire->ends[i]);
    }
}

struct transfer {
    int from, to;        /* sockets, each in its namespace: to be connected, and listening */
    const char *address; /* of the one that listens, as the other one sees it */
    struct event_loop *loop;
    bool whole;
};

static inline void *send_all(void *opaque)
{
    struct transfer *transfer = opaque;
    static uint8_t data[TRANSFER];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * i >> 7);
    size_t sent = 0;
    while (sent < sizeof(data)) {
        ssize_t size = send(transfer->from, data + sent, sizeof(data) - sent, MSG_NOSIGNAL);
        if (size <= 0) {
            shutdown(transfer->to, SHUT_RDWR);
            break;
        }
        sent += (size_t)size;
    }
    return NULL;
}

static inline void *receive_all(void *opaque)
{
    struct transfer *transfer = opaque;
    static uint8_t data[65536];
    size_t received = 0;
    ssize_t size;
    bool right = true;
    while (received < TRANSFER && (size = recv(transfer->to, data, sizeof(data), 0)) > 0) {
        for (ssize_t i = 0; i < size && right; i++)
            right = data[i] == (uint8_t)((received + (size_t)i) * (received + (size_t)i) >> 7);
        received += (size_t)size;
    }
    transfer->whole = right && received == TRANSFER;
    event_loop_quit(transfer->loop);
    return NULL;
}

static inline void *accept_one(void *opaque)
{
    int *listener = opaque, fd = accept(*listener, NULL, NULL);
    close(*listener);
    *listener = fd;
    return NULL;
}

/* A TCP connection from one namespace into the other. Each socket stays in that in which it was made. */
static inline void *connect_pair(void *opaque)
{
    struct transfer *transfer = opaque;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(TCP_PORT)};
    pthread_t acceptor;
    inet_pton(AF_INET, transfer->address, &to.sin_addr);
    if (pthread_create(&acceptor, NULL, accept_one, &transfer->to) == 0) {
        transfer->whole = connect(transfer->from, (struct sockaddr *)&to, sizeof(to)) == 0;
        if (!transfer->whole)
            shutdown(transfer->to, SHUT_RDWR);
        pthread_join(acceptor, NULL);
    }
    event_loop_quit(transfer->loop);
    return NULL;
}

/* Runs both in threads of their own, while this one serves the wire. */
static inline void in_threads(struct wire *wire, struct transfer *transfer, void *(*first)(void *),
                              void *(*second)(void *))
{
    pthread_t threads[2];
    cr_assert_eq(pthread_create(&threads[0], NULL, first, transfer), 0);
    if (second)
        cr_assert_eq(pthread_create(&threads[1], NULL, second, transfer), 0);
    cr_assert_eq(event_loop_run(wire->loop), 0);
    pthread_join(threads[0], NULL);
    if (second)
        pthread_join(threads[1], NULL);
}

static inline int listen_on_any(void)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(TCP_PORT)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(fd, (struct sockaddr *)&any, sizeof(any)), 0, "%s", strerror(errno));
    cr_assert_eq(listen(fd, 1), 0);
    return fd;
}

/* Sends TRANSFER bytes, once each way, which have to arrive. */
static inline void run_transfer(struct wire *wire, struct transfer *transfer)
{
    in_threads(wire, transfer, connect_pair, NULL);
    cr_assert(transfer->whole, "no connection");
    for (unsigned way = 0; way < 2; way++) {
        transfer->whole = false;
        in_threads(wire, transfer, send_all, receive_all);
        cr_assert(transfer->whole);
        int swap = transfer->from;
        transfer->from = transfer->to;
        transfer->to = swap;
    }
    cr_assert_eq(wire->malformed, 0);
    close(transfer->from);
    close(transfer->to);
}
