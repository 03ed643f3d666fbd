/*
 * The MP table, found and read by the offsets of the MultiProcessor Specification 1.4, chapter 4.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "tests/unit/vmm/guest_ram.h"
#include "tests/unit/vmm/sample_platform.h"
#include "vmm/x86/firmware.h"

#define BASE_MEMORY_LAST_KIB 0x9FC00

static unsigned sum(const uint8_t *bytes, size_t size)
{
    unsigned total = 0;
    while (size--)
        total += *bytes++;
    return total & 0xFF;
}

static uint32_t number(const uint8_t *bytes, unsigned size)
{
    uint32_t value = 0;
    memcpy(&value, bytes, size);
    return value;
}

/* The search of an operating system: 16 bytes, aligned, that begin with _MP_ and add up to 0. */
static const uint8_t *find_pointer(const struct guest_ram *guest)
{
    for (uint32_t address = BASE_MEMORY_LAST_KIB; address < 0xA0000; address += 16) {
        const uint8_t *candidate = guest->host + address;
        if (memcmp(candidate, "_MP_", 4) == 0 && sum(candidate, candidate[8] * 16) == 0)
            return candidate;
    }
    return NULL;
}

struct summary {
    unsigned cpus, boot_cpus, buses, ioapics, irqs, pci_irqs, local_irqs;
    uint8_t ioapic_id, isa_bus;
    bool pci, ids[256];
};

/* A line of PCI: device and pin, wired as the specification of PCI recommends. */
static void read_pci_irq(const uint8_t *entry, struct summary *found)
{
    static const uint8_t lines[] = {5, 10, 11, 12};
    unsigned device = entry[5] >> 2, pin = entry[5] & 3;
    cr_assert(found->pci && device >= 1 && device <= 31);
    cr_assert_eq(number(entry + 2, 2), 0, "as on its bus");
    cr_assert_eq(entry[7], lines[(device + pin) % 4], "device %u, pin %u", device, pin);
    found->pci_irqs++;
}

static size_t read_entry(const uint8_t *entry, struct summary *found)
{
    switch (entry[0]) {
    case 0:
        cr_assert_eq(entry[1], found->cpus, "ids count up");
        cr_assert(entry[3] & 1, "enabled");
        found->boot_cpus += entry[3] >> 1 & 1;
        found->ids[entry[1]] = true;
        found->cpus++;
        return 20;
    case 1:
        cr_assert_eq(entry[1], found->buses);
        found->pci |= memcmp(entry + 2, "PCI   ", 6) == 0;
        if (memcmp(entry + 2, "ISA   ", 6) == 0)
            found->isa_bus = entry[1];
        found->buses++;
        return 8;
    case 2:
        found->ioapic_id = entry[1];
        cr_assert(entry[3] & 1);
        cr_assert_eq(number(entry + 4, 4), 0xFEC00000);
        found->ioapics++;
        return 8;
    case 3:
        cr_assert_eq(entry[1], 0, "INT");
        cr_assert_eq(entry[6], found->ioapic_id);
        if (entry[4] != found->isa_bus) {
            read_pci_irq(entry, found);
            return 8;
        }
        cr_assert_eq(number(entry + 2, 2), entry[5] == 9 ? 0xD : 0, "the SCI alone is level-triggered");
        cr_assert_eq(entry[5], entry[7], "irq and pin are the same");
        found->irqs |= 1u << entry[5];
        return 8;
    default:
        cr_assert_eq(entry[0], 4);
        cr_assert_eq(entry[1], entry[7] ? 1 : 3, "NMI at LINT1, external at LINT0");
        cr_assert_eq(entry[6], 0xFF, "at every CPU");
        found->local_irqs++;
        return 8;
    }
}

static void check_table(const struct guest_ram *guest, unsigned cpus, bool pci)
{
    const uint8_t *pointer = find_pointer(guest);
    cr_assert(pointer);
    cr_assert(pointer[9] == 4 && pointer[11] == 0 && pointer[12] == 0, "1.4, a table, virtual wire");
    const uint8_t *table = guest->host + number(pointer + 4, 4);
    unsigned length = number(table + 4, 2), entries = number(table + 34, 2);
    cr_assert(memcmp(table, "PCMP", 4) == 0);
    cr_assert_eq(sum(table, length), 0);
    cr_assert_eq(number(table + 36, 4), 0xFEE00000);

    struct summary found = {0};
    const uint8_t *entry = table + 44;
    for (unsigned i = 0; i < entries; i++)
        entry += read_entry(entry, &found);
    cr_assert_eq(entry - table, length);
    cr_assert(found.cpus == cpus && found.boot_cpus == 1 && found.buses == (pci ? 2 : 1) &&
              found.ioapics == 1);
    unsigned others = 1u << 2 | (pci ? 1u << 5 | 1u << 10 | 1u << 11 | 1u << 12 : 0);
    cr_assert_eq(found.irqs, 0xFFFF & ~others, "all but the cascade, and what is PCI's");
    cr_assert(found.pci == pci && found.pci_irqs == (pci ? 31 * 4 : 0));
    cr_assert_eq(found.local_irqs, 2);
    cr_assert(!found.ids[found.ioapic_id], "no APIC has the id of another");
}

static void write_and_check(const struct platform *platform, bool pci)
{
    struct guest_ram guest;
    struct error err;
    guest_ram_create(&guest, 2 * MIB);
    cr_assert_eq(mptable_write(platform, guest.space, &err), 0, "%s", err.message);
    check_table(&guest, platform->cpus, pci);
    guest_ram_destroy(&guest);
}

Test(mptable, describes_the_machine)
{
    const unsigned cpus[] = {1, 2, 15, 255};
    for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
        struct platform platform = sample_platform(cpus[i]);
        write_and_check(&platform, false);
        platform = sample_platform_with_pci(cpus[i]);
        write_and_check(&platform, true);
    }
}

Test(mptable, refuses_a_guest_without_low_memory)
{
    struct guest_ram guest;
    struct error err;
    guest_ram_create(&guest, 64 * KIB);
    struct platform platform = sample_platform(1);
    cr_assert_eq(mptable_write(&platform, guest.space, &err), -EFAULT);
    cr_assert(strstr(err.message, "more memory"), "%s", err.message);
    guest_ram_destroy(&guest);
}
