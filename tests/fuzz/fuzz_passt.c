/*
 * The stream of a hostile passt, in pieces of any size: the frames found in it must be those that are found
 * by walking over the whole of it, up to the first length that no frame has.
 *
 * Input: how the stream is cut, one byte; then the stream. Each of its parts is described by three bytes, so
 * that long frames, and many, need little of it: a kind and a length. A whole frame of that length, or a
 * length alone, which the kind may make larger.
 */
#include <endian.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "devices/net/passt_stream.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STREAM_MAX     ((size_t)512 << 10)
#define REQUIRE(truth) ((truth) ? (void)0 : abort())

struct fuzz {
    uint8_t *bytes; /* of the whole stream */
    size_t size, fed, taken;
    struct passt_stream stream;
};

static void add_part(struct fuzz *fuzz, const uint8_t *part)
{
    uint32_t length = (uint32_t)(part[1] << 8 | part[2]), prefix = length;
    if (part[0] & 1)
        prefix |= (uint32_t)(part[0] >> 4) << 28 | (uint32_t)(part[0] >> 1 & 1) << 16;
    if (fuzz->size + sizeof(prefix) + length > STREAM_MAX)
        return;
    prefix = htobe32(prefix);
    memcpy(fuzz->bytes + fuzz->size, &prefix, sizeof(prefix));
    fuzz->size += sizeof(prefix);
    if (part[0] & 1)
        return;
    memset(fuzz->bytes + fuzz->size, part[0] ^ (int)fuzz->size, length);
    fuzz->size += length;
}

/* The length of the frame that comes next, by looking at the whole stream; -1: that is none. */
static int64_t next_length(const struct fuzz *fuzz)
{
    uint32_t length;
    if (fuzz->fed - fuzz->taken < sizeof(length))
        return 0;
    memcpy(&length, fuzz->bytes + fuzz->taken, sizeof(length));
    length = be32toh(length);
    if (length < 14 || length > 65550)
        return -1;
    return fuzz->fed - fuzz->taken >= sizeof(length) + length ? length : 0;
}

/* Returns whether the stream goes on. */
static int take_frames(struct fuzz *fuzz, unsigned most)
{
    for (; most > 0; most--) {
        int64_t want = next_length(fuzz);
        int have = passt_stream_peek(&fuzz->stream);
        REQUIRE(want < 0 ? have < 0 : have == want);
        if (want <= 0)
            return want == 0;
        const uint8_t *frame = passt_stream_take(&fuzz->stream, (size_t)have);
        REQUIRE(memcmp(frame, fuzz->bytes + fuzz->taken + 4, (size_t)have) == 0);
        fuzz->taken += 4 + (size_t)have;
    }
    return 1;
}

static void feed(struct fuzz *fuzz, size_t most)
{
    size_t room;
    uint8_t *to = passt_stream_room(&fuzz->stream, &room);
    size_t part = smaller(smaller(room, most), fuzz->size - fuzz->fed);
    REQUIRE(room > 0 || passt_stream_peek(&fuzz->stream) != 0);
    memcpy(to, fuzz->bytes + fuzz->fed, part);
    passt_stream_add(&fuzz->stream, part);
    fuzz->fed += part;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz fuzz = {.bytes = malloc(STREAM_MAX)};
    REQUIRE(fuzz.bytes && passt_stream_init(&fuzz.stream) == 0);
    unsigned cut = size > 0 ? data[0] : 0;
    for (size_t i = 1; i + 3 <= size; i += 3)
        add_part(&fuzz, data + i);
    for (unsigned step = 0, on = 1; on && fuzz.fed < fuzz.size; step++) {
        feed(&fuzz, 1 + (cut & 1 ? (size_t)cut * step % 97 : (size_t)cut << 10));
        on = (unsigned)take_frames(&fuzz, cut & 2 ? 1 : 1000);
    }
    passt_stream_release(&fuzz.stream);
    free(fuzz.bytes);
    return 0;
}
