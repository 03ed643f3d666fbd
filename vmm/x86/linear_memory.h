/*
 * Guest memory by linear address: the guest's page tables walked in software.
 *
 * For looking at a guest that stands still. Nothing is changed (no accessed bits), access rights are not
 * checked, and only RAM and ROM are read, so that looking has no effect on devices. Page tables are hostile
 * input: they may loop, or lead outside of RAM; a walk reads one entry a level whatever is in them.
 *
 * Specification: Intel SDM volume 3A, chapter 4.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct address_space;
struct kvm_sregs;

/*
 * Translates `linear` as the CPU whose state is `sregs` would: without paging, with 32-bit paging, PAE, or 4
 * or 5 levels. -EFAULT where no page is mapped or a page table is not in RAM, -EINVAL where `linear` is not
 * canonical.
 */
int linear_translate(const struct kvm_sregs *sregs, struct address_space *memory, uint64_t linear,
                     uint64_t *physical);

/* Reads up to `size` bytes from `linear` on; returns how many could be read. */
size_t linear_read(const struct kvm_sregs *sregs, struct address_space *memory, uint64_t linear, void *data,
                   size_t size);
