#include "vmm/x86/pvh.h"

#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "vmm/x86/elf.h"
#include "vmm/x86/image.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/memory_map.h"
#include "vmm/x86/platform.h"

#define NOTE_PHYS32_ENTRY 18
#define NOTES_SIZE_MAX    (64 * KIB) /* further notes are not looked at */

#define START_MAGIC       0x336EC578
#define START_VERSION     1
#define MEMORY_RAM        1
#define MEMORY_RESERVED   2

struct start_module {
    uint64_t address, size, command_line, reserved;
};

struct start_memory {
    uint64_t address, size;
    uint32_t type, reserved;
};

struct start_info {
    uint32_t magic, version, flags, module_count;
    uint64_t modules, command_line, rsdp, memory_map;
    uint32_t memory_map_count, reserved;
};

/* All of it, at LAYOUT_START_INFO. */
struct start_page {
    struct start_info info;
    struct start_module module;
    struct start_memory map[MEMORY_MAP_MAX];
};

static_assert(sizeof(struct start_info) == 56, "the ABI's layout");
static_assert(sizeof(struct start_page) <= LAYOUT_BOOT_PARAMS - LAYOUT_START_INFO, "one page");

/* The address in a note of ours; `note` and `description` say where that is. */
static int read_entry(struct image *image, const Elf64_Nhdr *note, uint64_t description, uint64_t *entry,
                      struct error *err)
{
    if (note->n_descsz != sizeof(uint32_t) && note->n_descsz != sizeof(uint64_t))
        return error_set(err, EBADMSG, "its PVH note (XEN_ELFNOTE_PHYS32_ENTRY) has %u bytes, not 4 or 8",
                         note->n_descsz);
    *entry = 0;
    return image_read(image, description, entry, note->n_descsz, err);
}

static int search_notes(struct image *image, const struct elf_segment *segment, bool *found, uint64_t *entry,
                        struct error *err)
{
    uint64_t alignment = segment->alignment == 8 ? 8 : 4;
    uint64_t size = segment->file_size < NOTES_SIZE_MAX ? segment->file_size : NOTES_SIZE_MAX;
    for (uint64_t at = 0; !*found && at + sizeof(Elf64_Nhdr) <= size;) {
        Elf64_Nhdr note; /* the same in both classes */
        char name[4] = {0};
        int result = image_read(image, segment->offset + at, &note, sizeof(note), err);
        if (result)
            return result;
        uint64_t name_at = at + sizeof(note);
        uint64_t description_at = align_up(name_at + note.n_namesz, alignment);
        at = align_up(description_at + note.n_descsz, alignment);
        if (at > align_up(size, alignment))
            return 0;
        if (note.n_type != NOTE_PHYS32_ENTRY || note.n_namesz != sizeof(name))
            continue;
        result = image_read(image, segment->offset + name_at, name, sizeof(name), err);
        *found = !result && !memcmp(name, "Xen", sizeof(name));
        if (*found)
            result = read_entry(image, &note, segment->offset + description_at, entry, err);
        if (result)
            return result;
    }
    return 0;
}

int pvh_find_entry(struct image *image, const struct elf *elf, bool *found, uint64_t *entry,
                   struct error *err)
{
    int result = 0;
    *found = false;
    for (unsigned i = 0; !result && !*found && i < elf->count; i++) {
        if (elf->segments[i].type != PT_NOTE)
            continue;
        result = search_notes(image, &elf->segments[i], found, entry, err);
        if (result)
            error_prefix(err, result, "ELF program header %u (notes)", elf->segments[i].index);
    }
    return result;
}

static void fill_memory_map(struct start_page *page, const struct platform *platform)
{
    struct memory_map_entry map[MEMORY_MAP_MAX];
    page->info.memory_map_count = memory_map_build(platform, map);
    page->info.memory_map = LAYOUT_START_INFO + offsetof(struct start_page, map);
    for (unsigned i = 0; i < page->info.memory_map_count; i++)
        page->map[i] = (struct start_memory){
            .address = map[i].address,
            .size = map[i].size,
            .type = map[i].usable ? MEMORY_RAM : MEMORY_RESERVED,
        };
}

int pvh_write_start_info(const struct platform *platform, struct address_space *memory, struct error *err)
{
    struct start_page page = {
        .info =
            {
                .magic = START_MAGIC,
                .version = START_VERSION,
                .command_line = LAYOUT_COMMAND_LINE,
                .rsdp = platform->acpi ? LAYOUT_FIRMWARE : 0,
            },
    };
    fill_memory_map(&page, platform);
    if (platform->initrd_size) {
        page.info.module_count = 1;
        page.info.modules = LAYOUT_START_INFO + offsetof(struct start_page, module);
        page.module.address = platform->initrd_start;
        page.module.size = platform->initrd_size;
    }
    int result = address_space_write(memory, LAYOUT_START_INFO, &page, sizeof(page));
    return result ? error_set_errno(err, -result, "cannot write the PVH start info") : 0;
}
