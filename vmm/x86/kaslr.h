/*
 * Address space layout randomisation for a Linux kernel that godwit unpacked: what the code in a bzImage that
 * was passed over would have done. The kernel is moved to a random virtual address by the relocations that
 * its build appended to it; where it is in RAM does not change.
 *
 * The table, which only Linux's arch/x86/tools/relocs.c and boot/compressed/misc.c define, is made of lists
 * of addresses (32 bits, of the kernel's virtual address space), each behind a zero: of 64-bit values; up to
 * Linux 6.14, of 32-bit values that are relative to data that does not move with the kernel; of 32-bit
 * values.
 */
#pragma once

struct elf;
struct error;
struct image;
struct kernel;
struct kernel_target;

/*
 * Moves the kernel, whose segments are in RAM, and says so in its header. Does nothing where `target` is not
 * to be randomised or the payload has no table. -EBADMSG for a table that leads out of the kernel; otherwise
 * -errno of reading it.
 */
int kaslr_apply(struct image *payload, const struct elf *elf, const struct kernel_target *target,
                struct kernel *kernel, struct error *err);
