/*
 * Loading a kernel: what is in the file decides the protocol.
 *
 * A bzImage, an ELF vmlinux, a PVH ELF, a multiboot 1 ELF or a flat binary is put into guest RAM with its
 * initrd, command line, memory map, device tree and whatever structure its boot protocol wants, and the state
 * of the first CPU follows. Files are foreign input: every offset, size and address in them is checked
 * against the file and against RAM before it is used, and each refusal says what is wrong, where, and what to
 * do.
 *
 * Specifications: Linux Documentation/arch/x86/boot.rst (protocol 2.15), Xen's x86/HVM direct boot ABI (PVH),
 * Multiboot 0.6.96, System V ABI (ELF).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address_space;
struct error;
struct kvm_regs;
struct kvm_sregs;
struct platform;

enum boot_mode {
    BOOT_LONG_MODE,      /* 64-bit, identity map of the low 4 GiB */
    BOOT_PROTECTED_MODE, /* 32-bit, flat segments, no paging */
};

/* How the first CPU starts. */
struct boot_entry {
    enum boot_mode mode;
    const char *protocol; /* for the log: "Linux (64-bit)", "PVH", "multiboot", "flat" */
    uint64_t rip;
    uint64_t rax, rbx, rsi, rdi; /* as the protocol wants; rdi is always the device tree */
};

struct boot_files {
    const char *kernel; /* paths */
    const char *initrd; /* may be NULL */
};

/* Whether the file at `path` is a bzImage; false also for what cannot be read. */
bool boot_is_bzimage(const char *path);

/*
 * Loads `files` into `memory`, whose RAM must be unused (zeroes), sets the initrd's range in `platform`, and
 * fills `entry`. `*dtb` is a malloced copy of the device tree, of `*dtb_size` bytes, for the caller to free.
 * Blocks for file reads. -errno with a message; guest RAM is undefined then.
 */
int boot_load(const struct boot_files *files, struct platform *platform, struct address_space *memory,
              struct boot_entry *entry, void **dtb, size_t *dtb_size, struct error *err);

/*
 * The registers of the first CPU for `entry`: `sregs` is what KVM gave after reset and is changed, `regs` is
 * set. The page tables and descriptors they point to were written by boot_load().
 */
void boot_set_registers(const struct boot_entry *entry, struct kvm_sregs *sregs, struct kvm_regs *regs);
