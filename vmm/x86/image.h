/*
 * A file that goes into guest RAM: a kernel, an initrd, or what the compressed payload of a bzImage unpacks
 * to.
 *
 * Bytes go from the file, or from the decompressor, straight to where they are wanted; only the beginning is
 * kept, for telling formats apart. A file is read, not mapped, so one that is cut short meanwhile is an error
 * and not a signal. An unpacked payload can only be read forwards (its beginning any time).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct address_space;
struct decompressor;
struct error;

#define IMAGE_HEAD_SIZE 8192

struct image {
    int fd;
    uint64_t size;
    struct decompressor *decompressor; /* NULL for a file */
    uint64_t position;                 /* of the decompressor */
    size_t head_size;
    uint8_t head[IMAGE_HEAD_SIZE]; /* the first head_size bytes */
};

/*
 * Opens the file at `path`, which must be a regular one and not empty. -errno with a message that does not
 * name the path. Nothing to close after a failure.
 */
int image_open(struct image *image, const char *path, struct error *err);

/*
 * Opens what `length` bytes at `offset` of `file` unpack to; they end in its size, 32 bits little-endian, as
 * payloads of bzImages do. `file` is borrowed. -ENOTSUP for a compression that godwit does not unpack,
 * -EBADMSG for damaged data.
 */
int image_open_payload(struct image *image, const struct image *file, uint64_t offset, uint64_t length,
                       struct error *err);

void image_close(struct image *image);

/*
 * Reads exactly `length` bytes at `offset`. -EBADMSG where the image ends before; -EINVAL for going back in a
 * payload; -errno of read(2). Blocks.
 */
int image_read(struct image *image, uint64_t offset, void *to, uint64_t length, struct error *err);

/* As image_read(), to guest RAM at `address`. */
int image_load(struct image *image, uint64_t offset, uint64_t length, struct address_space *memory,
               uint64_t address, struct error *err);

/* Reads a payload to its end, which is where damage shows. Nothing to do for a file. */
int image_finish(struct image *image, struct error *err);
