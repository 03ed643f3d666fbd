/*
 * The payload of a bzImage whose header is right: compressed bytes as they come, or, if the first byte is
 * odd, an ELF file that is compressed here, as its checksums would keep a fuzzer out of it.
 */
#include <lz4.h>

#include "boot_machine.h"

#define SETUP_SIZE   0x400
#define CODE_SIZE    0x210
#define PAYLOAD_MAX  ((size_t)64 * 1024)
#define PREF_ADDRESS 0x200000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(uint8_t *image, size_t offset, uint64_t value, size_t size)
{
    memcpy(image + offset, &value, size);
}

static void load_payload(const uint8_t *payload, size_t size)
{
    size_t part = align_up(CODE_SIZE + size, 16);
    uint8_t *image = calloc(1, SETUP_SIZE + part);
    require(image != NULL, "there is memory");
    put(image, 0x1f1, 1, 1);         /* setup_sects */
    put(image, 0x1f4, part / 16, 4); /* syssize */
    put(image, 0x1fe, 0xaa55, 2);
    put(image, 0x200, 0x6aeb, 2);
    memcpy(image + 0x202, "HdrS", 4);
    put(image, 0x206, 0x020f, 2);
    put(image, 0x211, 1, 1);            /* loadflags */
    put(image, 0x230, PREF_ADDRESS, 4); /* kernel_alignment */
    put(image, 0x234, 1, 1);            /* relocatable_kernel */
    put(image, 0x236, 1, 2);            /* xloadflags */
    put(image, 0x238, 2047, 4);         /* cmdline_size */
    put(image, 0x248, CODE_SIZE, 4);    /* payload_offset */
    put(image, 0x24c, size, 4);         /* payload_length */
    put(image, 0x258, PREF_ADDRESS, 8); /* pref_address */
    put(image, 0x260, 0x100000, 4);     /* init_size */
    memcpy(image + SETUP_SIZE + CODE_SIZE, payload, size);
    load_kernel(image, SETUP_SIZE + part);
    free(image);
}

static void load_elf(const uint8_t *data, size_t size)
{
    uint8_t payload[12 + LZ4_COMPRESSBOUND(PAYLOAD_MAX)];
    int packed = LZ4_compress_default((const char *)data, (char *)payload + 8, (int)size,
                                      LZ4_COMPRESSBOUND(PAYLOAD_MAX));
    require(packed > 0, "it can be compressed");
    put(payload, 0, 0x184C2102, 4);
    put(payload, 4, (uint32_t)packed, 4);
    put(payload, 8 + (size_t)packed, size, 4);
    load_payload(payload, 12 + (size_t)packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0 || size > PAYLOAD_MAX)
        return 0;
    if (data[0] & 1)
        load_elf(data + 1, size - 1);
    else
        load_payload(data + 1, size - 1);
    return 0;
}
