#include "guest/lib/checksum.h"

#define POLYNOMIAL 0x04c11db7

void checksum_begin(struct checksum *sum)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t remainder = i << 24;
        for (int bit = 0; bit < 8; bit++)
            remainder = remainder << 1 ^ (remainder >> 31 ? POLYNOMIAL : 0);
        sum->table[i] = remainder;
    }
    sum->crc = 0;
    sum->length = 0;
}

static uint32_t add(const struct checksum *sum, uint32_t crc, uint8_t byte)
{
    return crc << 8 ^ sum->table[crc >> 24 ^ byte];
}

void checksum_add(struct checksum *sum, const void *bytes, uint64_t size)
{
    const uint8_t *b = bytes;

    for (uint64_t i = 0; i < size; i++)
        sum->crc = add(sum, sum->crc, b[i]);
    sum->length += size;
}

uint32_t checksum_end(const struct checksum *sum)
{
    uint32_t crc = sum->crc;

    /* The length follows the bytes, lowest byte first, without leading zeroes. */
    for (uint64_t rest = sum->length; rest; rest >>= 8)
        crc = add(sum, crc, rest & 0xff);
    return ~crc;
}
