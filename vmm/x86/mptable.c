#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vmm/x86/firmware.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/table_writer.h"

#define MP_REVISION     4 /* 1.4 */
#define LAPIC_VERSION   0x14
#define IOAPIC_VERSION  0x11

#define ENTRY_CPU       0
#define ENTRY_BUS       1
#define ENTRY_IOAPIC    2
#define ENTRY_IRQ       3
#define ENTRY_LOCAL_IRQ 4

#define CPU_ENABLED     1
#define CPU_BOOT        2
#define CPU_FEATURES    0x201 /* FPU and APIC: CPUID tells the rest */
#define IOAPIC_ENABLED  1

#define IRQ_TYPE_INT    0
#define IRQ_TYPE_NMI    1
#define IRQ_TYPE_EXTINT 3
#define IRQ_CONFORMS    0x0
#define IRQ_HIGH_LEVEL  0xD

#define PCI_BUS         0 /* as systems number it */
#define ISA_IRQS        16
#define ISA_IRQ_CASCADE 2 /* the second PIC's, which no device can have */
#define ALL_LAPICS      0xFF

struct mp_pointer {
    char signature[4];
    uint32_t table;
    uint8_t length; /* in units of 16 bytes */
    uint8_t revision;
    uint8_t checksum;
    uint8_t features[5]; /* 0: a table is there, and the PICs are on LINT0 (virtual wire mode) */
} __attribute__((packed));

struct mp_table {
    char signature[4];
    uint16_t length;
    uint8_t revision;
    uint8_t checksum;
    char oem[8];
    char product[12];
    uint32_t oem_table;
    uint16_t oem_table_size;
    uint16_t entries;
    uint32_t lapic;
    uint16_t extended_length;
    uint8_t extended_checksum;
    uint8_t reserved;
} __attribute__((packed));

struct mp_cpu {
    uint8_t type;
    uint8_t apic_id;
    uint8_t apic_version;
    uint8_t flags;
    uint32_t signature;
    uint32_t features;
    uint32_t reserved[2];
} __attribute__((packed));

struct mp_bus {
    uint8_t type;
    uint8_t id;
    char name[6];
} __attribute__((packed));

struct mp_ioapic {
    uint8_t type;
    uint8_t id;
    uint8_t version;
    uint8_t flags;
    uint32_t address;
} __attribute__((packed));

/* ENTRY_IRQ: to a pin of an IOAPIC; ENTRY_LOCAL_IRQ: to a pin of LAPICs. */
struct mp_irq {
    uint8_t type;
    uint8_t irq_type;
    uint16_t flags;
    uint8_t bus;
    uint8_t bus_irq;
    uint8_t apic_id;
    uint8_t apic_pin;
} __attribute__((packed));

_Static_assert(sizeof(struct mp_pointer) == 16 && sizeof(struct mp_table) == 44 &&
                   sizeof(struct mp_cpu) == 20,
               "the sizes of MP 1.4");

struct mp_writer {
    struct table_writer out;
    uint16_t entries;
    uint8_t isa_bus;
};

static void append_entry(struct mp_writer *writer, const void *entry, size_t size)
{
    table_append(&writer->out, entry, size);
    writer->entries++;
}

static void append_cpus(struct mp_writer *writer, const struct platform *platform)
{
    for (unsigned id = 0; id < platform->cpus; id++) {
        const struct mp_cpu cpu = {
            .type = ENTRY_CPU,
            .apic_id = (uint8_t)id,
            .apic_version = LAPIC_VERSION,
            .flags = CPU_ENABLED | (id == 0 ? CPU_BOOT : 0),
            .features = CPU_FEATURES,
        };
        append_entry(writer, &cpu, sizeof(cpu));
    }
}

static void append_bus(struct mp_writer *writer, uint8_t id, const char *name)
{
    struct mp_bus bus = {.type = ENTRY_BUS, .id = id};
    memcpy(bus.name, name, sizeof(bus.name));
    append_entry(writer, &bus, sizeof(bus));
}

static uint16_t irq_flags(const struct platform *platform, int irq)
{
    for (unsigned i = 0; i < platform->device_count; i++) {
        const struct platform_device *device = &platform->devices[i];
        if (device->irq == irq && platform_device_type(device)->level_triggered)
            return IRQ_HIGH_LEVEL;
    }
    return IRQ_CONFORMS;
}

static bool is_isa_irq(const struct platform *platform, uint8_t irq)
{
    bool is_pci = platform->pci.present && memchr(platform->pci.irqs, irq, sizeof(platform->pci.irqs));
    return irq != ISA_IRQ_CASCADE && !is_pci;
}

/* Every ISA interrupt is at the IOAPIC pin of its number. */
static void append_isa_irqs(struct mp_writer *writer, const struct platform *platform, uint8_t ioapic)
{
    for (uint8_t irq = 0; irq < ISA_IRQS; irq++) {
        const struct mp_irq entry = {
            .type = ENTRY_IRQ,
            .irq_type = IRQ_TYPE_INT,
            .flags = irq_flags(platform, irq),
            .bus = writer->isa_bus,
            .bus_irq = irq,
            .apic_id = ioapic,
            .apic_pin = irq,
        };
        if (is_isa_irq(platform, irq))
            append_entry(writer, &entry, sizeof(entry));
    }
}

/* Those of PCI are told by device and pin (section D.3), and conform to their bus: they are level-triggered.
 */
static void append_pci_irqs(struct mp_writer *writer, const struct platform_pci *pci, uint8_t ioapic)
{
    for (unsigned device = 1; device < PCI_DEVICES; device++) {
        for (unsigned pin = 0; pin < PCI_LINES; pin++) {
            const struct mp_irq entry = {
                .type = ENTRY_IRQ,
                .irq_type = IRQ_TYPE_INT,
                .flags = IRQ_CONFORMS,
                .bus = PCI_BUS,
                .bus_irq = (uint8_t)(device << 2 | pin),
                .apic_id = ioapic,
                .apic_pin = pci->irqs[pci_line(device, pin + 1)],
            };
            append_entry(writer, &entry, sizeof(entry));
        }
    }
}

static void append_local_irq(struct mp_writer *writer, uint8_t irq_type, uint8_t lint)
{
    const struct mp_irq entry = {
        .type = ENTRY_LOCAL_IRQ,
        .irq_type = irq_type,
        .bus = writer->isa_bus,
        .apic_id = ALL_LAPICS,
        .apic_pin = lint,
    };
    append_entry(writer, &entry, sizeof(entry));
}

/* Entries go in the order of their types. The IOAPIC's id is the first that no CPU has. */
static void append_entries(struct mp_writer *writer, const struct platform *platform)
{
    const struct mp_ioapic ioapic = {
        .type = ENTRY_IOAPIC,
        .id = (uint8_t)platform->cpus,
        .version = IOAPIC_VERSION,
        .flags = IOAPIC_ENABLED,
        .address = LAYOUT_IOAPIC,
    };
    append_cpus(writer, platform);
    if (platform->pci.present)
        append_bus(writer, PCI_BUS, "PCI   ");
    writer->isa_bus = platform->pci.present ? PCI_BUS + 1 : 0;
    append_bus(writer, writer->isa_bus, "ISA   ");
    append_entry(writer, &ioapic, sizeof(ioapic));
    append_isa_irqs(writer, platform, ioapic.id);
    if (platform->pci.present)
        append_pci_irqs(writer, &platform->pci, ioapic.id);
    append_local_irq(writer, IRQ_TYPE_EXTINT, 0);
    append_local_irq(writer, IRQ_TYPE_NMI, 1);
}

static void write_table(struct mp_writer *writer, const struct platform *platform)
{
    struct mp_table table = {.revision = MP_REVISION, .lapic = LAYOUT_LAPIC};
    memcpy(table.signature, "PCMP", sizeof(table.signature));
    memcpy(table.oem, "GODWIT  ", sizeof(table.oem));
    memcpy(table.product, "GODWIT      ", sizeof(table.product));
    table_append(&writer->out, &table, sizeof(table));
    append_entries(writer, platform);
    if (writer->out.full)
        return;
    table.length = (uint16_t)writer->out.used;
    table.entries = writer->entries;
    memcpy(writer->out.bytes, &table, sizeof(table));
    ((struct mp_table *)writer->out.bytes)->checksum = table_checksum(writer->out.bytes, writer->out.used);
}

static struct mp_pointer make_pointer(void)
{
    struct mp_pointer pointer = {.table = LAYOUT_FIRMWARE, .length = 1, .revision = MP_REVISION};
    memcpy(pointer.signature, "_MP_", sizeof(pointer.signature));
    pointer.checksum = table_checksum(&pointer, sizeof(pointer));
    return pointer;
}

int mptable_write(const struct platform *platform, struct address_space *memory, struct error *err)
{
    struct mp_writer writer = {.out.room = LAYOUT_FIRMWARE_END - LAYOUT_FIRMWARE};
    writer.out.bytes = calloc(1, writer.out.room);
    if (!writer.out.bytes)
        return error_set(err, ENOMEM, "no memory for the MP table");
    write_table(&writer, platform);
    struct mp_pointer pointer = make_pointer();
    const struct table_writer first = {.bytes = (uint8_t *)&pointer, .used = sizeof(pointer)};
    int result = table_copy_to_guest(&first, memory, LAYOUT_MP_TABLE, "the MP pointer", err);
    if (result == 0)
        result =
            table_copy_to_guest(&writer.out, memory, LAYOUT_FIRMWARE, "the entries of the MP table", err);
    free(writer.out.bytes);
    return result;
}
