/*
 * The stream in which passt(1) sends Ethernet frames: before each its length, four bytes, big-endian. What
 * comes in is buffered, so that one read brings many frames.
 *
 * The peer is not trusted: a length that no frame has is an error, after which nothing more can be made of
 * the stream.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define PASST_PREFIX_SIZE 4
#define PASST_FRAME_MIN   14 /* an Ethernet header */
#define PASST_FRAME_MAX   65550
#define PASST_BUFFER_SIZE ((size_t)256 << 10)

struct passt_stream {
    uint8_t *data;     /* PASST_BUFFER_SIZE bytes; owned */
    size_t start, end; /* of what has not been taken */
};

/* 0 or -ENOMEM. */
int passt_stream_init(struct passt_stream *stream);
void passt_stream_release(struct passt_stream *stream);

/* Forgets all that came in. */
void passt_stream_reset(struct passt_stream *stream);

/* Where the next bytes go, and for how many there is room: none at all only if a whole frame is to be taken.
 * Moves what is there, so no frame is in use. */
uint8_t *passt_stream_room(struct passt_stream *stream, size_t *size);

/* So many bytes have been put there. */
void passt_stream_add(struct passt_stream *stream, size_t size);

/* Whether the first frame is there as a whole: its length, 0 if it is not, or -EBADMSG if it can have none.
 */
int passt_stream_peek(const struct passt_stream *stream);

/* Takes the first frame, which passt_stream_peek() has found to be `length` bytes long, and says where it is:
 * until the stream is used again. */
const uint8_t *passt_stream_take(struct passt_stream *stream, size_t length);
