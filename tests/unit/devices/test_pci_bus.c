/*
 * How a guest finds functions, and how their interrupt pins find the machine.
 */
#include <errno.h>

#include "base/error.h"
#include "tests/unit/devices/pci_fixture.h"

#define ADDRESS 0xCF8
#define DATA    0xCFC

static struct virtio_guest guest;
static struct pci_fixture f;
static struct pci_function functions[6];

/* Where each is. Pins A, A and B are wired to one line: those of 1, 5 and 8. */
static const struct {
    unsigned device, function;
    uint8_t pin;
} places[] = {{1, 0, 1}, {5, 0, 1}, {8, 0, 2}, {31, 0, 4}, {31, 7, 1}, {9, 0, 0}};

static void start(void)
{
    static const struct pci_function_ops ops = {.config_written = NULL};
    virtio_guest_create(&guest);
    pci_attach(&f, &guest);
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        struct pci_identity identity = {
            .vendor = 0x1234, .device = (uint16_t)i, .interrupt_pin = places[i].pin};
        pci_function_init(&functions[i], "function", &identity, &ops, NULL);
        cr_assert_eq(pci_bus_add(f.bus, places[i].device, places[i].function, &functions[i], NULL), 0);
    }
}

static void end(void)
{
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++)
        pci_function_destroy(&functions[i]);
    pci_detach(&f);
    virtio_guest_destroy(&guest);
}

static uint32_t in(unsigned port, unsigned size)
{
    return load(f.io_space, port, size);
}

static void out(unsigned port, uint32_t value, unsigned size)
{
    store(f.io_space, port, value, size);
}

static void aim(unsigned device, unsigned function, unsigned offset)
{
    out(ADDRESS, 0x80000000 | device << 11 | function << 8 | (offset & 0xFC), 4);
}

TestSuite(pci_bus, .init = start, .fini = end);

Test(pci_bus, begins_with_a_host_bridge)
{
    cr_assert_neq(config_get(&f, 0, VENDOR, 2), 0xFFFF);
    cr_assert_eq(config_get(&f, 0, CLASS, 4) >> 8, 0x060000);
    cr_assert_eq(config_get(&f, 0, HEADER_TYPE, 1), 0);
}

Test(pci_bus, both_mechanisms_show_the_same)
{
    for (unsigned device = 0; device < 32; device++) {
        for (unsigned function = 0; function < 8; function++) {
            for (unsigned offset = 0; offset < 256; offset += 4) {
                aim(device, function, offset);
                uint64_t ecam = ECAM + device * 0x8000 + function * 0x1000 + offset;
                cr_assert_eq(in(DATA, 4), load(f.guest->space, ecam, 4));
            }
        }
    }
}

Test(pci_bus, what_is_not_there_reads_as_ones)
{
    unsigned found = 0;
    for (unsigned devfn = 0; devfn < 256; devfn++) {
        uint32_t vendor = load(f.guest->space, ECAM + devfn * 0x1000, 4);
        found += vendor != ONES;
    }
    cr_assert_eq(found, ARRAY_SIZE(places) + 1);
    store(f.guest->space, ECAM + 2 * 0x8000, 0, 4);
    cr_assert_eq(config_get(&f, 2, 0x40, 1), 0xFF);
    out(ADDRESS, 0x80010000, 4); /* bus 1 */
    cr_assert_eq(in(DATA, 4), ONES);
    out(ADDRESS, 0x00000000, 4); /* disabled */
    cr_assert_eq(in(DATA, 4), ONES);
    out(DATA, 0, 4);
}

Test(pci_bus, the_data_port_takes_every_width)
{
    aim(5, 0, 0);
    cr_assert_eq(in(DATA, 4), 0x00011234);
    cr_assert_eq(in(DATA, 2), 0x1234);
    cr_assert_eq(in(DATA + 1, 1), 0x12);
    cr_assert_eq(in(DATA + 1, 2), 0x0112);
    cr_assert_eq(in(DATA + 2, 2), 0x0001);
    aim(5, 0, LINE);
    out(DATA, 0x77, 1);
    cr_assert_eq(config_get(&f, 5, LINE, 2), 0x0177);
    aim(5, 0, COMMAND);
    out(DATA + 1, 4, 1);
    cr_assert_eq(config_get(&f, 5, COMMAND, 2), INTX_OFF);
}

Test(pci_bus, the_address_port_is_one_word)
{
    out(ADDRESS, ONES, 4);
    cr_assert_eq(in(ADDRESS, 4), 0x80FFFFFC);
    out(ADDRESS, 0x80001000, 4);
    out(ADDRESS, 0x12, 1);
    out(ADDRESS + 1, 0x06, 1);
    out(ADDRESS + 2, 0x3456, 2);
    cr_assert_eq(in(ADDRESS, 4), 0x80001000);
    cr_assert_eq(memcmp(f.narrow_bytes, "\x12\x06\x56\x34", 4), 0);
    cr_assert_eq(in(ADDRESS + 1, 1), 0x06);
    out(ADDRESS + 1, ONES, 4);
    out(ADDRESS + 1, ONES, 2);
    cr_assert_eq(memcmp(f.narrow_bytes, "\x12\x06\x56\x34", 4), 0);
}

Test(pci_bus, devices_with_several_functions_say_so)
{
    cr_assert_eq(config_get(&f, 31, HEADER_TYPE, 1), 0x80);
    cr_assert_eq(load(f.guest->space, ECAM + 0xFF000 + HEADER_TYPE, 1), 0x80);
    cr_assert_eq(config_get(&f, 5, HEADER_TYPE, 1), 0);
}

Test(pci_bus, a_place_is_taken_once)
{
    struct pci_identity identity = {.vendor = 1};
    static const struct pci_function_ops ops = {.config_written = NULL};
    struct pci_function late;
    struct error err;
    pci_function_init(&late, "late", &identity, &ops, NULL);
    cr_assert_eq(pci_bus_add(f.bus, 5, 0, &late, &err), -EBUSY);
    cr_assert_str_eq(err.message, "PCI device 05.0 of late is function already: choose another place");
    pci_function_destroy(&late);
    cr_assert_eq(config_get(&f, 5, VENDOR, 2), 0x1234);
}

Test(pci_bus, pins_are_wired_by_the_number_of_the_device)
{
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        bool expected[PCI_LINES] = {false};
        if (places[i].pin)
            expected[(places[i].device + places[i].pin - 1) % 4] = true;
        pci_function_set_intx(&functions[i], true);
        for (unsigned line = 0; line < PCI_LINES; line++)
            cr_assert_eq(f.lines[line], expected[line], "function %u", i);
        pci_function_set_intx(&functions[i], false);
        for (unsigned line = 0; line < PCI_LINES; line++)
            cr_assert(!f.lines[line]);
    }
}

Test(pci_bus, a_shared_line_is_up_while_any_pin_is)
{
    for (unsigned i = 0; i < 3; i++)
        pci_function_set_intx(&functions[i], true);
    cr_assert(f.lines[1]);
    cr_assert_eq(f.changes, 1);
    pci_function_set_intx(&functions[1], true);
    pci_function_set_intx(&functions[1], false);
    pci_function_set_intx(&functions[0], false);
    cr_assert_eq(f.changes, 1);
    pci_function_set_intx(&functions[2], false);
    cr_assert(!f.lines[1]);
    cr_assert_eq(f.changes, 2);
}

Test(pci_bus, an_interrupt_can_be_disabled_and_is_shown_all_the_same)
{
    set_command(&f, 5, INTX_OFF);
    pci_function_set_intx(&functions[1], true);
    cr_assert(!f.lines[1]);
    cr_assert_eq(config_get(&f, 5, STATUS, 2), 8);
    set_command(&f, 5, 0);
    cr_assert(f.lines[1]);
    set_command(&f, 5, INTX_OFF);
    cr_assert(!f.lines[1]);
    pci_function_set_intx(&functions[1], false);
    cr_assert_eq(config_get(&f, 5, STATUS, 2), 0);
    set_command(&f, 5, 0);
    cr_assert(!f.lines[1]);
}
