/* Multiboot 1: header, loading by ELF or by addresses, and the information at the specification's offsets. */
#include "boot_fixture.h"

static void put_header(uint8_t *image, size_t at, uint32_t flags)
{
    put(image, at, 0x1BADB002, 4);
    put(image, at + 4, flags, 4);
    put(image, at + 8, -(0x1BADB002u + flags), 4);
}

static void boot(struct boot_fixture *fixture, const void *image, size_t size, const void *initrd,
                 size_t initrd_size)
{
    cr_assert_eq(fixture_boot(fixture, image, size, initrd, initrd_size), 0, "%s", fixture->err.message);
    cr_expect_eq(fixture->entry.mode, BOOT_PROTECTED_MODE);
    cr_expect_eq(fixture->entry.rax, 0x2BADB002);
}

Test(boot_multiboot, elf32)
{
    static const size_t places[] = {0x100, 0x1000, 0x1ff4}; /* the last fits into 8 KiB exactly */
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        struct boot_fixture fixture;
        uint8_t image[ELF_SIZE];
        make_elf32(image);
        put_header(image, places[i], 3);
        fixture_init(&fixture, 16 * MIB);
        boot(&fixture, image, sizeof(image), NULL, 0);
        expect_elf_loaded(&fixture, image);
        cr_expect_eq(fixture.entry.rip, ELF_CODE + 0x10);
        fixture_destroy(&fixture);
    }
}

Test(boot_multiboot, headers_that_do_not_count)
{
    uint8_t image[ELF_SIZE];
    make_elf32(image);
    put_header(image, 0x1ff8, 0); /* passes 8 KiB */
    fixture_refuses(16 * MIB, image, sizeof(image), "neither a PVH note nor a multiboot header");
    make_elf32(image);
    put_header(image, 0x1002, 0); /* not aligned */
    fixture_refuses(16 * MIB, image, sizeof(image), "neither a PVH note nor a multiboot header");
    make_elf32(image);
    put_header(image, 0x1000, 0);
    image[0x1008]++; /* checksum */
    fixture_refuses(16 * MIB, image, sizeof(image), "neither a PVH note nor a multiboot header");
}

Test(boot_multiboot, information)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf32(image);
    put_header(image, 0x1000, 3);
    fixture_init(&fixture, 5 * GIB);
    fixture.platform.command_line = "a b";
    boot(&fixture, image, sizeof(image), "module!", 7);
    uint64_t info = fixture.entry.rbx;
    uint32_t flags = (uint32_t)ram_get(&fixture, info, 4);
    cr_expect_eq(flags, 1 << 0 | 1 << 2 | 1 << 3 | 1 << 6 | 1 << 9);
    cr_expect_eq(ram_get(&fixture, info + 4, 4), 639);                    /* mem_lower, KiB */
    cr_expect_eq(ram_get(&fixture, info + 8, 4), 3 * 1024 * 1024 - 1024); /* mem_upper */
    cr_expect_str_eq((char *)fixture.ram + ram_get(&fixture, info + 16, 4), "a b");
    cr_expect_str_eq((char *)fixture.ram + ram_get(&fixture, info + 64, 4), "godwit");

    cr_expect_eq(ram_get(&fixture, info + 20, 4), 1);
    uint64_t module = ram_get(&fixture, info + 24, 4), start = ram_get(&fixture, module, 4);
    cr_expect_eq(start % 4096, 0);
    cr_expect_eq(ram_get(&fixture, module + 4, 4), start + 7);
    cr_expect_arr_eq(fixture.ram + start, "module!", 7);
    cr_expect_str_eq((char *)fixture.ram + ram_get(&fixture, module + 8, 4), "");

    uint64_t at = ram_get(&fixture, info + 48, 4), end = at + ram_get(&fixture, info + 44, 4), ram = 0;
    while (at < end) {
        ram += ram_get(&fixture, at + 20, 4) == 1 ? ram_get(&fixture, at + 12, 8) : 0;
        at += ram_get(&fixture, at, 4) + 4;
    }
    cr_expect_eq(at, end);
    cr_expect_eq(ram, 5 * GIB - (0x100000 - 0x9fc00));
    fixture_destroy(&fixture);
}

Test(boot_multiboot, no_module_without_initrd)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf32(image);
    put_header(image, 0x1000, 0);
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, image, sizeof(image), NULL, 0);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rbx + 20, 4), 0);
    fixture_destroy(&fixture);
}

/*
 * A file of 0x2000 bytes whose header at 0x40 has it loaded from 0x20 on to 0x200000, 0x1800 bytes of it and
 * 0x1000 of zeroes, and entered at 0x200100.
 */
#define RAW_SIZE 0x2000

static void make_raw(uint8_t image[RAW_SIZE])
{
    static const uint32_t addresses[] = {0x200020, 0x200000, 0x201800, 0x202800, 0x200100};
    fill_noise(image, RAW_SIZE, 5);
    put_header(image, 0x40, 1 << 16);
    memcpy(image + 0x4c, addresses, sizeof(addresses));
}

Test(boot_multiboot, addresses_in_the_header)
{
    static const uint8_t zeroes[0x1000];
    struct boot_fixture fixture;
    uint8_t image[RAW_SIZE];
    make_raw(image);
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, image, sizeof(image), NULL, 0);
    cr_expect_arr_eq(fixture.ram + 0x200000, image + 0x20, 0x1800);
    cr_expect_arr_eq(fixture.ram + 0x201800, zeroes, 0x1000);
    cr_expect_eq(fixture.entry.rip, 0x200100);
    fixture_destroy(&fixture);
}

Test(boot_multiboot, addresses_left_open_mean_the_whole_file)
{
    struct boot_fixture fixture;
    uint8_t image[RAW_SIZE];
    make_raw(image);
    put(image, 0x54, 0, 8); /* load_end_addr, bss_end_addr */
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, image, sizeof(image), NULL, 0);
    cr_expect_arr_eq(fixture.ram + 0x200000, image + 0x20, RAW_SIZE - 0x20);
    fixture_destroy(&fixture);
}

/* With addresses, what kind of ELF file carries the header does not matter. */
Test(boot_multiboot, addresses_in_an_elf64)
{
    static const uint32_t addresses[] = {0x200000, 0x200000, 0, 0, 0x200040};
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put_header(image, 0x1000, 1 << 16);
    memcpy(image + 0x100c, addresses, sizeof(addresses));
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, image, sizeof(image), NULL, 0);
    cr_expect_eq(fixture.entry.rip, 0x200040);
    cr_expect_arr_eq(fixture.ram + 0x200000, image + 0x1000, 0x2000);
    fixture_destroy(&fixture);
}

Test(boot_multiboot, wrong_addresses_are_refused)
{
    static const struct damage damages[] = {
        {0x4c, 4, 0x1fffff, "lies before what it says is loaded"},
        {0x4c, 4, 0x200041, "lies before what it says is loaded"},
        {0x50, 4, 0x1fff00, "lies before what it says is loaded"},
        {0x54, 4, 0x1fffff, "loads more than the file has"},
        {0x54, 4, 0x202000, "loads more than the file has"},
        {0x58, 4, 0xffffffff, "no RAM can be"},
        {0x58, 4, 0x1000001, "give the guest 17 MiB"},
        {0x5c, 4, 0x201800, "entry_addr 0x201800"},
        {0x5c, 4, 0x1fffff, "entry_addr 0x1fffff"},
    };
    uint8_t image[RAW_SIZE];
    make_raw(image);
    fixture_refuses_damage(16 * MIB, image, sizeof(image), damages, ARRAY_SIZE(damages));
    put(image, 0x4c, 0x7020, 4);
    put(image, 0x50, 0x7000, 4);
    put(image, 0x54, 0, 8);
    fixture_refuses(16 * MIB, image, sizeof(image), "below 1 MiB");
}

Test(boot_multiboot, demands_that_cannot_be_met_are_refused)
{
    uint8_t image[ELF_SIZE];
    make_elf32(image);
    put_header(image, 0x1000, 4);
    fixture_refuses(16 * MIB, image, sizeof(image), "video mode");
    put_header(image, 0x1000, 0x8000);
    fixture_refuses(16 * MIB, image, sizeof(image), "flags 0x8000");
    make_elf64(image);
    put_header(image, 0x1000, 0);
    fixture_refuses(16 * MIB, image, sizeof(image), "64-bit ELF file");
    memset(image, 0x90, sizeof(image));
    put_header(image, 0x1000, 0);
    fixture_refuses(16 * MIB, image, sizeof(image), "is no ELF file");
}
