/* Telling formats apart: flat binaries, and the many things that are no kernel. */
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "boot_fixture.h"

Test(boot_format, a_flat_binary_is_loaded_at_1_mib)
{
    struct boot_fixture fixture;
    uint8_t image[5000];
    fill_noise(image, sizeof(image), 9);
    fixture_init(&fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture.err.message);
    cr_expect_arr_eq(fixture.ram + 0x100000, image, sizeof(image));
    cr_expect_eq(fixture.entry.mode, BOOT_LONG_MODE);
    cr_expect_eq(fixture.entry.rip, 0x100000);
    cr_expect_str_eq(fixture.entry.protocol, "flat");
    cr_expect_eq(ram_get(&fixture, fixture.entry.rsi + 0x202, 4), 0x53726448);
    cr_expect_eq(ram_get(&fixture, fixture.entry.rdi, 4), 0xedfe0dd0); /* big-endian magic of an FDT */
    fixture_destroy(&fixture);
}

Test(boot_format, a_flat_binary_of_one_byte)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, 2 * MIB);
    cr_assert_eq(fixture_boot(&fixture, "\xf4", 1, NULL, 0), 0, "%s", fixture.err.message);
    cr_expect_eq(ram_get(&fixture, 0x100000, 2), 0xf4);
    fixture_destroy(&fixture);
}

Test(boot_format, a_flat_binary_must_fit)
{
    static uint8_t image[1024 * 1024 + 1];
    image[0] = 0x90;
    fixture_refuses(2 * MIB, image, sizeof(image), "give the guest 3 MiB");
    fixture_refuses(4096, image, 1, "give the guest 2 MiB");
}

Test(boot_format, foreign_things_are_named)
{
    static const struct {
        size_t offset;
        const char *magic;
        size_t size;
        const char *wanted;
    } things[] = {
        {0x38, "ARM\x64", 4, "arm64"},
        {0x38, "RSC\x05", 4, "RISC-V"},
        {0, "070701", 6, "cpio"},
        {0, "\x1f\x8b\x08", 3, "compressed with gzip"},
        {0,
         "\xfd"
         "7zXZ\0",
         6, "compressed with xz"},
        {0, "\x28\xb5\x2f\xfd", 4, "compressed with zstd"},
        {0, "\x02\x21\x4c\x18", 4, "compressed with lz4"},
        {0, "\x04\x22\x4d\x18", 4, "compressed with lz4"},
        {0, "BZh9", 4, "compressed with bzip2"},
        {0, "\x5d\0\0\0", 4, "compressed with lzma"},
        {0, "\x89LZO\0", 5, "compressed with lzop"},
        {0, "!<arch>\n", 8, "Debian package"},
        {0, "QFI\xfb", 4, "qcow2"},
        {0, "\xd0\x0d\xfe\xed", 4, "device tree"},
        {0, "\x27\x05\x19\x56", 4, "U-Boot"},
        {0, "#!/bin/sh\n", 10, "script"},
        {510, "\x55\xaa", 2, "boot sector"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(things); i++) {
        uint8_t image[1024] = {0};
        memcpy(image + things[i].offset, things[i].magic, things[i].size);
        fixture_refuses(16 * MIB, image, sizeof(image), things[i].wanted);
    }
}

Test(boot_format, an_efi_program_is_named)
{
    uint8_t image[1024] = "MZ";
    put(image, 0x3c, 0x80, 4);
    memcpy(image + 0x80, "PE", 2);
    fixture_refuses(16 * MIB, image, sizeof(image), "EFI program");
    /* The pointer to the PE header is foreign as well. */
    struct boot_fixture fixture;
    put(image, 0x3c, UINT32_MAX - 2, 4);
    fixture_init(&fixture, 16 * MIB);
    cr_expect_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0);
    fixture_destroy(&fixture);
}

Test(boot_format, multiboot_2_is_named)
{
    uint8_t image[ELF_SIZE];
    memset(image, 0x90, sizeof(image));
    const uint32_t header[] = {0xE85250D6, 0, 16, -(0xE85250D6u + 16)};
    memcpy(image + 0x1008, header, sizeof(header));
    fixture_refuses(16 * MIB, image, sizeof(image), "multiboot 2");
    make_elf64(image);
    memcpy(image + 0x1008, header, sizeof(header));
    fixture_refuses(16 * MIB, image, sizeof(image), "multiboot 2");
}

/* Expects the kernel and then the initrd at `path` to be refused. */
static void refuses_path(const char *path, int code, const char *wanted)
{
    char good[32];
    int fd = fixture_file("\xf4", 1, good);
    const struct boot_files files[] = {{.kernel = path}, {.kernel = good, .initrd = path}};
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        struct boot_fixture fixture;
        fixture_init(&fixture, 16 * MIB);
        int result = boot_load(&files[i], &fixture.platform, fixture.space, &fixture.entry, &fixture.dtb,
                               &fixture.dtb_size, &fixture.err);
        cr_expect_eq(result, -code, "%d", result);
        cr_expect(strstr(fixture.err.message, wanted) && strstr(fixture.err.message, path), "%s",
                  fixture.err.message);
        fixture_destroy(&fixture);
    }
    close(fd);
}

Test(boot_format, what_is_no_file_is_refused)
{
    char fifo[] = "/tmp/godwit-test-XXXXXX";
    cr_assert_not_null(mkdtemp(fifo));
    char path[64];
    snprintf(path, sizeof(path), "%s/fifo", fifo);
    cr_assert_eq(mkfifo(path, 0600), 0);
    refuses_path(path, EINVAL, "is not a regular file");
    unlink(path);
    rmdir(fifo);
    refuses_path("/nonexistent/vmlinuz", ENOENT, "No such file or directory");
    refuses_path("/", EISDIR, "is a directory");
    refuses_path("/dev/zero", EINVAL, "is not a regular file");
}

Test(boot_format, an_unreadable_file_is_refused)
{
    char path[] = "/tmp/godwit-test-XXXXXX";
    int fd = mkstemp(path);
    cr_assert_geq(fd, 0);
    cr_assert_eq(fchmod(fd, 0), 0);
    /* Root may read everything: become somebody else. */
    if (geteuid() == 0)
        cr_assert_eq(seteuid(65534), 0);
    refuses_path(path, EACCES, "Permission denied");
    if (getuid() == 0)
        cr_assert_eq(seteuid(0), 0);
    unlink(path);
    close(fd);
}

Test(boot_format, an_empty_file_is_refused)
{
    fixture_refuses(16 * MIB, "", 0, "is empty");
}
