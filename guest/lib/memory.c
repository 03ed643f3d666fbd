#include "guest/lib/memory.h"

#include <libfdt.h>
#include <stdbool.h>

#include "guest/lib/boot.h"
#include "guest/lib/exit.h"
#include "guest/lib/tree.h"

#define RAM_END_WITHOUT_TREE (64 << 20)
#define PAGE_SIZE            4096

extern char image_end[];

static uint64_t ram_end(void)
{
    const void *tree = boot_tree();
    struct tree_range ram;

    if (!tree)
        return RAM_END_WITHOUT_TREE;
    return tree_range(fdt_path_offset(tree, "/memory@0"), 0, &ram) ? ram.start + ram.size : 0;
}

/* The end of the range [start, end) if it overlaps `size` bytes at `address`, or `address`. */
static uint64_t pass(uint64_t address, uint64_t size, uint64_t start, uint64_t end)
{
    return address < end && start < address + size ? end : address;
}

static uint64_t pass_boot_data(uint64_t address, uint64_t size)
{
    const void *tree = boot_tree();
    struct tree_range initrd;

    if (!tree)
        return address;
    address = pass(address, size, (uint64_t)tree, (uint64_t)tree + fdt_totalsize(tree));
    return tree_initrd(&initrd) ? pass(address, size, initrd.start, initrd.start + initrd.size) : address;
}

void *memory_free(uint64_t size)
{
    uint64_t address = (uint64_t)image_end, before;

    do {
        before = address = (address + PAGE_SIZE - 1) & -(uint64_t)PAGE_SIZE;
        address = pass_boot_data(address, size);
    } while (address != before);
    if (size > ram_end() || address > ram_end() - size)
        guest_panic("not enough RAM");
    return (void *)address;
}
