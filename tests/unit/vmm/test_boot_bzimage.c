/* bzImages: header fields at the offsets of the kernel's boot.rst, payloads of every compression, and lies.
 */
#include "bzimage_fixture.h"

static struct bzimage make_packed_elf(size_t packer)
{
    uint8_t elf[ELF_SIZE];
    make_elf64(elf);
    return make_packed(packer, elf, sizeof(elf));
}

static void boot(struct boot_fixture *fixture, const struct bzimage *image)
{
    cr_assert_eq(fixture_boot(fixture, image->data, image->size, NULL, 0), 0, "%s", fixture->err.message);
    cr_expect_eq(fixture->entry.mode, BOOT_LONG_MODE);
}

Test(boot_bzimage, payloads_are_unpacked)
{
    for (size_t i = 0; i < PACKERS; i++) {
        struct boot_fixture fixture;
        uint8_t elf[ELF_SIZE];
        make_elf64(elf);
        struct bzimage image = make_packed(i, elf, sizeof(elf));
        fixture_init(&fixture, 16 * MIB);
        boot(&fixture, &image);
        expect_elf_loaded(&fixture, elf);
        cr_expect_eq(fixture.entry.rip, ELF_CODE + 0x10);
        cr_expect(strstr(fixture.entry.protocol, "unpacked"));
        fixture_destroy(&fixture);
        free(image.data);
    }
}

/* As linkers lay them out where nobody asks for pages of their own: the first segment begins with the
 * headers, the next right behind the first. */
Test(boot_bzimage, segments_may_begin_with_the_elf_header)
{
    for (size_t i = 0; i < PACKERS; i++) {
        struct boot_fixture fixture;
        uint8_t elf[ELF_SIZE];
        make_elf64(elf);
        put_segment64(elf, 0, 1, 0, ELF_CODE, 0x2800, 0x2800);
        put_segment64(elf, 1, 1, 0x2800, ELF_DATA, 0x400, 0x400);
        struct bzimage image = make_packed(i, elf, sizeof(elf));
        fixture_init(&fixture, 16 * MIB);
        boot(&fixture, &image);
        cr_expect_arr_eq(fixture.ram + ELF_CODE, elf, 0x2800);
        cr_expect_arr_eq(fixture.ram + ELF_DATA, elf + 0x2800, 0x400);
        fixture_destroy(&fixture);
        free(image.data);
    }
}

/* What the kernel's own header says goes to boot_params; the loader's fields are filled in. */
Test(boot_bzimage, header_is_handed_on)
{
    struct boot_fixture fixture;
    struct bzimage image = make_packed_elf(0);
    put(image.data, 0x206, 0x020a, 2);
    put(image.data, 0x236, 0x33, 2);
    fixture_init(&fixture, 16 * MIB);
    fixture.platform.command_line = "quiet";
    boot(&fixture, &image);
    uint64_t params = fixture.entry.rsi;
    cr_expect_eq(ram_get(&fixture, params + 0x206, 2), 0x020a);
    cr_expect_eq(ram_get(&fixture, params + 0x236, 2), 0x33);
    cr_expect_eq(ram_get(&fixture, params + 0x210, 1), 0xff);
    cr_expect_eq(ram_get(&fixture, params + 0x260, 4), INIT_SIZE);
    cr_expect_str_eq((char *)fixture.ram + ram_get(&fixture, params + 0x228, 4), "quiet");
    fixture_destroy(&fixture);
    free(image.data);
}

/* The header ends where its jump instruction says; what follows is code of the kernel's. */
Test(boot_bzimage, bytes_behind_the_header_are_not_handed_on)
{
    struct boot_fixture fixture;
    struct bzimage image = make_packed_elf(0);
    image.data[0x201] = 0x62; /* ends at 0x264 */
    memset(image.data + 0x264, 0xcc, 8);
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, &image);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rsi + 0x264, 8), 0);
    fixture_destroy(&fixture);
    free(image.data);
}

static void expect_unpacks_itself(const struct bzimage *image, uint64_t address)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, image);
    cr_expect_eq(fixture.entry.rip, address + 0x200);
    cr_expect_arr_eq(fixture.ram + address, image->data + SETUP_SIZE, image->size - SETUP_SIZE);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rsi + 0x214, 4), address); /* code32_start */
    fixture_destroy(&fixture);
}

Test(boot_bzimage, what_cannot_be_unpacked_unpacks_itself)
{
    static const char *const payloads[] = {"BZh91AY&SY......", "\x89LZO\0\r\n\x1a\n.......",
                                           "unheard of......"};
    for (size_t i = 0; i < ARRAY_SIZE(payloads); i++) {
        struct bzimage image = make_bzimage(payloads[i], 16);
        expect_unpacks_itself(&image, ELF_CODE);
        put(image.data, 0x234, 0, 1); /* not relocatable */
        expect_unpacks_itself(&image, 0x100000);
        free(image.data);
    }
    struct bzimage image = make_bzimage("", 0);
    expect_unpacks_itself(&image, ELF_CODE);
    free(image.data);
}

Test(boot_bzimage, a_payload_that_is_no_elf_file_unpacks_itself)
{
    for (size_t i = 0; i < PACKERS; i++) {
        uint8_t noise[2000];
        fill_noise(noise, sizeof(noise), 4);
        struct bzimage image = make_packed(i, noise, sizeof(noise));
        expect_unpacks_itself(&image, ELF_CODE);
        free(image.data);
    }
}

Test(boot_bzimage, without_a_64_bit_entry_it_must_be_unpacked)
{
    struct bzimage image = make_bzimage("BZh91AY&SY......", 16);
    put(image.data, 0x236, 0, 2);
    fixture_refuses(16 * MIB, image.data, image.size, "no 64-bit entry");
    put(image.data, 0x236, 1, 2);
    put(image.data, 0x206, 0x020b, 2); /* xloadflags are of 2.12 */
    fixture_refuses(16 * MIB, image.data, image.size, "no 64-bit entry");
    free(image.data);

    struct boot_fixture fixture;
    image = make_packed_elf(1);
    put(image.data, 0x206, 0x0208, 2);
    fixture_init(&fixture, 16 * MIB);
    boot(&fixture, &image);
    cr_expect_eq(fixture.entry.rip, ELF_CODE + 0x10);
    fixture_destroy(&fixture);
    free(image.data);
}

Test(boot_bzimage, lying_headers_are_refused)
{
    static const struct damage damages[] = {
        {0x1f1, 1, 0x40, "setup_sects"},
        {0x1f1, 1, 0xff, "setup_sects"},
        {0x1f4, 4, 0x100000, "syssize"},
        {0x1f4, 4, UINT32_MAX, "syssize"},
        {0x1f4, 4, 0x20, "syssize"},
        {0x1fe, 2, 0, "boot_flag"},
        {0x206, 2, 0x0200, "boot protocol 2.00"},
        {0x206, 2, 0x0207, "boot protocol 2.07"},
        {0x211, 1, 0, "zImage"},
        {0x230, 4, 0, "kernel_alignment"},
        {0x230, 4, 0x300000, "kernel_alignment"},
        {0x258, 8, ELF_CODE + 0x1000, "pref_address"},
        {0x258, 8, 0, "below 1 MiB"},
        {0x258, 8, 0x100000000, "no RAM can be"},
        {0x258, 8, 0xffffffffffe00000, "wraps around"},
        {0x260, 4, 0x1000000, "give the guest 18 MiB"},
        {0x260, 4, UINT32_MAX, "init_size"},
        {0x248, 4, 0x100000, "payload_offset"},
        {0x248, 4, UINT32_MAX, "payload_offset"},
        {0x24c, 4, UINT32_MAX, "payload_length"},
        {0x24c, 4, 0x100000, "payload_length"},
    };
    for (size_t i = 0; i < PACKERS; i++) {
        struct bzimage image = make_packed_elf(i);
        fixture_refuses_damage(16 * MIB, image.data, image.size, damages, ARRAY_SIZE(damages));
        free(image.data);
    }
}

Test(boot_bzimage, truncated_at_any_sector)
{
    struct bzimage image = make_packed_elf(0);
    for (size_t size = 0x206; size < image.size - 15; size += size < 0x280 ? 1 : 0x155)
        fixture_refuses(16 * MIB, image.data, size, "truncated");
    free(image.data);
}

Test(boot_bzimage, damaged_payloads_are_refused)
{
    for (size_t i = 0; i < PACKERS; i++) {
        struct bzimage image = make_packed_elf(i);
        uint8_t *size = image.data + image.payload + image.payload_size - 4;
        put(size, 0, ELF_SIZE + 1, 4);
        fixture_refuses(16 * MIB, image.data, image.size, i ? "payload unpacks to" : "gzip data is damaged");
        put(size, 0, ELF_SIZE - 1, 4);
        fixture_refuses(16 * MIB, image.data, image.size,
                        i ? "payload unpacks to more" : "gzip data is damaged");
        put(size, 0, UINT32_MAX, 4);
        fixture_refuses(16 * MIB, image.data, image.size, "payload unpacks to 0xffffffff bytes");
        put(size, 0, ELF_SIZE, 4);
        put(image.data, 0x24c, image.payload_size - 100, 4); /* payload_length */
        fixture_refuses(16 * MIB, image.data, image.size, "");
        put(image.data, 0x24c, image.payload_size, 4);
        if (strcmp(packers[i].name, "lz4")) {
            image.data[image.payload + image.payload_size / 2] ^= 1;
            fixture_refuses(16 * MIB, image.data, image.size, "damaged");
        }
        free(image.data);
    }
}

/* A few kilobytes that unpack to 3 GiB of zeroes end where the header says, or where the kernel's last
 * segment does. */
Test(boot_bzimage, a_bomb_is_cut_short)
{
    const size_t size = 64 * MIB;
    uint8_t *zeroes = calloc(1, size);
    make_elf64(zeroes);
    for (size_t i = 0; i < PACKERS; i++) {
        struct bzimage image = make_packed(i, zeroes, size);
        put(image.data, SETUP_SIZE + CODE_SIZE + image.payload_size - 4, ELF_SIZE, 4);
        fixture_refuses(16 * MIB, image.data, image.size, "payload unpacks to more");
        free(image.data);
    }
    free(zeroes);
}

Test(boot_bzimage, unfit_elf_payloads_are_refused)
{
    static const struct damage damages[] = {
        {18, 2, 183, "e_machine is 183"},
        {ELF64_PHDR(0) + 24, 8, 0x7000, "below 1 MiB"},
        {ELF64_PHDR(0) + 24, 8, GIB, "give the guest"},
        {ELF64_PHDR(1) + 24, 8, ELF_CODE, "overlap"},
        {ELF64_PHDR(1) + 8, 8, ELF_SIZE, "ends past the end of the file"},
        {24, 8, 0, "entry point"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(damages); i++) {
        uint8_t elf[ELF_SIZE];
        make_elf64(elf);
        memcpy(elf + damages[i].offset, &damages[i].value, damages[i].size);
        struct bzimage image = make_packed(2, elf, sizeof(elf));
        fixture_refuses(16 * MIB, image.data, image.size, damages[i].wanted);
        free(image.data);
    }
    uint8_t elf[ELF_SIZE];
    make_elf32(elf);
    struct bzimage image = make_packed(3, elf, sizeof(elf));
    fixture_refuses(16 * MIB, image.data, image.size, "32-bit kernel");
    free(image.data);
}

/* Bytes that a stream has passed cannot be read again, unless they are near its beginning. */
Test(boot_bzimage, segments_that_share_bytes_of_the_payload)
{
    uint8_t elf[ELF_SIZE];
    make_elf64(elf);
    put_segment64(elf, 1, 1, 0x1800, ELF_DATA, 0x1800, 0x1800);
    put_segment64(elf, 2, 1, 0x2000, 0x380000, 0x1000, 0x1000);
    struct bzimage image = make_packed(0, elf, sizeof(elf));
    fixture_refuses(16 * MIB, image.data, image.size, "share bytes");
    free(image.data);
}

Test(boot_bzimage, limits_of_the_header_are_kept)
{
    struct boot_fixture fixture;
    struct bzimage image = make_packed_elf(0);
    char text[257];
    memset(text, 'y', sizeof(text));
    text[256] = 0;
    fixture_init(&fixture, 16 * MIB);
    fixture.platform.command_line = text;
    cr_expect_lt(fixture_boot(&fixture, image.data, image.size, NULL, 0), 0);
    cr_expect(strstr(fixture.err.message, "has 256 bytes, and this kernel takes 255"), "%s",
              fixture.err.message);

    /* The highest byte that an initrd may have, in the middle of a page. */
    fixture.platform.command_line = "";
    put(image.data, 0x22c, 0x9001ff, 4);
    cr_assert_eq(fixture_boot(&fixture, image.data, image.size, "initrd", 6), 0, "%s", fixture.err.message);
    cr_expect_eq(fixture.platform.initrd_start, 0x900000);
    cr_expect_arr_eq(fixture.ram + 0x900000, "initrd", 6);
    fixture_destroy(&fixture);

    /* init_size reaches to 4 MiB, so there is no room below 4 MiB + 1 page but that of the first MiB. */
    static uint8_t initrd[0x100001];
    initrd[0] = 1;
    fixture_init(&fixture, 16 * MIB);
    put(image.data, 0x22c, 0x400fff, 4);
    cr_expect_eq(fixture_boot(&fixture, image.data, image.size, initrd, 0x1000), 0, "%s",
                 fixture.err.message);
    cr_expect_eq(fixture.platform.initrd_start, 0x400000);
    cr_expect_eq(fixture_boot(&fixture, image.data, image.size, initrd, 0x100000), 0, "%s",
                 fixture.err.message);
    cr_expect_eq(fixture.platform.initrd_start, 0x100000);
    cr_expect_lt(fixture_boot(&fixture, image.data, image.size, initrd, 0x100001), 0);
    cr_expect(strstr(fixture.err.message, "do not fit beside the kernel"), "%s", fixture.err.message);
    fixture_destroy(&fixture);
    free(image.data);
}
