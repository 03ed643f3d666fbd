/*
 * The ACPI tables as a guest finds them: from the RSDP on, by addresses, lengths and checksums. What is in
 * them is read by ACPICA's disassembler, and its compiler must make the same bytes from what it read.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "tests/unit/vmm/guest_ram.h"
#include "tests/unit/vmm/sample_platform.h"
#include "vmm/x86/firmware.h"

#define RSDP     0xE0000
#define AREA_END 0x100000

static struct guest_ram guest;
static char folder[] = "/tmp/godwit-acpi-XXXXXX";

static void set_up(void)
{
    guest_ram_create(&guest, 2 * MIB);
    cr_assert(mkdtemp(folder));
}

static void tear_down(void)
{
    char command[128];
    snprintf(command, sizeof(command), "rm -r %s", folder);
    cr_assert_eq(system(command), 0);
    guest_ram_destroy(&guest);
}

TestSuite(acpi, .init = set_up, .fini = tear_down);

static uint64_t number(uint64_t address, unsigned size)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < size; i++)
        value |= (uint64_t)guest.host[address + i] << 8 * i;
    return value;
}

static unsigned sum(uint64_t address, uint64_t size)
{
    unsigned total = 0;
    for (uint64_t i = 0; i < size; i++)
        total += guest.host[address + i];
    return total & 0xFF;
}

/* Checks the frame of the table at `address` and puts it into a file. */
static void check_table(uint64_t address, const char *signature)
{
    cr_assert(address >= RSDP && address < AREA_END && address % 8 == 0, "%s at %lx", signature, address);
    cr_assert(memcmp(guest.host + address, signature, 4) == 0, "%s", signature);
    uint64_t length = number(address + 4, 4);
    cr_assert(length <= AREA_END - address);
    if (strcmp(signature, "FACS") != 0)
        cr_assert_eq(sum(address, length), 0, "checksum of %s", signature);
    char path[64];
    snprintf(path, sizeof(path), "%s/%s.dat", folder, signature);
    FILE *file = fopen(path, "w");
    cr_assert(file);
    cr_assert_eq(fwrite(guest.host + address, 1, length, file), length);
    fclose(file);
}

static void check_rsdp(void)
{
    cr_assert(memcmp(guest.host + RSDP, "RSD PTR ", 8) == 0);
    cr_assert_eq(guest.host[RSDP + 15], 2, "revision");
    cr_assert_eq(number(RSDP + 20, 4), 36);
    cr_assert_eq(sum(RSDP, 20), 0);
    cr_assert_eq(sum(RSDP, 36), 0);
}

/* Follows every pointer. There is an MCFG with PCI alone. */
static void check_tables(bool pci)
{
    check_rsdp();
    uint64_t xsdt = number(RSDP + 24, 8);
    check_table(xsdt, "XSDT");
    cr_assert_eq(number(xsdt + 4, 4), 36 + (pci ? 3 : 2) * 8);
    uint64_t fadt = number(xsdt + 36, 8), madt = number(xsdt + 44, 8);
    check_table(fadt, "FACP");
    check_table(madt, "APIC");
    if (pci)
        check_table(number(xsdt + 52, 8), "MCFG");
    uint64_t facs = number(fadt + 36, 4), dsdt = number(fadt + 140, 8);
    cr_assert_eq(facs % 64, 0);
    cr_assert_eq(number(fadt + 40, 4), dsdt);
    check_table(facs, "FACS");
    check_table(dsdt, "DSDT");
}

static const char *run(const char *format, const char *table, char *output, size_t size)
{
    char command[512], line[256];
    snprintf(line, sizeof(line), format, table, table);
    snprintf(command, sizeof(command), "cd %s && %s 2>&1", folder, line);
    FILE *pipe = popen(command, "r");
    cr_assert(pipe);
    size_t length = fread(output, 1, size - 1, pipe);
    output[length] = '\0';
    cr_assert_eq(pclose(pipe), 0, "%s: %s", command, output);
    return output;
}

/* Everything but the header is the same; the compiler puts its own name there. */
static void check_same(const char *table)
{
    char output[256];
    run(strcmp(table, "FACS") == 0 ? "cmp %s.dat new-%s.aml" : "cmp -i 36 %s.dat new-%s.aml", table, output,
        sizeof(output));
}

static void check_by_acpica(const char *table)
{
    char output[16384];
    run("iasl -d %s.dat", table, output, sizeof(output));
    cr_assert(!strcasestr(output, "warning") && !strcasestr(output, "error"), "%s", output);
    run("iasl -p new-%s %s.dsl", table, output, sizeof(output));
    cr_assert(strstr(output, "0 Errors, 0 Warnings, 0 Remarks"), "%s", output);
    check_same(table);
}

static void check_all_by_acpica(void)
{
    const char *const tables[] = {"XSDT", "FACP", "APIC", "FACS", "DSDT"};
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
        check_by_acpica(tables[i]);
}

static void write_tables(const struct platform *platform)
{
    struct error err;
    memset(guest.host, 0, 2 * MIB);
    cr_assert_eq(acpi_write(platform, guest.space, &err), 0, "%s", err.message);
}

Test(acpi, acpica_reads_what_it_would_write)
{
    const unsigned cpus[] = {1, 2, 64, 255};
    for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
        struct platform platform = sample_platform(cpus[i]);
        write_tables(&platform);
        check_tables(false);
        check_all_by_acpica();
    }
}

/* Whether the disassembly, without its blanks and comments, has `text` (which has none). */
static bool disassembly_has(const char *table, const char *text)
{
    static char output[1 << 20];
    run("iasl -d %s.dat >/dev/null 2>&1 && sed 's|//.*||; s|/\\*.*\\*/||' %s.dsl | tr -d ' \\n'", table,
        output, sizeof(output));
    return strstr(output, text) != NULL;
}

Test(acpi, fixed_hardware)
{
    const char *const facts[] = {
        "SCIInterrupt:0009",
        "SMICommandPort:00000000",
        "PM1AEventBlockAddress:00000600",
        "PM1AControlBlockAddress:00000604",
        "PMTimerBlockAddress:00000608",
        "32-bitPMTimer(V1):1",
        "ControlMethodPowerButton(V1):0",
        "ControlMethodSleepButton(V1):1",
        "ResetRegisterSupported(V2):1",
        "Address:0000000000000CF9",
        "Valuetocausereset:06",
        "HardwareReduced(V5):0",
        "LegacyDevicesSupported(V2):1",
        "8042Presentonports60/64(V2):0",
        "VGANotPresent(V4):1",
        "CMOSRTCNotPresent(V5):0",
    };
    struct platform platform = sample_platform(1);
    write_tables(&platform);
    check_tables(false);
    for (size_t i = 0; i < ARRAY_SIZE(facts); i++)
        cr_assert(disassembly_has("FACP", facts[i]), "%s", facts[i]);
}

Test(acpi, namespace)
{
    const char *const facts[] = {
        "Name(_S5,Package(0x04){0x05,0x05,Zero,Zero})",
        "Name(_HID,EisaId(\"PNP0501\"))Name(_UID,Zero)Name(_CRS,ResourceTemplate()"
        "{IO(Decode16,0x03F8,0x03F8,0x01,0x08,)IRQNoFlags(){4}})",
        "Name(_HID,EisaId(\"PNP0B00\"))Name(_UID,One)Name(_CRS,ResourceTemplate()"
        "{IO(Decode16,0x0070,0x0070,0x01,0x02,)IRQNoFlags(){8}})",
        "Name(_HID,\"LNRO0005\")Name(_UID,0x06)Name(_CRS,ResourceTemplate()"
        "{Memory32Fixed(ReadWrite,0xFEB40000,0x00000200,)IRQNoFlags(){5}})",
        "Name(_HID,\"LNRO0005\")Name(_UID,0x07)Name(_CRS,ResourceTemplate()"
        "{Memory32Fixed(ReadWrite,0xFEB40200,0x00000200,)IRQNoFlags(){10}})",
        "Name(_HID,\"ACPI0010\")",
        "Device(C000){Name(_HID,\"ACPI0007\")Name(_UID,Zero)}Device(C001){Name(_HID,\"ACPI0007\")"
        "Name(_UID,One)}Device(C002){Name(_HID,\"ACPI0007\")Name(_UID,0x02)}}",
    };
    struct platform platform = sample_platform(3);
    write_tables(&platform);
    check_tables(false);
    for (size_t i = 0; i < ARRAY_SIZE(facts); i++)
        cr_assert(disassembly_has("DSDT", facts[i]), "%s", facts[i]);
}

Test(acpi, pci)
{
    const char *const facts[] = {
        "Device(PCI0){Name(_HID,EisaId(\"PNP0A08\"))Name(_CID,EisaId(\"PNP0A03\"))Name(_UID,Zero)"
        "Name(_BBN,Zero)Name(_CRS,ResourceTemplate(){"
        "WordBusNumber(ResourceProducer,MinFixed,MaxFixed,PosDecode,0x0000,0x0000,0x0000,0x0000,0x0001,,,)"
        "IO(Decode16,0x0CF8,0x0CF8,0x01,0x08,)"
        "WordIO(ResourceProducer,MinFixed,MaxFixed,PosDecode,EntireRange,"
        "0x0000,0x1000,0xFFFF,0x0000,0xF000,,,,TypeStatic,DenseTranslation)"
        "DWordMemory(ResourceProducer,PosDecode,MinFixed,MaxFixed,NonCacheable,ReadWrite,"
        "0x00000000,0xC0000000,0xDFFFFFFF,0x00000000,0x20000000,,,,AddressRangeMemory,TypeStatic)"
        "QWordMemory(ResourceProducer,PosDecode,MinFixed,MaxFixed,NonCacheable,ReadWrite,"
        "0x0000000000000000,0x0000000180000000,0x000000117FFFFFFF,0x0000000000000000,0x0000001000000000,,,,"
        "AddressRangeMemory,TypeStatic)})",
        "Name(_PRT,Package(0x7C){Package(0x04){0x0001FFFF,Zero,Zero,0x0A},Package(0x04){0x0001FFFF,One,Zero,"
        "0x0B},Package(0x04){0x0001FFFF,0x02,Zero,0x0C},Package(0x04){0x0001FFFF,0x03,Zero,0x05},"
        "Package(0x04){0x0002FFFF,Zero,Zero,0x0B}",
        "Package(0x04){0x001FFFFF,0x03,Zero,0x0B}})",
        "Method(_OSC,4,Serialized){If((Arg0==ToUUID(\"33db4d5b-1ff7-401c-9657-7441c03dd766\"))){Return(Arg3)}"
        "CreateDWordField(Arg3,Zero,STS)STS|=0x04Return(Arg3)}",
        "Name(_HID,EisaId(\"PNP0C02\"))Name(_UID,Zero)Name(_CRS,ResourceTemplate()"
        "{Memory32Fixed(ReadWrite,0xE0000000,0x00100000,)})",
    };
    struct platform platform = sample_platform_with_pci(2);
    write_tables(&platform);
    check_tables(true);
    check_all_by_acpica();
    check_by_acpica("MCFG");
    for (size_t i = 0; i < ARRAY_SIZE(facts); i++)
        cr_assert(disassembly_has("DSDT", facts[i]), "%s", facts[i]);
    cr_assert(disassembly_has("MCFG", "BaseAddress:00000000E0000000"));
    cr_assert(disassembly_has("MCFG", "StartBusNumber:00"));
    cr_assert(disassembly_has("MCFG", "EndBusNumber:00"));
}

/* Where RAM leaves no address above it. */
Test(acpi, pci_without_a_high_window)
{
    struct platform platform = sample_platform_with_pci(1);
    platform.pci.windows.high = (struct pci_window){0};
    write_tables(&platform);
    check_tables(true);
    check_all_by_acpica();
    cr_assert_not(disassembly_has("DSDT", "QWordMemory"));
    cr_assert(disassembly_has("DSDT", "DWordMemory"));
}

/* A device in memory, without an interrupt. */
Test(acpi, memory_resources)
{
    struct platform platform = sample_platform(1);
    platform.devices[0] = (struct platform_device){PLATFORM_SERIAL, {{true, 0xFEA00000, 0x100}}, 1, -1};
    write_tables(&platform);
    check_tables(false);
    check_by_acpica("DSDT");
    cr_assert(disassembly_has("DSDT", "{Memory32Fixed(ReadWrite,0xFEA00000,0x00000100,)}"));
}

/* The entries of the MADT, counted by type. */
Test(acpi, interrupt_controllers)
{
    struct platform platform = sample_platform(255);
    write_tables(&platform);
    check_tables(false);
    uint64_t madt = number(number(RSDP + 24, 8) + 44, 8), end = madt + number(madt + 4, 4);
    unsigned counts[8] = {0};
    cr_assert_eq(number(madt + 36, 4), 0xFEE00000);
    for (uint64_t entry = madt + 44; entry < end; entry += guest.host[entry + 1]) {
        unsigned type = guest.host[entry];
        cr_assert_lt(type, ARRAY_SIZE(counts));
        cr_assert_geq(guest.host[entry + 1], 6);
        if (type == 0) {
            cr_assert_eq(guest.host[entry + 3], counts[0], "APIC id");
            cr_assert_eq(guest.host[entry + 2], counts[0], "the _UID in the DSDT");
            cr_assert_eq(number(entry + 4, 4), 1, "enabled");
        } else if (type == 1) {
            cr_assert_eq(number(entry + 4, 4), 0xFEC00000);
        } else if (type == 2) {
            cr_assert_eq(guest.host[entry + 3], 9, "only the SCI differs from the ISA bus");
            cr_assert_eq(number(entry + 4, 4), 9);
            cr_assert_eq(number(entry + 8, 2), 0xD, "level-triggered, active high");
        }
        counts[type]++;
    }
    cr_assert(counts[0] == 255 && counts[1] == 1 && counts[2] == 1 && counts[4] == 1);
}

Test(acpi, refuses_what_does_not_fit)
{
    struct platform platform = sample_platform(20000);
    struct error err;
    cr_assert_eq(acpi_write(&platform, guest.space, &err), -ENOSPC);
    cr_assert(strstr(err.message, "fewer CPUs"), "%s", err.message);
}

Test(acpi, refuses_a_guest_without_low_memory)
{
    struct guest_ram small;
    struct error err;
    guest_ram_create(&small, 512 * KIB);
    struct platform platform = sample_platform(1);
    cr_assert_eq(acpi_write(&platform, small.space, &err), -EFAULT);
    cr_assert(strstr(err.message, "0xe0000"), "%s", err.message);
    guest_ram_destroy(&small);
}
