/*
 * What the loaders of the kernel formats share: where a kernel may go, and what is known of one that is in
 * guest RAM. Loaders write the kernel itself and nothing else; boot_load() does the rest by its protocol.
 *
 * Messages do not name the file: boot_load() puts that in front. Guest RAM is taken to be zero where nothing
 * was written yet.
 */
#pragma once

#include <asm/bootparam.h>
#include <stdbool.h>
#include <stdint.h>

struct address_space;
struct error;
struct image;

enum kernel_protocol {
    KERNEL_LINUX, /* 64-bit entry, boot_params */
    KERNEL_PVH,
    KERNEL_MULTIBOOT,
};

/* Where kernels go: RAM from LAYOUT_KERNEL to `ram_end`. */
struct kernel_target {
    struct address_space *memory;
    uint64_t ram_end;
    bool randomize; /* kernels that can be moved to a random virtual address */
};

struct kernel {
    enum kernel_protocol protocol;
    const char *name; /* of the way it boots, for the log */
    uint64_t entry;
    uint64_t start, end;        /* RAM that it needs before it can read a memory map; both 0 at first */
    uint64_t initrd_end;        /* where an initrd must end at the latest */
    uint64_t command_line_max;  /* bytes before the terminating zero */
    struct setup_header header; /* KERNEL_LINUX: the kernel's own, or what one of protocol 2.15 would say */
};

/*
 * Tells the format of `file`, loads it and fills `kernel`. -ENOEXEC for what is no kernel for this machine;
 * -EBADMSG for one that is damaged; -ENOMEM for one that does not fit into RAM; otherwise -errno of the file.
 */
int kernel_load(struct image *file, const struct kernel_target *target, struct kernel *kernel,
                struct error *err);

/*
 * Notes that `kernel` needs [address, address + size). -ENOMEM with a message about `what` where that is not
 * RAM for kernels.
 */
int kernel_claim(struct kernel *kernel, const struct kernel_target *target, uint64_t address, uint64_t size,
                 const char *what, struct error *err);
