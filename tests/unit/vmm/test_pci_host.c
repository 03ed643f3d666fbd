/*
 * What firmware leaves behind: every BAR is in its window, apart from the others, and its device's region is
 * seen there; as far as a guest can see from configuration space, whose layout is from the specification.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/pci/function.h"
#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "tests/support/virtio_guest.h"
#include "vmm/pci_host.h"

#define ECAM     0xE0000000ull
#define LOW      0xC0000000ull
#define LOW_SIZE 0x100000ull
#define HIGH     0x200000000ull

/* A function with a BAR of each kind. */
struct device {
    struct pci_function function;
    struct memory_region ports, small, big;
};

static struct virtio_guest guest;
static struct memory_region io;
static struct address_space *io_space;
static struct pci_host *host;
static struct device devices[PCI_HOST_FUNCTIONS_MAX];
static unsigned device_count;

static uint64_t read_nothing(void *opaque, uint64_t offset, unsigned size)
{
    return 0;
}

static void write_nothing(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
}

static const struct memory_region_ops region_ops = {
    .read = read_nothing, .write = write_nothing, .impl = {1, 4, false}};

static void ignore_line(void *opaque, unsigned number, bool level)
{
}

static void start_with(uint64_t high_size)
{
    struct pci_host_config config = {
        .bus = {.memory_container = &guest.root, .io_container = &io},
        .windows = {{0x1000, 0x100}, {LOW, LOW_SIZE}, {HIGH, high_size}},
        .irqs = {5, 10, 11, 12},
    };
    virtio_guest_create(&guest);
    config.bus.memory = guest.memory;
    for (unsigned i = 0; i < PCI_LINES; i++)
        config.bus.lines[i].set = ignore_line;
    cr_assert_eq(memory_region_init_container(&io, guest.memory, "io", 0x10000, NULL), 0);
    cr_assert_eq(address_space_create(guest.memory, "io", &io, &io_space, NULL), 0);
    cr_assert_eq(pci_host_create(&config, &host, NULL), 0);
    virtio_guest_map(&guest, ECAM, pci_bus_ecam(pci_host_bus(host)));
    device_count = 0;
}

static void start(void)
{
    start_with(0x100000000);
}

static void end(void)
{
    for (unsigned i = 0; i < device_count; i++)
        pci_function_destroy(&devices[i].function);
    virtio_guest_unmap(&guest, pci_bus_ecam(pci_host_bus(host)));
    pci_host_destroy(host);
    address_space_destroy(io_space);
    for (unsigned i = 0; i < device_count; i++) {
        memory_region_destroy(&devices[i].ports);
        memory_region_destroy(&devices[i].small);
        memory_region_destroy(&devices[i].big);
    }
    memory_region_destroy(&io);
    virtio_guest_destroy(&guest);
}

TestSuite(pci_host, .init = start, .fini = end);

static void init_region(struct memory_region *region, uint64_t size)
{
    cr_assert_eq(memory_region_init_mmio(region, guest.memory, "bar", &region_ops, NULL, size, NULL), 0);
}

static int add(uint64_t big, uint8_t pin, struct error *err)
{
    static const struct pci_function_ops ops = {.config_written = NULL};
    const struct pci_identity identity = {.vendor = 0x1234, .interrupt_pin = pin};
    struct device *device = &devices[device_count];
    pci_function_init(&device->function, "device", &identity, &ops, NULL);
    init_region(&device->ports, 8);
    init_region(&device->small, 0x1000);
    init_region(&device->big, big);
    pci_function_add_bar(&device->function, 0, PCI_BAR_IO, &device->ports);
    pci_function_add_bar(&device->function, 2, PCI_BAR_MEMORY_32, &device->small);
    pci_function_add_bar(&device->function, 4, PCI_BAR_MEMORY_64, &device->big);
    device_count++;
    return pci_host_add(host, &device->function, err);
}

static void set_up(void)
{
    struct error err;
    cr_assert_eq(pci_host_set_up(host, &err), 0, "%s", err.message);
}

static uint32_t config(unsigned device, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    cr_assert_eq(address_space_read(guest.space, ECAM + device * 0x8000ull + offset, &value, size), 0);
    return value;
}

static const struct memory_region *seen_at(struct address_space *space, uint64_t address)
{
    struct flat_view *view = flat_view_get(space);
    const struct flat_range *range = flat_view_find(view, address);
    const struct memory_region *region = range ? range->region : NULL;
    flat_view_put(view);
    return region;
}

/* `size` bytes are all in the window, aligned, and belong to the region. */
static void check_seen(struct address_space *space, uint64_t address, const struct memory_region *region)
{
    uint64_t size = (uint64_t)memory_region_size(region);
    cr_assert_eq(address % size, 0);
    cr_assert_eq(seen_at(space, address), region);
    cr_assert_eq(seen_at(space, address + size - 1), region);
}

Test(pci_host, devices_are_ready)
{
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(add(0x4000, 1, NULL), 0);
    set_up();
    for (unsigned i = 0; i < 5; i++) {
        static const uint8_t lines[] = {10, 11, 12, 5, 10};
        uint32_t ports = config(i + 1, 0x10, 4), small = config(i + 1, 0x18, 4), big = config(i + 1, 0x20, 4);
        cr_assert((ports & 3) == 1 && (small & 7) == 0 && (big & 7) == 4);
        cr_assert_eq(config(i + 1, 0x24, 4), 0, "below 4 GiB");
        cr_assert(ports >= 0x1000 && ports + 8 <= 0x1100);
        cr_assert(small >= LOW && (big & ~7u) + 0x4000ull <= LOW + LOW_SIZE);
        check_seen(io_space, ports & ~3u, &devices[i].ports);
        check_seen(guest.space, small, &devices[i].small);
        check_seen(guest.space, big & ~7u, &devices[i].big);
        cr_assert_eq(config(i + 1, 4, 2), 3, "decodes ports and memory");
        cr_assert_eq(config(i + 1, 0x3C, 1), lines[i], "line of device %u", i + 1);
    }
    cr_assert_eq(config(6, 0, 4), UINT32_MAX);
}

Test(pci_host, large_bars_go_above_4_gib)
{
    cr_assert_eq(add(0x80000, 0, NULL), 0);
    cr_assert_eq(add(0x80000000, 0, NULL), 0);
    cr_assert_eq(add(0x4000, 0, NULL), 0);
    set_up();
    cr_assert_eq(config(1, 0x24, 4), 0);
    cr_assert_eq(config(2, 0x24, 4), HIGH >> 32);
    cr_assert_eq(config(3, 0x24, 4), 0);
    check_seen(guest.space, (uint64_t)config(2, 0x24, 4) << 32 | (config(2, 0x20, 4) & ~7u), &devices[1].big);
    cr_assert_eq(config(1, 0x3C, 1), 0, "no pin");
}

Test(pci_host, no_room)
{
    struct error err;
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(add(0x80000000, 0, NULL), 0);
    cr_assert_eq(pci_host_set_up(host, &err), -ENOSPC);
    cr_assert(strstr(err.message, "0x80000000 bytes of BAR 4 of device"), "%s", err.message);
}

Test(pci_host, as_many_as_fit)
{
    struct error err;
    for (unsigned i = 0; i < PCI_HOST_FUNCTIONS_MAX; i++)
        cr_assert_eq(add(0x1000, 0, NULL), 0);
    set_up();
    struct device *last = &devices[PCI_HOST_FUNCTIONS_MAX - 1];
    check_seen(io_space, config(PCI_HOST_FUNCTIONS_MAX, 0x10, 4) & ~3u, &last->ports);

    struct pci_function other;
    static const struct pci_function_ops ops = {.config_written = NULL};
    pci_function_init(&other, "other", &(struct pci_identity){.vendor = 1}, &ops, NULL);
    cr_assert_eq(pci_host_add(host, &other, &err), -ENOSPC);
    cr_assert(strstr(err.message, "at most 31 PCI devices"), "%s", err.message);
    pci_function_destroy(&other);
}

Test(pci_host_low, no_high_window, .fini = end)
{
    struct error err;
    start_with(0);
    cr_assert_eq(add(2 * LOW_SIZE, 0, NULL), 0);
    cr_assert_eq(pci_host_set_up(host, &err), -ENOSPC);
}
