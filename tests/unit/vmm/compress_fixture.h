/* Compression the way kernels' build does it, for tests of the way back. */
#pragma once

#include <criterion/criterion.h>
#include <lz4.h>
#include <lzma.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

struct packed {
    uint8_t *data; /* malloced */
    size_t size;
};

static inline struct packed pack_gzip(const void *data, size_t size)
{
    struct packed packed = {malloc(size + size / 8 + 1024), 0};
    z_stream stream = {0};
    cr_assert_eq(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY), Z_OK);
    stream.next_in = (uint8_t *)data;
    stream.avail_in = (uInt)size;
    stream.next_out = packed.data;
    stream.avail_out = (uInt)(size + size / 8 + 1024);
    cr_assert_eq(deflate(&stream, Z_FINISH), Z_STREAM_END);
    packed.size = stream.total_out;
    deflateEnd(&stream);
    return packed;
}

static inline struct packed pack_xz(const void *data, size_t size)
{
    lzma_options_lzma options;
    lzma_lzma_preset(&options, 1);
    lzma_filter filters[] = {
        {LZMA_FILTER_X86, NULL}, {LZMA_FILTER_LZMA2, &options}, {LZMA_VLI_UNKNOWN, NULL}};
    size_t room = lzma_stream_buffer_bound(size);
    struct packed packed = {malloc(room), 0};
    cr_assert_eq(lzma_stream_buffer_encode(filters, LZMA_CHECK_CRC32, NULL, data, size, packed.data,
                                           &packed.size, room),
                 LZMA_OK);
    return packed;
}

static inline struct packed pack_zstd(const void *data, size_t size)
{
    struct packed packed = {malloc(ZSTD_compressBound(size)), 0};
    ZSTD_CCtx *context = ZSTD_createCCtx();
    ZSTD_CCtx_setParameter(context, ZSTD_c_checksumFlag, 1);
    packed.size = ZSTD_compress2(context, packed.data, ZSTD_compressBound(size), data, size);
    ZSTD_freeCCtx(context);
    cr_assert_not(ZSTD_isError(packed.size));
    return packed;
}

/* The legacy frame format: a magic number, then blocks of up to 8 MiB with their sizes in front. */
static inline struct packed pack_lz4(const void *data, size_t size)
{
    const size_t block = 8 << 20;
    struct packed packed = {malloc((size / block + 1) * (4 + LZ4_COMPRESSBOUND(block)) + 4), 4};
    memcpy(packed.data, "\x02\x21\x4c\x18", 4);
    for (size_t done = 0; done < size; done += block) {
        size_t part = size - done < block ? size - done : block;
        int got = LZ4_compress_default((const char *)data + done, (char *)packed.data + packed.size + 4,
                                       (int)part, LZ4_COMPRESSBOUND((int)part));
        cr_assert_gt(got, 0);
        memcpy(packed.data + packed.size, &got, 4);
        packed.size += 4 + (size_t)got;
    }
    return packed;
}

static const struct {
    const char *name;
    struct packed (*pack)(const void *data, size_t size);
} packers[] = {{"gzip", pack_gzip}, {"xz", pack_xz}, {"zstd", pack_zstd}, {"lz4", pack_lz4}};

#define PACKERS 4
