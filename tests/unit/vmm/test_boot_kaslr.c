/* Moving an unpacked kernel to a random virtual address, by tables made after relocs.c of the kernel's
 * sources. */
#include "bzimage_fixture.h"

#define KERNEL_MAP     0xffffffff80000000ull

/* Three places in the kernel's first segment that depend on where it runs, and what they hold at rest. */
#define AT_64          (ELF_CODE + 0x100)
#define AT_32          (ELF_CODE + 0x207)
#define AT_NEGATIVE    (ELF_CODE + 0x300)
#define VALUE_64       (KERNEL_MAP + ELF_CODE + 0x123)
#define VALUE_32       ((uint32_t)VALUE_64)
#define NEGATIVE       0xfffff000u

#define ENTRY(address) ((uint32_t)KERNEL_MAP + (address))

static const uint32_t three_lists[] = {0, ENTRY(AT_64), 0, ENTRY(AT_NEGATIVE), 0, ENTRY(AT_32)};
static const uint32_t two_lists[] = {0, ENTRY(AT_64), 0, ENTRY(AT_32)};

/* An ELF file with this table behind it. */
static struct bzimage make_kernel(size_t packer, const void *table, size_t size)
{
    uint8_t elf[ELF_SIZE + 256];
    make_elf64(elf);
    put(elf, 40, ELF_SIZE - 5 * 64, 8); /* e_shoff */
    put(elf, 58, 64, 2);                /* e_shentsize */
    put(elf, 60, 5, 2);                 /* e_shnum */
    put(elf, 0x1000 + AT_64 - ELF_CODE, VALUE_64, 8);
    put(elf, 0x1000 + AT_32 - ELF_CODE, VALUE_32, 4);
    put(elf, 0x1000 + AT_NEGATIVE - ELF_CODE, NEGATIVE, 4);
    memcpy(elf + ELF_SIZE, table, size);
    return make_packed(packer, elf, ELF_SIZE + size);
}

/* Boots it; gives how far it moved. */
static uint64_t boot(const struct bzimage *image, const char *command_line, bool negative)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 16 * MIB);
    fixture.platform.command_line = command_line;
    cr_assert_eq(fixture_boot(&fixture, image->data, image->size, NULL, 0), 0, "%s", fixture.err.message);
    uint64_t delta = ram_get(&fixture, AT_64, 8) - VALUE_64;
    cr_expect_eq(ram_get(&fixture, AT_32, 4), (uint32_t)(VALUE_32 + delta));
    cr_expect_eq(ram_get(&fixture, AT_NEGATIVE, 4), (uint32_t)(NEGATIVE - (negative ? delta : 0)));
    cr_expect_eq(fixture.entry.rip, ELF_CODE + 0x10);
    bool said = ram_get(&fixture, fixture.entry.rsi + 0x211, 1) & 2; /* KASLR_FLAG */
    cr_expect(said || delta == 0);

    /* Nothing else may change. */
    uint8_t elf[ELF_SIZE];
    make_elf64(elf);
    memcpy(elf + 0x1100, fixture.ram + AT_64, 8);
    memcpy(elf + 0x1207, fixture.ram + AT_32, 4);
    memcpy(elf + 0x1300, fixture.ram + AT_NEGATIVE, 4);
    expect_elf_loaded(&fixture, elf);
    fixture_destroy(&fixture);
    return said ? delta : UINT64_MAX;
}

static void expect_random(const struct bzimage *image, bool negative)
{
    uint64_t seen = 0;
    for (int i = 0; i < 8; i++) {
        uint64_t delta = boot(image, "quiet", negative);
        cr_expect_eq(delta % 0x200000, 0);
        cr_expect_leq(delta, GIB - ELF_CODE - INIT_SIZE);
        seen |= delta;
    }
    cr_expect_neq(seen, 0);
}

Test(boot_kaslr, the_kernel_is_moved)
{
    for (size_t i = 0; i < PACKERS; i++) {
        struct bzimage image = make_kernel(i, three_lists, sizeof(three_lists));
        expect_random(&image, true);
        free(image.data);
        image = make_kernel(i, two_lists, sizeof(two_lists));
        expect_random(&image, false);
        free(image.data);
    }
}

Test(boot_kaslr, unless_the_command_line_forbids_it)
{
    static const char *const forbidding[] = {"nokaslr", " quiet\tnokaslr ", "nokaslr quiet"};
    static const char *const others[] = {"", "nokaslr=1", "xnokaslr", "nokaslrx no kaslr"};
    struct bzimage image = make_kernel(0, three_lists, sizeof(three_lists));
    for (size_t i = 0; i < ARRAY_SIZE(forbidding); i++)
        cr_expect_eq(boot(&image, forbidding[i], true), UINT64_MAX, "%s", forbidding[i]);
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        cr_expect_neq(boot(&image, others[i], true), UINT64_MAX, "%s", others[i]);
    free(image.data);
}

Test(boot_kaslr, kernels_that_cannot_be_moved_stay)
{
    static const struct {
        uint32_t words[8];
        size_t size;
    } tables[] = {
        {{0}, 0},
        {{0}, 4},
        {{0, ENTRY(AT_64)}, 8},
        {{ENTRY(AT_64), 0, ENTRY(AT_32), 0}, 16},
        {{0, ENTRY(AT_64), 0, 0, 0, ENTRY(AT_32)}, 24},
        {{0, ENTRY(AT_64), 0, ENTRY(AT_32)}, 15},
    };
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        struct bzimage image = make_kernel(1, tables[i].words, tables[i].size);
        cr_expect_eq(boot(&image, "", true), UINT64_MAX, "table %zu", i);
        free(image.data);
    }

    struct bzimage image = make_kernel(2, three_lists, sizeof(three_lists));
    put(image.data, 0x234, 0, 1); /* relocatable_kernel */
    cr_expect_eq(boot(&image, "", true), UINT64_MAX);
    put(image.data, 0x234, 1, 1);
    put(image.data, 0x206, 0x0209, 2); /* before pref_address and init_size */
    put(image.data, 0x230, 0, 4);
    cr_expect_eq(boot(&image, "", true), UINT64_MAX);
    free(image.data);
}

/* The section headers, too, may lie about where they are. */
Test(boot_kaslr, section_headers_in_odd_places)
{
    static const uint64_t offsets[] = {0, 0x1000, ELF_SIZE + 4, UINT64_MAX, UINT64_MAX - 100};
    for (size_t i = 0; i < ARRAY_SIZE(offsets); i++) {
        struct boot_fixture fixture;
        uint8_t elf[ELF_SIZE + sizeof(three_lists)];
        make_elf64(elf);
        memcpy(elf + ELF_SIZE, three_lists, sizeof(three_lists));
        put(elf, 40, offsets[i], 8);
        put(elf, 58, 64, 2);
        put(elf, 60, 2, 2);
        struct bzimage image = make_packed(3, elf, sizeof(elf));
        fixture_init(&fixture, 16 * MIB);
        cr_expect_eq(fixture_boot(&fixture, image.data, image.size, NULL, 0), 0, "%s", fixture.err.message);
        expect_elf_loaded(&fixture, elf);
        fixture_destroy(&fixture);
        free(image.data);
    }
}

Test(boot_kaslr, relocations_outside_of_the_kernel_are_refused)
{
    static const uint32_t end = ELF_CODE + INIT_SIZE;
    static const uint32_t tables[][4] = {
        {0, ENTRY(0), 0, ENTRY(AT_32)},       {0, ENTRY(AT_64), 0, ENTRY(ELF_CODE - 1)},
        {0, ENTRY(end - 7), 0, ENTRY(AT_32)}, {0, ENTRY(AT_64), 0, ENTRY(end - 3)},
        {0, ENTRY(AT_64), 0, 0xffffffff},     {0, ENTRY(AT_64), 0, 0x00200100},
    };
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++) {
        struct bzimage image = make_kernel(0, tables[i], sizeof(tables[i]));
        fixture_refuses(16 * MIB, image.data, image.size, "relocation outside of the kernel");
        free(image.data);
    }
}
