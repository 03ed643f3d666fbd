/* Unpacking must give back what other implementations packed, in reads of any size, and notice damage. */
#include "vmm/x86/decompress.h"

#include <errno.h>

#include "boot_fixture.h"
#include "compress_fixture.h"

/* Several blocks of lz4; repetitions at all distances between noise. */
#define SIZE ((size_t)20 * 1000 * 1000)

static uint8_t *make_data(size_t size)
{
    uint8_t *data = malloc(size);
    fill_noise(data, size < 1000000 ? size : 1000000, 11);
    for (size_t at = 1000000; at < size; at += 50000) {
        size_t part = size - at < 50000 ? size - at : 50000;
        memcpy(data + at, data + at * 7919 % 900000, part);
        fill_noise(data + at, part < 500 ? part : 500, (uint32_t)at);
    }
    return data;
}

/* Reads everything in pieces of `step` bytes. */
static int unpack(const struct packed *packed, uint64_t offset, void *to, size_t room, size_t step,
                  size_t *size, struct error *err)
{
    char path[32];
    uint8_t *file = malloc(offset + packed->size);
    memset(file, 0xa5, offset);
    memcpy(file + offset, packed->data, packed->size);
    int fd = fixture_file(file, offset + packed->size, path);
    struct decompressor *decompressor;
    int result = decompressor_create(fd, offset, packed->size, &decompressor, err);
    free(file);
    *size = 0;
    for (size_t got = 1; !result && got && *size < room; *size += got)
        result = decompressor_read(decompressor, (uint8_t *)to + *size,
                                   room - *size < step ? room - *size : step, &got, err);
    if (!result || *size)
        decompressor_destroy(decompressor);
    close(fd);
    return result;
}

static void expect_round_trip(size_t size, size_t step)
{
    uint8_t *data = make_data(size), *back = malloc(size + 1);
    for (size_t i = 0; i < PACKERS; i++) {
        struct packed packed = packers[i].pack(data, size);
        struct error err = {""};
        size_t got;
        cr_assert_eq(unpack(&packed, 777, back, size + 1, step, &got, &err), 0, "%s: %s", packers[i].name,
                     err.message);
        cr_expect_eq(got, size, "%s: %zu", packers[i].name, got);
        cr_expect_eq(memcmp(back, data, size), 0, "%s", packers[i].name);
        free(packed.data);
    }
    free(data);
    free(back);
}

Test(decompress, in_one_read)
{
    expect_round_trip(SIZE, SIZE + 1);
}

/* More than one block of lz4 a read, and not a multiple of it. */
Test(decompress, in_large_reads)
{
    expect_round_trip(SIZE, 9000001);
}

Test(decompress, in_small_reads)
{
    expect_round_trip(3000000, 1021);
}

Test(decompress, of_next_to_nothing)
{
    for (size_t size = 1; size < 20; size++)
        expect_round_trip(size, 1);
}

/* Data that was cut or changed anywhere must not pass. Only lz4's legacy frames have no checksum: there a
 * changed byte may be noticed or not, but must do no harm. */
Test(decompress, damage_is_noticed)
{
    const size_t size = 40000, room = 64 * MIB;
    uint8_t *data = make_data(size), *back = malloc(room);
    memcpy(data + size / 2, data, size / 2);
    for (size_t i = 0; i < PACKERS; i++) {
        struct packed packed = packers[i].pack(data, size);
        bool checksum = strcmp(packers[i].name, "lz4");
        for (size_t at = 10; at < packed.size; at += packed.size / 50) {
            struct packed part = {packed.data, at};
            struct error err = {""};
            size_t got;
            int result = unpack(&part, 0, back, room, 4096, &got, &err);
            cr_expect_eq(result, -EBADMSG, "%s cut at %zu: %d", packers[i].name, at, result);
            cr_expect(strstr(err.message, packers[i].name), "%s", err.message);

            packed.data[at] ^= 0x10;
            result = unpack(&packed, 0, back, room, 4096, &got, &err);
            cr_expect(result == -EBADMSG || (result == 0 && (!checksum || !memcmp(back, data, size))),
                      "%s changed at %zu: %d", packers[i].name, at, result);
            packed.data[at] ^= 0x10;
        }
        free(packed.data);
    }
    free(data);
    free(back);
}

Test(decompress, lz4_block_sizes_are_checked)
{
    static const uint32_t sizes[] = {0, 0x80000000, 0xffffffff, 8 << 20, 1000};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        uint8_t data[64] = {0x02, 0x21, 0x4c, 0x18}, back[64];
        struct packed packed = {data, sizeof(data)};
        struct error err = {""};
        size_t got;
        put(data, 4, sizes[i], 4);
        cr_expect_eq(unpack(&packed, 0, back, sizeof(back), 64, &got, &err), -EBADMSG);
        cr_expect(strstr(err.message, "size of a block"), "%s", err.message);
    }
}

Test(decompress, formats_without_a_decoder)
{
    static const char *const magics[] = {"BZh91AY&", "\x89LZO\0\r\n\x1a", "\x04\x22\x4d\x18\x64\x40\xa7",
                                         "what?"};
    for (size_t i = 0; i < ARRAY_SIZE(magics); i++) {
        uint8_t data[64] = {0};
        memcpy(data, magics[i], 5);
        struct packed packed = {data, sizeof(data)};
        struct error err = {""};
        size_t got;
        cr_expect_eq(unpack(&packed, 0, data, 1, 1, &got, &err), -ENOTSUP, "%s", err.message);
    }
    cr_expect_null(compression_name((const uint8_t *)"\x1f", 1));
    cr_expect_null(compression_name((const uint8_t *)"", 0));
    cr_expect_str_eq(compression_name((const uint8_t *)"BZh", 3), "bzip2");
}
