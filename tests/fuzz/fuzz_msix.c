/*
 * A guest that writes anything to an MSI-X capability, its table and its pending bits while the device raises
 * interrupts. The machine here delivers what it must, and a model that knows only masks and counts holds each
 * delivery against what was raised: nothing is lost, nothing is sent that is masked.
 *
 * The input is a list of four-byte steps: what to do, where, and a value.
 */
#include <linux/pci_regs.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "devices/pci/bus.h"
#include "devices/pci/function.h"
#include "devices/pci/msix.h"
#include "memory/address_space.h"
#include "tests/support/virtio_guest.h"

#define ECAM    0xE0000000u
#define BAR     0xD0000000u
#define PENDING (BAR + 0x1000)
#define DEVICE  1
#define VECTORS 5
#define ROUTES  VECTORS
#define STEP    4

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct route {
    bool exists;
    int fd; /* attached; -1: none */
};

struct guest {
    struct virtio_guest guest;
    struct memory_region io, container;
    struct pci_bus *bus;
    struct pci_function function;
    struct msix *msix;
    unsigned capability;
    struct route routes[ROUTES];
    bool waiting[VECTORS]; /* raised, and not delivered */
};

static void check(bool holds)
{
    if (!holds)
        abort();
}

static int set_route(void *opaque, const struct msi_message *message, uint32_t *route, struct error *err)
{
    struct guest *self = opaque;
    check(!(message->address & 3));
    if (*route == MSI_NO_ROUTE) {
        for (*route = 0; self->routes[*route].exists; ++*route)
            check(*route + 1 < ROUTES);
        self->routes[*route] = (struct route){.exists = true, .fd = -1};
    }
    check(self->routes[*route].exists && self->routes[*route].fd < 0);
    return 0;
}

static void drop_route(void *opaque, uint32_t route)
{
    struct guest *self = opaque;
    check(self->routes[route].exists && self->routes[route].fd < 0);
    self->routes[route].exists = false;
}

static int attach(void *opaque, int fd, uint32_t route, struct error *err)
{
    struct guest *self = opaque;
    check(self->routes[route].exists && self->routes[route].fd < 0);
    self->routes[route].fd = fd;
    return 0;
}

static void detach(void *opaque, int fd, uint32_t route)
{
    struct guest *self = opaque;
    check(self->routes[route].fd == fd);
    self->routes[route].fd = -1;
}

static struct guest *guest_of(struct pci_function *function)
{
    return (struct guest *)((char *)function - offsetof(struct guest, function));
}

static void written(struct pci_function *function, unsigned offset, unsigned size)
{
    msix_config_written(guest_of(function)->msix, offset, size);
}

static void create_function(struct guest *self)
{
    static const struct msi_ops ops = {set_route, drop_route, attach, detach};
    static const struct pci_function_ops function_ops = {.config_written = written};
    static const struct pci_identity identity = {.vendor = 0x1234};
    struct memory *memory = self->guest.memory;
    check(memory_region_init_container(&self->container, memory, "bar", 0x2000, NULL) == 0);
    pci_function_init(&self->function, "function", &identity, &function_ops, NULL);
    pci_function_add_bar(&self->function, 0, PCI_BAR_MEMORY_32, &self->container);
    struct msix_config config = {.memory = memory,
                                 .function = &self->function,
                                 .ops = &ops,
                                 .opaque = self,
                                 .name = "function",
                                 .vectors = VECTORS,
                                 .container = &self->container};
    check(msix_create(&config, &self->msix, NULL) == 0);
    check(pci_bus_add(self->bus, DEVICE, 0, &self->function, NULL) == 0);
}

static void create_guest(struct guest *self)
{
    *self = (struct guest){.capability = 0};
    virtio_guest_create(&self->guest);
    struct memory *memory = self->guest.memory;
    check(memory_region_init_container(&self->io, memory, "io", 0x10000, NULL) == 0);
    struct pci_bus_config bus = {
        .memory = memory, .memory_container = &self->guest.root, .io_container = &self->io};
    check(pci_bus_create(&bus, &self->bus, NULL) == 0);
    create_function(self);
    pci_function_write_config(&self->function, PCI_BASE_ADDRESS_0, BAR, 4);
    pci_function_write_config(&self->function, PCI_COMMAND, PCI_COMMAND_MEMORY, 2);
    self->capability = pci_function_read_config(&self->function, PCI_CAPABILITY_LIST, 1);
}

static void destroy_guest(struct guest *self)
{
    pci_function_destroy(&self->function);
    memory_synchronize(self->guest.memory);
    msix_destroy(self->msix);
    for (unsigned i = 0; i < ROUTES; i++)
        check(!self->routes[i].exists);
    memory_region_destroy(&self->container);
    pci_bus_destroy(self->bus);
    memory_region_destroy(&self->io);
    virtio_guest_destroy(&self->guest);
}

static uint32_t load(struct guest *self, uint64_t address)
{
    uint32_t value = 0;
    check(address_space_read(self->guest.space, address, &value, sizeof(value)) == 0);
    return value;
}

static void deliver(struct guest *self)
{
    eventfd_t count;
    for (unsigned i = 0; i < ROUTES; i++) {
        if (self->routes[i].exists && self->routes[i].fd >= 0)
            eventfd_read(self->routes[i].fd, &count);
    }
}

/* By what the guest can read alone. */
static void check_vectors(struct guest *self)
{
    unsigned flags = pci_function_read_config(&self->function, self->capability + PCI_MSIX_FLAGS, 2);
    bool on = flags & PCI_MSIX_FLAGS_ENABLE, all_masked = flags & PCI_MSIX_FLAGS_MASKALL;
    check((flags & PCI_MSIX_FLAGS_QSIZE) == VECTORS - 1 && on == msix_enabled(self->msix));
    deliver(self);
    uint32_t pending = load(self, PENDING);
    for (unsigned i = 0; i < VECTORS; i++) {
        uint32_t control = load(self, BAR + i * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL);
        bool masked = control & PCI_MSIX_ENTRY_CTRL_MASKBIT;
        check(control <= 1);
        if (on && !all_masked && !masked)
            self->waiting[i] = false;
        check((pending >> i & 1) == self->waiting[i]);
    }
    check(!(pending >> VECTORS));
}

static void write_config(struct guest *self, unsigned offset, uint32_t value, unsigned size)
{
    bool was_on = msix_enabled(self->msix);
    pci_function_write_config(&self->function, self->capability + offset % 12 / size * size, value, size);
    if (was_on && !msix_enabled(self->msix))
        memset(self->waiting, 0, sizeof(self->waiting));
}

static void step(struct guest *self, const uint8_t *bytes)
{
    uint64_t value = (uint64_t)(bytes[2] | bytes[3] << 8) * 0x0001000100010001;
    unsigned size = 1u << bytes[0] / 16 % 4;
    switch (bytes[0] % 8) {
    case 0:
    case 1:
        address_space_write(self->guest.space, BAR + bytes[1], &value, size);
        break;
    case 2:
        address_space_write(self->guest.space,
                            BAR + bytes[1] % VECTORS * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL,
                            &value, 4);
        break;
    case 3:
        write_config(self, PCI_MSIX_FLAGS, (uint32_t)value, 2);
        break;
    case 4:
        write_config(self, bytes[1], (uint32_t)value, size > 4 ? 4 : size);
        break;
    case 5:
        address_space_write(self->guest.space, PENDING + bytes[1] % 16, &value, size);
        address_space_read(self->guest.space, PENDING + bytes[1] % 16, &value, size);
        break;
    default:
        msix_raise(self->msix, bytes[1] % (VECTORS + 1));
        if (bytes[1] % (VECTORS + 1) < VECTORS)
            self->waiting[bytes[1] % (VECTORS + 1)] = true;
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest guest;
    create_guest(&guest);
    for (size_t at = 0; at + STEP <= size; at += STEP) {
        step(&guest, data + at);
        check_vectors(&guest);
    }
    destroy_guest(&guest);
    return 0;
}
