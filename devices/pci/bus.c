#include "devices/pci/bus.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/pci/internal.h"
#include "memory/mmio.h"

/* A host bridge that drivers know and leave alone. */
#define HOST_BRIDGE_VENDOR     0x1B36
#define HOST_BRIDGE_DEVICE     0x0008
#define HOST_BRIDGE_CLASS      0x060000

#define ADDRESS_PORT_SIZE      4 /* then comes the data port */
#define ADDRESS_ENABLE         0x80000000
#define ADDRESS_MASK           0x80FFFFFC

#define HEADER_TYPE_MULTI_FUNC 0x80

/* ---- Configuration space ---- */

static uint32_t read_config(struct pci_bus *bus, unsigned devfn, unsigned offset, unsigned size)
{
    struct pci_function *function = bus->functions[devfn];
    return function ? pci_function_read_config(function, offset, size) : UINT32_MAX;
}

static void write_config(struct pci_bus *bus, unsigned devfn, unsigned offset, uint32_t value, unsigned size)
{
    struct pci_function *function = bus->functions[devfn];
    if (function)
        pci_function_write_config(function, offset, value, size);
}

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    return read_config(opaque, (unsigned)(offset >> 12), offset & 0xFFF, size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    write_config(opaque, (unsigned)(offset >> 12), offset & 0xFFF, (uint32_t)value, size);
}

/* What the data port reaches: of bus 0 only. */
static bool find_data(const struct pci_bus *bus, uint64_t port, unsigned *devfn, unsigned *offset)
{
    uint32_t address = bus->address;
    *devfn = address >> 8 & 0xFF;
    *offset = (address & 0xFC) + (unsigned)(port - ADDRESS_PORT_SIZE);
    return address & ADDRESS_ENABLE && !(address >> 16 & 0xFF);
}

static uint64_t read_address(struct pci_bus *bus, uint64_t port, unsigned size)
{
    uint64_t value = UINT64_MAX;
    if (size == ADDRESS_PORT_SIZE)
        return bus->address;
    if (bus->config.narrow_ports)
        mmio_read(bus->config.narrow_ports, port, &value, size);
    return value;
}

static void write_address(struct pci_bus *bus, uint64_t port, uint64_t value, unsigned size)
{
    if (size == ADDRESS_PORT_SIZE)
        bus->address = (uint32_t)value & ADDRESS_MASK;
    else if (bus->config.narrow_ports)
        mmio_write(bus->config.narrow_ports, port, &value, size);
}

static uint64_t ports_read(void *opaque, uint64_t port, unsigned size)
{
    struct pci_bus *bus = opaque;
    unsigned devfn, offset;
    if (port < ADDRESS_PORT_SIZE)
        return read_address(bus, port, size);
    return find_data(bus, port, &devfn, &offset) ? read_config(bus, devfn, offset, size) : UINT32_MAX;
}

static void ports_write(void *opaque, uint64_t port, uint64_t value, unsigned size)
{
    struct pci_bus *bus = opaque;
    unsigned devfn, offset;
    if (port < ADDRESS_PORT_SIZE)
        write_address(bus, port, value, size);
    else if (find_data(bus, port, &devfn, &offset))
        write_config(bus, devfn, offset, (uint32_t)value, size);
}

/* A wide write to a narrow port is not for it. */
static bool ports_accept(void *opaque, uint64_t port, unsigned size, bool is_write)
{
    return port >= ADDRESS_PORT_SIZE || port % size == 0;
}

/* ---- Interrupts ---- */

void pci_bus_update_line(struct pci_bus *bus, struct pci_function *function)
{
    uint8_t pin = function->config[PCI_INTERRUPT_PIN];
    bool asserted = function->intx && !function->intx_disabled;
    if (!pin || asserted == function->intx_asserted)
        return;
    unsigned line = pci_line(function->devfn / PCI_FUNCTIONS, pin);
    unsigned before = bus->asserted[line];
    function->intx_asserted = asserted;
    bus->asserted[line] = asserted ? before + 1 : before - 1;
    if (!before != !bus->asserted[line])
        irq_line_set(&bus->config.lines[line], asserted);
}

/* ---- Functions ---- */

static int add_bars(struct pci_bus *bus, struct pci_function *added, struct error *err)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *bar = &added->bars[i];
        if (!bar->region)
            continue;
        struct memory_region *container =
            bar->kind == PCI_BAR_IO ? bus->config.io_container : bus->config.memory_container;
        int result = memory_region_set_enabled(bar->region, false, err);
        if (result == 0)
            result = memory_region_add_subregion(container, 0, bar->region, PCI_BAR_PRIORITY, err);
        while (result < 0 && i-- > 0) {
            if (added->bars[i].region)
                memory_region_remove_subregion(added->bars[i].region, NULL);
        }
        if (result < 0)
            return result;
    }
    return 0;
}

/* Says in each function's header whether its device has several (section 6.2.1). */
static void mark_functions(struct pci_bus *bus, unsigned device)
{
    struct pci_function **functions = &bus->functions[(size_t)device * PCI_FUNCTIONS];
    unsigned count = 0;
    for (unsigned i = 0; i < PCI_FUNCTIONS; i++)
        count += functions[i] != NULL;
    for (unsigned i = 0; i < PCI_FUNCTIONS && count > 1; i++) {
        if (functions[i])
            functions[i]->config[PCI_HEADER_TYPE] = HEADER_TYPE_MULTI_FUNC;
    }
}

int pci_bus_add(struct pci_bus *bus, unsigned device, unsigned function, struct pci_function *added,
                struct error *err)
{
    unsigned devfn = device * PCI_FUNCTIONS + function;
    assert(device < PCI_DEVICES && function < PCI_FUNCTIONS);
    if (bus->functions[devfn])
        return error_set(err, EBUSY, "PCI device %02x.%x of %s is %s already: choose another place", device,
                         function, added->name, bus->functions[devfn]->name);
    int result = add_bars(bus, added, err);
    if (result < 0)
        return result;
    bus->functions[devfn] = added;
    added->bus = bus;
    added->devfn = devfn;
    mark_functions(bus, device);
    return 0;
}

/* ---- Creation ---- */

static int init_regions(struct pci_bus *bus, struct error *err)
{
    static const struct memory_region_ops ecam_ops = {
        .read = ecam_read,
        .write = ecam_write,
        .valid = {.min = 1, .max = 8},
        .impl = {.min = 1, .max = 4},
    };
    static const struct memory_region_ops ports_ops = {
        .read = ports_read,
        .write = ports_write,
        .valid = {.min = 1, .max = 4, .unaligned = true},
        .impl = {.min = 1, .max = 4},
        .accepts = ports_accept,
    };
    struct memory *memory = bus->config.memory;
    int result = memory_region_init_mmio(&bus->ecam, memory, "pci-ecam", &ecam_ops, bus, PCI_ECAM_SIZE, err);
    return result < 0 ? result
                      : memory_region_init_mmio(&bus->ports, memory, "pci-ports", &ports_ops, bus,
                                                PCI_PORTS_SIZE, err);
}

int pci_bus_create(const struct pci_bus_config *config, struct pci_bus **out, struct error *err)
{
    static const struct pci_function_ops bridge_ops = {.config_reading = NULL};
    static const struct pci_identity bridge = {
        .vendor = HOST_BRIDGE_VENDOR, .device = HOST_BRIDGE_DEVICE, .class_code = HOST_BRIDGE_CLASS};
    struct pci_bus *bus = calloc(1, sizeof(*bus));
    if (!bus)
        return error_set(err, ENOMEM, "not enough memory for a PCI bus");
    bus->config = *config;
    pthread_mutex_init(&bus->lines_lock, NULL);
    pci_function_init(&bus->host_bridge, "pci-host-bridge", &bridge, &bridge_ops, config->log);
    int result = init_regions(bus, err);
    if (result == 0)
        result = pci_bus_add(bus, 0, 0, &bus->host_bridge, err);
    if (result < 0) {
        pci_bus_destroy(bus);
        return result;
    }
    *out = bus;
    return 0;
}

struct memory_region *pci_bus_ecam(struct pci_bus *bus)
{
    return &bus->ecam;
}

struct memory_region *pci_bus_ports(struct pci_bus *bus)
{
    return &bus->ports;
}

void pci_bus_destroy(struct pci_bus *bus)
{
    if (!bus)
        return;
    pci_function_destroy(&bus->host_bridge);
    memory_region_destroy(&bus->ecam);
    memory_region_destroy(&bus->ports);
    pthread_mutex_destroy(&bus->lines_lock);
    free(bus);
}
