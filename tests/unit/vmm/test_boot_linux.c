/* What a Linux kernel finds in memory: boot_params, at the offsets of the kernel's zero-page.rst. */
#include <libfdt.h>

#include "boot_fixture.h"

static void boot(struct boot_fixture *fixture, const void *initrd, size_t initrd_size)
{
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    cr_assert_eq(fixture_boot(fixture, image, sizeof(image), initrd, initrd_size), 0, "%s",
                 fixture->err.message);
}

static void refuses(struct boot_fixture *fixture, const void *initrd, size_t initrd_size, const char *wanted)
{
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    cr_expect_lt(fixture_boot(fixture, image, sizeof(image), initrd, initrd_size), 0);
    cr_expect(strstr(fixture->err.message, wanted), "'%s' is not in: %s", wanted, fixture->err.message);
    cr_expect_null(fixture->dtb);
}

/* Whether [address, address + size) is of `type` as a whole in the e820 table. */
static bool e820_is(const struct boot_fixture *fixture, uint64_t address, uint64_t size, uint32_t type)
{
    uint64_t table = fixture->entry.rsi + 0x2d0;
    for (uint64_t i = 0; i < ram_get(fixture, fixture->entry.rsi + 0x1e8, 1); i++) {
        uint64_t start = ram_get(fixture, table + i * 20, 8),
                 length = ram_get(fixture, table + i * 20 + 8, 8);
        if (ram_get(fixture, table + i * 20 + 16, 4) == type && address >= start && size <= length &&
            address - start <= length - size)
            return true;
    }
    return false;
}

static uint64_t e820_total(const struct boot_fixture *fixture, uint32_t type)
{
    uint64_t table = fixture->entry.rsi + 0x2d0, total = 0;
    for (uint64_t i = 0; i < ram_get(fixture, fixture->entry.rsi + 0x1e8, 1); i++) {
        if (ram_get(fixture, table + i * 20 + 16, 4) == type)
            total += ram_get(fixture, table + i * 20 + 8, 8);
    }
    return total;
}

Test(boot_linux, boot_params)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 64 * MIB);
    fixture.platform.command_line = "console=ttyS0 quiet";
    boot(&fixture, NULL, 0);
    uint64_t params = fixture.entry.rsi;
    cr_expect_eq(params % 4096, 0);
    cr_expect_eq(ram_get(&fixture, params + 0x1fe, 2), 0xaa55);
    cr_expect_eq(ram_get(&fixture, params + 0x202, 4), 0x53726448);
    cr_expect_eq(ram_get(&fixture, params + 0x206, 2), 0x020f);
    cr_expect_eq(ram_get(&fixture, params + 0x210, 1), 0xff);    /* type_of_loader */
    cr_expect_eq(ram_get(&fixture, params + 0x211, 1) & 1, 1);   /* LOADED_HIGH */
    cr_expect_eq(ram_get(&fixture, params + 0x1ef, 1), 0);       /* sentinel */
    cr_expect_eq(ram_get(&fixture, params + 0x070, 8), 0xe0000); /* acpi_rsdp_addr */
    cr_expect_eq(ram_get(&fixture, params + 0x218, 8), 0);       /* no initrd */
    cr_expect_str_eq((char *)fixture.ram + ram_get(&fixture, params + 0x228, 4), "console=ttyS0 quiet");
    fixture_destroy(&fixture);
}

Test(boot_linux, no_rsdp_without_acpi)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 64 * MIB);
    fixture.platform.acpi = false;
    boot(&fixture, NULL, 0);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rsi + 0x070, 8), 0);
    fixture_destroy(&fixture);
}

Test(boot_linux, e820_of_little_memory)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 64 * MIB);
    boot(&fixture, NULL, 0);
    cr_expect(e820_is(&fixture, 0, 0x9fc00, 1));
    cr_expect(e820_is(&fixture, 0x9fc00, 0x100000 - 0x9fc00, 2));
    cr_expect(e820_is(&fixture, 0x100000, 63 * MIB, 1));
    cr_expect(e820_is(&fixture, 0xfeffc000, 0x4000, 2));
    cr_expect_eq(e820_total(&fixture, 1), 64 * MIB - (0x100000 - 0x9fc00));
    fixture_destroy(&fixture);
}

Test(boot_linux, e820_reserves_what_pci_is_reached_by)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 64 * MIB);
    fixture.platform.pci.present = true;
    fixture.platform.pci.ecam = 0xe0000000;
    boot(&fixture, NULL, 0);
    cr_expect(e820_is(&fixture, 0xe0000000, 0x100000, 2));
    cr_expect(e820_is(&fixture, 0xfeffc000, 0x4000, 2));
    fixture_destroy(&fixture);
}

Test(boot_linux, e820_of_memory_on_both_sides_of_the_hole)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 5 * GIB);
    boot(&fixture, NULL, 0);
    cr_expect(e820_is(&fixture, 0x100000, 0xc0000000 - 0x100000, 1));
    cr_expect(e820_is(&fixture, 0x100000000, 2 * GIB, 1));
    cr_expect_not(e820_is(&fixture, 0xc0000000, 1, 1));
    cr_expect_eq(e820_total(&fixture, 1), 5 * GIB - (0x100000 - 0x9fc00));
    fixture_destroy(&fixture);
}

/* The setup_data of `type`, whose chain begins in boot_params. */
static uint64_t find_setup_data(const struct boot_fixture *fixture, uint32_t type)
{
    uint64_t node = ram_get(fixture, fixture->entry.rsi + 0x250, 8);
    while (node && ram_get(fixture, node + 8, 4) != type)
        node = ram_get(fixture, node, 8);
    return node;
}

Test(boot_linux, setup_data_carries_the_seed_and_the_device_tree)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 64 * MIB);
    fill_noise(fixture.platform.rng_seed, sizeof(fixture.platform.rng_seed), 7);
    fixture.platform.cpus = 255;
    boot(&fixture, NULL, 0);
    uint64_t seed = find_setup_data(&fixture, 9);
    cr_assert_neq(seed, 0);
    cr_expect_eq(ram_get(&fixture, seed + 12, 4), 64);
    cr_expect_arr_eq(fixture.ram + seed + 16, fixture.platform.rng_seed, 64);

    uint64_t tree = find_setup_data(&fixture, 2);
    cr_assert_neq(tree, 0);
    cr_expect_eq(ram_get(&fixture, tree + 12, 4), fixture.dtb_size);
    cr_expect_eq(fixture.entry.rdi, tree + 16);
    cr_expect_eq(fixture.entry.rdi % 8, 0);
    cr_expect_eq(fdt_check_full(fixture.ram + fixture.entry.rdi, fixture.dtb_size), 0);
    cr_expect_arr_eq(fixture.ram + tree + 16, fixture.dtb, fixture.dtb_size);
    /* The kernel keeps what is in the chain out of use, if the memory map has it as RAM. */
    cr_expect(e820_is(&fixture, tree, 16 + fixture.dtb_size, 1));
    cr_expect(e820_is(&fixture, seed, 16 + 64, 1));
    fixture_destroy(&fixture);
}

Test(boot_linux, the_initrd_lies_as_high_as_it_can)
{
    static uint8_t initrd[12345];
    struct boot_fixture fixture;
    fixture_init(&fixture, 64 * MIB);
    fill_noise(initrd, sizeof(initrd), 3);
    boot(&fixture, initrd, sizeof(initrd));
    uint64_t start = ram_get(&fixture, fixture.entry.rsi + 0x218, 4);
    cr_expect_eq(start, 64 * MIB - 4 * 4096);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rsi + 0x21c, 4), sizeof(initrd));
    cr_expect_eq(fixture.platform.initrd_start, start);
    cr_expect_eq(fixture.platform.initrd_size, sizeof(initrd));
    cr_expect_arr_eq(fixture.ram + start, initrd, sizeof(initrd));
    int chosen = fdt_path_offset(fixture.dtb, "/chosen");
    cr_expect_not_null(fdt_getprop(fixture.dtb, chosen, "linux,initrd-start", NULL));
    fixture_destroy(&fixture);
}

Test(boot_linux, the_initrd_stays_below_the_device_hole)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 5 * GIB);
    boot(&fixture, "initrd", 6);
    cr_expect_eq(fixture.platform.initrd_start, 0xc0000000 - 4096);
    cr_expect_arr_eq(fixture.ram + 0xc0000000 - 4096, "initrd", 6);
    fixture_destroy(&fixture);
}

/* RAM of 16 MiB, the kernel from 2 MiB to 0x301800: 13,309,952 bytes are left behind it in whole pages. */
Test(boot_linux, an_initrd_that_just_fits_and_one_that_does_not)
{
    struct boot_fixture fixture;
    size_t room = 16 * MIB - 0x302000;
    uint8_t *initrd = calloc(1, room + 1);
    initrd[0] = 1;
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, initrd, room);
    cr_expect_eq(fixture.platform.initrd_start, 0x302000);
    fixture_destroy(&fixture);

    fixture_init(&fixture, 16 * MIB);
    refuses(&fixture, initrd, room + 1, "do not fit beside the kernel");
    cr_expect(strstr(fixture.err.message, "initrd /proc/self/fd/"), "%s", fixture.err.message);
    fixture_destroy(&fixture);
    free(initrd);
}

Test(boot_linux, an_initrd_goes_below_a_kernel_at_the_top)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    static uint8_t initrd[8192];
    make_elf64(image);
    put(image, ELF64_PHDR(1) + 40, 16 * MIB - ELF_DATA, 8);
    fixture_init(&fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), initrd, sizeof(initrd)), 0, "%s",
                 fixture.err.message);
    cr_expect_eq(fixture.platform.initrd_start, ELF_CODE - 8192);
    fixture_destroy(&fixture);
}

Test(boot_linux, unusable_initrds_are_refused)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 16 * MIB);
    refuses(&fixture, "", 0, "is empty");
    fixture_destroy(&fixture);
}

Test(boot_linux, the_command_line_has_a_limit)
{
    struct boot_fixture fixture;
    char text[2049];
    memset(text, 'x', sizeof(text));
    text[2047] = 0;
    fixture_init(&fixture, 16 * MIB);
    fixture.platform.command_line = text;
    boot(&fixture, NULL, 0);
    cr_expect_str_eq((char *)fixture.ram + ram_get(&fixture, fixture.entry.rsi + 0x228, 4), text);
    free(fixture.dtb);
    fixture.dtb = NULL;

    text[2047] = 'x';
    text[2048] = 0;
    refuses(&fixture, NULL, 0, "has 2048 bytes, and this kernel takes 2047");
    fixture_destroy(&fixture);
}
