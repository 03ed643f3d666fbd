/* PVH: the note that leads to the entry point, and the start info at the offsets of Xen's start_info.h. */
#include "boot_fixture.h"

#define NOTES 0x2900 /* behind what make_elf64() and make_elf32() load */

static size_t put_note(uint8_t *image, size_t at, uint32_t type, const char *name, const void *data,
                       uint32_t size)
{
    uint32_t name_size = (uint32_t)strlen(name) + 1;
    put(image, at, name_size, 4);
    put(image, at + 4, size, 4);
    put(image, at + 8, type, 4);
    memcpy(image + at + 12, name, name_size);
    at += 12 + align_up(name_size, 4);
    memcpy(image + at, data, size);
    return at + align_up(size, 4);
}

/* Notes of which the last is the one that counts, with an address of `size` bytes. */
static void put_notes(uint8_t *image, bool is_64, uint64_t entry, uint32_t size)
{
    size_t end = put_note(image, NOTES, 18, "GNU", &(uint32_t){1}, 4);
    end = put_note(image, end, 17, "Xen", "odd", 3);
    end = put_note(image, end, 18, "Linux", &(uint32_t){2}, 4);
    end = put_note(image, end, 18, "Xen", &entry, size);
    if (is_64)
        put_segment64(image, 2, 4, NOTES, 0, end - NOTES, end - NOTES);
    else
        put_segment32(image, 2, 4, NOTES, 0, (uint32_t)(end - NOTES), (uint32_t)(end - NOTES));
}

static void boot(struct boot_fixture *fixture, const uint8_t *image, const void *initrd, size_t initrd_size)
{
    cr_assert_eq(fixture_boot(fixture, image, ELF_SIZE, initrd, initrd_size), 0, "%s", fixture->err.message);
    cr_expect_eq(fixture->entry.mode, BOOT_PROTECTED_MODE);
    cr_expect_str_eq(fixture->entry.protocol, "PVH");
    expect_elf_loaded(fixture, image);
}

Test(boot_pvh, the_note_has_the_entry_point)
{
    static const uint32_t sizes[] = {4, 8};
    for (unsigned is_64 = 0; is_64 < 2; is_64++) {
        for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
            struct boot_fixture fixture;
            uint8_t image[ELF_SIZE];
            (is_64 ? make_elf64 : make_elf32)(image);
            put_notes(image, is_64, ELF_DATA + 0x44, sizes[i]);
            fixture_init(&fixture, 16 * MIB);
            boot(&fixture, image, NULL, 0);
            cr_expect_eq(fixture.entry.rip, ELF_DATA + 0x44);
            fixture_destroy(&fixture);
        }
    }
}

/* GNU's property notes are padded to 8 bytes, and say so. */
Test(boot_pvh, notes_aligned_to_8_bytes)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put_notes(image, true, ELF_CODE, 4);
    size_t end = put_note(image, NOTES, 5, "GNU", "12345678", 5);
    end = put_note(image, align_up(end, 8), 18, "Xen", &(uint32_t){ELF_CODE + 8}, 4);
    put(image, ELF64_PHDR(2) + 48, 8, 8);
    put(image, ELF64_PHDR(2) + 32, end - NOTES, 8);
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, image, NULL, 0);
    cr_expect_eq(fixture.entry.rip, ELF_CODE + 8);
    fixture_destroy(&fixture);
}

Test(boot_pvh, the_note_wins_over_a_multiboot_header)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf32(image);
    put_notes(image, false, ELF_CODE, 4);
    put(image, 0x1000, 0x1BADB002, 4);
    put(image, 0x1004, 0, 4);
    put(image, 0x1008, -0x1BADB002u, 4);
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, image, NULL, 0);
    fixture_destroy(&fixture);
}

Test(boot_pvh, start_info)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put_notes(image, true, ELF_CODE, 4);
    fixture_init(&fixture, 5 * GIB);
    fixture.platform.command_line = "root=/dev/vda";
    boot(&fixture, image, "module", 6);
    uint64_t info = fixture.entry.rbx;
    cr_expect_eq(ram_get(&fixture, info, 4), 0x336ec578);
    cr_expect_eq(ram_get(&fixture, info + 4, 4), 1);  /* version */
    cr_expect_eq(ram_get(&fixture, info + 8, 4), 0);  /* flags */
    cr_expect_eq(ram_get(&fixture, info + 12, 4), 1); /* nr_modules */
    cr_expect_str_eq((char *)fixture.ram + ram_get(&fixture, info + 24, 8), "root=/dev/vda");
    cr_expect_eq(ram_get(&fixture, info + 32, 8), 0xe0000); /* rsdp_paddr */

    uint64_t module = ram_get(&fixture, info + 16, 8);
    cr_expect_eq(ram_get(&fixture, module, 8), fixture.platform.initrd_start);
    cr_expect_eq(ram_get(&fixture, module + 8, 8), 6);
    cr_expect_eq(ram_get(&fixture, module + 16, 8), 0);
    cr_expect_arr_eq(fixture.ram + ram_get(&fixture, module, 8), "module", 6);

    uint64_t map = ram_get(&fixture, info + 40, 8), ram = 0, end = 0;
    for (uint64_t i = 0; i < ram_get(&fixture, info + 48, 4); i++, map += 24) {
        uint64_t address = ram_get(&fixture, map, 8), size = ram_get(&fixture, map + 8, 8);
        cr_expect_geq(address, end);
        end = address + size;
        ram += ram_get(&fixture, map + 16, 4) == 1 ? size : 0;
        cr_expect_eq(ram_get(&fixture, map + 20, 4), 0);
    }
    cr_expect_eq(end, 6 * GIB);
    cr_expect_eq(ram, 5 * GIB - (0x100000 - 0x9fc00));
    fixture_destroy(&fixture);
}

Test(boot_pvh, without_initrd_and_acpi)
{
    struct boot_fixture fixture;
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put_notes(image, true, ELF_CODE, 4);
    fixture_init(&fixture, 16 * MIB);
    fixture.platform.acpi = false;
    boot(&fixture, image, NULL, 0);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rbx + 12, 4), 0);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rbx + 16, 8), 0);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rbx + 32, 8), 0);
    fixture_destroy(&fixture);
}

Test(boot_pvh, bad_entry_points_are_refused)
{
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put_notes(image, true, 0x100000, 8);
    fixture_refuses(16 * MIB, image, sizeof(image), "entry point 0x100000 lies in none");
    put_notes(image, true, 0x100000000 + ELF_CODE, 8);
    fixture_refuses(16 * MIB, image, sizeof(image), "entry point 0x100200000 lies in none");
    put_notes(image, true, ELF_CODE, 2);
    fixture_refuses(16 * MIB, image, sizeof(image), "has 2 bytes, not 4 or 8");
}

/* Sizes in notes are foreign: what leads out of the segment ends the search, and the file is a plain ELF. */
Test(boot_pvh, notes_that_lead_out_of_their_segment_are_no_notes)
{
    static const struct {
        size_t offset;
        uint32_t value;
    } lies[] = {{0, UINT32_MAX}, {4, UINT32_MAX}, {0, 0x10000}, {4, 0x10000}, {4, 200}};
    for (size_t i = 0; i < ARRAY_SIZE(lies); i++) {
        struct boot_fixture fixture;
        uint8_t image[ELF_SIZE];
        make_elf64(image);
        put_notes(image, true, ELF_CODE, 4);
        put(image, NOTES + lies[i].offset, lies[i].value, 4);
        fixture_init(&fixture, 16 * MIB);
        cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture.err.message);
        cr_expect_eq(fixture.entry.mode, BOOT_LONG_MODE);
        fixture_destroy(&fixture);
    }
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    put_segment64(image, 2, 4, UINT64_MAX - 100, 0, 200, 200);
    fixture_refuses(16 * MIB, image, sizeof(image), "ELF program header 2");
}
