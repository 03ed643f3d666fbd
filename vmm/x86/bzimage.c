#include "vmm/x86/bzimage.h"

#include <elf.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "vmm/x86/elf.h"
#include "vmm/x86/image.h"
#include "vmm/x86/kaslr.h"
#include "vmm/x86/kernel.h"
#include "vmm/x86/layout.h"

#define SECTOR            512
#define HEADER_OFFSET     0x1F1
#define HEADER_END_OFFSET 0x201 /* a byte: how far the header goes on after 0x202 */
#define MAGIC_OFFSET      0x202
#define MAGIC             0x53726448 /* "HdrS" */
#define BOOT_FLAG         0xAA55
#define ENTRY_64_OFFSET   0x200 /* of the protected-mode part */

#define VERSION_PAYLOAD   0x0208
#define VERSION_INIT_SIZE 0x020A
#define VERSION_XLOAD     0x020C

#define INITRD_MAX        0x38000000 /* where a kernel says nothing */
#define CMDLINE_MAX       255

/* The protected-mode part, in the file. */
struct protected_part {
    uint64_t offset, size;
};

bool bzimage_is(const struct image *image)
{
    uint32_t magic;
    if (image->head_size < MAGIC_OFFSET + sizeof(magic))
        return false;
    memcpy(&magic, image->head + MAGIC_OFFSET, sizeof(magic));
    return magic == MAGIC;
}

static int check_version(const struct setup_header *header, struct error *err)
{
    if (header->boot_flag != BOOT_FLAG)
        return error_set(err, EBADMSG, "its boot_flag (at 0x1fe) is 0x%04x, not 0xaa55: damaged",
                         header->boot_flag);
    if (header->version < VERSION_PAYLOAD)
        return error_set(
            err, ENOEXEC,
            "speaks boot protocol %u.%02u, and godwit needs 2.08 or later: give a kernel of Linux "
            "2.6.26 or later",
            header->version >> 8, header->version & 0xFF);
    if (!(header->loadflags & LOADED_HIGH))
        return error_set(err, ENOEXEC, "is a zImage (loadflags bit 0 is clear): give a bzImage");
    return 0;
}

/* Copies as much of the header as the kernel has; the rest are zeroes. */
static int read_header(const struct image *image, struct setup_header *header, struct error *err)
{
    size_t end = MAGIC_OFFSET + (size_t)image->head[HEADER_END_OFFSET];
    if (end > image->head_size)
        return error_set(err, EBADMSG, "ends within its setup header (%llu bytes): truncated",
                         (unsigned long long)image->size);
    size_t size = end - HEADER_OFFSET;
    memset(header, 0, sizeof(*header));
    memcpy(header, image->head + HEADER_OFFSET, size < sizeof(*header) ? size : sizeof(*header));
    return check_version(header, err);
}

static int find_protected_part(const struct image *image, const struct setup_header *header,
                               struct protected_part *part, struct error *err)
{
    unsigned sectors = header->setup_sects ? header->setup_sects : 4;
    uint64_t announced = (uint64_t)header->syssize * 16;
    part->offset = (sectors + 1) * SECTOR;
    if (part->offset + ENTRY_64_OFFSET >= image->size)
        return error_set(err, EBADMSG,
                         "has %u setup sectors (setup_sects), which leaves no kernel in its %llu bytes: "
                         "truncated",
                         sectors, (unsigned long long)image->size);
    part->size = image->size - part->offset;
    /* Signatures may follow the kernel; the last paragraph of 16 bytes may be cut. */
    if (announced > part->size + 15)
        return error_set(err, EBADMSG,
                         "its kernel has %llu bytes (syssize), but only %llu are in the file: truncated",
                         (unsigned long long)announced, (unsigned long long)part->size);
    if (announced && announced < part->size)
        part->size = announced;
    if (part->size <= ENTRY_64_OFFSET)
        return error_set(err, EBADMSG, "its kernel has only %llu bytes (syssize): damaged",
                         (unsigned long long)part->size);
    return 0;
}

/* What the header says about memory. */
static int take_limits(const struct setup_header *header, const struct kernel_target *target,
                       struct kernel *kernel, struct error *err)
{
    uint64_t initrd_end = header->initrd_addr_max ? (uint64_t)header->initrd_addr_max + 1 : INITRD_MAX;
    uint64_t cmdline = header->cmdline_size ? header->cmdline_size : CMDLINE_MAX;
    if (initrd_end < kernel->initrd_end)
        kernel->initrd_end = initrd_end;
    if (cmdline < kernel->command_line_max)
        kernel->command_line_max = cmdline;
    if (header->version < VERSION_INIT_SIZE)
        return 0;
    uint32_t alignment = header->kernel_alignment;
    if (header->relocatable_kernel &&
        (!alignment || (alignment & (alignment - 1)) || header->pref_address % alignment))
        return error_set(err, EBADMSG,
                         "wants to run at 0x%llx (pref_address) and at multiples of 0x%x "
                         "(kernel_alignment), which cannot be: damaged",
                         (unsigned long long)header->pref_address, alignment);
    return kernel_claim(kernel, target, header->pref_address, header->init_size,
                        "kernel (pref_address and init_size of its setup header)", err);
}

/* Loads the kernel as it is in the file. */
static int load_packed(struct image *image, const struct protected_part *part,
                       const struct kernel_target *target, struct kernel *kernel, struct error *err)
{
    struct setup_header *header = &kernel->header;
    if (header->version < VERSION_XLOAD || !(header->xloadflags & XLF_KERNEL_64))
        return error_set(
            err, ENOEXEC,
            "has no 64-bit entry (xloadflags bit 0) nor a payload that godwit can unpack: give a "
            "64-bit kernel compressed with gzip, xz, zstd or lz4");
    uint64_t address = header->relocatable_kernel ? header->pref_address : LAYOUT_KERNEL;
    int result = kernel_claim(kernel, target, address, part->size, "compressed kernel", err);
    if (result)
        return result;
    header->code32_start = (uint32_t)address;
    kernel->entry = address + ENTRY_64_OFFSET;
    kernel->name = "Linux, 64-bit (bzImage that unpacks itself)";
    return image_load(image, part->offset, part->size, target->memory, address, err);
}

static int load_vmlinux(struct image *payload, const struct kernel_target *target, struct kernel *kernel,
                        struct error *err)
{
    struct elf elf;
    int result = elf_read(payload, &elf, err);
    if (result)
        return result;
    if (!elf.is_64)
        return error_set(err, ENOEXEC, "is a 32-bit kernel: give one built for x86-64");
    result = elf_load(payload, &elf, target, kernel, err);
    if (!result && kernel->header.version >= VERSION_INIT_SIZE)
        result = kaslr_apply(payload, &elf, target, kernel, err);
    if (!result)
        result = image_finish(payload, err);
    if (result)
        return result;
    kernel->name = "Linux, 64-bit (bzImage, unpacked by godwit)";
    return elf_resolve(&elf, elf.entry, &kernel->entry, err);
}

/* Unpacks the payload. -ENOTSUP, with nothing loaded, where that cannot be done. */
static int load_payload(struct image *image, const struct protected_part *part,
                        const struct kernel_target *target, struct kernel *kernel, struct error *err)
{
    const struct setup_header *header = &kernel->header;
    struct image payload;
    if (header->payload_length > part->size || header->payload_offset > part->size - header->payload_length)
        return error_set(
            err, EBADMSG,
            "its payload (payload_offset 0x%x, payload_length 0x%x) ends past its kernel (0x%llx "
            "bytes): damaged",
            header->payload_offset, header->payload_length, (unsigned long long)part->size);
    int result = image_open_payload(&payload, image, part->offset + header->payload_offset,
                                    header->payload_length, err);
    if (result)
        return result;
    if (payload.head_size < SELFMAG || memcmp(payload.head, ELFMAG, SELFMAG) != 0)
        result = error_set(err, ENOTSUP, "the payload is no ELF file");
    else if (payload.size > target->ram_end)
        result =
            error_set(err, ENOMEM,
                      "the payload unpacks to 0x%llx bytes, and RAM for kernels ends at 0x%llx: give the "
                      "guest more (--memory)",
                      (unsigned long long)payload.size, (unsigned long long)target->ram_end);
    else
        result = load_vmlinux(&payload, target, kernel, err);
    image_close(&payload);
    return result;
}

int bzimage_load(struct image *image, const struct kernel_target *target, struct kernel *kernel,
                 struct error *err)
{
    struct protected_part part = {0};
    kernel->protocol = KERNEL_LINUX;
    int result = read_header(image, &kernel->header, err);
    if (!result)
        result = find_protected_part(image, &kernel->header, &part, err);
    if (!result)
        result = take_limits(&kernel->header, target, kernel, err);
    if (result)
        return result;
    result = load_payload(image, &part, target, kernel, err);
    return result == -ENOTSUP ? load_packed(image, &part, target, kernel, err) : result;
}
