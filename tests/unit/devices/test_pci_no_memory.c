/*
 * Every allocation fails once, one after the other, with a loop that nobody runs: there is one thread.
 */
#include <errno.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "devices/pci/msix.h"
#include "devices/virtio/device.h"
#include "devices/virtio/pci.h"
#include "tests/support/failing_malloc.h"
#include "tests/unit/devices/pci_fixture.h"

#define DEVICE 1

static struct virtio_guest guest;
static struct pci_fixture f;
static struct event_loop *loop;
static struct virtio_device device;

static void kicked(struct virtio_device *self, unsigned index, struct virtqueue *queue)
{
}

static void start(void)
{
    static const struct virtio_device_ops ops = {.name = "virtio-none", .id = 1, .kicked = kicked};
    virtio_guest_create(&guest);
    pci_attach(&f, &guest);
    cr_assert_eq(event_loop_create(&loop, NULL), 0);
    struct event_loop *loops[] = {loop, loop};
    struct virtio_device_config config = {
        .ops = &ops, .space = guest.space, .queue_count = 2, .queue_size_max = 16, .loops = loops};
    cr_assert_eq(virtio_device_init(&device, &config, NULL), 0);
}

static void end(void)
{
    virtio_device_destroy(&device);
    event_loop_destroy(loop);
    pci_detach(&f);
    virtio_guest_destroy(&guest);
}

/* Lets each allocation of `action` fail in turn, until it is done, which may be before the last, for not all
 * are needed. Returns how many times it failed. */
static unsigned fail_each(int (*action)(void *opaque, struct error *err), void *opaque)
{
    for (unsigned n = 1;; n++) {
        struct error err = {""};
        failing_malloc_arm(n);
        int result = action(opaque, &err);
        bool failed = failing_malloc_failed();
        failing_malloc_arm(0);
        if (result == 0)
            return n - 1;
        cr_assert(failed);
        cr_assert_eq(result, -ENOMEM);
        cr_assert_neq(err.message[0], 0);
    }
}

static int create_another_bus(void *opaque, struct error *err)
{
    struct pci_bus_config config = {
        .memory = guest.memory, .memory_container = &guest.root, .io_container = &f.io};
    return pci_bus_create(&config, opaque, err);
}

static int create_transport(void *opaque, struct error *err)
{
    static const struct msi_ops msi = {NULL, NULL, NULL, NULL};
    struct virtio_pci_config config = {.memory = guest.memory, .device = &device, .msi = &msi};
    return virtio_pci_create(&config, opaque, err);
}

static int add_transport(void *opaque, struct error *err)
{
    return pci_bus_add(f.bus, DEVICE, 0, virtio_pci_function(opaque), err);
}

TestSuite(pci_no_memory, .init = start, .fini = end);

Test(pci_no_memory, for_a_bus)
{
    struct pci_bus *bus;
    cr_assert_geq(fail_each(create_another_bus, &bus), 1);
    pci_bus_destroy(bus);
}

Test(pci_no_memory, for_a_function)
{
    struct virtio_pci *pci;
    cr_assert_geq(fail_each(create_transport, &pci), 4);
    cr_assert_geq(fail_each(add_transport, pci), 1);
    virtio_pci_destroy(pci);
}

/* Writes something new, and returns whether it has taken place; if not, nothing has. */
static bool write_failing(unsigned n, unsigned offset, uint32_t value)
{
    uint32_t before = config_get(&f, DEVICE, offset, 4);
    const struct memory_region *seen = seen_at(guest.space, WINDOW);
    failing_malloc_arm(n);
    config_set(&f, DEVICE, offset, value, 4);
    bool failed = failing_malloc_failed();
    failing_malloc_arm(0);
    if (config_get(&f, DEVICE, offset, 4) != before)
        return true;
    cr_assert(failed);
    cr_assert_eq(seen_at(guest.space, WINDOW), seen);
    return false;
}

Test(pci_no_memory, for_moving_bars)
{
    static const struct {
        unsigned offset;
        uint32_t value;
        bool seen;
    } steps[] = {{COMMAND, DECODE, true}, {BAR(0), WINDOW + 0x10000, false},
                 {BAR(0), WINDOW, true},  {BAR(0), ONES, false},
                 {BAR(0), WINDOW, true},  {COMMAND, 0, false},
                 {COMMAND, DECODE, true}};
    struct virtio_pci *pci;
    cr_assert_eq(create_transport(&pci, NULL), 0);
    cr_assert_eq(add_transport(pci, NULL), 0);
    config_set(&f, DEVICE, BAR(0), WINDOW, 4);
    for (unsigned i = 0; i < ARRAY_SIZE(steps); i++) {
        unsigned n = 1;
        while (!write_failing(n, steps[i].offset, steps[i].value))
            n++;
        cr_assert_gt(n, 1);
        cr_assert_eq(seen_at(guest.space, WINDOW) != NULL, steps[i].seen, "step %u", i);
    }
    virtio_pci_destroy(pci);
}
