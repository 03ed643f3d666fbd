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
    const uint64_t tables[] = {fadt, madt};
    fill_rsdp(&rsdp, write_xsdt(writer, tables, ARRAY_SIZE(tables)));
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
