/*
 * Every allocation of the network device's fails once, one after the other, with loops that nobody runs:
 * there is one thread, and queues are served in place when they are started.
 */
#include <poll.h>

#include "base/error.h"
#include "devices/virtio/device.h"
#include "tests/support/failing_malloc.h"
#include "tests/unit/devices/net_fixture.h"

static struct fake_net backend;
static struct mmio_guest guest;
static struct event_loop *loop;
static struct virtio_net *net;

static void start(void)
{
    fake_net_create(&backend, PAIRS, 0, 0);
    mmio_guest_create(&guest);
    cr_assert_eq(event_loop_create(&loop, NULL), 0);
}

static void end(void)
{
    virtio_net_destroy(net);
    event_loop_destroy(loop);
    mmio_guest_destroy(&guest);
    fake_net_destroy(&backend);
}

TestSuite(virtio_net_no_memory, .init = start, .fini = end);

static int create(struct error *err)
{
    struct event_loop *loops[] = {loop, loop};
    struct virtio_net_setup setup = {.backend = &backend.backend, .space = guest.guest.space, .loops = loops};
    return virtio_net_create(&setup, &net, err);
}

Test(virtio_net_no_memory, for_a_device)
{
    unsigned failures = 0;
    for (unsigned n = 1;; n++) {
        struct error err = {""};
        failing_malloc_arm(n);
        int result = create(&err);
        bool failed = failing_malloc_failed();
        failing_malloc_arm(0);
        cr_assert_eq(result, failed ? -ENOMEM : 0);
        if (!failed)
            break;
        cr_assert(strstr(err.message, "not enough memory"), "%s", err.message);
        failures++;
    }
    cr_assert_geq(failures, 4);
}

/* Has a chain on this queue served at the start, while the n-th allocation fails. Whether one did. */
static bool fail_in_queue(unsigned queue, bool writable, unsigned n)
{
    struct queue_driver_buffer buffers[] = {{OUT, 100, writable}, {OUT + 200, 100, writable}};
    uint8_t frame[100] = {0};
    virtio_accept_features(virtio_net_device(net), 0, (uint32_t)(CONTROL | MERGE));
    virtio_accept_features(virtio_net_device(net), 1, 1);
    mmio_guest_set(&guest, MMIO_GUEST_STATUS, 0x0B);
    mmio_guest_enable(&guest, queue, 0);
    cr_assert(mmio_guest_offer(&guest, queue, 0, buffers, 2, false));
    if (!fake_net_waiting(&backend, 0))
        fake_net_put(&backend, 0, frame, sizeof(frame));
    failing_malloc_arm(n);
    mmio_guest_set(&guest, MMIO_GUEST_STATUS, 0x0F);
    bool failed = failing_malloc_failed();
    failing_malloc_arm(0);
    bool broken = mmio_guest_get(&guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
    cr_assert_eq(broken, failed, "queue %u, allocation %u", queue, n);
    mmio_guest_reset(&guest);
    return failed;
}

Test(virtio_net_no_memory, for_a_chain)
{
    cr_assert_eq(create(NULL), 0);
    mmio_guest_plug(&guest, virtio_net_device(net), QUEUES);
    fake_net_set_room(&backend, 0, 0);
    for (unsigned queue = 0; queue < 3; queue++) {
        unsigned n = 1;
        while (fail_in_queue(queue, queue == 0, n))
            n++;
        cr_assert_geq(n, 4, "queue %u", queue);
    }
    mmio_guest_unplug(&guest);
}
