/*
 * PVH: the direct boot ABI for guests without firmware, in 32-bit protected mode. The entry point comes from
 * an ELF note; EBX points to the start info. Xen's include/public/arch-x86/hvm/start_info.h and
 * docs/misc/pvh.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct address_space;
struct elf;
struct error;
struct image;
struct platform;

/* Whether `image` has the note XEN_ELFNOTE_PHYS32_ENTRY, and the address in it. -EBADMSG for one that is
 * malformed. */
int pvh_find_entry(struct image *image, const struct elf *elf, bool *found, uint64_t *entry,
                   struct error *err);

/* Writes the start info, with the memory map and the initrd as its module, at LAYOUT_START_INFO. */
int pvh_write_start_info(const struct platform *platform, struct address_space *memory, struct error *err);
