/*
 * What the tests of PCI share: RAM and ports with a bus in both, as a guest sees them. Registers and their
 * bits are written from the specification, not from the code's headers.
 */
#pragma once

#include <criterion/criterion.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/macros.h"
#include "devices/pci/bus.h"
#include "devices/pci/function.h"
#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "tests/support/virtio_guest.h"

#define ECAM         0xE0000000u
#define WINDOW       0xD0000000u /* nothing is there */
#define ONES         0xFFFFFFFFu

#define VENDOR       0x00
#define COMMAND      0x04
#define STATUS       0x06
#define CLASS        0x08
#define HEADER_TYPE  0x0E
#define BAR(index)   (0x10 + 4 * (index))
#define SUBSYSTEM    0x2C
#define CAPABILITIES 0x34
#define LINE         0x3C
#define PIN          0x3D

#define DECODE_IO    1
#define DECODE       2
#define MASTER       4
#define INTX_OFF     0x400

struct pci_fixture {
    struct virtio_guest *guest;
    struct memory_region io;
    struct address_space *io_space;
    struct pci_bus *bus;
    _Atomic bool lines[PCI_LINES];
    int line_fd;              /* signalled when a line goes up; -1: none */
    _Atomic unsigned changes; /* of lines */
    struct memory_region narrow;
    uint8_t narrow_bytes[4];
};

static inline void set_test_line(void *opaque, unsigned number, bool level)
{
    struct pci_fixture *f = opaque;
    f->changes++;
    f->lines[number] = level;
    if (level && f->line_fd >= 0)
        eventfd_write(f->line_fd, 1);
}

static inline uint64_t narrow_read(void *opaque, uint64_t offset, unsigned size)
{
    const struct pci_fixture *f = opaque;
    uint64_t value = 0;
    memcpy(&value, f->narrow_bytes + offset, size);
    return value;
}

static inline void narrow_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_fixture *f = opaque;
    memcpy(f->narrow_bytes + offset, &value, size);
}

static inline void create_bus(struct pci_fixture *f)
{
    static const struct memory_region_ops narrow_ops = {
        .read = narrow_read, .write = narrow_write, .impl = {1, 4, false}};
    struct pci_bus_config config = {.memory = f->guest->memory,
                                    .memory_container = &f->guest->root,
                                    .io_container = &f->io,
                                    .narrow_ports = &f->narrow};
    for (unsigned i = 0; i < PCI_LINES; i++)
        config.lines[i] = (struct irq_line){set_test_line, f, i};
    cr_assert_eq(memory_region_init_mmio(&f->narrow, f->guest->memory, "narrow", &narrow_ops, f, 4, NULL), 0);
    cr_assert_eq(pci_bus_create(&config, &f->bus, NULL), 0);
    cr_assert_eq(memory_region_add_subregion(&f->io, 0xCF8, pci_bus_ports(f->bus), 0, NULL), 0);
    virtio_guest_map(f->guest, ECAM, pci_bus_ecam(f->bus));
}

/* Adds PCI to a guest. */
static inline void pci_attach(struct pci_fixture *f, struct virtio_guest *guest)
{
    *f = (struct pci_fixture){.guest = guest, .line_fd = -1};
    cr_assert_eq(memory_region_init_container(&f->io, guest->memory, "io", 0x10000, NULL), 0);
    cr_assert_eq(address_space_create(guest->memory, "io", &f->io, &f->io_space, NULL), 0);
    create_bus(f);
}

/* All functions have been destroyed. */
static inline void pci_detach(struct pci_fixture *f)
{
    virtio_guest_unmap(f->guest, pci_bus_ecam(f->bus));
    cr_assert_eq(memory_region_remove_subregion(pci_bus_ports(f->bus), NULL), 0);
    pci_bus_destroy(f->bus);
    address_space_destroy(f->io_space);
    memory_region_destroy(&f->narrow);
    memory_region_destroy(&f->io);
}

static inline uint64_t config_address(unsigned device, unsigned offset)
{
    return ECAM + device * 0x8000u + offset;
}

static inline uint32_t config_get(struct pci_fixture *f, unsigned device, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    cr_assert_eq(address_space_read(f->guest->space, config_address(device, offset), &value, size), 0);
    return value;
}

static inline void config_set(struct pci_fixture *f, unsigned device, unsigned offset, uint32_t value,
                              unsigned size)
{
    cr_assert_eq(address_space_write(f->guest->space, config_address(device, offset), &value, size), 0);
}

static inline void set_command(struct pci_fixture *f, unsigned device, uint16_t command)
{
    config_set(f, device, COMMAND, command, 2);
}

/* What a guest reads and writes at an address or port. */
static inline uint32_t load(struct address_space *space, uint64_t address, unsigned size)
{
    uint32_t value = 0;
    address_space_read(space, address, &value, size);
    return value;
}

static inline void store(struct address_space *space, uint64_t address, uint32_t value, unsigned size)
{
    address_space_write(space, address, &value, size);
}

/* The region that is seen at an address; NULL: none. */
static inline const struct memory_region *seen_at(struct address_space *space, uint64_t address)
{
    struct flat_view *view = flat_view_get(space);
    const struct flat_range *range = flat_view_find(view, address);
    const struct memory_region *region = range ? range->region : NULL;
    flat_view_put(view);
    return region;
}
