/*
 * A function with one BAR of each kind, and what a guest does to it through ECAM.
 */
#include <errno.h>

#include "base/error.h"
#include "memory/listener.h"
#include "tests/unit/devices/pci_fixture.h"

#define DEVICE     3
#define SIZE_32    0x1000u
#define SIZE_64    0x4000u
#define SIZE_PORTS 0x20u
#define CAP_BODY   "\x11\x22\x33\x44\x55\x66"

struct device {
    struct pci_function function;
    struct memory_region bar_32, bar_64, bar_ports;
    unsigned reads, writes; /* of which it has been told */
    unsigned offset, size;  /* of the last */
};

static struct virtio_guest guest;
static struct pci_fixture f;
static struct device device, other;
static unsigned capability;

static uint64_t bar_read(void *opaque, uint64_t offset, unsigned size)
{
    return 0x5A;
}

static void note_reading(struct pci_function *function, unsigned offset, unsigned size)
{
    struct device *self = container_of(function, struct device, function);
    self->reads++;
    self->offset = offset;
    self->size = size;
}

static void note_written(struct pci_function *function, unsigned offset, unsigned size)
{
    struct device *self = container_of(function, struct device, function);
    self->writes++;
    self->offset = offset;
    self->size = size;
}

static void create_device(struct device *self, unsigned number)
{
    static const struct memory_region_ops bar_ops = {.read = bar_read};
    static const struct pci_function_ops ops = {note_reading, note_written};
    static const struct pci_identity identity = {.vendor = 0x1234,
                                                 .device = 0x5678,
                                                 .subsystem_vendor = 0x9ABC,
                                                 .subsystem = 0xDEF0,
                                                 .class_code = 0x018000,
                                                 .revision = 7,
                                                 .interrupt_pin = 1};
    struct memory *memory = f.guest->memory;
    memory_region_init_mmio(&self->bar_32, memory, "bar-32", &bar_ops, self, SIZE_32, NULL);
    memory_region_init_mmio(&self->bar_64, memory, "bar-64", &bar_ops, self, SIZE_64, NULL);
    memory_region_init_mmio(&self->bar_ports, memory, "bar-ports", &bar_ops, self, SIZE_PORTS, NULL);
    pci_function_init(&self->function, "device", &identity, &ops, NULL);
    pci_function_add_bar(&self->function, 0, PCI_BAR_MEMORY_32, &self->bar_32);
    pci_function_add_bar(&self->function, 1, PCI_BAR_IO, &self->bar_ports);
    pci_function_add_bar(&self->function, 4, PCI_BAR_MEMORY_64, &self->bar_64);
    capability = pci_function_add_capability(&self->function, 9, CAP_BODY, "\0\0\xFF\x0F\0\0", 6);
    pci_function_add_capability(&self->function, 0x11, CAP_BODY, NULL, 3);
    cr_assert_eq(pci_bus_add(f.bus, number, 0, &self->function, NULL), 0);
}

static void destroy_device(struct device *self)
{
    pci_function_destroy(&self->function);
    memory_region_destroy(&self->bar_32);
    memory_region_destroy(&self->bar_64);
    memory_region_destroy(&self->bar_ports);
}

static void start(void)
{
    virtio_guest_create(&guest);
    pci_attach(&f, &guest);
    create_device(&device, DEVICE);
    create_device(&other, DEVICE + 1);
}

static void end(void)
{
    destroy_device(&device);
    destroy_device(&other);
    pci_detach(&f);
    virtio_guest_destroy(&guest);
}

static uint32_t get(unsigned offset, unsigned size)
{
    return config_get(&f, DEVICE, offset, size);
}

static void set(unsigned offset, uint32_t value, unsigned size)
{
    config_set(&f, DEVICE, offset, value, size);
}

static const struct memory_region *seen(uint64_t address)
{
    return seen_at(f.guest->space, address);
}

TestSuite(pci_function, .init = start, .fini = end);

Test(pci_function, says_what_it_is)
{
    cr_assert_eq(get(VENDOR, 4), 0x56781234);
    cr_assert_eq(get(CLASS, 4), 0x01800007);
    cr_assert_eq(get(SUBSYSTEM, 4), 0xDEF09ABC);
    cr_assert_eq(get(PIN, 1), 1);
    cr_assert_eq(get(HEADER_TYPE, 1), 0);
    cr_assert_eq(get(COMMAND, 2), 0);
    cr_assert_eq(get(VENDOR + 1, 1), 0x12);
    cr_assert_eq(get(VENDOR + 2, 2), 0x5678);
}

Test(pci_function, has_no_extended_capabilities)
{
    set(0x100, ONES, 4);
    cr_assert_eq(get(0x100, 4), 0);
    cr_assert_eq(get(0xFFC, 4), 0);
}

Test(pci_function, only_what_is_writable_can_be_written)
{
    uint8_t expected[256] = {0};
    for (unsigned i = 0; i < 256; i++)
        expected[i] = (uint8_t)get(i, 1);
    for (unsigned i = 0; i < 256; i++)
        set(i, 0xFF, 1);
    memcpy(expected + COMMAND, (uint8_t[]){DECODE_IO | DECODE | MASTER, INTX_OFF >> 8}, 2);
    memcpy(expected + BAR(0), "\x00\xF0\xFF\xFF\xE1\xFF\xFF\xFF", 8);
    memcpy(expected + BAR(4), "\x04\xC0\xFF\xFF\xFF\xFF\xFF\xFF", 8);
    expected[LINE] = 0xFF;
    expected[capability + 4] = 0xFF;
    expected[capability + 5] = 0x4F;
    for (unsigned i = 0; i < 256; i++)
        cr_assert_eq(get(i, 1), expected[i], "byte 0x%x is 0x%x", i, get(i, 1));
}

Test(pci_function, lists_capabilities)
{
    cr_assert(get(STATUS, 2) & 0x10);
    unsigned at = get(CAPABILITIES, 1);
    cr_assert_eq(at, capability);
    cr_assert_eq(get(at, 1), 9);
    cr_assert_eq(get(at + 2, 2), 0x2211);
    at = get(at + 1, 1);
    cr_assert_eq(at % 4, 0);
    cr_assert_eq(get(at, 1), 0x11);
    cr_assert_eq(get(at + 1, 1), 0);
    cr_assert_eq(get(at + 4, 1), 0x33);
}

Test(pci_function, tells_its_device)
{
    get(capability, 2);
    cr_assert_eq(device.reads, 1);
    cr_assert_eq(device.offset, capability);
    cr_assert_eq(device.size, 2);
    set(capability + 1, 0, 1);
    cr_assert_eq(device.writes, 1);
    cr_assert_eq(device.offset, capability + 1);
    cr_assert_eq(device.size, 1);
}

Test(pci_function, lets_its_device_change_capabilities)
{
    uint8_t bytes[2] = {0xAB, 0xCD};
    pci_function_set(&device.function, capability + 2, bytes, 2);
    cr_assert_eq(get(capability + 2, 2), 0xCDAB);
    pci_function_get(&device.function, capability + 3, bytes, 1);
    cr_assert_eq(bytes[0], 0xCD);
}

Test(pci_function, bars_tell_their_sizes)
{
    for (unsigned i = 0; i < 6; i++)
        set(BAR(i), ONES, 4);
    cr_assert_eq(get(BAR(0), 4), ~(SIZE_32 - 1));
    cr_assert_eq(get(BAR(1), 4), ~(SIZE_PORTS - 1) | 1);
    cr_assert_eq(get(BAR(2), 4), 0);
    cr_assert_eq(get(BAR(3), 4), 0);
    cr_assert_eq(get(BAR(4), 4), ~(SIZE_64 - 1) | 4);
    cr_assert_eq(get(BAR(5), 4), ONES);
}

Test(pci_function, bars_are_where_the_guest_puts_them)
{
    set(BAR(0), WINDOW, 4);
    set(BAR(1), 0xC000, 4);
    set(BAR(4), 0x4000, 4);
    set(BAR(5), 0x12, 4);
    cr_assert_null(seen(WINDOW));
    set_command(&f, DEVICE, DECODE);
    cr_assert_eq(seen(WINDOW), &device.bar_32);
    cr_assert_eq(seen(WINDOW + SIZE_32 - 1), &device.bar_32);
    cr_assert_null(seen(WINDOW + SIZE_32));
    cr_assert_eq(seen(0x1200004000), &device.bar_64);
    cr_assert_eq(load(f.guest->space, 0x1200004000, 1), 0x5A);
    cr_assert_null(seen_at(f.io_space, 0xC000));
    set_command(&f, DEVICE, DECODE_IO);
    cr_assert_null(seen(WINDOW));
    cr_assert_null(seen(0x1200004000));
    cr_assert_eq(seen_at(f.io_space, 0xC01F), &device.bar_ports);
}

Test(pci_function, bars_move_while_they_are_decoded)
{
    set_command(&f, DEVICE, DECODE | DECODE_IO);
    set(BAR(0), WINDOW, 4);
    cr_assert_eq(seen(WINDOW), &device.bar_32);
    set(BAR(0), WINDOW + 0x5FFF, 4); /* the low bits are not there */
    cr_assert_null(seen(WINDOW));
    cr_assert_eq(seen(WINDOW + 0x5000), &device.bar_32);
    set(BAR(1), 0x1FFE0, 4); /* beyond the ports that there are */
    cr_assert_null(seen_at(f.io_space, 0xFFE0));
}

Test(pci_function, a_bar_being_sized_is_nowhere)
{
    set(BAR(0), WINDOW, 4);
    set(BAR(5), 1, 4);
    set_command(&f, DEVICE, DECODE);
    set(BAR(0), ONES, 4);
    cr_assert_null(seen(WINDOW));
    cr_assert_null(seen(0xFFFFF000));
    set(BAR(0), WINDOW, 4);
    cr_assert_eq(seen(WINDOW), &device.bar_32);
    cr_assert_eq(seen(0x100000000), &device.bar_64);
    set(BAR(4), ONES, 4);
    cr_assert_null(seen(0x100000000));
    cr_assert_null(seen(0x1FFFFC000));
    set(BAR(5), ONES, 4);
    set(BAR(4), 0, 4);
    cr_assert_null(seen(0xFFFFFFFF00000000));
    set(BAR(5), 1, 4);
    cr_assert_eq(seen(0x100000000), &device.bar_64);
}

Test(pci_function, a_bar_can_be_at_the_very_top)
{
    set_command(&f, DEVICE, DECODE);
    set(BAR(5), 0xFFFFFFFE, 4);
    set(BAR(5) + 0, 0xFF, 1);
    set(BAR(4), 0xFFFFC004, 4);
    cr_assert_eq(seen(UINT64_MAX), &device.bar_64);
}

Test(pci_function, ram_is_above_bars)
{
    set_command(&f, DEVICE, DECODE);
    cr_assert_eq(seen(0), &f.guest->ram);
    set(BAR(0), 0x1000, 4);
    cr_assert_eq(seen(0x1000), &f.guest->ram);
    store(f.guest->space, 0x1000, 0x1234, 4);
    cr_assert_eq(load(f.guest->space, 0x1000, 4), 0x1234);
    set(BAR(0), VIRTIO_GUEST_RAM, 4);
    cr_assert_eq(seen(VIRTIO_GUEST_RAM), &device.bar_32);
    cr_assert_eq(load(f.guest->space, 0x1000, 4), 0x1234);
}

Test(pci_function, fixed_devices_are_above_bars)
{
    set_command(&f, DEVICE, DECODE | DECODE_IO);
    set(BAR(0), ECAM, 4);
    set(BAR(1), 0xCE0, 4);
    cr_assert_eq(seen(ECAM), pci_bus_ecam(f.bus));
    cr_assert_eq(seen_at(f.io_space, 0xCF8), pci_bus_ports(f.bus));
    cr_assert_eq(get(BAR(0), 4), ECAM);
}

Test(pci_function, of_bars_over_each_other_the_last_is_seen)
{
    set(BAR(0), WINDOW, 4);
    config_set(&f, DEVICE + 1, BAR(4), WINDOW, 4);
    set_command(&f, DEVICE, DECODE);
    set_command(&f, DEVICE + 1, DECODE);
    cr_assert_eq(seen(WINDOW), &other.bar_64);
    set(BAR(0), WINDOW + SIZE_32, 4);
    cr_assert_eq(seen(WINDOW), &other.bar_64);
    cr_assert_eq(seen(WINDOW + SIZE_32), &device.bar_32);
    cr_assert_eq(seen(WINDOW + 2 * SIZE_32), &other.bar_64);
    set_command(&f, DEVICE, 0);
    cr_assert_eq(seen(WINDOW + SIZE_32), &other.bar_64);
    set(BAR(4), WINDOW, 4);
    set_command(&f, DEVICE, DECODE);
    cr_assert_eq(seen(WINDOW), &device.bar_64);
    set_command(&f, DEVICE + 1, 0);
    set_command(&f, DEVICE, 0);
    cr_assert_null(seen(WINDOW));
}

/* ---- Refusals ---- */

static bool refusing;

static int refuse(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return refusing ? error_set(err, ENOSPC, "no slot is left") : 0;
}

static unsigned count_commits;

static void committed(struct memory_listener *listener, const struct memory_change *change)
{
    count_commits++;
}

static const struct memory_listener_ops listener_ops = {.prepare = refuse, .commit = committed};
static struct memory_listener listener = {.name = "refuser", .ops = &listener_ops};

Test(pci_function, a_refused_move_has_not_taken_place)
{
    cr_assert_eq(memory_listener_register(&listener, f.guest->space, NULL), 0);
    set(BAR(0), WINDOW, 4);
    set_command(&f, DEVICE, DECODE);
    refusing = true;
    set(BAR(0), WINDOW + 0x10000, 4);
    cr_assert_eq(get(BAR(0), 4), WINDOW);
    cr_assert_eq(seen(WINDOW), &device.bar_32);
    set_command(&f, DEVICE, 0);
    cr_assert_eq(get(COMMAND, 2), DECODE);
    set(BAR(0), ONES, 4);
    cr_assert_eq(get(BAR(0), 4), WINDOW);
    refusing = false;
    set(BAR(0), WINDOW + 0x10000, 4);
    cr_assert_eq(seen(WINDOW + 0x10000), &device.bar_32);
    cr_assert_null(seen(WINDOW));
    set_command(&f, DEVICE, 0);
    cr_assert_null(seen(WINDOW + 0x10000));
    memory_listener_unregister(&listener);
}

Test(pci_function, each_write_is_one_transaction_or_none)
{
    cr_assert_eq(memory_listener_register(&listener, f.guest->space, NULL), 0);
    count_commits = 0;
    set(BAR(0), WINDOW, 4);
    set(BAR(4), WINDOW + 0x10000, 4);
    cr_assert_eq(count_commits, 0);
    set_command(&f, DEVICE, DECODE);
    cr_assert_eq(count_commits, 1);
    set_command(&f, DEVICE, DECODE | MASTER);
    set(BAR(0), WINDOW, 4);
    cr_assert_eq(count_commits, 1);
    set(BAR(0), WINDOW + 0x1000, 4);
    cr_assert_eq(count_commits, 2);
    memory_listener_unregister(&listener);
}

Test(pci_function, writes_of_all_kinds_leave_ram_alone)
{
    uint64_t random = 1;
    store(f.guest->space, 0x8000, 0xC0FFEE, 4);
    for (unsigned i = 0; i < 20000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned size = 1u << (random >> 60) % 3;
        unsigned offset = (unsigned)(random >> 32) % 0x100 & ~(size - 1);
        set(offset, (uint32_t)(random >> 20), size);
    }
    cr_assert_eq(load(f.guest->space, 0x8000, 4), 0xC0FFEE);
    for (uint64_t address = 0; address < VIRTIO_GUEST_RAM; address += 0x1000)
        cr_assert_eq(seen(address), &f.guest->ram);
    cr_assert_eq(get(VENDOR, 4), 0x56781234);
}
