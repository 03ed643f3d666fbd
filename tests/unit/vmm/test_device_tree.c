/*
 * The device tree: dtc reads it without a word, and what a guest looks up by path is what the platform says.
 */
#include <criterion/criterion.h>
#include <libfdt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "tests/unit/vmm/sample_platform.h"
#include "vmm/x86/firmware.h"

static void *build(const struct platform *platform, size_t *size)
{
    struct error err;
    void *dtb;
    cr_assert_eq(device_tree_build(platform, &dtb, size, &err), 0, "%s", err.message);
    cr_assert_eq(fdt_check_full(dtb, *size), 0);
    return dtb;
}

/* The warnings of dtc, all of which are on by default. */
static void check_with_dtc(const void *dtb, size_t size)
{
    char path[] = "/tmp/godwit-dtb-XXXXXX", command[128], output[4096];
    int fd = mkstemp(path);
    cr_assert(fd >= 0 && write(fd, dtb, size) == (ssize_t)size);
    close(fd);
    snprintf(command, sizeof(command), "dtc -I dtb -O dts -o /dev/null %s 2>&1", path);
    FILE *pipe = popen(command, "r");
    cr_assert(pipe);
    output[fread(output, 1, sizeof(output) - 1, pipe)] = '\0';
    int status = pclose(pipe);
    unlink(path);
    cr_assert(status == 0 && output[0] == '\0', "%s", output);
}

static const void *property(const void *dtb, const char *path, const char *name, int *size)
{
    int node = fdt_path_offset(dtb, path);
    cr_assert_geq(node, 0, "no node %s", path);
    return fdt_getprop(dtb, node, name, size);
}

static void check_string(const void *dtb, const char *path, const char *name, const char *value)
{
    int size;
    const char *text = property(dtb, path, name, &size);
    cr_assert(text && strcmp(text, value) == 0 && size == (int)strlen(value) + 1, "%s %s", path, name);
}

static void check_cells(const void *dtb, const char *path, const char *name, const uint32_t *values,
                        unsigned count)
{
    int size;
    const fdt32_t *cells = property(dtb, path, name, &size);
    cr_assert(cells && size == (int)(count * 4), "%s %s has %d bytes", path, name, size);
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(fdt32_ld(&cells[i]), values[i], "%s %s, cell %u", path, name, i);
}

#define CHECK_CELLS(dtb, path, name, ...)                                                                    \
    check_cells(dtb, path, name, (const uint32_t[]){__VA_ARGS__}, sizeof((const uint32_t[]){__VA_ARGS__}) / 4)

Test(device_tree, dtc_has_nothing_to_say)
{
    const unsigned cpus[] = {1, 2, 17, 255};
    for (size_t i = 0; i < ARRAY_SIZE(cpus); i++) {
        struct platform platform = sample_platform(cpus[i]);
        size_t size;
        void *dtb = build(&platform, &size);
        check_with_dtc(dtb, size);
        free(dtb);
    }
}

Test(device_tree, memory_and_chosen)
{
    struct platform platform = sample_platform(1);
    size_t size;
    void *dtb = build(&platform, &size);
    check_string(dtb, "/", "compatible", "godwit,x86");
    CHECK_CELLS(dtb, "/memory@0", "reg", 0, 0, 0, 0xC0000000, 1, 0, 0, 0x80000000);
    check_string(dtb, "/chosen", "bootargs", "console=ttyS0 quiet");
    check_string(dtb, "/chosen", "stdout-path", "/isa/serial@i3f8");
    CHECK_CELLS(dtb, "/chosen", "linux,initrd-start", 1, 0x23456000);
    CHECK_CELLS(dtb, "/chosen", "linux,initrd-end", 1, 0x23456789);
    int seed_size;
    const uint8_t *seed = property(dtb, "/chosen", "rng-seed", &seed_size);
    cr_assert(seed_size == 64 && seed[0] == 0xA5 && seed[1] == 0x5A);
    CHECK_CELLS(dtb, "/reserved-memory/firmware@9fc00", "reg", 0, 0x9FC00, 0, 0x60400);
    free(dtb);
}

Test(device_tree, small_guest_without_initrd_or_console)
{
    struct platform platform = sample_platform(1);
    platform.memory = 16 * MIB;
    platform.initrd_size = 0;
    platform.device_count = 0;
    platform.command_line = "";
    size_t size;
    void *dtb = build(&platform, &size);
    check_with_dtc(dtb, size);
    CHECK_CELLS(dtb, "/memory@0", "reg", 0, 0, 0, 16 * MIB);
    check_string(dtb, "/chosen", "bootargs", "");
    int ignored;
    cr_assert_null(property(dtb, "/chosen", "linux,initrd-start", &ignored));
    cr_assert_null(property(dtb, "/chosen", "stdout-path", &ignored));
    free(dtb);
}

Test(device_tree, longest_command_line)
{
    static char text[64 * KIB];
    memset(text, 'a', sizeof(text) - 1);
    struct platform platform = sample_platform(255);
    platform.command_line = text;
    size_t size;
    void *dtb = build(&platform, &size);
    check_string(dtb, "/chosen", "bootargs", text);
    free(dtb);
}

Test(device_tree, as_many_devices_as_a_platform_has)
{
    struct platform platform = sample_platform(255);
    for (unsigned i = 0; i < PLATFORM_DEVICES_MAX; i++)
        platform.devices[i] = (struct platform_device){
            PLATFORM_SERIAL, {{false, 8 * i, 2}, {false, 8 * i + 2, 2}, {true, 8 * i, 2}}, 3, (int)i};
    platform.device_count = PLATFORM_DEVICES_MAX;
    size_t size;
    void *dtb = build(&platform, &size);
    check_with_dtc(dtb, size);
    free(dtb);
}

Test(device_tree, cpus)
{
    struct platform platform = sample_platform(255);
    size_t size;
    void *dtb = build(&platform, &size);
    int parent = fdt_path_offset(dtb, "/cpus"), cpu;
    uint32_t count = 0;
    fdt_for_each_subnode(cpu, dtb, parent)
    {
        char name[16];
        snprintf(name, sizeof(name), "cpu@%x", count);
        cr_assert_str_eq(fdt_get_name(dtb, cpu, NULL), name);
        const fdt32_t *id = fdt_getprop(dtb, cpu, "reg", NULL);
        cr_assert_eq(fdt32_ld(id), count);
        count++;
    }
    cr_assert_eq(count, 255);
    free(dtb);
}

Test(device_tree, devices)
{
    struct platform platform = sample_platform(1);
    size_t size;
    void *dtb = build(&platform, &size);
    check_string(dtb, "/isa/serial@i3f8", "compatible", "ns16550a");
    CHECK_CELLS(dtb, "/isa/serial@i3f8", "reg", 1, 0x3F8, 8);
    CHECK_CELLS(dtb, "/isa/serial@i3f8", "interrupts", 4, 0);
    CHECK_CELLS(dtb, "/isa/rtc@i70", "interrupts", 8, 0);
    CHECK_CELLS(dtb, "/isa/reset@i64", "reg", 1, 0x64, 1);
    check_string(dtb, "/isa/power@i600", "compatible", "godwit,acpi-pm");
    CHECK_CELLS(dtb, "/isa/power@i600", "reg", 1, 0x600, 4, 1, 0x604, 2, 1, 0x608, 4);
    CHECK_CELLS(dtb, "/isa/power@i600", "interrupts", 9, 2);
    check_string(dtb, "/isa/exit@if4", "compatible", "godwit,exit-port");
    check_string(dtb, "/test@feb00000", "compatible", "godwit,test-mmio");
    check_string(dtb, "/virtio@feb40000", "compatible", "virtio,mmio");
    CHECK_CELLS(dtb, "/virtio@feb40000", "reg", 0, 0xFEB40000, 0, 0x200);
    CHECK_CELLS(dtb, "/virtio@feb40000", "interrupts", 5, 0);
    CHECK_CELLS(dtb, "/virtio@feb40200", "interrupts", 10, 0);
    CHECK_CELLS(dtb, "/test@feb00000", "reg", 0, 0xFEB00000, 0, 0x1000, 0, 0xFEB01000, 0, 0x1000);
    check_string(dtb, "/interrupt-controller@fec00000", "compatible", "intel,ce4100-ioapic");
    check_string(dtb, "/interrupt-controller@fee00000", "compatible", "intel,ce4100-lapic");
    free(dtb);
}

/* Four cells for the unit, then the IOAPIC, its pin and the trigger. */
static void check_interrupt_map(const void *dtb)
{
    static const uint32_t lines[] = {5, 10, 11, 12};
    int size;
    const fdt32_t *map = property(dtb, "/pci@e0000000", "interrupt-map", &size);
    cr_assert_eq(size, 16 * 7 * 4);
    for (unsigned i = 0; i < 16; i++, map += 7) {
        unsigned device = fdt32_ld(&map[0]) >> 11, pin = fdt32_ld(&map[3]);
        cr_assert(device == i / 4 && pin == i % 4 + 1);
        cr_assert(fdt32_ld(&map[1]) == 0 && fdt32_ld(&map[2]) == 0);
        int ioapic = fdt_node_offset_by_phandle(dtb, fdt32_ld(&map[4]));
        cr_assert_eq(ioapic, fdt_path_offset(dtb, "/interrupt-controller@fec00000"));
        cr_assert_eq(fdt32_ld(&map[5]), lines[(device + pin - 1) % 4]);
        cr_assert_eq(fdt32_ld(&map[6]), 2, "level-triggered, active high");
    }
}

Test(device_tree, pci)
{
    struct platform platform = sample_platform_with_pci(1);
    size_t size;
    void *dtb = build(&platform, &size);
    check_with_dtc(dtb, size);
    check_string(dtb, "/pci@e0000000", "compatible", "pci-host-ecam-generic");
    check_string(dtb, "/pci@e0000000", "device_type", "pci");
    CHECK_CELLS(dtb, "/pci@e0000000", "reg", 0, 0xE0000000, 0, 0x100000);
    CHECK_CELLS(dtb, "/pci@e0000000", "bus-range", 0, 0);
    CHECK_CELLS(dtb, "/pci@e0000000", "ranges", 0x02000000, 0, 0xC0000000, 0, 0xC0000000, 0, 0x20000000,
                0x03000000, 1, 0x80000000, 1, 0x80000000, 0x10, 0);
    CHECK_CELLS(dtb, "/pci@e0000000", "interrupt-map-mask", 0x1800, 0, 0, 7);
    check_interrupt_map(dtb);
    free(dtb);
}
