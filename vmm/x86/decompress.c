#include "vmm/x86/decompress.h"

#include <endian.h>
#include <errno.h>
#include <lz4.h>
#include <lzma.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "base/error.h"
#include "base/macros.h"

#define INPUT_SIZE       (64 * KIB)
#define OUTPUT_STEP      (1 * GIB) /* zlib counts in 32 bits */
#define XZ_MEMORY_LIMIT  (256 * MIB)
#define LZ4_LEGACY_MAGIC 0x184C2102
#define LZ4_BLOCK_SIZE   ((int)(8 * MIB))
#define LZ4_PACKED_MAX   LZ4_COMPRESSBOUND(LZ4_BLOCK_SIZE)

struct codec;

/* Bytes still to be written. */
struct output {
    uint8_t *data;
    size_t left;
};

struct lz4_state {
    uint8_t *packed, *block; /* one block before and after */
    size_t block_used, block_size;
};

struct decompressor {
    const struct codec *codec;
    int fd;
    uint64_t offset, end; /* what of the file was not read yet */
    bool finished;
    const uint8_t *next; /* what of `input` was not used yet */
    size_t available;
    union {
        z_stream gzip;
        lzma_stream xz;
        ZSTD_DStream *zstd;
        struct lz4_state lz4;
    };
    uint8_t input[]; /* of INPUT_SIZE */
};

struct codec {
    const char *name;
    uint8_t magic[COMPRESSION_MAGIC_SIZE];
    size_t magic_size;
    /* NULL in what follows: known, but not unpacked. */
    int (*open)(struct decompressor *decompressor, struct error *err);
    /* Writes more of the output, and sets `finished` at the end of the data. */
    int (*decode)(struct decompressor *decompressor, struct output *output, struct error *err);
    void (*close)(struct decompressor *decompressor);
};

static int damaged(const struct decompressor *decompressor, const char *why, struct error *err)
{
    return error_set(err, EBADMSG, "the %s data is damaged (%s): get the file anew",
                     decompressor->codec->name, why);
}

/* Reads `length` more bytes of the file, which the caller knows to be there. */
static int read_file(struct decompressor *decompressor, void *to, size_t length, struct error *err)
{
    for (size_t done = 0; done < length;) {
        ssize_t got = pread(decompressor->fd, (char *)to + done, length - done, (off_t)decompressor->offset);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return error_set_errno(err, errno, "cannot read it");
        if (got == 0)
            return error_set(err, EBADMSG, "it became shorter while it was read");
        done += (size_t)got;
        decompressor->offset += (uint64_t)got;
    }
    return 0;
}

static int refill(struct decompressor *decompressor, struct error *err)
{
    uint64_t left = decompressor->end - decompressor->offset;
    if (decompressor->available || !left)
        return 0;
    size_t size = left < INPUT_SIZE ? left : INPUT_SIZE;
    int result = read_file(decompressor, decompressor->input, size, err);
    if (!result) {
        decompressor->next = decompressor->input;
        decompressor->available = size;
    }
    return result;
}

/* Takes note of what a library consumed and produced. Neither, with nothing left to give it, means that data
 * is missing. */
static int account(struct decompressor *decompressor, struct output *output, size_t consumed, size_t produced,
                   struct error *err)
{
    decompressor->next += consumed;
    decompressor->available -= consumed;
    output->data += produced;
    output->left -= produced;
    if (!consumed && !produced && !decompressor->finished)
        return damaged(decompressor, "it ends too early", err);
    return 0;
}

static int gzip_open(struct decompressor *decompressor, struct error *err)
{
    if (inflateInit2(&decompressor->gzip, MAX_WBITS + 16) != Z_OK)
        return error_set(err, ENOMEM, "no memory to unpack gzip data");
    return 0;
}

static int gzip_decode(struct decompressor *decompressor, struct output *output, struct error *err)
{
    int result = refill(decompressor, err);
    if (result)
        return result;
    z_stream *stream = &decompressor->gzip;
    size_t room = output->left < OUTPUT_STEP ? output->left : OUTPUT_STEP;
    stream->next_in = (uint8_t *)decompressor->next;
    stream->avail_in = (uInt)decompressor->available;
    stream->next_out = output->data;
    stream->avail_out = (uInt)room;
    int status = inflate(stream, Z_NO_FLUSH);
    if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
        return damaged(decompressor, stream->msg ? stream->msg : zError(status), err);
    decompressor->finished = status == Z_STREAM_END;
    return account(decompressor, output, decompressor->available - stream->avail_in, room - stream->avail_out,
                   err);
}

static void gzip_close(struct decompressor *decompressor)
{
    inflateEnd(&decompressor->gzip);
}

static const char *xz_message(lzma_ret status)
{
    switch (status) {
    case LZMA_MEM_ERROR:
        return "no memory for its dictionary";
    case LZMA_MEMLIMIT_ERROR:
        return "its dictionary is larger than 256 MiB";
    case LZMA_FORMAT_ERROR:
        return "wrong header";
    case LZMA_OPTIONS_ERROR:
        return "unknown filter or option";
    case LZMA_DATA_ERROR:
        return "wrong data or checksum";
    default:
        return "decoder failed";
    }
}

static int xz_open(struct decompressor *decompressor, struct error *err)
{
    decompressor->xz = (lzma_stream)LZMA_STREAM_INIT;
    if (lzma_stream_decoder(&decompressor->xz, XZ_MEMORY_LIMIT, 0) != LZMA_OK)
        return error_set(err, ENOMEM, "no memory to unpack xz data");
    return 0;
}

static int xz_decode(struct decompressor *decompressor, struct output *output, struct error *err)
{
    int result = refill(decompressor, err);
    if (result)
        return result;
    lzma_stream *stream = &decompressor->xz;
    stream->next_in = decompressor->next;
    stream->avail_in = decompressor->available;
    stream->next_out = output->data;
    stream->avail_out = output->left;
    lzma_ret status = lzma_code(stream, LZMA_RUN);
    if (status != LZMA_OK && status != LZMA_STREAM_END && status != LZMA_BUF_ERROR)
        return damaged(decompressor, xz_message(status), err);
    decompressor->finished = status == LZMA_STREAM_END;
    return account(decompressor, output, decompressor->available - stream->avail_in,
                   output->left - stream->avail_out, err);
}

static void xz_close(struct decompressor *decompressor)
{
    lzma_end(&decompressor->xz);
}

static int zstd_open(struct decompressor *decompressor, struct error *err)
{
    decompressor->zstd = ZSTD_createDStream();
    if (!decompressor->zstd)
        return error_set(err, ENOMEM, "no memory to unpack zstd data");
    return 0;
}

static int zstd_decode(struct decompressor *decompressor, struct output *output, struct error *err)
{
    int result = refill(decompressor, err);
    if (result)
        return result;
    ZSTD_inBuffer in = {decompressor->next, decompressor->available, 0};
    ZSTD_outBuffer out = {output->data, output->left, 0};
    size_t status = ZSTD_decompressStream(decompressor->zstd, &out, &in);
    if (ZSTD_isError(status))
        return damaged(decompressor, ZSTD_getErrorName(status), err);
    decompressor->finished = status == 0;
    return account(decompressor, output, in.pos, out.pos, err);
}

static void zstd_close(struct decompressor *decompressor)
{
    ZSTD_freeDStream(decompressor->zstd);
}

static uint8_t *map_buffer(size_t size)
{
    void *buffer = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buffer == MAP_FAILED ? NULL : buffer;
}

static void lz4_close(struct decompressor *decompressor)
{
    if (decompressor->lz4.packed)
        munmap(decompressor->lz4.packed, LZ4_PACKED_MAX);
    if (decompressor->lz4.block)
        munmap(decompressor->lz4.block, LZ4_BLOCK_SIZE);
}

static int lz4_open(struct decompressor *decompressor, struct error *err)
{
    decompressor->offset += sizeof(uint32_t); /* the magic number */
    decompressor->lz4 = (struct lz4_state){
        .packed = map_buffer(LZ4_PACKED_MAX),
        .block = map_buffer(LZ4_BLOCK_SIZE),
    };
    if (decompressor->lz4.packed && decompressor->lz4.block)
        return 0;
    lz4_close(decompressor);
    return error_set(err, ENOMEM, "no memory to unpack lz4 data");
}

/* Reads the next block as it is in the file; `*size` is 0 at the end of the data. */
static int lz4_read_block(struct decompressor *decompressor, uint32_t *size, struct error *err)
{
    do {
        uint64_t left = decompressor->end - decompressor->offset;
        *size = 0;
        if (left == 0)
            return 0;
        if (left < sizeof(*size))
            return damaged(decompressor, "it ends within the size of a block", err);
        int result = read_file(decompressor, size, sizeof(*size), err);
        if (result)
            return result;
        *size = le32toh(*size);
    } while (*size == LZ4_LEGACY_MAGIC); /* frames may follow each other */
    if (*size == 0 || *size > LZ4_PACKED_MAX || *size > decompressor->end - decompressor->offset)
        return damaged(decompressor, "the size of a block is wrong", err);
    return read_file(decompressor, decompressor->lz4.packed, *size, err);
}

/* The next block goes straight to the output where it surely fits. */
static int lz4_decode_block(struct decompressor *decompressor, struct output *output, struct error *err)
{
    struct lz4_state *lz4 = &decompressor->lz4;
    uint32_t packed_size;
    int result = lz4_read_block(decompressor, &packed_size, err);
    if (result)
        return result;
    decompressor->finished = packed_size == 0;
    if (decompressor->finished)
        return 0;

    bool direct = output->left >= (size_t)LZ4_BLOCK_SIZE;
    int size = LZ4_decompress_safe((const char *)lz4->packed, (char *)(direct ? output->data : lz4->block),
                                   (int)packed_size, LZ4_BLOCK_SIZE);
    if (size < 0)
        return damaged(decompressor, "a block does not unpack", err);
    lz4->block_used = 0;
    lz4->block_size = direct ? 0 : (size_t)size;
    output->data += direct ? size : 0;
    output->left -= direct ? (size_t)size : 0;
    return 0;
}

static int lz4_decode(struct decompressor *decompressor, struct output *output, struct error *err)
{
    struct lz4_state *lz4 = &decompressor->lz4;
    if (lz4->block_used == lz4->block_size)
        return lz4_decode_block(decompressor, output, err);

    size_t size = lz4->block_size - lz4->block_used;
    size = size < output->left ? size : output->left;
    memcpy(output->data, lz4->block + lz4->block_used, size);
    lz4->block_used += size;
    output->data += size;
    output->left -= size;
    return 0;
}

static const struct codec codecs[] = {
    {"gzip", {0x1F, 0x8B}, 2, gzip_open, gzip_decode, gzip_close},
    {"xz", {0xFD, '7', 'z', 'X', 'Z', 0}, 6, xz_open, xz_decode, xz_close},
    {"zstd", {0x28, 0xB5, 0x2F, 0xFD}, 4, zstd_open, zstd_decode, zstd_close},
    {"lz4", {0x02, 0x21, 0x4C, 0x18}, 4, lz4_open, lz4_decode, lz4_close},
    {.name = "lz4", .magic = {0x04, 0x22, 0x4D, 0x18}, .magic_size = 4},
    {.name = "bzip2", .magic = {'B', 'Z', 'h'}, .magic_size = 3},
    {.name = "lzma", .magic = {0x5D, 0, 0, 0}, .magic_size = 4},
    {.name = "lzop", .magic = {0x89, 'L', 'Z', 'O', 0}, .magic_size = 5},
};

static const struct codec *find_codec(const uint8_t *data, size_t size)
{
    for (size_t i = 0; i < ARRAY_SIZE(codecs); i++) {
        if (codecs[i].magic_size <= size && !memcmp(data, codecs[i].magic, codecs[i].magic_size))
            return &codecs[i];
    }
    return NULL;
}

const char *compression_name(const uint8_t *data, size_t size)
{
    const struct codec *codec = find_codec(data, size);
    return codec ? codec->name : NULL;
}

int decompressor_create(int fd, uint64_t offset, uint64_t length, struct decompressor **decompressor,
                        struct error *err)
{
    uint8_t magic[COMPRESSION_MAGIC_SIZE];
    ssize_t got = pread(fd, magic, length < sizeof(magic) ? length : sizeof(magic), (off_t)offset);
    if (got < 0)
        return error_set_errno(err, errno, "cannot read it");
    const struct codec *codec = find_codec(magic, (size_t)got);
    if (!codec || !codec->open)
        return error_set(err, ENOTSUP, "the compression %s cannot be unpacked by godwit",
                         codec ? codec->name : "of unknown format");

    struct decompressor *created = malloc(sizeof(*created) + INPUT_SIZE);
    if (!created)
        return error_set(err, ENOMEM, "no memory to unpack it");
    *created = (struct decompressor){.codec = codec, .fd = fd, .offset = offset, .end = offset + length};
    int result = codec->open(created, err);
    if (result) {
        free(created);
        return result;
    }
    *decompressor = created;
    return 0;
}

void decompressor_destroy(struct decompressor *decompressor)
{
    if (!decompressor)
        return;
    decompressor->codec->close(decompressor);
    free(decompressor);
}

int decompressor_read(struct decompressor *decompressor, void *to, size_t length, size_t *got,
                      struct error *err)
{
    struct output output = {to, length};
    while (output.left && !decompressor->finished) {
        int result = decompressor->codec->decode(decompressor, &output, err);
        if (result)
            return result;
    }
    *got = length - output.left;
    return 0;
}
