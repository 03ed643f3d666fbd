#include "devices/net/passt_stream.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "devices/net/net_backend.h"

_Static_assert(PASST_FRAME_MAX == NET_FRAME_MAX - NET_HEADER_SIZE, "the largest frame");
_Static_assert(PASST_BUFFER_SIZE >= PASST_PREFIX_SIZE + PASST_FRAME_MAX, "room for the largest frame");

int passt_stream_init(struct passt_stream *stream)
{
    *stream = (struct passt_stream){.data = malloc(PASST_BUFFER_SIZE)};
    return stream->data ? 0 : -ENOMEM;
}

void passt_stream_release(struct passt_stream *stream)
{
    free(stream->data);
}

void passt_stream_reset(struct passt_stream *stream)
{
    stream->start = stream->end = 0;
}

/* A frame that has come in part is moved to the front, at most one for each time the buffer fills up. */
uint8_t *passt_stream_room(struct passt_stream *stream, size_t *size)
{
    size_t left = stream->end - stream->start;
    if (left == 0 || PASST_BUFFER_SIZE - stream->end < PASST_PREFIX_SIZE + PASST_FRAME_MAX) {
        memmove(stream->data, stream->data + stream->start, left);
        stream->start = 0;
        stream->end = left;
    }
    *size = PASST_BUFFER_SIZE - stream->end;
    return stream->data + stream->end;
}

void passt_stream_add(struct passt_stream *stream, size_t size)
{
    stream->end += size;
}

int passt_stream_peek(const struct passt_stream *stream)
{
    uint32_t length;
    size_t left = stream->end - stream->start;
    if (left < sizeof(length))
        return 0;
    memcpy(&length, stream->data + stream->start, sizeof(length));
    length = be32toh(length);
    if (length < PASST_FRAME_MIN || length > PASST_FRAME_MAX)
        return -EBADMSG;
    return left - sizeof(length) < length ? 0 : (int)length;
}

const uint8_t *passt_stream_take(struct passt_stream *stream, size_t length)
{
    const uint8_t *frame = stream->data + stream->start + PASST_PREFIX_SIZE;
    stream->start += PASST_PREFIX_SIZE + length;
    return frame;
}
