#include "vmm/x86/kernel.h"

#include <elf.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/x86/bzimage.h"
#include "vmm/x86/decompress.h"
#include "vmm/x86/elf.h"
#include "vmm/x86/image.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/multiboot.h"
#include "vmm/x86/pvh.h"

#define LINUX_CMDLINE_MAX 2047 /* of a vmlinux, which does not say (COMMAND_LINE_SIZE of x86) */

static int kernel_outside(uint64_t address, uint64_t end, uint64_t ram_end, const char *what,
                          struct error *err)
{
    if (address < LAYOUT_KERNEL)
        return error_set(
            err, ENOMEM,
            "the %s at 0x%llx lies below 1 MiB, where boot data and firmware tables are: link it "
            "for 0x%x or above",
            what, (unsigned long long)address, LAYOUT_KERNEL);
    if (end > LAYOUT_RAM_LOW_MAX)
        return error_set(err, ENOMEM,
                         "the %s reaches from 0x%llx to 0x%llx, where no RAM can be: RAM for kernels ends at "
                         "0x%llx",
                         what, (unsigned long long)address, (unsigned long long)end, LAYOUT_RAM_LOW_MAX);
    return error_set(
        err, ENOMEM,
        "the %s reaches from 0x%llx to 0x%llx, and RAM ends at 0x%llx: give the guest %llu MiB or "
        "more (--memory)",
        what, (unsigned long long)address, (unsigned long long)end, (unsigned long long)ram_end,
        (unsigned long long)(align_up(end, MIB) / MIB));
}

int kernel_claim(struct kernel *kernel, const struct kernel_target *target, uint64_t address, uint64_t size,
                 const char *what, struct error *err)
{
    uint64_t end;
    if (__builtin_add_overflow(address, size, &end))
        return error_set(err, ENOMEM,
                         "the %s of 0x%llx bytes at 0x%llx wraps around the address space: damaged", what,
                         (unsigned long long)size, (unsigned long long)address);
    if (address < LAYOUT_KERNEL || end > target->ram_end)
        return kernel_outside(address, end, target->ram_end, what, err);
    if (!kernel->end || address < kernel->start)
        kernel->start = address;
    if (end > kernel->end)
        kernel->end = end;
    return 0;
}

/* What a Linux that has no setup header of its own finds in boot_params. */
static void use_linux_protocol(struct kernel *kernel, const char *name)
{
    kernel->protocol = KERNEL_LINUX;
    kernel->name = name;
    kernel->header = (struct setup_header){
        .boot_flag = 0xAA55,
        .header = 0x53726448, /* "HdrS" */
        .version = 0x020F,
        .loadflags = LOADED_HIGH,
        .initrd_addr_max = (uint32_t)kernel->initrd_end - 1,
        .kernel_alignment = 2 * MIB,
        .xloadflags = XLF_KERNEL_64,
        .cmdline_size = (uint32_t)kernel->command_line_max,
    };
}

static int load_multiboot(struct image *image, const struct multiboot_header *header,
                          const struct kernel_target *target, struct kernel *kernel, struct error *err)
{
    int result = multiboot_check(header, err);
    if (result)
        return result;
    kernel->protocol = KERNEL_MULTIBOOT;
    kernel->name = "multiboot (addresses in its header)";
    return multiboot_load(image, header, target, kernel, err);
}

/* How an ELF file without a PVH note is entered. */
static int choose_elf_protocol(const struct image *image, const struct elf *elf, struct kernel *kernel,
                               struct error *err)
{
    struct multiboot_header header;
    if (!elf->is_64 && multiboot_find(image, &header)) {
        kernel->protocol = KERNEL_MULTIBOOT;
        kernel->name = "multiboot (ELF)";
        return multiboot_check(&header, err);
    }
    if (multiboot2_find(image))
        return error_set(err, ENOEXEC,
                         "has a multiboot 2 header, which godwit does not serve: build it with a PVH note or "
                         "multiboot 1 header");
    if (!elf->is_64)
        return error_set(err, ENOEXEC,
                         "is a 32-bit ELF file with neither a PVH note nor a multiboot header, so nothing "
                         "says how to enter it: give a 64-bit kernel");
    if (multiboot_find(image, &header))
        return error_set(
            err, ENOEXEC,
            "has a multiboot header in a 64-bit ELF file, which multiboot 1 does not define: "
            "convert it (objcopy -O elf32-i386) or put addresses into the header (flags bit 16)");
    if (elf->type != ET_EXEC)
        return error_set(err, ENOEXEC,
                         "is a shared object or position-independent program (e_type ET_DYN) without a PVH "
                         "note: link the kernel to a fixed address");
    if (kernel->command_line_max > LINUX_CMDLINE_MAX)
        kernel->command_line_max = LINUX_CMDLINE_MAX;
    use_linux_protocol(kernel, "Linux, 64-bit (ELF)");
    return 0;
}

static int load_elf(struct image *image, const struct kernel_target *target, struct kernel *kernel,
                    struct error *err)
{
    struct elf elf;
    struct multiboot_header header;
    uint64_t entry;
    bool pvh;
    int result = elf_read(image, &elf, err);
    if (!result)
        result = pvh_find_entry(image, &elf, &pvh, &entry, err);
    if (result)
        return result;
    if (pvh) {
        kernel->protocol = KERNEL_PVH;
        kernel->name = "PVH";
    } else if (multiboot_find(image, &header) && (header.flags & MULTIBOOT_ADDRESSES)) {
        return load_multiboot(image, &header, target, kernel, err);
    } else {
        entry = elf.entry;
        result = choose_elf_protocol(image, &elf, kernel, err);
    }
    if (!result)
        result = elf_load(image, &elf, target, kernel, err);
    return result ? result : elf_resolve(&elf, entry, &kernel->entry, err);
}

static int load_flat(struct image *image, const struct kernel_target *target, struct kernel *kernel,
                     struct error *err)
{
    int result = kernel_claim(kernel, target, LAYOUT_KERNEL, image->size, "flat binary", err);
    if (result)
        return result;
    use_linux_protocol(kernel, "flat");
    kernel->entry = LAYOUT_KERNEL;
    return image_load(image, 0, image->size, target->memory, LAYOUT_KERNEL, err);
}

static bool has_magic(const struct image *image, size_t offset, const void *magic, size_t size)
{
    return offset <= image->head_size && size <= image->head_size - offset &&
           !memcmp(image->head + offset, magic, size);
}

static bool is_efi_program(const struct image *image)
{
    uint32_t offset;
    if (!has_magic(image, 0, "MZ", 2) || image->head_size < 0x40)
        return false;
    memcpy(&offset, image->head + 0x3C, sizeof(offset));
    return has_magic(image, offset, "PE\0", 4);
}

static bool is_boot_sector(const struct image *image)
{
    return image->size % 512 == 0 && has_magic(image, 510, "\x55\xAA", 2);
}

/* Things that people give for kernels, and that no flat binary begins with. */
static const struct {
    size_t offset;
    char magic[8];
    size_t size;
    const char *message;
} foreign[] = {
    {0x38, "ARM\x64", 4, "is an arm64 Linux kernel: give one built for x86-64"},
    {0x38, "RSC\x05", 4, "is a RISC-V Linux kernel: give one built for x86-64"},
    {0, "07070", 5, "is a cpio archive, as initrds are: give it with --initrd"},
    {0, "!<arch>\n", 8, "is an archive or Debian package: unpack the kernel from it"},
    {0, "QFI\xFB", 4, "is a qcow2 disk image, not a kernel"},
    {0, "\x27\x05\x19\x56", 4, "is a U-Boot image: unpack the kernel from it"},
    {0, "\xD0\x0D\xFE\xED", 4, "is a device tree or FIT image, not a kernel"},
    {0, "#!", 2, "is a script, not a kernel"},
};

/* Refuses what is known to be something else, and so no flat binary. */
static int refuse_foreign(const struct image *image, struct error *err)
{
    for (size_t i = 0; i < ARRAY_SIZE(foreign); i++) {
        if (has_magic(image, foreign[i].offset, foreign[i].magic, foreign[i].size))
            return error_set(err, ENOEXEC, "%s", foreign[i].message);
    }
    const char *compression = compression_name(image->head, image->head_size);
    if (compression)
        return error_set(
            err, ENOEXEC,
            "is compressed with %s: unpack it first, or give it with --initrd if it is an initrd",
            compression);
    if (is_efi_program(image))
        return error_set(
            err, ENOEXEC,
            "is an EFI program (PE) without a Linux setup header: give a bzImage or an ELF kernel");
    if (multiboot2_find(image))
        return error_set(err, ENOEXEC,
                         "has a multiboot 2 header, which godwit does not serve: give an ELF file with a PVH "
                         "note or multiboot 1 header");
    if (is_boot_sector(image))
        return error_set(err, ENOEXEC, "is a boot sector or disk image, not a kernel");
    return 0;
}

int kernel_load(struct image *image, const struct kernel_target *target, struct kernel *kernel,
                struct error *err)
{
    struct multiboot_header header;
    if (has_magic(image, 0, ELFMAG, SELFMAG))
        return load_elf(image, target, kernel, err);
    if (bzimage_is(image))
        return bzimage_load(image, target, kernel, err);
    bool multiboot = multiboot_find(image, &header);
    if (multiboot && (header.flags & MULTIBOOT_ADDRESSES))
        return load_multiboot(image, &header, target, kernel, err);
    if (multiboot)
        return error_set(err, ENOEXEC,
                         "has a multiboot header (at 0x%x) but is no ELF file and has no addresses in the "
                         "header (flags bit 16): link it as ELF",
                         header.offset);
    int result = refuse_foreign(image, err);
    return result ? result : load_flat(image, target, kernel, err);
}
