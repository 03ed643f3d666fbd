/*
 * The network device and its driver's agreements: features, configuration, commands, the link.
 */
#include "tests/unit/devices/net_fixture.h"

#define OK  VIRTIO_NET_OK
#define ERR VIRTIO_NET_ERR

static struct net_fixture f;

static void end(void)
{
    fixture_end(&f);
}

TestSuite(virtio_net, .fini = end);

static uint32_t get_config(size_t place, size_t size)
{
    uint8_t data[4] = {0};
    uint64_t address = MMIO_GUEST_REGISTERS + MMIO_GUEST_CONFIG + place;
    cr_assert_eq(address_space_read(f.guest.guest.space, address, data, size), 0);
    return data[0] | (uint32_t)data[1] << 8;
}

#define CONFIG(field)                                                                                        \
    get_config(offsetof(struct virtio_net_config, field), sizeof(((struct virtio_net_config *)0)->field))

static void check_mac(const uint8_t *mac)
{
    for (unsigned i = 0; i < ETH_ALEN; i++)
        cr_assert_eq(get_config(i, 1), mac[i]);
}

static const unsigned of_offloads[] = {
    VIRTIO_NET_F_CSUM,      VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_ECN,  VIRTIO_NET_F_GUEST_ECN,  VIRTIO_NET_F_CTRL_GUEST_OFFLOADS,
};

Test(virtio_net, describes_itself)
{
    static const unsigned always[] = {
        VIRTIO_NET_F_MAC,
        VIRTIO_NET_F_MRG_RXBUF,
        VIRTIO_NET_F_STATUS,
        VIRTIO_NET_F_CTRL_VQ,
        VIRTIO_NET_F_CTRL_RX,
        VIRTIO_NET_F_CTRL_VLAN,
        VIRTIO_NET_F_CTRL_RX_EXTRA,
        VIRTIO_NET_F_CTRL_MAC_ADDR,
        VIRTIO_NET_F_MQ,
        VIRTIO_NET_F_GUEST_ANNOUNCE,
        VIRTIO_NET_F_MTU,
    };
    fixture_start(&f, ALL_OFFLOADS, 9000);
    uint64_t offered = mmio_guest_offered(&f.guest);
    for (unsigned i = 0; i < ARRAY_SIZE(always); i++)
        cr_assert(offered & BIT(always[i]), "%u", always[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(of_offloads); i++)
        cr_assert(offered & BIT(of_offloads[i]), "%u", of_offloads[i]);
    check_mac(net_mac);
    cr_assert_eq(CONFIG(status), VIRTIO_NET_S_LINK_UP);
    cr_assert_eq(CONFIG(max_virtqueue_pairs), PAIRS);
    cr_assert_eq(CONFIG(mtu), 9000);
}

Test(virtio_net, offers_what_its_backend_can_do)
{
    fixture_start(&f, 0, 0);
    uint64_t offered = mmio_guest_offered(&f.guest);
    for (unsigned i = 0; i < ARRAY_SIZE(of_offloads); i++)
        cr_assert(!(offered & BIT(of_offloads[i])), "%u", of_offloads[i]);
    cr_assert(!(offered & BIT(VIRTIO_NET_F_MTU)));
    cr_assert_eq(CONFIG(mtu), 0);
}

/* Whether the device accepts these. */
static bool accepts(uint64_t features)
{
    enum {
        FEATURES = 0x020,
        SELECT = 0x024
    };
    uint32_t before = VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER;
    mmio_guest_set(&f.guest, MMIO_GUEST_STATUS, 0);
    features |= BIT(VIRTIO_F_VERSION_1);
    for (unsigned half = 0; half < 2; half++) {
        mmio_guest_set(&f.guest, SELECT, half);
        mmio_guest_set(&f.guest, FEATURES, (uint32_t)(features >> 32 * half));
    }
    mmio_guest_set(&f.guest, MMIO_GUEST_STATUS, before | VIRTIO_CONFIG_S_FEATURES_OK);
    return mmio_guest_get(&f.guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_FEATURES_OK;
}

/* VIRTIO 1.2, section 5.1.3.1. */
Test(virtio_net, refuses_features_without_those_that_they_require)
{
    static const struct {
        unsigned feature;
        uint64_t required[2];
    } cases[] = {
        {VIRTIO_NET_F_GUEST_TSO4, {BIT(VIRTIO_NET_F_GUEST_CSUM)}},
        {VIRTIO_NET_F_GUEST_TSO6, {BIT(VIRTIO_NET_F_GUEST_CSUM)}},
        {VIRTIO_NET_F_GUEST_ECN,
         {BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4),
          BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO6)}},
        {VIRTIO_NET_F_HOST_TSO4, {BIT(VIRTIO_NET_F_CSUM)}},
        {VIRTIO_NET_F_HOST_TSO6, {BIT(VIRTIO_NET_F_CSUM)}},
        {VIRTIO_NET_F_HOST_ECN,
         {BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO4),
          BIT(VIRTIO_NET_F_CSUM) | BIT(VIRTIO_NET_F_HOST_TSO6)}},
        {VIRTIO_NET_F_CTRL_RX, {CONTROL}},
        {VIRTIO_NET_F_CTRL_VLAN, {CONTROL}},
        {VIRTIO_NET_F_GUEST_ANNOUNCE, {CONTROL}},
        {VIRTIO_NET_F_MQ, {CONTROL}},
        {VIRTIO_NET_F_CTRL_MAC_ADDR, {CONTROL}},
        {VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, {CONTROL}},
    };
    fixture_start(&f, ALL_OFFLOADS, 1500);
    cr_assert(accepts(0));
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        cr_assert(!accepts(BIT(cases[i].feature)), "case %u", i);
        for (unsigned j = 0; j < 2 && cases[i].required[j]; j++)
            cr_assert(accepts(BIT(cases[i].feature) | cases[i].required[j]), "case %u", i);
    }
    cr_assert(!accepts(BIT(VIRTIO_NET_F_GUEST_ECN) | BIT(VIRTIO_NET_F_GUEST_CSUM)));
    cr_assert(accepts(mmio_guest_offered(&f.guest)));
}

Test(virtio_net, tells_its_backend_what_the_driver_can_do)
{
    fixture_start(&f, ALL_OFFLOADS, 0);
    negotiate(&f, BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO6) | BIT(VIRTIO_NET_F_CSUM));
    cr_assert_eq(f.backend.guest_offloads, NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO6);
    mmio_guest_reset(&f.guest);
    cr_assert_eq(f.backend.guest_offloads, 0);
    negotiate(&f, mmio_guest_offered(&f.guest) & ~BIT(VIRTIO_F_RING_PACKED));
    cr_assert_eq(f.backend.guest_offloads, ALL_OFFLOADS);
    mmio_guest_reset(&f.guest);
}

static void start_and_fail(void)
{
    mmio_guest_set(&f.guest, MMIO_GUEST_STATUS, 0x0F);
    cr_assert(mmio_guest_get(&f.guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET);
    mmio_guest_reset(&f.guest);
}

Test(virtio_net, needs_a_reset_when_its_backend_does_not_start)
{
    fixture_start(&f, ALL_OFFLOADS, 0);
    f.backend.offloads_result = -EINVAL;
    cr_assert(accepts(BIT(VIRTIO_NET_F_GUEST_CSUM)));
    start_and_fail();
    f.backend.offloads_result = 0;
    f.backend.queues_result = -EIO;
    cr_assert(accepts(0));
    start_and_fail();
    f.backend.queues_result = 0;
    f.backend.start_result = -ENOMEM;
    cr_assert(accepts(0));
    mmio_guest_enable(&f.guest, 0, 0);
    mmio_guest_enable(&f.guest, 1, 0);
    start_and_fail();
    f.backend.start_result = 0;
    negotiate(&f, 0);
}

/* ---- Commands ---- */

Test(virtio_net, answers_commands_that_make_no_sense)
{
    static const struct {
        uint8_t class, number;
        uint32_t size;
        uint8_t data[20];
    } cases[] = {
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 0, {0}},
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 2, {1, 1}},
        {VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, 2, {1, 1}},
        {VIRTIO_NET_CTRL_RX, 6, 1, {1}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 0, {0}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 3, {0}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 4, {0}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 7, {0}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 8, {1}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 8, {0, 0, 0, 0, 1}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 9, {0}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 13, {1}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 20, {1}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 19, {2}},
        /* 2^32 - 1, and as many as make 6 times as much 4 modulo 2^32. */
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 14, {0xFF, 0xFF, 0xFF, 0xFF}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 12, {0x56, 0x55, 0x55, 0x55}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, 12, {0, 0, 0, 0, 0x56, 0x55, 0x55, 0x55}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 5, {2}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 7, {2}},
        {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 6, {1}},
        {VIRTIO_NET_CTRL_MAC, 2, 6, {2}},
        {VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, 1, {1}},
        {VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, 2, {0x00, 0x10}},
        {VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL, 2, {0xFF, 0xFF}},
        {VIRTIO_NET_CTRL_VLAN, 2, 2, {1}},
        {VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, 1, {0}},
        {VIRTIO_NET_CTRL_ANNOUNCE, 1, 0, {0}},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, {0}},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, {PAIRS + 1}},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2, {0x01, 0x80}},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 1, {1}},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 4, {1}},
        {VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_RSS_CONFIG, 20, {0}},
        {VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, 4, {0}},
        {VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, 8, {1}},
        {VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, 8, {0x80}},
        {VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, 8, {2, 4}},
        {VIRTIO_NET_CTRL_GUEST_OFFLOADS, 1, 8, {0}},
        {6, 0, 8, {0}},
        {255, 255, 20, {0}},
    };
    fixture_start(&f, ALL_OFFLOADS, 0);
    negotiate(&f, mmio_guest_offered(&f.guest) & ~BIT(VIRTIO_F_RING_PACKED));
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++)
        cr_assert_eq(send_command(&f, cases[i].class, cases[i].number, cases[i].data, cases[i].size), ERR,
                     "case %u", i);
    check_mac(net_mac);
    cr_assert_eq(f.backend.used_queues, 1);
    cr_assert_eq(f.backend.guest_offloads, ALL_OFFLOADS);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, (uint8_t[]){1}, 1), OK);
}

Test(virtio_net, answers_commands_that_were_not_negotiated)
{
    fixture_start(&f, ALL_OFFLOADS, 0);
    negotiate(&f, CONTROL);
    uint8_t data[8] = {2};
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, data, 1), ERR);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_NOBCAST, data, 1), ERR);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, (uint8_t[8]){0}, 8),
                 ERR);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, data, 6), ERR);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, data, 2), ERR);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, data, 0), ERR);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, data, 2), ERR);
    cr_assert_eq(
        send_command(&f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, data, 8), ERR);
    check_mac(net_mac);
}

/* Offers one chain of the control queue and waits until it is back. Returns how much was written. */
static uint32_t offer_command(const struct queue_driver_buffer *buffers, unsigned count)
{
    uint32_t written;
    cr_assert(mmio_guest_offer(&f.guest, control_queue(&f), 1, buffers, count, false));
    cr_assert_eq(wait_for_chain(&f, control_queue(&f), &written), 1);
    return written;
}

Test(virtio_net, takes_commands_in_any_layout)
{
    const struct queue_driver_buffer pieces[] = {{OUT, 1, false},     {OUT + 1, 2, false},
                                                 {OUT + 3, 1, false}, {OUT + 4, 4, false},
                                                 {ANSWER, 1, true},   {ANSWER + 1, 9, true}};
    const struct queue_driver_buffer whole[] = {{OUT, 8, false}, {ANSWER, 16, true}};
    const struct queue_driver_buffer silent = {OUT, 8, false}, empty = {ANSWER, 16, true};
    const struct queue_driver_buffer half[] = {{OUT, 1, false}, {ANSWER, 1, true}};
    static const uint8_t command[] = {VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 2, 3, 4, 5, 6};
    uint8_t *out, *status;
    fixture_start(&f, 0, 0);
    negotiate(&f, CONTROL | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR) | BIT(VIRTIO_NET_F_MAC));
    out = memory_at(&f, OUT);
    status = memory_at(&f, ANSWER);
    memcpy(out, command, sizeof(command));
    for (uint8_t i = 0; i < 2; i++) {
        out[7] = i;
        *status = 0xEE;
        cr_assert_eq(i ? offer_command(whole, 2) : offer_command(pieces, 6), 1);
        cr_assert_eq(*status, OK);
        check_mac(out + 2);
    }
    out[7] = 3;
    cr_assert_eq(offer_command(&silent, 1), 0);
    cr_assert_eq(offer_command(&empty, 1), 1);
    cr_assert_eq(*status, ERR);
    *status = 0xEE;
    cr_assert_eq(offer_command(half, 2), 1);
    cr_assert_eq(*status, ERR);
    out[7] = 1;
    check_mac(out + 2);
    mmio_guest_reset(&f.guest);
    check_mac(net_mac);
}

Test(virtio_net, changes_offloads_on_command)
{
    fixture_start(&f, ALL_OFFLOADS, 0);
    uint64_t all = BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO4) | BIT(VIRTIO_NET_F_GUEST_TSO6);
    negotiate(&f, all | CONTROL | BIT(VIRTIO_NET_F_CTRL_GUEST_OFFLOADS));
    uint64_t some = BIT(VIRTIO_NET_F_GUEST_CSUM) | BIT(VIRTIO_NET_F_GUEST_TSO6), none = 0;
    uint64_t other = all | BIT(VIRTIO_NET_F_GUEST_ECN);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &some, 8), OK);
    cr_assert_eq(f.backend.guest_offloads, NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO6);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &other, 8), ERR, "not negotiated");
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &none, 8), OK);
    cr_assert_eq(f.backend.guest_offloads, 0);
    f.backend.offloads_result = -EINVAL;
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &all, 8), ERR);
    f.backend.offloads_result = 0;
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_GUEST_OFFLOADS, 0, &all, 8), OK);
    cr_assert_eq(f.backend.guest_offloads, NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6);
}

/* ---- Pairs of queues ---- */

static uint8_t set_pairs(uint16_t pairs)
{
    return send_command(&f, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, &pairs, sizeof(pairs));
}

static void expect_frame(unsigned pair, uint32_t length)
{
    uint32_t written;
    wait_for_chain(&f, receive_queue(pair), &written);
    cr_assert_eq(written, length);
}

Test(virtio_net, receives_by_as_many_pairs_as_the_driver_says)
{
    fixture_start(&f, 0, 0);
    negotiate(&f, CONTROL | BIT(VIRTIO_NET_F_MQ));
    cr_assert_eq(f.backend.used_queues, 1);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned pair = 0; pair < PAIRS; pair++)
            offer_buffer(&f, pair, IN + (i * PAIRS + pair) * 4096, 2048);
    put_frame(&f, 1, &(struct frame_kind){.vlan = 0}, 101);
    put_frame(&f, 0, &(struct frame_kind){.vlan = 0}, 100);
    expect_frame(0, 100);
    cr_assert_eq(fake_net_waiting(&f.backend, 1), 1);
    cr_assert_eq(set_pairs(2), OK);
    cr_assert_eq(f.backend.used_queues, 2);
    expect_frame(1, 101);
    put_frame(&f, 1, &(struct frame_kind){.vlan = 0}, 102);
    expect_frame(1, 102);
    f.backend.queues_result = -EIO;
    cr_assert_eq(set_pairs(1), ERR);
    put_frame(&f, 1, &(struct frame_kind){.vlan = 0}, 103);
    expect_frame(1, 103);
    f.backend.queues_result = 0;
    cr_assert_eq(set_pairs(1), OK);
    cr_assert_eq(f.backend.used_queues, 1);
    put_frame(&f, 1, &(struct frame_kind){.vlan = 0}, 104);
    put_frame(&f, 0, &(struct frame_kind){.vlan = 0}, 105);
    expect_frame(0, 105);
    cr_assert_eq(fake_net_waiting(&f.backend, 1), 1);
    cr_assert_eq(set_pairs(2), OK);
    expect_frame(1, 104);
    mmio_guest_reset(&f.guest);
    cr_assert_eq(f.backend.used_queues, 1);
}

/* ---- Link and announcements ---- */

static void wait_for_status(uint32_t status)
{
    while (CONFIG(status) != status)
        wait_for_interrupt(&f);
}

Test(virtio_net, tells_of_its_link)
{
    enum {
        GENERATION = 0x0FC
    };
    fixture_start(&f, 0, 0);
    negotiate(&f, BIT(VIRTIO_NET_F_STATUS));
    uint32_t generation = mmio_guest_get(&f.guest, GENERATION);
    fake_net_set_link(&f.backend, false);
    wait_for_interrupt(&f);
    cr_assert_eq(CONFIG(status), 0);
    cr_assert_neq(mmio_guest_get(&f.guest, GENERATION), generation);
    fake_net_set_link(&f.backend, true);
    wait_for_interrupt(&f);
    cr_assert_eq(CONFIG(status), VIRTIO_NET_S_LINK_UP);
}

Test(virtio_net, asks_for_announcements)
{
    fixture_start(&f, 0, 0);
    negotiate(&f, CONTROL | BIT(VIRTIO_NET_F_STATUS) | BIT(VIRTIO_NET_F_GUEST_ANNOUNCE));
    virtio_net_announce(f.net);
    wait_for_status(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    cr_assert_eq(send_command(&f, VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, "", 0), OK);
    cr_assert_eq(CONFIG(status), VIRTIO_NET_S_LINK_UP);
    fake_net_set_link(&f.backend, false);
    wait_for_status(0);
    fake_net_set_link(&f.backend, true);
    wait_for_status(VIRTIO_NET_S_LINK_UP | VIRTIO_NET_S_ANNOUNCE);
    mmio_guest_reset(&f.guest);
    cr_assert_eq(CONFIG(status), VIRTIO_NET_S_LINK_UP);
    negotiate(&f, BIT(VIRTIO_NET_F_STATUS));
    virtio_net_announce(f.net);
    cr_assert_eq(CONFIG(status), VIRTIO_NET_S_LINK_UP, "not negotiated");
}
