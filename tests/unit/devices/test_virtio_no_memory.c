#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>

#include "base/error.h"
#include "devices/virtio/mmio.h"
#include "tests/support/failing_malloc.h"
#include "tests/unit/devices/virtio_fixture.h"

/* Every allocation fails once, one after the other, with loops that nobody runs: there is one thread. */
static struct virtio_guest guest;
static struct event_loop *loop;

static void start(void)
{
    virtio_guest_create(&guest);
    cr_assert_eq(event_loop_create(&loop, NULL), 0);
}

static void end(void)
{
    event_loop_destroy(loop);
    virtio_guest_destroy(&guest);
}

TestSuite(virtio_no_memory, .init = start, .fini = end);

static void kicked(struct virtio_device *device, unsigned index, struct virtqueue *queue)
{
}

static int init(struct virtio_device *device, struct error *err)
{
    static const struct virtio_device_ops ops = {.name = "virtio-none", .id = 1, .kicked = kicked};
    struct event_loop *loops[] = {loop, loop};
    struct virtio_device_config config = {
        .ops = &ops, .space = guest.space, .queue_count = 2, .queue_size_max = 16, .loops = loops};
    *device = (struct virtio_device){.ops = NULL};
    return virtio_device_init(device, &config, err);
}

Test(virtio_no_memory, for_a_device)
{
    struct virtio_device device;
    unsigned failures = 0;
    for (unsigned n = 1;; n++) {
        struct error err = {""};
        failing_malloc_arm(n);
        int result = init(&device, &err);
        bool failed = failing_malloc_failed();
        failing_malloc_arm(0);
        cr_assert_eq(result, failed ? -ENOMEM : 0);
        if (!failed)
            break;
        cr_assert(strstr(err.message, "not enough memory"), "%s", err.message);
        failures++;
    }
    cr_assert_geq(failures, 3);
    virtio_device_destroy(&device);
}

Test(virtio_no_memory, for_its_registers)
{
    struct virtio_device device;
    struct virtio_mmio *mmio;
    cr_assert_eq(init(&device, NULL), 0);
    unsigned failures = 0;
    for (unsigned n = 1;; n++) {
        struct error err = {""};
        failing_malloc_arm(n);
        int result = virtio_mmio_create(guest.memory, &device, -1, &mmio, &err);
        bool failed = failing_malloc_failed();
        failing_malloc_arm(0);
        cr_assert_eq(result, failed ? -ENOMEM : 0);
        if (!failed)
            break;
        cr_assert_neq(err.message[0], 0);
        failures++;
    }
    cr_assert_geq(failures, 2);
    virtio_mmio_destroy(mmio);
    virtio_device_destroy(&device);
}

Test(virtio_no_memory, for_a_queue)
{
    struct virtio_device device;
    cr_assert_eq(init(&device, NULL), 0);
    struct virtio_queue_setup setup = {.size = 16, .descriptors = 0x1000, .driver = 0x2000, .device = 0x3000};
    for (unsigned n = 1; n < 3; n++) {
        virtio_accept_features(&device, 1, (uint32_t)(VERSION_1 >> 32));
        virtio_queue_set_setup(&device, 0, &setup);
        virtio_queue_enable(&device, 0);
        failing_malloc_arm(n == 1);
        virtio_set_status(&device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        failing_malloc_arm(0);
        cr_assert_eq(!!(virtio_get_status(&device) & NEEDS_RESET), n == 1);
        virtio_set_status(&device, 0);
    }
    virtio_device_destroy(&device);
}

Test(virtio_no_memory, nor_descriptors)
{
    struct virtio_device device;
    struct error err = {""};
    struct rlimit limit, few;
    getrlimit(RLIMIT_NOFILE, &limit);
    int next = fcntl(0, F_DUPFD, 0);
    close(next);
    few = (struct rlimit){(rlim_t)next + 1, limit.rlim_max};
    setrlimit(RLIMIT_NOFILE, &few);
    int result = init(&device, &err);
    setrlimit(RLIMIT_NOFILE, &limit);
    cr_assert_eq(result, -EMFILE);
    cr_assert(strstr(err.message, "virtio-none queue 1"), "%s", err.message);
    cr_assert_eq(init(&device, &err), 0);
    virtio_device_destroy(&device);
}
