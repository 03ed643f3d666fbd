/*
 * What the tests of the network device share: a guest that has one with two pairs of queues, each served by
 * an I/O thread, on a backend in memory.
 */
#pragma once

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stddef.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/event_loop.h"
#include "base/io_thread.h"
#include "base/macros.h"
#include "devices/virtio/net.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "tests/support/fake_net.h"
#include "tests/support/mmio_guest.h"

#define PAIRS        2
#define QUEUES       (2 * PAIRS + 1)
#define BIT(number)  ((uint64_t)1 << (number))
#define HEADER       NET_HEADER_SIZE
#define ALL_OFFLOADS (NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 | NET_OFFLOAD_ECN)
#define CONTROL      BIT(VIRTIO_NET_F_CTRL_VQ)
#define MERGE        BIT(VIRTIO_NET_F_MRG_RXBUF)
#define ALL_FILTERS                                                                                          \
    (CONTROL | BIT(VIRTIO_NET_F_MAC) | BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_RX_EXTRA) |         \
     BIT(VIRTIO_NET_F_CTRL_VLAN) | BIT(VIRTIO_NET_F_CTRL_MAC_ADDR))

/* Places in the guest's RAM. */
#define OUT    MMIO_GUEST_DATA /* commands; frames to send */
#define ANSWER (OUT + 0x1F000)
#define IN     (OUT + 0x20000) /* frames received */

static const uint8_t net_mac[] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

struct net_fixture {
    struct fake_net backend; /* unless it is another */
    struct io_thread *threads[PAIRS];
    struct mmio_guest guest;
    struct virtio_net *net;
    uint64_t features; /* that were negotiated last */
};

static inline void fixture_start_on(struct net_fixture *f, struct net_backend *backend)
{
    struct event_loop *loops[PAIRS];
    cr_assert_eq(backend->queue_count, PAIRS);
    for (unsigned i = 0; i < PAIRS; i++) {
        cr_assert_eq(io_thread_create("net", &f->threads[i], NULL), 0);
        loops[i] = io_thread_loop(f->threads[i]);
    }
    mmio_guest_create(&f->guest);
    struct virtio_net_setup setup = {
        .backend = backend,
        .space = f->guest.guest.space,
        .loops = loops,
    };
    memcpy(setup.mac, net_mac, sizeof(setup.mac));
    cr_assert_eq(virtio_net_create(&setup, &f->net, NULL), 0);
    mmio_guest_plug(&f->guest, virtio_net_device(f->net), QUEUES);
}

static inline void fixture_end_on(struct net_fixture *f)
{
    mmio_guest_unplug(&f->guest);
    virtio_net_destroy(f->net);
    for (unsigned i = 0; i < PAIRS; i++)
        io_thread_destroy(f->threads[i]);
    mmio_guest_destroy(&f->guest);
}

static inline void fixture_start(struct net_fixture *f, unsigned offloads, uint16_t mtu)
{
    *f = (struct net_fixture){.net = NULL};
    fake_net_create(&f->backend, PAIRS, offloads, mtu);
    fixture_start_on(f, &f->backend.backend);
}

static inline void fixture_end(struct net_fixture *f)
{
    fixture_end_on(f);
    fake_net_destroy(&f->backend);
}

static inline void negotiate(struct net_fixture *f, uint64_t features)
{
    f->features = features;
    mmio_guest_start(&f->guest, features);
}

static inline unsigned receive_queue(unsigned pair)
{
    return 2 * pair;
}

static inline unsigned transmit_queue(unsigned pair)
{
    return 2 * pair + 1;
}

static inline void *memory_at(struct net_fixture *f, uint64_t address)
{
    return mmio_guest_memory(&f->guest, address);
}

static inline void wait_for_interrupt(struct net_fixture *f)
{
    struct pollfd wait = {.fd = f->guest.irq_fd, .events = POLLIN};
    eventfd_t count;
    cr_assert_eq(poll(&wait, 1, -1), 1);
    eventfd_read(f->guest.irq_fd, &count);
}

/* Waits for the next chain that a queue gives back. Returns its token. */
static inline unsigned wait_for_chain(struct net_fixture *f, unsigned queue, uint32_t *written)
{
    struct queue_driver *driver = &f->guest.drivers[queue];
    unsigned token;
    while (!queue_driver_collect(driver, &token, written)) {
        cr_assert(!driver->failed);
        if (!queue_driver_unmask(driver, 0))
            wait_for_interrupt(f);
    }
    return token;
}

/* Offers a buffer to receive into; its address says its token. */
static inline void offer_buffer(struct net_fixture *f, unsigned pair, uint64_t address, uint32_t length)
{
    struct queue_driver_buffer buffer = {address, length, true};
    cr_assert(mmio_guest_offer(&f->guest, receive_queue(pair),
                               (unsigned)(address - IN) / 4096 % MMIO_GUEST_TABLES, &buffer, 1, false));
}

struct frame_kind {
    const uint8_t *destination;
    unsigned type; /* of the packet; 0: that of an experiment */
    unsigned vlan; /* with ETH_P_8021Q */
    struct virtio_net_hdr_v1 header;
};

/* Fills `frame` with one of this length, header included. Returns the length. */
static inline uint32_t make_frame(uint8_t *frame, const struct frame_kind *kind, uint32_t length)
{
    for (uint32_t i = HEADER; i < length; i++)
        frame[i] = (uint8_t)(i * 7 + i / 256 + length);
    memcpy(frame, &kind->header, HEADER);
    memcpy(frame + HEADER, kind->destination ? kind->destination : net_mac, ETH_ALEN);
    unsigned type = kind->type ? kind->type : 0x88B5;
    frame[HEADER + 12] = (uint8_t)(type >> 8);
    frame[HEADER + 13] = (uint8_t)type;
    frame[HEADER + 14] = (uint8_t)(kind->vlan >> 8);
    frame[HEADER + 15] = (uint8_t)kind->vlan;
    return length;
}

/* A frame for the guest. */
static inline void put_frame(struct net_fixture *f, unsigned pair, const struct frame_kind *kind,
                             uint32_t length)
{
    static uint8_t frame[NET_FRAME_MAX];
    fake_net_put(&f->backend, pair, frame, make_frame(frame, kind, length));
}

static inline unsigned control_queue(const struct net_fixture *f)
{
    return f->features & BIT(VIRTIO_NET_F_MQ) ? 2 * PAIRS : 2;
}

/* Has a command of these bytes carried out, data in a buffer of its own. Returns the answer. */
static inline uint8_t send_command(struct net_fixture *f, uint8_t class, uint8_t number, const void *data,
                                   uint32_t size)
{
    struct queue_driver_buffer buffers[] = {{OUT, 2, false}, {OUT + 2, size, false}, {ANSWER, 1, true}};
    uint8_t *out = memory_at(f, OUT), *status = memory_at(f, ANSWER);
    uint32_t written;
    out[0] = class;
    out[1] = number;
    memcpy(out + 2, data, size);
    *status = 0xEE;
    cr_assert(mmio_guest_offer(&f->guest, control_queue(f), 5, buffers, 3, false));
    cr_assert_eq(wait_for_chain(f, control_queue(f), &written), 5);
    cr_assert_eq(written, 1);
    return *status;
}
