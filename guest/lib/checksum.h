/* The checksum of POSIX cksum(1): what a guest prints, a script computes with `cksum` from the same bytes. */
#pragma once

#include <stdint.h>

struct checksum {
    uint32_t table[256];
    uint32_t crc;
    uint64_t length;
};

void checksum_begin(struct checksum *sum);
void checksum_add(struct checksum *sum, const void *bytes, uint64_t size);

/* The checksum of what was added. cksum prints it with `sum->length`. */
uint32_t checksum_end(const struct checksum *sum);
