#include "vmm/x86/boot.h"

#include <asm/bootparam.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/ram_block.h"
#include "vmm/x86/boot_params.h"
#include "vmm/x86/bzimage.h"
#include "vmm/x86/entry.h"
#include "vmm/x86/firmware.h"
#include "vmm/x86/image.h"
#include "vmm/x86/kernel.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/multiboot.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/pvh.h"

bool boot_is_bzimage(const char *path)
{
    struct image image;
    if (image_open(&image, path, NULL) < 0)
        return false;
    bool is = bzimage_is(&image);
    image_close(&image);
    return is;
}

/* Whether a word of a command line is `option`. */
static bool has_option(const char *text, const char *option)
{
    const char *spaces = " \t\n";
    for (text += strspn(text, spaces); *text; text += strspn(text, spaces)) {
        size_t length = strcspn(text, spaces);
        if (length == strlen(option) && !memcmp(text, option, length))
            return true;
        text += length;
    }
    return false;
}

static int load_kernel(const char *path, const struct platform *platform, struct address_space *memory,
                       struct kernel *kernel, struct error *err)
{
    struct kernel_target target = {
        .memory = memory,
        .ram_end = platform_ram_low(platform),
        .randomize = !has_option(platform->command_line, "nokaslr"),
    };
    struct image image;
    *kernel = (struct kernel){
        .initrd_end = target.ram_end,
        .command_line_max = LAYOUT_COMMAND_LINE_MAX - 1,
    };
    int result = image_open(&image, path, err);
    if (!result) {
        result = kernel_load(&image, &target, kernel, err);
        image_close(&image);
    }
    return result ? error_prefix(err, result, "kernel %s", path) : 0;
}

static int write_command_line(const struct kernel *kernel, const char *text, struct address_space *memory,
                              struct error *err)
{
    size_t length = strlen(text);
    if (length > kernel->command_line_max)
        return error_set(err, E2BIG,
                         "the kernel's command line has %zu bytes, and this kernel takes %llu: shorten it "
                         "(--append)",
                         length, (unsigned long long)kernel->command_line_max);
    int result = address_space_write(memory, LAYOUT_COMMAND_LINE, text, length + 1);
    return result ? error_set_errno(err, -result, "cannot write the command line") : 0;
}

/* Finds room for the initrd: as high as it may be, above the kernel or else below it. */
static int place_initrd(const struct kernel *kernel, uint64_t size, uint64_t *start, struct error *err)
{
    const struct {
        uint64_t start, end;
    } gaps[] = {{kernel->end, kernel->initrd_end}, {LAYOUT_KERNEL, kernel->start}};
    for (size_t i = 0; i < ARRAY_SIZE(gaps); i++) {
        uint64_t end = gaps[i].end < kernel->initrd_end ? gaps[i].end : kernel->initrd_end;
        if (size > end)
            continue;
        *start = align_down(end - size, RAM_PAGE_SIZE);
        if (*start >= gaps[i].start)
            return 0;
    }
    return error_set(
        err, ENOMEM,
        "its 0x%llx bytes do not fit beside the kernel (0x%llx to 0x%llx) below 0x%llx: give the "
        "guest more memory (--memory) or a smaller initrd",
        (unsigned long long)size, (unsigned long long)kernel->start, (unsigned long long)kernel->end,
        (unsigned long long)kernel->initrd_end);
}

static int load_initrd(const char *path, const struct kernel *kernel, struct platform *platform,
                       struct address_space *memory, struct error *err)
{
    struct image image;
    platform->initrd_start = platform->initrd_size = 0;
    if (!path)
        return 0;
    int result = image_open(&image, path, err);
    if (!result) {
        platform->initrd_size = image.size;
        result = place_initrd(kernel, image.size, &platform->initrd_start, err);
        if (!result)
            result = image_load(&image, 0, image.size, memory, platform->initrd_start, err);
        image_close(&image);
    }
    return result ? error_prefix(err, result, "initrd %s", path) : 0;
}

/* The device tree, as setup_data for those who look for it that way. */
static int write_device_tree(const void *dtb, size_t size, struct address_space *memory, struct error *err)
{
    struct setup_data header = {.type = SETUP_DTB, .len = (uint32_t)size};
    if (size > LAYOUT_BASE_MEMORY_END - LAYOUT_DEVICE_TREE - sizeof(header))
        return error_set(err, EFBIG, "the device tree has %zu bytes, for which there is no room", size);
    int result = address_space_write(memory, LAYOUT_DEVICE_TREE, &header, sizeof(header));
    if (!result)
        result = address_space_write(memory, LAYOUT_DEVICE_TREE + sizeof(header), dtb, size);
    return result ? error_set_errno(err, -result, "cannot write the device tree") : 0;
}

static int write_protocol(const struct kernel *kernel, const struct platform *platform,
                          struct address_space *memory, struct error *err)
{
    switch (kernel->protocol) {
    case KERNEL_PVH:
        return pvh_write_start_info(platform, memory, err);
    case KERNEL_MULTIBOOT:
        return multiboot_write_info(platform, memory, err);
    case KERNEL_LINUX:
        break;
    }
    return boot_params_write(kernel, platform, memory, err);
}

static struct boot_entry entry_of(const struct kernel *kernel)
{
    struct boot_entry entry = {
        .mode = kernel->protocol == KERNEL_LINUX ? BOOT_LONG_MODE : BOOT_PROTECTED_MODE,
        .protocol = kernel->name,
        .rip = kernel->entry,
        .rdi = LAYOUT_DEVICE_TREE + sizeof(struct setup_data),
    };
    if (kernel->protocol == KERNEL_LINUX)
        entry.rsi = LAYOUT_BOOT_PARAMS;
    else
        entry.rbx = LAYOUT_START_INFO;
    if (kernel->protocol == KERNEL_MULTIBOOT)
        entry.rax = MULTIBOOT_ENTRY_MAGIC;
    return entry;
}

/* What the guest finds beside kernel and initrd. */
static int write_boot_data(const struct kernel *kernel, const struct platform *platform,
                           struct address_space *memory, const void *dtb, size_t dtb_size, struct error *err)
{
    int result = write_command_line(kernel, platform->command_line, memory, err);
    if (!result)
        result = write_device_tree(dtb, dtb_size, memory, err);
    if (!result)
        result = write_protocol(kernel, platform, memory, err);
    return result ? result : entry_write_tables(entry_of(kernel).mode, memory, err);
}

int boot_load(const struct boot_files *files, struct platform *platform, struct address_space *memory,
              struct boot_entry *entry, void **dtb, size_t *dtb_size, struct error *err)
{
    struct kernel kernel;
    int result = load_kernel(files->kernel, platform, memory, &kernel, err);
    if (!result)
        result = load_initrd(files->initrd, &kernel, platform, memory, err);
    if (!result)
        result = device_tree_build(platform, dtb, dtb_size, err);
    if (result)
        return result;
    result = write_boot_data(&kernel, platform, memory, *dtb, *dtb_size, err);
    if (result) {
        free(*dtb);
        *dtb = NULL;
        return result;
    }
    *entry = entry_of(&kernel);
    return 0;
}
