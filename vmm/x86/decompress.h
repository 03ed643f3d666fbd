/*
 * Unpacking of kernel payloads as a stream: gzip, xz (with its x86 filter), zstd, and lz4 in the legacy frame
 * format that Linux uses. Compressed bytes are read from the file in small pieces; what a format needs
 * besides (a dictionary, a block) is mapped while the decompressor lives and given back with it.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct decompressor;
struct error;

#define COMPRESSION_MAGIC_SIZE 8

/* The name of the compression format that begins with these bytes, also of those that cannot be unpacked; or
 * NULL. */
const char *compression_name(const uint8_t *data, size_t size);

/*
 * A decompressor for `length` bytes at `offset` of the file `fd` (borrowed). -ENOTSUP for a format that it
 * does not know; -EBADMSG for a damaged header; -ENOMEM.
 */
int decompressor_create(int fd, uint64_t offset, uint64_t length, struct decompressor **decompressor,
                        struct error *err);

void decompressor_destroy(struct decompressor *decompressor); /* NULL is allowed */

/*
 * The next `length` bytes; `*got` is less only at the end of the data, and by then its checksum was found
 * right. -EBADMSG for damaged data; -errno of read(2). Blocks.
 */
int decompressor_read(struct decompressor *decompressor, void *to, size_t length, size_t *got,
                      struct error *err);
