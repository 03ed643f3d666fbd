/* Building bzImages: header fields at the offsets of the kernel's boot.rst. */
#pragma once

#include "boot_fixture.h"
#include "compress_fixture.h"

/*
 * Two sectors, then the protected-mode part: 0x400 bytes of code, the payload, and padding to 16 bytes. Runs
 * at 0x200000 and needs 2 MiB there, which is where make_elf64() has its segments.
 */
#define SETUP_SIZE 0x400
#define CODE_SIZE  0x400
#define INIT_SIZE  0x200000

struct bzimage {
    uint8_t *data;
    size_t size;
    size_t payload, payload_size; /* where in `data` */
};

static inline struct bzimage make_bzimage(const void *payload, size_t payload_size)
{
    size_t part = align_up(CODE_SIZE + payload_size, 16);
    struct bzimage image = {calloc(1, SETUP_SIZE + part), SETUP_SIZE + part, SETUP_SIZE + CODE_SIZE,
                            payload_size};
    uint8_t *data = image.data;
    fill_noise(data + SETUP_SIZE, CODE_SIZE, 77);
    memcpy(data + image.payload, payload, payload_size);
    put(data, 0x1f1, 1, 1);         /* setup_sects */
    put(data, 0x1f4, part / 16, 4); /* syssize */
    put(data, 0x1fe, 0xaa55, 2);
    put(data, 0x200, 0x6aeb, 2);
    memcpy(data + 0x202, "HdrS", 4);
    put(data, 0x206, 0x020f, 2);
    put(data, 0x211, 1, 1);            /* loadflags */
    put(data, 0x22c, 0x7fffffff, 4);   /* initrd_addr_max */
    put(data, 0x230, 0x200000, 4);     /* kernel_alignment */
    put(data, 0x234, 1, 1);            /* relocatable_kernel */
    put(data, 0x236, 1, 2);            /* xloadflags */
    put(data, 0x238, 255, 4);          /* cmdline_size */
    put(data, 0x248, CODE_SIZE, 4);    /* payload_offset */
    put(data, 0x24c, payload_size, 4); /* payload_length */
    put(data, 0x258, ELF_CODE, 8);     /* pref_address */
    put(data, 0x260, INIT_SIZE, 4);    /* init_size */
    return image;
}

/* `data` compressed, and its size behind it unless the format (gzip) ends in that anyway. */
static inline struct bzimage make_packed(size_t packer, const void *data, size_t size)
{
    struct packed packed = packers[packer].pack(data, size);
    if (strcmp(packers[packer].name, "gzip")) {
        packed.data = realloc(packed.data, packed.size + 4);
        memcpy(packed.data + packed.size, &(uint32_t){(uint32_t)size}, 4);
        packed.size += 4;
    }
    struct bzimage image = make_bzimage(packed.data, packed.size);
    free(packed.data);
    return image;
}
