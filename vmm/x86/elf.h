/*
 * ELF kernels, 32 and 64 bit: program headers, checked, and loading by their physical addresses.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct error;
struct image;
struct kernel;
struct kernel_target;

#define ELF_SEGMENTS_MAX 64

struct elf_segment {
    unsigned index; /* in the file's table, for messages */
    uint32_t type;  /* PT_LOAD, … */
    uint64_t offset, file_size;
    uint64_t virtual, physical, memory_size;
    uint64_t alignment;
};

struct elf {
    bool is_64;
    uint16_t type; /* ET_EXEC or ET_DYN */
    uint64_t entry;
    uint64_t sections_end; /* where the section headers, which come last, end in the file */
    unsigned count;
    struct elf_segment segments[ELF_SEGMENTS_MAX]; /* ascending by offset; none of PT_NULL */
};

/*
 * Reads the headers. -ENOEXEC for an ELF that is no x86 kernel, -EBADMSG for one whose headers contradict
 * themselves or the file's size.
 */
int elf_read(struct image *image, struct elf *elf, struct error *err);

/* Loads the segments into RAM, in the order of the file. -errno with a message as kernel_load(). */
int elf_load(struct image *image, const struct elf *elf, const struct kernel_target *target,
             struct kernel *kernel, struct error *err);

/*
 * The physical address of `entry`, itself physical or else virtual, which must lie in a loaded segment:
 * -ENOEXEC.
 */
int elf_resolve(const struct elf *elf, uint64_t entry, uint64_t *address, struct error *err);
