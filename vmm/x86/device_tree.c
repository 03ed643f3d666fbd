#include <libfdt.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/x86/firmware.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/platform.h"

/* Space for everything but CPUs, devices and the command line, and for one of each. */
#define SIZE_FIXED          4096
#define SIZE_CPU            128
#define SIZE_DEVICE         512
#define SIZE_PCI            1024

#define PHANDLE_IOAPIC      1

/* First cell of an address on the ISA bus (Open Firmware's ISA binding). */
#define ISA_MEMORY          0
#define ISA_PORTS           1

/* Second cell of an interrupt (binding intel,ce4100-ioapic). */
#define IRQ_EDGE_RISING     0
#define IRQ_LEVEL_HIGH      2

/* First cell of an address on PCI (Open Firmware's PCI bus binding). */
#define PCI_SPACE_MEMORY_32 0x02000000
#define PCI_SPACE_MEMORY_64 0x03000000
#define PCI_DEVICE_SHIFT    11

#define SERIAL_CLOCK        1843200
#define SERIAL_BAUD_RATE    115200

/* A tree being written. The first libfdt error stays; what follows it has no effect. */
struct tree {
    void *blob;
    int error;
};

static void node_begin(struct tree *tree, const char *name)
{
    if (!tree->error)
        tree->error = fdt_begin_node(tree->blob, name);
}

/* A node with a unit address; `prefix` comes before the address. */
static void node_begin_at(struct tree *tree, const char *name, const char *prefix, uint64_t address)
{
    char full_name[64];
    snprintf(full_name, sizeof(full_name), "%s@%s%llx", name, prefix, (unsigned long long)address);
    node_begin(tree, full_name);
}

static void node_end(struct tree *tree)
{
    if (!tree->error)
        tree->error = fdt_end_node(tree->blob);
}

static void property(struct tree *tree, const char *name, const void *value, size_t size)
{
    if (!tree->error)
        tree->error = fdt_property(tree->blob, name, value, (int)size);
}

static void property_empty(struct tree *tree, const char *name)
{
    property(tree, name, NULL, 0);
}

static void property_string(struct tree *tree, const char *name, const char *value)
{
    property(tree, name, value, strlen(value) + 1);
}

static void property_cell(struct tree *tree, const char *name, uint32_t value)
{
    fdt32_t cell = cpu_to_fdt32(value);
    property(tree, name, &cell, sizeof(cell));
}

static void property_u64(struct tree *tree, const char *name, uint64_t value)
{
    fdt64_t cells = cpu_to_fdt64(value);
    property(tree, name, &cells, sizeof(cells));
}

/* How many cells the addresses and sizes in a node's children have. */
static void property_cell_counts(struct tree *tree, uint32_t address_cells, uint32_t size_cells)
{
    property_cell(tree, "#address-cells", address_cells);
    property_cell(tree, "#size-cells", size_cells);
}

/* `reg` of a node right under the root. */
static void property_reg(struct tree *tree, uint64_t base, uint64_t size)
{
    fdt64_t cells[] = {cpu_to_fdt64(base), cpu_to_fdt64(size)};
    property(tree, "reg", cells, sizeof(cells));
}

static void write_chosen(struct tree *tree, const struct platform *platform)
{
    node_begin(tree, "chosen");
    property_string(tree, "bootargs", platform->command_line);
    property(tree, "rng-seed", platform->rng_seed, sizeof(platform->rng_seed));
    if (platform->initrd_size) {
        property_u64(tree, "linux,initrd-start", platform->initrd_start);
        property_u64(tree, "linux,initrd-end", platform->initrd_start + platform->initrd_size);
    }
    for (unsigned i = 0; i < platform->device_count; i++) {
        const struct platform_device *device = &platform->devices[i];
        if (device->kind != PLATFORM_SERIAL)
            continue;
        char path[64];
        snprintf(path, sizeof(path), "/isa/serial@i%llx", (unsigned long long)device->ranges[0].base);
        property_string(tree, "stdout-path", path);
        break;
    }
    node_end(tree);
}

static void write_memory(struct tree *tree, const struct platform *platform)
{
    fdt64_t reg[] = {
        cpu_to_fdt64(0),
        cpu_to_fdt64(platform_ram_low(platform)),
        cpu_to_fdt64(LAYOUT_RAM_HIGH),
        cpu_to_fdt64(platform_ram_high(platform)),
    };
    node_begin(tree, "memory@0");
    property_string(tree, "device_type", "memory");
    property(tree, "reg", reg, platform_ram_high(platform) ? sizeof(reg) : sizeof(reg) / 2);
    node_end(tree);
}

/* RAM that is no free memory: the MP table's KiB and the legacy hole with the ACPI tables. */
static void write_reserved_memory(struct tree *tree)
{
    node_begin(tree, "reserved-memory");
    property_cell_counts(tree, 2, 2);
    property_empty(tree, "ranges");
    node_begin_at(tree, "firmware", "", LAYOUT_BASE_MEMORY_END);
    property_reg(tree, LAYOUT_BASE_MEMORY_END, LAYOUT_FIRMWARE_END - LAYOUT_BASE_MEMORY_END);
    property_empty(tree, "no-map");
    node_end(tree);
    node_end(tree);
}

static void write_cpus(struct tree *tree, const struct platform *platform)
{
    node_begin(tree, "cpus");
    property_cell_counts(tree, 1, 0);
    for (unsigned id = 0; id < platform->cpus; id++) {
        node_begin_at(tree, "cpu", "", id);
        property_string(tree, "device_type", "cpu");
        property_cell(tree, "reg", id);
        node_end(tree);
    }
    node_end(tree);
}

static void interrupt_controller_begin(struct tree *tree, const char *compatible, uint64_t base)
{
    node_begin_at(tree, "interrupt-controller", "", base);
    property_string(tree, "compatible", compatible);
    property_reg(tree, base, 0x1000);
    property_empty(tree, "interrupt-controller");
    property_cell(tree, "#address-cells", 0);
    property_cell(tree, "#interrupt-cells", 2);
}

static void write_interrupt_controllers(struct tree *tree)
{
    interrupt_controller_begin(tree, "intel,ce4100-ioapic", LAYOUT_IOAPIC);
    property_cell(tree, "phandle", PHANDLE_IOAPIC);
    node_end(tree);

    interrupt_controller_begin(tree, "intel,ce4100-lapic", LAYOUT_LAPIC);
    property_empty(tree, "intel,virtual-wire-mode");
    node_end(tree);
}

static void write_interrupt(struct tree *tree, const struct platform_device *device)
{
    uint32_t sense = platform_device_type(device)->level_triggered ? IRQ_LEVEL_HIGH : IRQ_EDGE_RISING;
    fdt32_t cells[] = {cpu_to_fdt32((uint32_t)device->irq), cpu_to_fdt32(sense)};
    if (device->irq >= 0)
        property(tree, "interrupts", cells, sizeof(cells));
}

static void write_serial_clock(struct tree *tree, const struct platform_device *device)
{
    if (device->kind != PLATFORM_SERIAL)
        return;
    property_cell(tree, "clock-frequency", SERIAL_CLOCK);
    property_cell(tree, "current-speed", SERIAL_BAUD_RATE);
}

static void write_isa_reg(struct tree *tree, const struct platform_device *device)
{
    fdt32_t cells[3 * ARRAY_SIZE(device->ranges)];
    size_t count = 0;
    for (unsigned i = 0; i < device->range_count; i++) {
        const struct platform_range *range = &device->ranges[i];
        cells[count++] = cpu_to_fdt32(range->mmio ? ISA_MEMORY : ISA_PORTS);
        cells[count++] = cpu_to_fdt32((uint32_t)range->base);
        cells[count++] = cpu_to_fdt32((uint32_t)range->size);
    }
    property(tree, "reg", cells, count * sizeof(cells[0]));
}

static void write_mmio_reg(struct tree *tree, const struct platform_device *device)
{
    fdt64_t cells[2 * ARRAY_SIZE(device->ranges)];
    size_t count = 0;
    for (unsigned i = 0; i < device->range_count; i++) {
        cells[count++] = cpu_to_fdt64(device->ranges[i].base);
        cells[count++] = cpu_to_fdt64(device->ranges[i].size);
    }
    property(tree, "reg", cells, count * sizeof(cells[0]));
}

static void write_device(struct tree *tree, const struct platform_device *device)
{
    const struct platform_device_type *type = platform_device_type(device);
    bool mmio = device->ranges[0].mmio;
    node_begin_at(tree, type->name, mmio ? "" : "i", device->ranges[0].base);
    property_string(tree, "compatible", type->compatible);
    if (mmio)
        write_mmio_reg(tree, device);
    else
        write_isa_reg(tree, device);
    write_interrupt(tree, device);
    write_serial_clock(tree, device);
    node_end(tree);
}

/* The devices whose first range is MMIO, or those whose first range is ports. */
static void write_devices(struct tree *tree, const struct platform *platform, bool mmio)
{
    for (unsigned i = 0; i < platform->device_count; i++) {
        if (platform->devices[i].ranges[0].mmio == mmio)
            write_device(tree, &platform->devices[i]);
    }
}

/* Addresses are the same on either side of the bridge. */
static void append_pci_range(fdt32_t *cells, size_t *count, uint32_t space, const struct pci_window *window)
{
    const uint32_t range[] = {space,
                              (uint32_t)(window->base >> 32),
                              (uint32_t)window->base,
                              (uint32_t)(window->base >> 32),
                              (uint32_t)window->base,
                              (uint32_t)(window->size >> 32),
                              (uint32_t)window->size};
    for (size_t i = 0; i < ARRAY_SIZE(range) && window->size; i++)
        cells[(*count)++] = cpu_to_fdt32(range[i]);
}

/* Which line a pin leads to depends on the lowest bits of the device's number. */
static void write_pci_interrupts(struct tree *tree, const struct platform_pci *pci)
{
    const fdt32_t mask[] = {cpu_to_fdt32((PCI_LINES - 1) << PCI_DEVICE_SHIFT), 0, 0, cpu_to_fdt32(7)};
    fdt32_t map[PCI_LINES * PCI_LINES * 7];
    size_t count = 0;
    for (uint32_t device = 0; device < PCI_LINES; device++) {
        for (uint32_t pin = 1; pin <= PCI_LINES; pin++) {
            const uint32_t entry[] = {device << PCI_DEVICE_SHIFT,
                                      0,
                                      0,
                                      pin,
                                      PHANDLE_IOAPIC,
                                      pci->irqs[pci_line(device, pin)],
                                      IRQ_LEVEL_HIGH};
            for (size_t i = 0; i < ARRAY_SIZE(entry); i++)
                map[count++] = cpu_to_fdt32(entry[i]);
        }
    }
    property(tree, "interrupt-map-mask", mask, sizeof(mask));
    property(tree, "interrupt-map", map, sizeof(map));
}

/* Without the window of ports, which are in no address space that the root of the tree has. */
static void write_pci(struct tree *tree, const struct platform_pci *pci)
{
    const fdt32_t buses[] = {cpu_to_fdt32(0), cpu_to_fdt32(0)};
    fdt32_t ranges[2 * 7];
    size_t count = 0;
    append_pci_range(ranges, &count, PCI_SPACE_MEMORY_32, &pci->windows.low);
    append_pci_range(ranges, &count, PCI_SPACE_MEMORY_64, &pci->windows.high);
    node_begin_at(tree, "pci", "", pci->ecam);
    property_string(tree, "compatible", "pci-host-ecam-generic");
    property_string(tree, "device_type", "pci");
    property_cell_counts(tree, 3, 2);
    property_reg(tree, pci->ecam, PCI_ECAM_SIZE);
    property(tree, "bus-range", buses, sizeof(buses));
    property(tree, "ranges", ranges, count * sizeof(ranges[0]));
    property_empty(tree, "dma-coherent");
    property_cell(tree, "#interrupt-cells", 1);
    write_pci_interrupts(tree, pci);
    node_end(tree);
}

static void write_isa(struct tree *tree, const struct platform *platform)
{
    node_begin(tree, "isa");
    property_string(tree, "compatible", "isa");
    property_cell_counts(tree, 2, 1);
    write_devices(tree, platform, false);
    node_end(tree);
}

static void write_root(struct tree *tree, const struct platform *platform)
{
    node_begin(tree, "");
    property_string(tree, "compatible", "godwit,x86");
    property_string(tree, "model", "godwit");
    property_cell_counts(tree, 2, 2);
    property_cell(tree, "interrupt-parent", PHANDLE_IOAPIC);
    write_chosen(tree, platform);
    write_memory(tree, platform);
    write_reserved_memory(tree);
    write_cpus(tree, platform);
    write_interrupt_controllers(tree);
    write_devices(tree, platform, true);
    if (platform->pci.present)
        write_pci(tree, &platform->pci);
    write_isa(tree, platform);
    node_end(tree);
}

/* Fills `blob` and returns a libfdt error. */
static int write_tree(const struct platform *platform, void *blob, size_t size)
{
    struct tree tree = {.blob = blob};
    tree.error = fdt_create(blob, (int)size);
    if (!tree.error)
        tree.error = fdt_finish_reservemap(blob);
    write_root(&tree, platform);
    return tree.error ? tree.error : fdt_finish(blob);
}

int device_tree_build(const struct platform *platform, void **dtb, size_t *size, struct error *err)
{
    size_t room = SIZE_FIXED + platform->cpus * SIZE_CPU + platform->device_count * SIZE_DEVICE + SIZE_PCI +
                  strlen(platform->command_line);
    /* Zeroed, as libfdt leaves gaps that would otherwise carry what was on the heap. */
    void *blob = calloc(1, room);
    if (!blob)
        return error_set(err, ENOMEM, "no memory for a device tree of %zu bytes", room);

    int result = write_tree(platform, blob, room);
    if (result) {
        free(blob);
        return error_set(err, EINVAL, "cannot build the device tree: %s", fdt_strerror(result));
    }
    *dtb = blob;
    *size = fdt_totalsize(blob);
    return 0;
}
