#include "vmm/x86/multiboot.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "vmm/x86/image.h"
#include "vmm/x86/kernel.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/memory_map.h"
#include "vmm/x86/platform.h"

#define HEADER_MAGIC     0x1BADB002
#define HEADER_SEARCH    8192
#define HEADER2_MAGIC    0xE85250D6

/* Bits 0 to 15 of the header's flags are demands; these are met. */
#define FLAG_PAGE_ALIGN  (1 << 0)
#define FLAG_MEMORY_INFO (1 << 1)
#define FLAG_VIDEO       (1 << 2)
#define FLAGS_DEMANDS    0xFFFF

#define INFO_MEMORY      (1 << 0)
#define INFO_CMDLINE     (1 << 2)
#define INFO_MODULES     (1 << 3)
#define INFO_MEMORY_MAP  (1 << 6)
#define INFO_LOADER_NAME (1 << 9)

#define MEMORY_AVAILABLE 1
#define MEMORY_RESERVED  2

struct multiboot_info {
    uint32_t flags;
    uint32_t memory_lower, memory_upper; /* KiB from 0, and from 1 MiB */
    uint32_t boot_device;
    uint32_t command_line;
    uint32_t module_count, modules;
    uint32_t symbols[4];
    uint32_t memory_map_length, memory_map;
    uint32_t drives_length, drives;
    uint32_t config_table;
    uint32_t loader_name;
    uint32_t apm_table;
    uint32_t vbe[4];
    uint32_t framebuffer[7];
};

struct multiboot_module {
    uint32_t start, end, string, reserved;
};

struct multiboot_memory {
    uint32_t size; /* of what follows */
    uint64_t address, length;
    uint32_t type;
} __attribute__((packed));

/* All of it, at LAYOUT_START_INFO. */
struct multiboot_page {
    struct multiboot_info info;
    struct multiboot_module module;
    struct multiboot_memory map[MEMORY_MAP_MAX];
    char name[8];
};

static_assert(sizeof(struct multiboot_info) == 116, "the specification's layout");
static_assert(sizeof(struct multiboot_page) <= LAYOUT_BOOT_PARAMS - LAYOUT_START_INFO, "one page");

bool multiboot_find(const struct image *image, struct multiboot_header *header)
{
    uint32_t words[8];
    size_t size = image->head_size < HEADER_SEARCH ? image->head_size : HEADER_SEARCH;
    for (uint32_t offset = 0; offset + 3 * sizeof(words[0]) <= size; offset += sizeof(words[0])) {
        memset(words, 0, sizeof(words));
        memcpy(words, image->head + offset, size - offset < sizeof(words) ? size - offset : sizeof(words));
        if (words[0] != HEADER_MAGIC || words[0] + words[1] + words[2] != 0)
            continue;
        *header = (struct multiboot_header){
            .offset = offset,
            .flags = words[1],
            .header_address = words[3],
            .load_address = words[4],
            .load_end = words[5],
            .bss_end = words[6],
            .entry = words[7],
        };
        return true;
    }
    return false;
}

bool multiboot2_find(const struct image *image)
{
    uint32_t words[4];
    for (size_t offset = 0; offset + sizeof(words) <= image->head_size; offset += 8) {
        memcpy(words, image->head + offset, sizeof(words));
        if (words[0] == HEADER2_MAGIC && words[0] + words[1] + words[2] + words[3] == 0)
            return true;
    }
    return false;
}

int multiboot_check(const struct multiboot_header *header, struct error *err)
{
    uint32_t unmet = header->flags & FLAGS_DEMANDS & ~(uint32_t)(FLAG_PAGE_ALIGN | FLAG_MEMORY_INFO);
    if (unmet & FLAG_VIDEO)
        return error_set(err, ENOEXEC,
                         "its multiboot header (at 0x%x) demands a video mode (flags bit 2): godwit has no "
                         "display; build it for a text or serial console",
                         header->offset);
    if (unmet)
        return error_set(err, ENOEXEC,
                         "its multiboot header (at 0x%x) demands what multiboot 1 does not define (flags "
                         "0x%x)",
                         header->offset, header->flags);
    return 0;
}

/* Where the loaded part begins in the file, and its size. */
static int find_loaded_part(const struct image *image, const struct multiboot_header *header,
                            uint64_t *offset, uint64_t *size, struct error *err)
{
    uint32_t before = header->header_address - header->load_address;
    if (header->load_address > header->header_address || before > header->offset)
        return error_set(err, EBADMSG,
                         "its multiboot header (at 0x%x) lies before what it says is loaded (header_addr "
                         "0x%x, load_addr 0x%x)",
                         header->offset, header->header_address, header->load_address);
    *offset = header->offset - before;
    *size = image->size - *offset;
    if (!header->load_end)
        return 0;
    if (header->load_end < header->load_address || header->load_end - header->load_address > *size)
        return error_set(err, EBADMSG,
                         "its multiboot header (at 0x%x) loads more than the file has (load_addr 0x%x, "
                         "load_end_addr 0x%x): truncated",
                         header->offset, header->load_address, header->load_end);
    *size = header->load_end - header->load_address;
    return 0;
}

int multiboot_load(struct image *image, const struct multiboot_header *header,
                   const struct kernel_target *target, struct kernel *kernel, struct error *err)
{
    uint64_t offset = 0, size = 0;
    int result = find_loaded_part(image, header, &offset, &size, err);
    if (result)
        return result;
    uint64_t memory_size = size;
    if (header->bss_end > header->load_address + size)
        memory_size = header->bss_end - header->load_address;
    result = kernel_claim(kernel, target, header->load_address, memory_size, "multiboot image", err);
    if (result)
        return result;
    if (header->entry - header->load_address >= size)
        return error_set(err, ENOEXEC, "its multiboot entry_addr 0x%x lies outside of what is loaded",
                         header->entry);
    kernel->entry = header->entry;
    return image_load(image, offset, size, target->memory, header->load_address, err);
}

static void fill_memory_map(struct multiboot_page *page, const struct platform *platform)
{
    struct memory_map_entry map[MEMORY_MAP_MAX];
    unsigned count = memory_map_build(platform, map);
    for (unsigned i = 0; i < count; i++)
        page->map[i] = (struct multiboot_memory){
            .size = sizeof(page->map[i]) - sizeof(page->map[i].size),
            .address = map[i].address,
            .length = map[i].size,
            .type = map[i].usable ? MEMORY_AVAILABLE : MEMORY_RESERVED,
        };
    page->info.memory_map = LAYOUT_START_INFO + offsetof(struct multiboot_page, map);
    page->info.memory_map_length = (uint32_t)(count * sizeof(page->map[0]));
    page->info.memory_lower = LAYOUT_BASE_MEMORY_END / KIB;
    page->info.memory_upper = (uint32_t)((platform_ram_low(platform) - MIB) / KIB);
}

int multiboot_write_info(const struct platform *platform, struct address_space *memory, struct error *err)
{
    struct multiboot_page page = {
        .info =
            {
                .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MEMORY_MAP | INFO_LOADER_NAME,
                .command_line = LAYOUT_COMMAND_LINE,
                .loader_name = LAYOUT_START_INFO + offsetof(struct multiboot_page, name),
            },
        .name = "godwit",
    };
    fill_memory_map(&page, platform);
    if (platform->initrd_size) {
        page.info.module_count = 1;
        page.info.modules = LAYOUT_START_INFO + offsetof(struct multiboot_page, module);
        page.module.start = (uint32_t)platform->initrd_start;
        page.module.end = (uint32_t)(platform->initrd_start + platform->initrd_size);
        /* The module's own string is empty: the last byte of `name`. */
        page.module.string = page.info.loader_name + sizeof(page.name) - 1;
    }
    int result = address_space_write(memory, LAYOUT_START_INFO, &page, sizeof(page));
    return result ? error_set_errno(err, -result, "cannot write the multiboot information") : 0;
}
