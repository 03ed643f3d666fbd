/* ELF kernels without a note: what is loaded where, and every way in which a file can be wrong. */
#include "boot_fixture.h"

Test(boot_elf, segments_are_loaded_at_physical_addresses)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    fixture_init(&fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture.err.message);
    expect_elf_loaded(&fixture, image);
    cr_expect_eq(fixture.entry.mode, BOOT_LONG_MODE);
    cr_expect_eq(fixture.entry.rip, ELF_CODE + 0x10);
    fixture_destroy(&fixture);
}

Test(boot_elf, segments_may_be_in_any_order_and_share_the_file)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put_segment64(image, 0, 1, 0x2000, ELF_DATA, 0x800, 0x1800);
    put_segment64(image, 1, 1, 0x1000, ELF_CODE, 0x1000, 0x1000);
    put_segment64(image, 2, 1, 0, 0x400000, 0x1800, 0x1800);
    fixture_init(&fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture.err.message);
    expect_elf_loaded(&fixture, image);
    cr_expect_arr_eq(fixture.ram + 0x400000, image, 0x1800);
    fixture_destroy(&fixture);
}

Test(boot_elf, a_virtual_entry_point_is_translated)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put(image, 24, ELF_VIRTUAL + ELF_CODE + 0x20, 8);
    fixture_init(&fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture.err.message);
    cr_expect_eq(fixture.entry.rip, ELF_CODE + 0x20);
    fixture_destroy(&fixture);
}

Test(boot_elf, wrong_headers_are_refused)
{
    static const struct damage damages[] = {
        {4, 1, 3, "unknown class 3"},
        {5, 1, 2, "big-endian"},
        {6, 1, 0, "unknown version"},
        {18, 2, 183, "e_machine is 183"}, /* arm64 */
        {18, 2, 3, "e_machine is 3"},     /* 80386 in ELF64 */
        {16, 2, 1, "e_type is 1"},        /* ET_REL */
        {16, 2, 4, "e_type is 4"},        /* ET_CORE */
        {16, 2, 3, "ET_DYN"},
        {56, 2, 0, "has 0 ELF program headers"},
        {56, 2, 65, "has 65 ELF program headers"},
        {56, 2, 0xffff, "has 65535 ELF program headers"},
        {54, 2, 32, "e_phentsize"},
        {32, 8, ELF_SIZE - 10, "ELF program header 0"},
        {32, 8, ELF_SIZE - 60, "ELF program header 1"},
        {32, 8, UINT64_MAX, "truncated"},
        {32, 8, UINT64_MAX - 60, "truncated"},
        {24, 8, 0, "entry point 0x0 "},
        {24, 8, ELF_CODE + 0x1000, "entry point 0x201000"},
        {24, 8, UINT64_MAX, "entry point 0xffffffffffffffff"},
    };
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    fixture_refuses_damage(16 * MIB, image, sizeof(image), damages, ARRAY_SIZE(damages));
}

Test(boot_elf, wrong_segments_are_refused)
{
    static const struct damage damages[] = {
        {ELF64_PHDR(0) + 8, 8, ELF_SIZE - 1, "program header 0 ends past the end of the file"},
        {ELF64_PHDR(1) + 8, 8, UINT64_MAX - 1, "program header 1 ends past the end of the file"},
        {ELF64_PHDR(1) + 32, 8, 0x1801, "more bytes in the file than in memory"},
        {ELF64_PHDR(0) + 40, 8, 0xfff, "more bytes in the file than in memory"},
        {ELF64_PHDR(0) + 40, 8, UINT64_MAX - ELF_CODE + 1, "wraps around"},
        {ELF64_PHDR(0) + 40, 8, UINT64_MAX, "wraps around"},
        {ELF64_PHDR(0) + 24, 8, UINT64_MAX - 0xfff, "wraps around"},
        {ELF64_PHDR(0) + 24, 8, 0xfffff, "below 1 MiB"},
        {ELF64_PHDR(0) + 24, 8, 0, "below 1 MiB"},
        {ELF64_PHDR(0) + 24, 8, 0x7000, "below 1 MiB"},
        {ELF64_PHDR(0) + 24, 8, 0xe0000, "below 1 MiB"},
        {ELF64_PHDR(0) + 24, 8, 16 * MIB - 0xfff, "give the guest 17 MiB"},
        {ELF64_PHDR(0) + 24, 8, 0xc0000000, "no RAM can be"},
        {ELF64_PHDR(0) + 24, 8, 0x100000000, "no RAM can be"},
        {ELF64_PHDR(1) + 40, 8, 1 * GIB, "program header 1: the segment reaches from 0x300000 to 0x40300000"},
        {ELF64_PHDR(1) + 24, 8, ELF_CODE + 0xfff, "program headers 0 and 1 overlap"},
        {ELF64_PHDR(1) + 24, 8, ELF_CODE - 0x17ff, "program headers 0 and 1 overlap"},
        {ELF64_PHDR(2), 4, 3, "PT_INTERP"},
    };
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    fixture_refuses_damage(16 * MIB, image, sizeof(image), damages, ARRAY_SIZE(damages));
}

Test(boot_elf, neighbours_do_not_overlap)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put(image, ELF64_PHDR(1) + 24, ELF_CODE + 0x1000, 8);
    put(image, ELF64_PHDR(1) + 40, 14 * MIB - 0x1000, 8); /* to the last byte of RAM */
    fixture_init(&fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture.err.message);
    cr_expect_arr_eq(fixture.ram + ELF_CODE + 0x1000, image + 0x2000, 0x800);
    fixture_destroy(&fixture);
}

Test(boot_elf, nothing_to_load_is_refused)
{
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put(image, ELF64_PHDR(0), 4, 4);
    put(image, ELF64_PHDR(1), 6, 4);
    fixture_refuses(16 * MIB, image, sizeof(image), "no ELF segment to load");
}

Test(boot_elf, truncated_at_any_byte)
{
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    for (size_t size = 4; size < 0x2800; size = size < 300 ? size + 1 : size + 0x111)
        fixture_refuses(16 * MIB, image, size, "truncated");
}

Test(boot_elf, elf32_needs_a_way_in)
{
    uint8_t image[ELF_SIZE];
    make_elf32(image);
    fixture_refuses(16 * MIB, image, sizeof(image), "neither a PVH note nor a multiboot header");
    put(image, 18, 62, 2);
    fixture_refuses(16 * MIB, image, sizeof(image), "e_machine is 62");
}
