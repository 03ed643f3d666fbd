/*
 * A guest that writes anything to the configuration space of a virtio device on PCI, by both mechanisms, and
 * to wherever its BARs are. RAM and the fixed regions stay what they are, and both mechanisms show the same.
 *
 * The input is a list of eight-byte steps: what to do, a place of two bytes, a size, and a value.
 */
#include <linux/pci_regs.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/event_loop.h"
#include "devices/pci/bus.h"
#include "devices/pci/msix.h"
#include "devices/virtio/pci.h"
#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "tests/support/virtio_echo.h"
#include "tests/support/virtio_guest.h"

#define ECAM   0xE0000000u
#define DEVICE 4
#define QUEUES 2
#define STEP   8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct guest {
    struct virtio_guest guest;
    struct memory_region io;
    struct address_space *io_space;
    struct event_loop *loop;
    struct pci_bus *bus;
    struct echo echo;
    struct virtio_pci *pci;
    bool line;
};

static void check(bool holds)
{
    if (!holds)
        abort();
}

static void set_line(void *opaque, unsigned number, bool level)
{
    struct guest *guest = opaque;
    check(guest->line != level);
    guest->line = level;
}

static int set_route(void *opaque, const struct msi_message *message, uint32_t *route, struct error *err)
{
    *route = 0;
    return 0;
}

static void drop_route(void *opaque, uint32_t route)
{
    check(route == 0);
}

static int attach(void *opaque, int fd, uint32_t route, struct error *err)
{
    check(route == 0 && fd >= 0);
    return 0;
}

static void detach(void *opaque, int fd, uint32_t route)
{
    check(route == 0 && fd >= 0);
}

static void create_bus(struct guest *self)
{
    struct memory *memory = self->guest.memory;
    check(memory_region_init_container(&self->io, memory, "io", 0x10000, NULL) == 0);
    check(address_space_create(memory, "io", &self->io, &self->io_space, NULL) == 0);
    struct pci_bus_config bus = {
        .memory = memory, .memory_container = &self->guest.root, .io_container = &self->io};
    for (unsigned i = 0; i < PCI_LINES; i++)
        bus.lines[i] = (struct irq_line){set_line, self, i};
    check(pci_bus_create(&bus, &self->bus, NULL) == 0);
    virtio_guest_map(&self->guest, ECAM, pci_bus_ecam(self->bus));
    check(memory_region_add_subregion(&self->io, PCI_PORTS, pci_bus_ports(self->bus), 0, NULL) == 0);
}

static void create_guest(struct guest *self)
{
    static const struct msi_ops msi = {set_route, drop_route, attach, detach};
    *self = (struct guest){.line = false};
    virtio_guest_create(&self->guest);
    check(event_loop_create(&self->loop, NULL) == 0);
    create_bus(self);
    struct event_loop *loops[QUEUES] = {self->loop, self->loop};
    struct echo_config echo = {
        .space = self->guest.space, .queue_count = QUEUES, .queue_size_max = 16, .loops = loops};
    echo_create(&self->echo, &echo);
    struct virtio_pci_config pci = {.memory = self->guest.memory, .device = &self->echo.device, .msi = &msi};
    check(virtio_pci_create(&pci, &self->pci, NULL) == 0);
    check(pci_bus_add(self->bus, DEVICE, 0, virtio_pci_function(self->pci), NULL) == 0);
}

static void destroy_guest(struct guest *self)
{
    virtio_pci_destroy(self->pci);
    check(!self->line);
    echo_destroy(&self->echo);
    check(memory_region_remove_subregion(pci_bus_ports(self->bus), NULL) == 0);
    virtio_guest_unmap(&self->guest, pci_bus_ecam(self->bus));
    pci_bus_destroy(self->bus);
    address_space_destroy(self->io_space);
    memory_region_destroy(&self->io);
    event_loop_destroy(self->loop);
    virtio_guest_destroy(&self->guest);
}

static uint32_t config(struct guest *self, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    check(address_space_read(self->guest.space, ECAM + DEVICE * 0x8000u + offset, &value, size) == 0);
    return value;
}

static uint64_t bar_address(struct guest *self)
{
    return (uint64_t)config(self, PCI_BASE_ADDRESS_1, 4) << 32 |
           (config(self, PCI_BASE_ADDRESS_0, 4) & ~0xFu);
}

static void write_port(struct guest *self, uint16_t port, uint32_t value, unsigned size)
{
    address_space_write(self->io_space, port, &value, size);
}

static void check_view(struct guest *self)
{
    struct flat_view *view = flat_view_get(self->guest.space);
    const struct flat_range *ram = flat_view_find(view, 0), *ecam = flat_view_find(view, ECAM);
    check(ram && ram->region == &self->guest.ram && ram->size == VIRTIO_GUEST_RAM);
    check(ecam && ecam->region == pci_bus_ecam(self->bus) && ecam->size == PCI_ECAM_SIZE);
    flat_view_put(view);
}

/* Of the header: to read what comes behind it can have effects. */
static void check_mechanisms(struct guest *self, unsigned offset)
{
    uint32_t by_port = 0;
    write_port(self, PCI_PORTS, 0x80000000 | DEVICE << 11 | (offset & 0x3C), 4);
    address_space_read(self->io_space, PCI_PORTS + 4, &by_port, 4);
    check(by_port == config(self, offset & 0x3C, 4));
    check(config(self, PCI_VENDOR_ID, 2) == 0x1AF4);
}

static void step(struct guest *self, const uint8_t *bytes)
{
    unsigned place = (unsigned)(bytes[1] | bytes[2] << 8), size = bytes[3] % 8 + 1;
    uint32_t value;
    uint64_t wide;
    memcpy(&value, bytes + 4, sizeof(value));
    wide = value * 0x100000001u;
    switch (bytes[0] % 8) {
    case 0:
    case 1:
        address_space_write(self->guest.space, ECAM + DEVICE * 0x8000u + place % 0x100, &wide, size);
        break;
    case 2:
        write_port(self, PCI_PORTS, 0x80000000 | DEVICE << 11 | (place & 0xFC), 4);
        address_space_write(self->io_space, PCI_PORTS + 4 + place % 4, &wide, size);
        break;
    case 3:
        address_space_write(self->io_space, PCI_PORTS + place % 8, &wide, size);
        break;
    case 4:
        address_space_write(self->guest.space, bar_address(self) + place % 0x8000, &wide, size);
        break;
    case 5:
        address_space_read(self->guest.space, bar_address(self) + place % 0x8000, &wide, size);
        break;
    case 6:
        address_space_read(self->guest.space, ECAM + place * 0x10u + place % 0x10, &wide, size);
        break;
    default:
        check_mechanisms(self, place);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest guest;
    create_guest(&guest);
    for (size_t at = 0; at + STEP <= size; at += STEP) {
        step(&guest, data + at);
        check_view(&guest);
    }
    destroy_guest(&guest);
    return 0;
}
