#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/x86/acpi_tables.h"
#include "vmm/x86/aml.h"
#include "vmm/x86/firmware.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/table_writer.h"

#define OEM_ID              "GODWIT"
#define OEM_TABLE_ID        "GODWIT  "
#define CREATOR_ID          "GDWT"

#define FADT_REVISION       6
#define FADT_MINOR_REVISION 4
#define MADT_REVISION       5
#define MCFG_REVISION       1

/* FADT, IA-PC boot architecture */
#define BOOT_LEGACY_DEVICES (1 << 0)
#define BOOT_NO_VGA         (1 << 2)

/* FADT, fixed feature flags */
#define FADT_WBINVD         (1 << 0)
#define FADT_C1_SUPPORTED   (1 << 2)
#define FADT_NO_SLP_BUTTON  (1 << 5) /* no fixed one; PWR_BUTTON clear means a fixed power button */
#define FADT_NO_FIXED_RTC   (1 << 6)
#define FADT_TIMER_32_BIT   (1 << 8)
#define FADT_RESET_REGISTER (1 << 10)

#define LATENCY_NO_C2       0xFFFF
#define LATENCY_NO_C3       0xFFFF
#define CMOS_CENTURY        0x32

#define ADDRESS_SPACE_IO    1

#define MADT_PCAT_COMPAT    1
#define MADT_LAPIC          0
#define MADT_IOAPIC         1
#define MADT_OVERRIDE       2
#define MADT_LAPIC_NMI      4
#define MADT_CPU_ENABLED    1
#define MADT_ALL_CPUS       0xFF
#define INTI_HIGH_LEVEL     0xD /* active high, level-triggered */
#define NMI_LINT            1

#define PCI_ALL_FUNCTIONS   0xFFFF   /* of an address in _PRT */
#define OSC_UNKNOWN_UUID    (1 << 2) /* of the status that _OSC returns */

/* The guest physical address of what is written next. */
static uint64_t next_address(const struct table_writer *writer)
{
    return LAYOUT_FIRMWARE + writer->used;
}

static uint64_t table_open(struct table_writer *writer, const char *signature, uint8_t revision)
{
    struct table_header header = {
        .revision = revision,
        .oem_revision = 1,
        .creator_revision = 1,
    };
    memcpy(header.signature, signature, sizeof(header.signature));
    memcpy(header.oem_id, OEM_ID, sizeof(header.oem_id));
    memcpy(header.oem_table_id, OEM_TABLE_ID, sizeof(header.oem_table_id));
    memcpy(header.creator_id, CREATOR_ID, sizeof(header.creator_id));
    table_align(writer, 8);
    uint64_t address = next_address(writer);
    table_append(writer, &header, sizeof(header));
    return address;
}

static void table_close(struct table_writer *writer, uint64_t address)
{
    if (writer->full)
        return;
    struct table_header *header = (void *)(writer->bytes + (address - LAYOUT_FIRMWARE));
    header->length = (uint32_t)(next_address(writer) - address);
    header->checksum = table_checksum(header, header->length);
}

/* Opens a device whose name nobody has to know: a letter and a number. Its _UID is that number. */
static aml_mark open_numbered_device(struct table_writer *writer, char letter, unsigned number,
                                     const char *hid)
{
    char name[5];
    snprintf(name, sizeof(name), "%c%03X", letter, number & 0xFFF);
    aml_mark device = aml_device_open(writer, name);
    aml_name(writer, "_HID");
    aml_hardware_id(writer, hid);
    aml_name(writer, "_UID");
    aml_integer(writer, number);
    return device;
}

static void write_cpu_objects(struct table_writer *writer, const struct platform *platform)
{
    aml_mark container = open_numbered_device(writer, 'P', 0, "ACPI0010");
    for (unsigned id = 0; id < platform->cpus; id++)
        aml_close(writer, open_numbered_device(writer, 'C', id, "ACPI0007"));
    aml_close(writer, container);
}

static void write_resources(struct table_writer *writer, const struct platform_device *device)
{
    aml_name(writer, "_CRS");
    aml_mark resources = aml_resources_open(writer);
    for (unsigned i = 0; i < device->range_count; i++) {
        const struct platform_range *range = &device->ranges[i];
        if (range->mmio)
            aml_memory(writer, (uint32_t)range->base, (uint32_t)range->size);
        else
            aml_io_ports(writer, (uint16_t)range->base, (uint8_t)range->size);
    }
    if (device->irq >= 0)
        aml_irq(writer, (unsigned)device->irq);
    aml_resources_close(writer, resources);
}

/* ---- PCI ---- */

static void write_pci_windows(struct table_writer *writer, const struct platform_pci *pci)
{
    const struct pci_windows *windows = &pci->windows;
    aml_name(writer, "_CRS");
    aml_mark resources = aml_resources_open(writer);
    aml_bus_numbers(writer, 0, 0);
    aml_io_ports(writer, PCI_PORTS, PCI_PORTS_SIZE);
    aml_port_window(writer, (uint16_t)windows->ports.base, (uint16_t)windows->ports.size);
    aml_memory_window(writer, (uint32_t)windows->low.base, (uint32_t)windows->low.size);
    if (windows->high.size)
        aml_high_memory_window(writer, windows->high.base, windows->high.size);
    aml_resources_close(writer, resources);
}

/* _PRT: the interrupt of each pin (0 is INTA) of all functions of each device. The host bridge has none. */
static void write_pci_interrupts(struct table_writer *writer, const struct platform_pci *pci)
{
    aml_name(writer, "_PRT");
    aml_mark table = aml_package_open(writer, (PCI_DEVICES - 1) * PCI_LINES);
    for (unsigned device = 1; device < PCI_DEVICES; device++) {
        for (unsigned pin = 0; pin < PCI_LINES; pin++) {
            aml_mark entry = aml_package_open(writer, 4);
            aml_integer(writer, device << 16 | PCI_ALL_FUNCTIONS);
            aml_integer(writer, pin);
            aml_integer(writer, 0); /* no link device: what follows is the interrupt */
            aml_integer(writer, pci->irqs[pci_line(device, pin + 1)]);
            aml_close(writer, entry);
        }
    }
    aml_close(writer, table);
}

/* _OSC: as there is no firmware at work, a system gets control of whatever it asks for: its capabilities come
 * back as they are. */
static void write_pci_control(struct table_writer *writer)
{
    static const uint8_t uuid[] = {0x5B, 0x4D, 0xDB, 0x33, 0xF7, 0x1F, 0x1C, 0x40,
                                   0x96, 0x57, 0x74, 0x41, 0xC0, 0x3D, 0xD7, 0x66};
    enum {
        UUID,
        REVISION,
        COUNT,
        CAPABILITIES,
        ARGUMENTS
    };
    aml_mark method = aml_method_open(writer, "_OSC", ARGUMENTS);
    aml_mark known = aml_if_open(writer);
    aml_equal(writer);
    aml_argument(writer, UUID);
    aml_buffer(writer, uuid, sizeof(uuid));
    aml_return(writer);
    aml_argument(writer, CAPABILITIES);
    aml_close(writer, known);
    aml_create_dword_field(writer, CAPABILITIES, 0, "STS_");
    aml_or(writer);
    aml_reference(writer, "STS_");
    aml_integer(writer, OSC_UNKNOWN_UUID);
    aml_reference(writer, "STS_");
    aml_return(writer);
    aml_argument(writer, CAPABILITIES);
    aml_close(writer, method);
}

/* The host bridge; and a device that has the memory of ECAM, without which systems do not trust the MCFG. */
static void write_pci_objects(struct table_writer *writer, const struct platform_pci *pci)
{
    aml_mark bridge = aml_device_open(writer, "PCI0");
    aml_name(writer, "_HID");
    aml_hardware_id(writer, "PNP0A08");
    aml_name(writer, "_CID");
    aml_hardware_id(writer, "PNP0A03");
    aml_name(writer, "_UID");
    aml_integer(writer, 0);
    aml_name(writer, "_BBN");
    aml_integer(writer, 0);
    write_pci_windows(writer, pci);
    write_pci_interrupts(writer, pci);
    write_pci_control(writer);
    aml_close(writer, bridge);

    aml_mark board = open_numbered_device(writer, 'M', 0, "PNP0C02");
    aml_name(writer, "_CRS");
    aml_mark resources = aml_resources_open(writer);
    aml_memory(writer, (uint32_t)pci->ecam, PCI_ECAM_SIZE);
    aml_resources_close(writer, resources);
    aml_close(writer, board);
}

static uint64_t write_mcfg(struct table_writer *writer, const struct platform_pci *pci)
{
    const struct mcfg mcfg = {.ecam = pci->ecam};
    uint64_t address = table_open(writer, "MCFG", MCFG_REVISION);
    table_append(writer, &mcfg, sizeof(mcfg));
    table_close(writer, address);
    return address;
}

/* ---- Devices at fixed places ---- */

static void write_device_objects(struct table_writer *writer, const struct platform *platform)
{
    for (unsigned i = 0; i < platform->device_count; i++) {
        const struct platform_device *device = &platform->devices[i];
        const char *hid = platform_device_type(device)->acpi_hid;
        if (!hid)
            continue;
        aml_mark object = open_numbered_device(writer, 'D', i, hid);
        write_resources(writer, device);
        aml_close(writer, object);
    }
}

/* _S5: the sleep type for PM1a's control register, the same for the PM1b that is not there, two reserved. */
static void write_power_off(struct table_writer *writer)
{
    aml_name(writer, "_S5_");
    aml_mark package = aml_package_open(writer, 4);
    aml_integer(writer, LAYOUT_S5_SLEEP_TYPE);
    aml_integer(writer, LAYOUT_S5_SLEEP_TYPE);
    aml_integer(writer, 0);
    aml_integer(writer, 0);
    aml_close(writer, package);
}

static uint64_t write_dsdt(struct table_writer *writer, const struct platform *platform)
{
    uint64_t address = table_open(writer, "DSDT", 2);
    aml_mark system_bus = aml_scope_open(writer, "_SB_");
    write_cpu_objects(writer, platform);
    write_device_objects(writer, platform);
    if (platform->pci.present)
        write_pci_objects(writer, &platform->pci);
    aml_close(writer, system_bus);
    write_power_off(writer);
    table_close(writer, address);
    return address;
}

static uint64_t write_facs(struct table_writer *writer)
{
    const struct facs facs = {.signature = "FACS", .length = sizeof(facs), .version = 2};
    table_align(writer, 64);
    uint64_t address = next_address(writer);
    table_append(writer, &facs, sizeof(facs));
    return address;
}

static struct generic_address io_register(uint64_t port, uint8_t bits, uint8_t access_size)
{
    return (struct generic_address){
        .space_id = ADDRESS_SPACE_IO,
        .bit_width = bits,
        .access_size = access_size,
        .address = port,
    };
}

/* There is no SMI command port: the machine is always in ACPI mode. */
static uint64_t write_fadt(struct table_writer *writer, uint64_t facs, uint64_t dsdt)
{
    const struct fadt fadt = {
        .firmware_control = (uint32_t)facs,
        .dsdt = (uint32_t)dsdt,
        .sci_interrupt = LAYOUT_SCI_IRQ,
        .pm1a_event_block = LAYOUT_PM1A_EVENT,
        .pm1a_control_block = LAYOUT_PM1A_CONTROL,
        .pm_timer_block = LAYOUT_PM_TIMER,
        .pm1_event_length = 4,
        .pm1_control_length = 2,
        .pm_timer_length = 4,
        .c2_latency = LATENCY_NO_C2,
        .c3_latency = LATENCY_NO_C3,
        .century = CMOS_CENTURY,
        .boot_architecture = BOOT_LEGACY_DEVICES | BOOT_NO_VGA,
        .flags = FADT_WBINVD | FADT_C1_SUPPORTED | FADT_NO_SLP_BUTTON | FADT_NO_FIXED_RTC |
                 FADT_TIMER_32_BIT | FADT_RESET_REGISTER,
        .reset_register = io_register(LAYOUT_RESET, 8, 1),
        .reset_value = LAYOUT_RESET_VALUE,
        .minor_revision = FADT_MINOR_REVISION,
        .x_dsdt = dsdt,
        .x_pm1a_event_block = io_register(LAYOUT_PM1A_EVENT, 32, 2),
        .x_pm1a_control_block = io_register(LAYOUT_PM1A_CONTROL, 16, 2),
        .x_pm_timer_block = io_register(LAYOUT_PM_TIMER, 32, 3),
        .hypervisor_vendor = "godwit",
    };
    uint64_t address = table_open(writer, "FACP", FADT_REVISION);
    table_append(writer, &fadt, sizeof(fadt));
    table_close(writer, address);
    return address;
}

/*
 * Interrupts that are not as on the ISA bus: the level-triggered ones. No number is another at the IOAPIC:
 * KVM has the PIT on pin 0 as well.
 */
static void write_overrides(struct table_writer *writer, const struct platform *platform)
{
    for (unsigned i = 0; i < platform->device_count; i++) {
        const struct platform_device *device = &platform->devices[i];
        if (device->irq < 0 || !platform_device_type(device)->level_triggered)
            continue;
        const struct madt_override override = {
            .type = MADT_OVERRIDE,
            .length = sizeof(override),
            .source = (uint8_t)device->irq,
            .gsi = (uint32_t)device->irq,
            .flags = INTI_HIGH_LEVEL,
        };
        table_append(writer, &override, sizeof(override));
    }
}

static void write_cpu_apics(struct table_writer *writer, const struct platform *platform)
{
    for (unsigned id = 0; id < platform->cpus; id++) {
        const struct madt_lapic lapic = {
            .type = MADT_LAPIC,
            .length = sizeof(lapic),
            .processor_uid = (uint8_t)id,
            .apic_id = (uint8_t)id,
            .flags = MADT_CPU_ENABLED,
        };
        table_append(writer, &lapic, sizeof(lapic));
    }
}

static uint64_t write_madt(struct table_writer *writer, const struct platform *platform)
{
    const struct madt madt = {.lapic_address = LAYOUT_LAPIC, .flags = MADT_PCAT_COMPAT};
    const struct madt_ioapic ioapic = {
        .type = MADT_IOAPIC,
        .length = sizeof(ioapic),
        .address = LAYOUT_IOAPIC,
    };
    const struct madt_lapic_nmi nmi = {
        .type = MADT_LAPIC_NMI,
        .length = sizeof(nmi),
        .processor_uid = MADT_ALL_CPUS,
        .lint = NMI_LINT,
    };
    uint64_t address = table_open(writer, "APIC", MADT_REVISION);
    table_append(writer, &madt, sizeof(madt));
    write_cpu_apics(writer, platform);
    table_append(writer, &ioapic, sizeof(ioapic));
    write_overrides(writer, platform);
    table_append(writer, &nmi, sizeof(nmi));
    table_close(writer, address);
    return address;
}

static uint64_t write_xsdt(struct table_writer *writer, const uint64_t *tables, size_t count)
{
    uint64_t address = table_open(writer, "XSDT", 1);
    table_append(writer, tables, count * sizeof(*tables));
    table_close(writer, address);
    return address;
}

/* The first checksum covers what ACPI 1.0 had of the structure. */
static void fill_rsdp(struct rsdp *rsdp, uint64_t xsdt)
{
    *rsdp = (struct rsdp){.revision = 2, .length = sizeof(*rsdp), .xsdt_address = xsdt};
    memcpy(rsdp->signature, "RSD PTR ", sizeof(rsdp->signature));
    memcpy(rsdp->oem_id, OEM_ID, sizeof(rsdp->oem_id));
    rsdp->checksum = table_checksum(rsdp, offsetof(struct rsdp, length));
    rsdp->extended_checksum = table_checksum(rsdp, sizeof(*rsdp));
}

static void write_tables(struct table_writer *writer, const struct platform *platform)
{
    struct rsdp rsdp = {0};
    table_append(writer, &rsdp, sizeof(rsdp));
    uint64_t facs = write_facs(writer);
    uint64_t dsdt = write_dsdt(writer, platform);
    uint64_t fadt = write_fadt(writer, facs, dsdt);
    uint64_t madt = write_madt(writer, platform);
    uint64_t tables[3] = {fadt, madt};
    size_t count = 2;
    if (platform->pci.present)
        tables[count++] = write_mcfg(writer, &platform->pci);
    fill_rsdp(&rsdp, write_xsdt(writer, tables, count));
    memcpy(writer->bytes, &rsdp, sizeof(rsdp));
}

int acpi_write(const struct platform *platform, struct address_space *memory, struct error *err)
{
    struct table_writer writer = {.room = LAYOUT_FIRMWARE_END - LAYOUT_FIRMWARE};
    writer.bytes = calloc(1, writer.room);
    if (!writer.bytes)
        return error_set(err, ENOMEM, "no memory for the ACPI tables");
    write_tables(&writer, platform);
    int result = table_copy_to_guest(&writer, memory, LAYOUT_FIRMWARE, "the ACPI tables", err);
    free(writer.bytes);
    return result;
}
