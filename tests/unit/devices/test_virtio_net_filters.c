/*
 * Which frames the network device delivers, and in what state: as the driver has asked, and can finish.
 */
#include "tests/unit/devices/net_fixture.h"

#define OK VIRTIO_NET_OK

static struct net_fixture f;
static const struct frame_kind plain = {.type = 0};

static const uint8_t other[] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x57},
                     third[] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x58},
                     group[] = {0x01, 0x00, 0x5E, 0x00, 0x00, 0x01}, group2[] = {0x33, 0x33, 0, 0, 0, 1},
                     broadcast[] = {0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};

static void end(void)
{
    fixture_end(&f);
}

TestSuite(virtio_net_filters, .fini = end);

static void start(unsigned offloads, uint16_t mtu, uint64_t features)
{
    fixture_start(&f, offloads, mtu);
    negotiate(&f, features);
}

static void nothing(void *opaque)
{
}

/* Whether such a frame is delivered into the one buffer that is there. */
static bool is_delivered(const struct frame_kind *kind, uint32_t length)
{
    uint32_t written;
    unsigned token;
    put_frame(&f, 0, kind, length);
    while (fake_net_waiting(&f.backend, 0))
        sched_yield();
    event_loop_call(io_thread_loop(f.threads[0]), nothing, NULL); /* it is through with it */
    if (!queue_driver_collect(&f.guest.drivers[0], &token, &written))
        return false;
    cr_assert_eq(written, length);
    offer_buffer(&f, 0, IN, 2048);
    return true;
}

static bool is_delivered_to(const uint8_t *mac)
{
    return is_delivered(&(struct frame_kind){.destination = mac}, 100);
}

/* To the five addresses: one bit for each that gets it. */
static unsigned delivered(void)
{
    const uint8_t *const macs[] = {net_mac, other, group, group2, broadcast};
    unsigned bits = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(macs); i++)
        bits |= is_delivered_to(macs[i]) ? 1u << i : 0;
    return bits;
}

enum {
    MINE = 1,
    OTHER = 2,
    GROUP = 4,
    GROUP2 = 8,
    BROADCAST = 16,
    ALL = 31
};

static void set_mode(uint8_t mode, uint8_t on)
{
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_RX, mode, &on, 1), OK);
}

static void start_filtered(uint64_t features)
{
    start(ALL_OFFLOADS, 1500, features);
    offer_buffer(&f, 0, IN, 2048);
}

Test(virtio_net_filters, are_all_delivered_without_filters)
{
    start_filtered(0);
    cr_assert_eq(delivered(), ALL);
}

Test(virtio_net_filters, for_any_address_are_for_a_driver_that_was_told_none)
{
    start_filtered(CONTROL | BIT(VIRTIO_NET_F_CTRL_RX));
    cr_assert_eq(delivered(), MINE | OTHER | BROADCAST);
}

Test(virtio_net_filters, are_filtered_by_modes)
{
    start_filtered(ALL_FILTERS);
    cr_assert_eq(delivered(), MINE | BROADCAST);
    set_mode(VIRTIO_NET_CTRL_RX_ALLMULTI, 1);
    cr_assert_eq(delivered(), MINE | GROUP | GROUP2 | BROADCAST);
    set_mode(VIRTIO_NET_CTRL_RX_NOMULTI, 1);
    cr_assert_eq(delivered(), MINE | BROADCAST);
    set_mode(VIRTIO_NET_CTRL_RX_ALLUNI, 1);
    cr_assert_eq(delivered(), MINE | OTHER | BROADCAST);
    set_mode(VIRTIO_NET_CTRL_RX_NOBCAST, 1);
    cr_assert_eq(delivered(), MINE | OTHER);
    set_mode(VIRTIO_NET_CTRL_RX_NOUNI, 1);
    cr_assert_eq(delivered(), 0);
    set_mode(VIRTIO_NET_CTRL_RX_PROMISC, 1);
    cr_assert_eq(delivered(), ALL);
    for (uint8_t mode = VIRTIO_NET_CTRL_RX_PROMISC; mode <= VIRTIO_NET_CTRL_RX_NOBCAST; mode++)
        set_mode(mode, 0);
    cr_assert_eq(delivered(), MINE | BROADCAST);
    set_mode(VIRTIO_NET_CTRL_RX_PROMISC, 1);
    mmio_guest_reset(&f.guest);
    negotiate(&f, ALL_FILTERS);
    offer_buffer(&f, 0, IN, 2048);
    cr_assert_eq(delivered(), MINE | BROADCAST);
}

/* The tables, as the driver writes them; `count` addresses that differ in the last two bytes fill them up. */
static uint32_t write_table(uint8_t *table, const uint8_t *mac, unsigned count)
{
    uint32_t entries = count;
    memcpy(table, &entries, sizeof(entries));
    for (unsigned i = 0; i < count; i++) {
        uint8_t *entry = table + 4 + i * ETH_ALEN;
        memcpy(entry, mac, ETH_ALEN);
        if (i + 1 < count) {
            entry[4] = 0xEE;
            entry[5] = (uint8_t)i;
        }
    }
    return 4 + count * ETH_ALEN;
}

static void set_tables(unsigned unicast, unsigned multicast)
{
    uint8_t data[2048];
    uint32_t size = write_table(data, other, unicast);
    size += write_table(data + size, group, multicast);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, data, size), OK);
}

Test(virtio_net_filters, are_filtered_by_addresses)
{
    start_filtered(ALL_FILTERS);
    set_tables(1, 1);
    cr_assert_eq(delivered(), MINE | OTHER | GROUP | BROADCAST);
    set_tables(0, 3);
    cr_assert_eq(delivered(), MINE | GROUP | BROADCAST);
    set_tables(64, 64);
    cr_assert_eq(delivered(), MINE | OTHER | GROUP | BROADCAST);
    cr_assert(!is_delivered_to(third));
    set_tables(65, 0);
    cr_assert_eq(delivered(), MINE | OTHER | BROADCAST);
    cr_assert(is_delivered_to(third), "more than the table holds: all are let in");
    set_tables(0, 100);
    cr_assert_eq(delivered(), MINE | GROUP | GROUP2 | BROADCAST);
    set_tables(0, 0);
    cr_assert_eq(delivered(), MINE | BROADCAST);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, other, ETH_ALEN), OK);
    cr_assert_eq(delivered(), OTHER | BROADCAST);
}

static void set_vlan(uint8_t command, uint16_t vlan)
{
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_VLAN, command, &vlan, sizeof(vlan)), OK);
}

static bool is_delivered_in(unsigned tag)
{
    return is_delivered(&(struct frame_kind){.type = ETH_P_8021Q, .vlan = tag}, 100);
}

Test(virtio_net_filters, are_filtered_by_vlan)
{
    start_filtered(ALL_FILTERS);
    cr_assert(!is_delivered_in(5));
    cr_assert(!is_delivered_in(0));
    cr_assert_eq(delivered(), MINE | BROADCAST);
    set_vlan(VIRTIO_NET_CTRL_VLAN_ADD, 5);
    set_vlan(VIRTIO_NET_CTRL_VLAN_ADD, 4095);
    cr_assert(is_delivered_in(5));
    cr_assert(is_delivered_in(0xE000 | 5), "whatever its priority");
    cr_assert(is_delivered_in(4095));
    cr_assert(!is_delivered_in(6));
    cr_assert(!is_delivered(&(struct frame_kind){.destination = other, .type = ETH_P_8021Q, .vlan = 5}, 100));
    set_vlan(VIRTIO_NET_CTRL_VLAN_DEL, 5);
    cr_assert(!is_delivered_in(5));
    set_mode(VIRTIO_NET_CTRL_RX_PROMISC, 1);
    cr_assert(is_delivered_in(5));
    mmio_guest_reset(&f.guest);
    negotiate(&f, ALL_FILTERS & ~BIT(VIRTIO_NET_F_CTRL_VLAN));
    offer_buffer(&f, 0, IN, 2048);
    cr_assert(is_delivered_in(6));
}

Test(virtio_net_filters, are_no_longer_than_was_agreed_upon)
{
    struct frame_kind tagged = {.type = ETH_P_8021Q}, segments = {.header = {.flags = 1, .gso_type = 1}};
    start_filtered(BIT(VIRTIO_NET_F_MTU) | BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4));
    cr_assert(is_delivered(&plain, HEADER + 1514));
    cr_assert(!is_delivered(&plain, HEADER + 1515));
    cr_assert(is_delivered(&tagged, HEADER + 1518));
    cr_assert(!is_delivered(&tagged, HEADER + 1519));
    cr_assert(is_delivered(&(struct frame_kind){.type = ETH_P_8021AD}, HEADER + 1522));
    cr_assert(!is_delivered(&(struct frame_kind){.type = ETH_P_8021AD}, HEADER + 1523));
    cr_assert(is_delivered(&segments, HEADER + 1900));
    mmio_guest_reset(&f.guest);
    negotiate(&f, 0);
    offer_buffer(&f, 0, IN, 2048);
    cr_assert(is_delivered(&plain, HEADER + 1900));
}

/* Those that came while another driver, or the same with other offloads, had the device. */
Test(virtio_net_filters, that_are_left_to_the_driver_are_those_it_can_finish)
{
    static const struct {
        uint8_t flags, gso;
        unsigned needed;
    } cases[] = {
        {VIRTIO_NET_HDR_F_DATA_VALID, VIRTIO_NET_HDR_GSO_NONE, 0},
        {VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_NONE, 1},
        {VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4, 3},
        {VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV6, 5},
        {VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN, 11},
        {VIRTIO_NET_HDR_F_NEEDS_CSUM, VIRTIO_NET_HDR_GSO_UDP, 16},
        {VIRTIO_NET_HDR_F_NEEDS_CSUM, 5, 16},
    };
    static const uint64_t features[] = {BIT(VIRTIO_NET_F_GUEST_CSUM), BIT(VIRTIO_NET_F_GUEST_TSO4),
                                        BIT(VIRTIO_NET_F_GUEST_TSO6), BIT(VIRTIO_NET_F_GUEST_ECN)};
    static const unsigned drivers[] = {0, 1, 3, 5, 7, 11, 15};
    start(ALL_OFFLOADS, 0, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(drivers); i++) {
        uint64_t accepted = 0;
        for (unsigned bit = 0; bit < 4; bit++)
            accepted |= drivers[i] >> bit & 1 ? features[bit] : 0;
        mmio_guest_reset(&f.guest);
        negotiate(&f, accepted);
        offer_buffer(&f, 0, IN, 2048);
        for (unsigned j = 0; j < ARRAY_SIZE(cases); j++) {
            struct frame_kind kind = {.header = {.flags = cases[j].flags, .gso_type = cases[j].gso}};
            bool can = !(cases[j].needed & ~drivers[i]);
            cr_assert_eq(is_delivered(&kind, 100), can, "driver %u, case %u", i, j);
            const struct virtio_net_hdr_v1 *header = memory_at(&f, IN);
            cr_assert(!can || header->flags == (drivers[i] ? cases[j].flags : 0), "driver %u, case %u", i, j);
        }
    }
}
