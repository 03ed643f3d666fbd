#include "vmm/x86/elf.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "vmm/x86/image.h"
#include "vmm/x86/kernel.h"

static int check_ident(const unsigned char ident[EI_NIDENT], struct error *err)
{
    if (ident[EI_CLASS] != ELFCLASS64 && ident[EI_CLASS] != ELFCLASS32)
        return error_set(err, ENOEXEC, "is an ELF file of unknown class %u (e_ident[4])", ident[EI_CLASS]);
    if (ident[EI_DATA] != ELFDATA2LSB)
        return error_set(err, ENOEXEC,
                         "is a big-endian ELF file (e_ident[5] is %u): give a kernel built for x86-64",
                         ident[EI_DATA]);
    if (ident[EI_VERSION] != EV_CURRENT)
        return error_set(err, ENOEXEC, "is an ELF file of unknown version %u (e_ident[6])",
                         ident[EI_VERSION]);
    return 0;
}

static int check_header(const Elf64_Ehdr *header, bool is_64, struct error *err)
{
    unsigned machine = is_64 ? EM_X86_64 : EM_386;
    if (header->e_machine != machine)
        return error_set(err, ENOEXEC,
                         "is a %d-bit ELF file for another machine (e_machine is %u, not %u): give a kernel "
                         "built for x86-64",
                         is_64 ? 64 : 32, header->e_machine, machine);
    if (header->e_type != ET_EXEC && header->e_type != ET_DYN)
        return error_set(err, ENOEXEC, "is not an executable ELF file (e_type is %u): link it first",
                         header->e_type);
    if (header->e_phnum == 0 || header->e_phnum > ELF_SEGMENTS_MAX)
        return error_set(err, ENOEXEC, "has %u ELF program headers (e_phnum): godwit takes 1 to %d",
                         header->e_phnum, ELF_SEGMENTS_MAX);
    size_t size = is_64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (header->e_phentsize != size)
        return error_set(err, EBADMSG,
                         "its ELF program headers have %u bytes (e_phentsize), not %zu: damaged",
                         header->e_phentsize, size);
    return 0;
}

/* Reads the header of either class into the wider one. */
static int read_header(struct image *image, Elf64_Ehdr *header, struct error *err)
{
    unsigned char ident[EI_NIDENT];
    int result = image_read(image, 0, ident, sizeof(ident), err);
    if (!result)
        result = check_ident(ident, err);
    if (result)
        return result;
    bool is_64 = ident[EI_CLASS] == ELFCLASS64;
    Elf32_Ehdr narrow;
    result = is_64 ? image_read(image, 0, header, sizeof(*header), err)
                   : image_read(image, 0, &narrow, sizeof(narrow), err);
    if (result)
        return result;
    if (!is_64)
        *header = (Elf64_Ehdr){
            .e_ident[EI_CLASS] = ELFCLASS32,
            .e_type = narrow.e_type,
            .e_machine = narrow.e_machine,
            .e_entry = narrow.e_entry,
            .e_phoff = narrow.e_phoff,
            .e_shoff = narrow.e_shoff,
            .e_phentsize = narrow.e_phentsize,
            .e_phnum = narrow.e_phnum,
            .e_shentsize = narrow.e_shentsize,
            .e_shnum = narrow.e_shnum,
        };
    return check_header(header, is_64, err);
}

static struct elf_segment segment_64(const Elf64_Phdr *from)
{
    return (struct elf_segment){
        .type = from->p_type,
        .offset = from->p_offset,
        .file_size = from->p_filesz,
        .virtual = from->p_vaddr,
        .physical = from->p_paddr,
        .memory_size = from->p_memsz,
        .alignment = from->p_align,
    };
}

static struct elf_segment segment_32(const Elf32_Phdr *from)
{
    return (struct elf_segment){
        .type = from->p_type,
        .offset = from->p_offset,
        .file_size = from->p_filesz,
        .virtual = from->p_vaddr,
        .physical = from->p_paddr,
        .memory_size = from->p_memsz,
        .alignment = from->p_align,
    };
}

static int check_segment(const struct elf_segment *segment, uint64_t image_size, struct error *err)
{
    uint64_t end;
    if (segment->type == PT_INTERP)
        return error_set(err, ENOEXEC, "is a program for an operating system (PT_INTERP), not a kernel");
    if (segment->type != PT_LOAD)
        return 0;
    if (segment->file_size > segment->memory_size)
        return error_set(err, EBADMSG,
                         "ELF program header %u has more bytes in the file than in memory (p_filesz 0x%llx, "
                         "p_memsz 0x%llx): damaged",
                         segment->index, (unsigned long long)segment->file_size,
                         (unsigned long long)segment->memory_size);
    if (__builtin_add_overflow(segment->offset, segment->file_size, &end) || end > image_size)
        return error_set(err, EBADMSG,
                         "ELF program header %u ends past the end of the file (p_offset 0x%llx, p_filesz "
                         "0x%llx, file 0x%llx): truncated",
                         segment->index, (unsigned long long)segment->offset,
                         (unsigned long long)segment->file_size, (unsigned long long)image_size);
    return 0;
}

static int compare_offsets(const void *left, const void *right)
{
    const struct elf_segment *a = left, *b = right;
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    return a->index < b->index ? -1 : 1;
}

static int read_segments(struct image *image, const Elf64_Ehdr *header, struct elf *elf, struct error *err)
{
    for (unsigned i = 0; i < header->e_phnum; i++) {
        union {
            Elf64_Phdr wide;
            Elf32_Phdr narrow;
        } entry;
        /* Cannot wrap before it has passed the end of the file. */
        uint64_t offset = header->e_phoff + (uint64_t)i * header->e_phentsize;
        int result = image_read(image, offset, &entry, header->e_phentsize, err);
        if (result)
            return error_prefix(err, result, "ELF program header %u", i);
        struct elf_segment segment = elf->is_64 ? segment_64(&entry.wide) : segment_32(&entry.narrow);
        segment.index = i;
        result = check_segment(&segment, image->size, err);
        if (result)
            return result;
        if (segment.type != PT_NULL)
            elf->segments[elf->count++] = segment;
    }
    qsort(elf->segments, elf->count, sizeof(elf->segments[0]), compare_offsets);
    return 0;
}

int elf_read(struct image *image, struct elf *elf, struct error *err)
{
    Elf64_Ehdr header;
    int result = read_header(image, &header, err);
    if (result)
        return result;
    elf->is_64 = header.e_ident[EI_CLASS] == ELFCLASS64;
    elf->type = header.e_type;
    elf->entry = header.e_entry;
    elf->count = 0;
    if (__builtin_add_overflow(header.e_shoff, (uint64_t)header.e_shnum * header.e_shentsize,
                               &elf->sections_end))
        elf->sections_end = UINT64_MAX;
    return read_segments(image, &header, elf, err);
}

static bool is_loaded(const struct elf_segment *segment)
{
    return segment->type == PT_LOAD && segment->memory_size > 0;
}

/* Segments may not share memory: the ranges were checked for RAM, so they do not wrap. */
static int check_overlap(const struct elf *elf, const struct elf_segment *segment, struct error *err)
{
    for (const struct elf_segment *other = elf->segments; other < segment; other++) {
        if (is_loaded(other) && other->physical < segment->physical + segment->memory_size &&
            segment->physical < other->physical + other->memory_size)
            return error_set(err, EBADMSG,
                             "ELF program headers %u and %u overlap in memory (p_paddr 0x%llx and 0x%llx): "
                             "link it anew",
                             other->index, segment->index, (unsigned long long)other->physical,
                             (unsigned long long)segment->physical);
    }
    return 0;
}

static int claim_segments(const struct elf *elf, const struct kernel_target *target, struct kernel *kernel,
                          struct error *err)
{
    unsigned loaded = 0;
    int result = 0;
    for (unsigned i = 0; !result && i < elf->count; i++) {
        if (!is_loaded(&elf->segments[i]))
            continue;
        loaded++;
        result = kernel_claim(kernel, target, elf->segments[i].physical, elf->segments[i].memory_size,
                              "segment", err);
        if (!result)
            result = check_overlap(elf, &elf->segments[i], err);
        else
            error_prefix(err, result, "ELF program header %u", elf->segments[i].index);
    }
    if (!result && !loaded)
        return error_set(err, ENOEXEC, "has no ELF segment to load (PT_LOAD)");
    return result;
}

int elf_load(struct image *image, const struct elf *elf, const struct kernel_target *target,
             struct kernel *kernel, struct error *err)
{
    int result = claim_segments(elf, target, kernel, err);
    for (unsigned i = 0; !result && i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        if (!is_loaded(segment))
            continue;
        result =
            image_load(image, segment->offset, segment->file_size, target->memory, segment->physical, err);
        if (result)
            error_prefix(err, result, "ELF program header %u", segment->index);
    }
    return result;
}

int elf_resolve(const struct elf *elf, uint64_t entry, uint64_t *address, struct error *err)
{
    const struct elf_segment *by_virtual = NULL;
    for (unsigned i = 0; i < elf->count; i++) {
        const struct elf_segment *segment = &elf->segments[i];
        if (!is_loaded(segment))
            continue;
        if (entry - segment->physical < segment->memory_size) {
            *address = entry;
            return 0;
        }
        if (entry - segment->virtual < segment->memory_size)
            by_virtual = segment;
    }
    if (!by_virtual)
        return error_set(err, ENOEXEC, "its entry point 0x%llx lies in none of its segments: link it anew",
                         (unsigned long long)entry);
    *address = entry - by_virtual->virtual + by_virtual->physical;
    return 0;
}
