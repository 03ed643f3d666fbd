/*
 * Multiboot 1: kernels with a header in their first 8 KiB, entered in 32-bit protected mode with EBX pointing
 * to the multiboot information. Multiboot Specification 0.6.96.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct address_space;
struct error;
struct image;
struct kernel;
struct kernel_target;
struct platform;

#define MULTIBOOT_ENTRY_MAGIC 0x2BADB002 /* in EAX */

struct multiboot_header {
    uint32_t offset; /* in the file */
    uint32_t flags;
    /* With MULTIBOOT_ADDRESSES only. */
    uint32_t header_address, load_address, load_end, bss_end, entry;
};

#define MULTIBOOT_ADDRESSES ((uint32_t)1 << 16) /* how to load is in the header, not in an ELF header */

bool multiboot_find(const struct image *image, struct multiboot_header *header);

/* Whether there is a multiboot 2 header, which godwit does not serve. */
bool multiboot2_find(const struct image *image);

/* Whether the header asks for what godwit cannot give: -ENOEXEC. */
int multiboot_check(const struct multiboot_header *header, struct error *err);

/* Loads an image by the addresses in its header. -errno with a message as kernel_load(). */
int multiboot_load(struct image *image, const struct multiboot_header *header,
                   const struct kernel_target *target, struct kernel *kernel, struct error *err);

/* Writes the multiboot information, with the memory map and the initrd as its module, at
 * LAYOUT_START_INFO. */
int multiboot_write_info(const struct platform *platform, struct address_space *memory, struct error *err);
