#include <netinet/in.h>
#include <netinet/ip.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <sys/wait.h>

#include "tests/unit/net/net_fixture.h"

#define TRANSFER (4 << 20)
#define MTU      1500
#define HEADERS  (ETHERNET_SIZE + sizeof(struct iphdr) + sizeof(struct tcphdr))

/* RFC 1071, as it is written there. */
static uint16_t internet_checksum(uint32_t sum, const uint8_t *data, size_t size)
{
    for (; size > 1; data += 2, size -= 2)
        sum += (uint32_t)(data[0] << 8 | data[1]);
    if (size > 0)
        sum += (uint32_t)(data[0] << 8);
    while (sum >> 16)
        sum = (sum & 0xFFFF) + (sum >> 16);
    return (uint16_t)~sum;
}

static uint32_t pseudo_header(const struct iphdr *ip, uint32_t length)
{
    uint32_t from = ntohl(ip->saddr), to = ntohl(ip->daddr);
    return (from >> 16) + (from & 0xFFFF) + (to >> 16) + (to & 0xFFFF) + ip->protocol + length;
}

/* Whether the checksum of a frame's TCP segment is right, from the Ethernet header on. */
static bool tcp_checksum_right(const uint8_t *frame)
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
    unsigned large;     /* frames that are longer than the MTU */
    unsigned unsummed;  /* with an incomplete checksum */
    unsigned malformed; /* that should not have been sent as they are */
};

static void look(struct wire *wire, const uint8_t *data, uint32_t size)
{
    struct virtio_net_hdr_v1 header;
    const uint8_t *frame = data + NET_HEADER_SIZE;
    memcpy(&header, data, sizeof(header));
    if (frame[12] != 8 || frame[13] != 0 || frame[ETHERNET_SIZE + 9] != IPPROTO_TCP)
        return;
    bool large = size > NET_HEADER_SIZE + ETHERNET_SIZE + MTU;
    bool unsummed = header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM;
    bool tso = (header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == VIRTIO_NET_HDR_GSO_TCPV4;
    wire->large += large;
    wire->unsummed += unsummed;
    wire->malformed += large && !(tso && unsummed && header.gso_size > 0 && header.gso_size < MTU);
    wire->malformed += !unsummed && !tcp_checksum_right(frame);
}

static void pass_on(void *opaque, unsigned queue);
static const struct net_queue_events wire_events = {.readable = pass_on};

static void pass_on(void *opaque, unsigned queue)
{
    static uint8_t data[NET_FRAME_MAX];
    struct wire *wire = opaque;
    for (unsigned i = 0; i < 2; i++) {
        uint32_t size;
        while ((size = receive_one(wire->ends[i], 0, data, sizeof(data))) > 0) {
            look(wire, data, size);
            if (send_one(wire->ends[!i], 0, data, size) != 1)
                wire->malformed++;
        }
    }
}

static void connect_end(struct wire *wire, unsigned end, unsigned offloads)
{
    struct net_backend *tap = open_tap(wire->loop, "tap", 1);
    shell("ip addr add 10.0.0.%u/24 dev tap", end + 1);
    cr_assert_eq(net_backend_set_offloads(tap, offloads), 0);
    cr_assert_eq(net_backend_start(tap, 0, wire->loop, &wire_events, wire), 0);
    net_backend_watch(tap, 0, true, false);
    wire->ends[end] = tap;
}

struct transfer {
    int from, to;
    struct event_loop *loop;
    bool whole;
};

static void *send_all(void *opaque)
{
    struct transfer *transfer = opaque;
    static uint8_t data[TRANSFER];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)(i * i >> 7);
    size_t sent = 0;
    while (sent < sizeof(data)) {
        ssize_t size = send(transfer->from, data + sent, sizeof(data) - sent, MSG_NOSIGNAL);
        if (size <= 0)
            break;
        sent += (size_t)size;
    }
    shutdown(transfer->from, SHUT_WR);
    return NULL;
}

static void *receive_all(void *opaque)
{
    struct transfer *transfer = opaque;
    static uint8_t data[65536];
    size_t received = 0;
    ssize_t size;
    bool right = true;
    while ((size = recv(transfer->to, data, sizeof(data), 0)) > 0) {
        for (ssize_t i = 0; i < size && right; i++)
            right = data[i] == (uint8_t)((received + (size_t)i) * (received + (size_t)i) >> 7);
        received += (size_t)size;
    }
    transfer->whole = right && received == TRANSFER;
    event_loop_quit(transfer->loop);
    return NULL;
}

static void *accept_one(void *opaque)
{
    int *listener = opaque, fd = accept(*listener, NULL, NULL);
    close(*listener);
    *listener = fd;
    return NULL;
}

/* A TCP connection from one namespace into the other. Each socket stays in that in which it was made. */
static void *connect_pair(void *opaque)
{
    struct transfer *transfer = opaque;
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(5000)};
    pthread_t acceptor;
    inet_pton(AF_INET, "10.0.0.2", &to.sin_addr);
    if (pthread_create(&acceptor, NULL, accept_one, &transfer->to) == 0) {
        transfer->whole = connect(transfer->from, (struct sockaddr *)&to, sizeof(to)) == 0;
        if (!transfer->whole)
            shutdown(transfer->to, SHUT_RDWR);
        pthread_join(acceptor, NULL);
    }
    event_loop_quit(transfer->loop);
    return NULL;
}

static void in_thread(struct wire *wire, struct transfer *transfer, void *(*first)(void *),
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

/* Sends a lot from one kernel to the other. `offloads` are those of both ends. */
static void transfer(struct wire *wire, unsigned offloads)
{
    struct sockaddr_in any = {.sin_family = AF_INET, .sin_port = htons(5000)};
    *wire = (struct wire){.loop = create_loop()};
    struct transfer tcp = {.loop = wire->loop};
    enter_namespace();
    connect_end(wire, 0, offloads);
    tcp.from = socket(AF_INET, SOCK_STREAM, 0);
    enter_namespace();
    connect_end(wire, 1, offloads);
    tcp.to = socket(AF_INET, SOCK_STREAM, 0);
    cr_assert_eq(bind(tcp.to, (struct sockaddr *)&any, sizeof(any)), 0);
    cr_assert_eq(listen(tcp.to, 1), 0);
    in_thread(wire, &tcp, connect_pair, NULL);
    cr_assert(tcp.whole, "no connection: %s", strerror(errno));
    in_thread(wire, &tcp, send_all, receive_all);
    cr_assert(tcp.whole);
    cr_assert_eq(wire->malformed, 0);
    close(tcp.from);
    close(tcp.to);
    for (unsigned i = 0; i < 2; i++) {
        net_backend_stop(wire->ends[i], 0);
        net_backend_destroy(wire->ends[i]);
    }
    event_loop_destroy(wire->loop);
}

Test(tap_offloads, nothing_is_left_to_a_guest_that_can_nothing)
{
    struct wire wire;
    transfer(&wire, 0);
    cr_assert_eq(wire.large, 0);
    cr_assert_eq(wire.unsummed, 0);
}

/* Neither is any other offload then. */
Test(tap_offloads, checksums_are_left_to_a_guest_that_can_do_them)
{
    struct wire wire;
    transfer(&wire, NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_ECN);
    cr_assert_eq(wire.large, 0);
    cr_assert_gt(wire.unsummed, 0);
}

Test(tap_offloads, segmentation_is_left_to_a_guest_that_can_do_it)
{
    struct wire wire;
    transfer(&wire, NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN);
    cr_assert_gt(wire.large, 0);
    cr_assert_gt(wire.unsummed, 0);
}

Test(tap_offloads, takes_any_set_of_them)
{
    enter_namespace();
    struct event_loop *loop = create_loop();
    struct net_backend *tap = open_tap(loop, "tap0", 2);
    cr_assert(tap->offloads & NET_OFFLOAD_CHECKSUM && tap->offloads & NET_OFFLOAD_TSO4);
    for (unsigned set = 0; set < 64; set++)
        cr_assert_eq(net_backend_set_offloads(tap, set), 0, "%#x", set);
    net_backend_destroy(tap);
    event_loop_destroy(loop);
}

/* The features of an interface that hands frames on as they come: whoever sends through it finishes them. */
static void take_no_offloads(const char *name)
{
    static const uint32_t commands[] = {0x17 /* ETHTOOL_STXCSUM */, 0x19 /* ETHTOOL_SSG */,
                                        0x1F /* ETHTOOL_STSO */, 0x24 /* ETHTOOL_SGSO */};
    int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        uint32_t value[2] = {commands[i], 0};
        struct ifreq request = {.ifr_data = (char *)value};
        strncpy(request.ifr_name, name, IFNAMSIZ - 1);
        cr_assert_eq(ioctl(fd, 0x8946 /* SIOCETHTOOL */, &request), 0, "%s", strerror(errno));
    }
    close(fd);
}

/* One frame of many segments, whose checksum has only its pseudo header, as a guest sends it. */
static size_t large_frame(uint8_t *data, size_t payload, uint16_t segment)
{
    struct virtio_net_hdr_v1 header = {
        .flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
        .gso_type = VIRTIO_NET_HDR_GSO_TCPV4,
        .gso_size = segment,
        .hdr_len = HEADERS,
        .csum_start = ETHERNET_SIZE + sizeof(struct iphdr),
        .csum_offset = offsetof(struct tcphdr, check),
    };
    struct iphdr ip = {
        .version = 4,
        .ihl = 5,
        .ttl = 64,
        .protocol = IPPROTO_TCP,
        .tot_len = htons((uint16_t)(HEADERS - ETHERNET_SIZE + payload)),
        .saddr = htonl(0x0A000001),
        .daddr = htonl(0x0A000002),
    };
    ip.check = htons(internet_checksum(0, (uint8_t *)&ip, sizeof(ip)));
    struct tcphdr tcp = {
        .source = htons(1), .dest = htons(2), .seq = htonl(1000), .doff = 5, .ack = 1, .psh = 1};
    uint32_t sum = pseudo_header(&ip, (uint32_t)(sizeof(tcp) + payload));
    tcp.check = htons((uint16_t)~internet_checksum(sum, NULL, 0));
    memcpy(data, &header, sizeof(header));
    fill_frame(data + NET_HEADER_SIZE, HEADERS + payload, 5);
    memcpy(data + NET_HEADER_SIZE + 12, "\x08\x00", 2);
    memcpy(data + NET_HEADER_SIZE + ETHERNET_SIZE, &ip, sizeof(ip));
    memcpy(data + NET_HEADER_SIZE + ETHERNET_SIZE + sizeof(ip), &tcp, sizeof(tcp));
    return NET_HEADER_SIZE + HEADERS + payload;
}

/* Through a bridge and out of a wire that can do nothing by itself. */
Test(tap_offloads, a_large_frame_leaves_the_host_in_segments)
{
    static uint8_t data[NET_FRAME_MAX], seen[4000];
    const size_t payload = 60001;
    const uint16_t segment = 1448;
    enter_namespace();
    struct event_loop *loop = create_loop();
    struct net_backend *tap = open_tap(loop, "tap0", 1);
    shell("ip link add veth0 type veth peer name veth1 && ip link add bridge0 type bridge && "
          "for i in tap0 veth0; do ip link set $i master bridge0; done && "
          "for i in veth0 veth1 bridge0; do ip link set $i up; done");
    take_no_offloads("veth0");
    int out = packet_socket("veth1", ETH_P_IP);
    size_t size = large_frame(data, payload, segment);
    cr_assert_eq(send_one(tap, 0, data, size), 1);
    size_t done = 0;
    while (done < payload) {
        ssize_t got = recv(out, seen, sizeof(seen), 0);
        size_t want = smaller(segment, payload - done);
        struct tcphdr tcp;
        memcpy(&tcp, seen + ETHERNET_SIZE + sizeof(struct iphdr), sizeof(tcp));
        cr_assert_eq(got, (ssize_t)(HEADERS + want));
        cr_assert_eq(ntohl(tcp.seq), 1000 + done);
        cr_assert(tcp_checksum_right(seen));
        cr_assert_eq(internet_checksum(0, seen + ETHERNET_SIZE, sizeof(struct iphdr)), 0);
        cr_assert_eq(memcmp(seen + HEADERS, data + NET_HEADER_SIZE + HEADERS + done, want), 0);
        done += want;
    }
    net_backend_destroy(tap);
    close(out);
    event_loop_destroy(loop);
}
