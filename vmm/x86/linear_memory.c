#include "vmm/x86/linear_memory.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>

#include "memory/address_space.h"
#include "memory/guest_copy.h"
#include "vmm/x86/cpu_bits.h"

#define PAGE_SHIFT      12
#define PAGE_SIZE       ((uint64_t)1 << PAGE_SHIFT)

#define ENTRY_PRESENT   1
#define ENTRY_LARGE     (1u << 7)
#define ADDRESS_MASK_64 0x000FFFFFFFFFF000ull
#define ADDRESS_MASK_32 0xFFFFF000ull
#define ROOT_MASK_PAE   0xFFFFFFE0ull

/* One kind of paging. Levels count down to 1, whose tables have the entries of 4 KiB pages. */
struct paging {
    uint64_t root;
    uint64_t address_mask;
    unsigned levels;
    unsigned index_bits;
    unsigned entry_size;
    unsigned large_levels; /* up to which an entry can map a large page */
    unsigned linear_bits;
};

static struct paging paging_of(const struct kvm_sregs *sregs)
{
    if (sregs->efer & EFER_LMA) {
        unsigned levels = sregs->cr4 & CR4_LA57 ? 5 : 4;
        return (struct paging){
            .root = sregs->cr3 & ADDRESS_MASK_64,
            .address_mask = ADDRESS_MASK_64,
            .levels = levels,
            .index_bits = 9,
            .entry_size = 8,
            .large_levels = 3,
            .linear_bits = PAGE_SHIFT + 9 * levels,
        };
    }
    if (sregs->cr4 & CR4_PAE)
        return (struct paging){
            .root = sregs->cr3 & ROOT_MASK_PAE,
            .address_mask = ADDRESS_MASK_64,
            .levels = 3,
            .index_bits = 9,
            .entry_size = 8,
            .large_levels = 2,
            .linear_bits = 32,
        };
    return (struct paging){
        .root = sregs->cr3 & ADDRESS_MASK_32,
        .address_mask = ADDRESS_MASK_32,
        .levels = 2,
        .index_bits = 10,
        .entry_size = 4,
        .large_levels = sregs->cr4 & CR4_PSE ? 2 : 1,
        .linear_bits = 32,
    };
}

static bool read_physical(struct address_space *memory, uint64_t physical, void *data, size_t size)
{
    struct guest_mapping mapping;
    if (guest_map(memory, physical, size, false, &mapping) < 0)
        return false;
    char *to = data;
    for (unsigned i = 0; i < mapping.count; i++) {
        guest_copy_from(to, mapping.iov[i].iov_base, mapping.iov[i].iov_len);
        to += mapping.iov[i].iov_len;
    }
    guest_unmap(&mapping, 0);
    return true;
}

/* A page of 4 MiB may be above 4 GiB: bits 39 to 32 of its address are in bits 20 to 13 of the entry. */
static uint64_t page_address(const struct paging *paging, uint64_t entry, uint64_t page_size)
{
    uint64_t address = entry & paging->address_mask & ~(page_size - 1);
    if (paging->entry_size == 4 && page_size > PAGE_SIZE)
        address |= (entry >> 13 & 0xFF) << 32;
    return address;
}

static bool is_canonical(const struct paging *paging, uint64_t linear)
{
    unsigned unused = 64 - paging->linear_bits;
    return paging->linear_bits == 32 || (uint64_t)((int64_t)(linear << unused) >> unused) == linear;
}

static int walk(const struct paging *paging, struct address_space *memory, uint64_t linear,
                uint64_t *physical)
{
    uint64_t table = paging->root;
    for (unsigned level = paging->levels; level > 0; level--) {
        unsigned shift = PAGE_SHIFT + paging->index_bits * (level - 1);
        uint64_t index = linear >> shift & (((uint64_t)1 << paging->index_bits) - 1);
        uint64_t entry = 0;
        if (!read_physical(memory, table + index * paging->entry_size, &entry, paging->entry_size) ||
            !(entry & ENTRY_PRESENT))
            return -EFAULT;
        if (level == 1 || (level <= paging->large_levels && (entry & ENTRY_LARGE))) {
            uint64_t page_size = (uint64_t)1 << shift;
            *physical = page_address(paging, entry, page_size) | (linear & (page_size - 1));
            return 0;
        }
        table = entry & paging->address_mask;
    }
    return -EFAULT;
}

int linear_translate(const struct kvm_sregs *sregs, struct address_space *memory, uint64_t linear,
                     uint64_t *physical)
{
    struct paging paging = paging_of(sregs);
    if (paging.linear_bits == 32)
        linear &= UINT32_MAX;
    if (!(sregs->cr0 & CR0_PG)) {
        *physical = linear;
        return 0;
    }
    return is_canonical(&paging, linear) ? walk(&paging, memory, linear, physical) : -EINVAL;
}

size_t linear_read(const struct kvm_sregs *sregs, struct address_space *memory, uint64_t linear, void *data,
                   size_t size)
{
    size_t done = 0;
    while (done < size) {
        uint64_t at = linear + done, physical;
        size_t left_in_page = PAGE_SIZE - (at & (PAGE_SIZE - 1));
        size_t piece = size - done < left_in_page ? size - done : left_in_page;
        if (linear_translate(sregs, memory, at, &physical) < 0 ||
            !read_physical(memory, physical, (char *)data + done, piece))
            break;
        done += piece;
    }
    return done;
}
