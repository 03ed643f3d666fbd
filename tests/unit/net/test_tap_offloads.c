#include "tests/unit/net/wire.h"

#define HEADERS (ETHERNET_SIZE + sizeof(struct iphdr) + sizeof(struct tcphdr))

static struct net_backend *make_end(struct wire *wire, unsigned end, unsigned offloads)
{
    struct net_backend *tap = open_tap(wire->loop, "tap", 1);
    shell("ip addr add 10.0.0.%u/24 dev tap", end + 1);
    cr_assert_eq(net_backend_set_offloads(tap, offloads), 0);
    return tap;
}

/* Sends a lot from one kernel to the other, and back. `offloads` are those of both ends. */
static void transfer(struct wire *wire, unsigned offloads)
{
    *wire = (struct wire){.loop = create_loop(), .mtu = 1500};
    struct transfer tcp = {.loop = wire->loop, .address = "10.0.0.2"};
    enter_namespace();
    connect_end(wire, 0, make_end(wire, 0, offloads));
    tcp.from = socket(AF_INET, SOCK_STREAM, 0);
    enter_namespace();
    connect_end(wire, 1, make_end(wire, 1, offloads));
    tcp.to = listen_on_any();
    run_transfer(wire, &tcp);
    disconnect_ends(wire);
    event_loop_destroy(wire->loop);
}

Test(tap_offloads, nothing_is_left_to_a_guest_that_can_nothing)
{
    static struct wire wire;
    transfer(&wire, 0);
    cr_assert_eq(wire.large, 0);
    cr_assert_eq(wire.unsummed, 0);
}

/* Neither is any other offload then. */
Test(tap_offloads, checksums_are_left_to_a_guest_that_can_do_them)
{
    static struct wire wire;
    transfer(&wire, NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_ECN);
    cr_assert_eq(wire.large, 0);
    cr_assert_gt(wire.unsummed, 0);
}

Test(tap_offloads, segmentation_is_left_to_a_guest_that_can_do_it)
{
    static struct wire wire;
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

/* The next frame of TCP; 0 if there has been none for a while. The bridge itself reports by IGMP. */
static ssize_t next_segment(int fd, uint8_t *data, size_t size)
{
    struct pollfd arrives = {.fd = fd, .events = POLLIN};
    while (poll(&arrives, 1, 200) > 0) {
        ssize_t got = recv(fd, data, size, 0);
        if (data[ETHERNET_SIZE + 9] == IPPROTO_TCP)
            return got;
    }
    return 0;
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
        ssize_t got = next_segment(out, seen, sizeof(seen));
        if (got == 0 && done == 0) /* the bridge forwards only once it knows that the link is up */
            cr_assert_eq(send_one(tap, 0, data, size), 1);
        if (got == 0)
            continue;
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
