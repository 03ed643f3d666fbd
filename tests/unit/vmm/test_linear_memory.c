/*
 * Page tables are built here, entry by entry, as the manual draws them; the walk must find what was mapped
 * and nothing else.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/macros.h"
#include "tests/unit/vmm/guest_ram.h"
#include "vmm/x86/linear_memory.h"

#define RAM_SIZE  (16 * MIB)
#define TABLES    (1 * MIB) /* where page tables are, one after the other */

#define PRESENT   1
#define LARGE     0x80

#define CR0_PAGED 0x80000011
#define CR4_PSE   0x10
#define CR4_PAE   0x20
#define CR4_LA57  0x1000
#define EFER_LONG 0x500

static struct guest_ram guest;

static void set_up(void)
{
    guest_ram_create(&guest, RAM_SIZE);
}

static void tear_down(void)
{
    guest_ram_destroy(&guest);
}

TestSuite(linear_memory, .init = set_up, .fini = tear_down);

static void put(uint64_t address, uint64_t value, unsigned size)
{
    memcpy(guest.host + address, &value, size);
}

static int translate(const struct kvm_sregs *sregs, uint64_t linear, uint64_t *physical)
{
    *physical = 0xBAD;
    return linear_translate(sregs, guest.space, linear, physical);
}

static void check(const struct kvm_sregs *sregs, uint64_t linear, uint64_t expected)
{
    uint64_t physical;
    cr_assert_eq(translate(sregs, linear, &physical), 0, "%lx is not mapped", linear);
    cr_assert_eq(physical, expected, "%lx is at %lx, not %lx", linear, physical, expected);
}

static void check_fails(const struct kvm_sregs *sregs, uint64_t linear, int expected)
{
    uint64_t physical;
    cr_assert_eq(translate(sregs, linear, &physical), expected, "%lx", linear);
}

static struct kvm_sregs four_levels(void)
{
    return (struct kvm_sregs){.cr0 = CR0_PAGED, .cr3 = TABLES | 0x18, .cr4 = CR4_PAE, .efer = EFER_LONG};
}

Test(linear_memory, four_levels)
{
    struct kvm_sregs sregs = four_levels();
    uint64_t linear = 0xFFFF000000000000ull | 256ull << 39 | 1ull << 30 | 0x100ull << 21 | 0x100ull << 12;
    put(TABLES + 256 * 8, (TABLES + 0x1000) | PRESENT, 8);
    put(TABLES + 0x1000 + 1 * 8, (TABLES + 0x2000) | PRESENT | (1ull << 63), 8); /* not executable */
    put(TABLES + 0x2000 + 0x100 * 8, (TABLES + 0x3000) | PRESENT, 8);
    put(TABLES + 0x3000 + 0x100 * 8, 0x345000 | PRESENT | 0xF00, 8);
    check(&sregs, linear, 0x345000);
    check(&sregs, linear + 0xFFF, 0x345FFF);
    check_fails(&sregs, linear + 0x1000, -EFAULT);
    check_fails(&sregs, linear - 1, -EFAULT);
    check_fails(&sregs, linear + (1ull << 21), -EFAULT);
    check_fails(&sregs, linear + (1ull << 30), -EFAULT);
    check_fails(&sregs, linear + (1ull << 39), -EFAULT);
    check_fails(&sregs, 0, -EFAULT);
    check_fails(&sregs, linear & 0x0000FFFFFFFFFFFF, -EINVAL);
    check_fails(&sregs, 1ull << 47, -EINVAL);
    check_fails(&sregs, 1ull << 63, -EINVAL);
}

Test(linear_memory, large_pages)
{
    struct kvm_sregs sregs = four_levels();
    put(TABLES, (TABLES + 0x1000) | PRESENT, 8);
    put(TABLES + 0x1000, (TABLES + 0x2000) | PRESENT, 8);
    put(TABLES + 0x1000 + 3 * 8, 0x7C0000000 | PRESENT | LARGE | 1 << 12, 8); /* 1 GiB, with PAT */
    put(TABLES + 0x2000 + 5 * 8, 0x400000 | PRESENT | LARGE | 1 << 12, 8);    /* 2 MiB, with PAT */
    check(&sregs, 3 * GIB, 0x7C0000000);
    check(&sregs, 4 * GIB - 1, 0x7FFFFFFFF);
    check(&sregs, 10 * MIB, 0x400000);
    check(&sregs, 12 * MIB - 1, 0x5FFFFF);
    check_fails(&sregs, 12 * MIB, -EFAULT);
}

/* The bit that makes a page large means nothing in a PML4, so the walk goes on. */
Test(linear_memory, no_large_page_in_the_highest_table)
{
    struct kvm_sregs sregs = four_levels();
    put(TABLES, (TABLES + 0x1000) | PRESENT | LARGE, 8);
    put(TABLES + 0x1000, 0 | PRESENT | LARGE, 8);
    check(&sregs, 0x12345, 0x12345);
}

Test(linear_memory, five_levels)
{
    struct kvm_sregs sregs = four_levels();
    sregs.cr4 |= CR4_LA57;
    put(TABLES + 0xFF * 8, (TABLES + 0x5000) | PRESENT, 8);
    put(TABLES + 0x5000 + 0x1FF * 8, (TABLES + 0x6000) | PRESENT, 8);
    put(TABLES + 0x6000 + 0x1FF * 8, (TABLES + 0x7000) | PRESENT, 8);
    put(TABLES + 0x7000 + 0x1FF * 8, (TABLES + 0x8000) | PRESENT, 8);
    put(TABLES + 0x8000 + 0x1FF * 8, 0x678000 | PRESENT, 8);
    check(&sregs, 0x00FFFFFFFFFFFABC, 0x678ABC);
    check_fails(&sregs, 0x0100000000000000, -EINVAL);
    check_fails(&sregs, 0xFF00000000000000, -EFAULT);
    check_fails(&sregs, 0xFEFFFFFFFFFFFFFF, -EINVAL);
}

Test(linear_memory, pae)
{
    struct kvm_sregs sregs = {.cr0 = CR0_PAGED, .cr3 = TABLES + 0x20 + 8, .cr4 = CR4_PAE};
    put(TABLES + 0x20 + 2 * 8, (TABLES + 0x1000) | PRESENT, 8); /* CR3 counts in units of 32 bytes */
    put(TABLES + 0x1000 + 7 * 8, (TABLES + 0x2000) | PRESENT, 8);
    put(TABLES + 0x1000 + 8 * 8, 0x1200000000 | PRESENT | LARGE, 8);
    put(TABLES + 0x2000 + 9 * 8, 0x9000 | PRESENT, 8);
    uint64_t linear = 2ull << 30 | 7ull << 21 | 9ull << 12;
    check(&sregs, linear + 0x123, 0x9123);
    check(&sregs, 0xFFFFFFFF00000000 | (linear + 0x123), 0x9123);
    check(&sregs, (2ull << 30 | 8ull << 21) + 0x1FFFFF, 0x12001FFFFF);
    check_fails(&sregs, linear ^ 1ull << 30, -EFAULT);
    check_fails(&sregs, linear + 0x1000, -EFAULT);
}

Test(linear_memory, two_levels)
{
    struct kvm_sregs sregs = {.cr0 = CR0_PAGED, .cr3 = TABLES | 0x18};
    put(TABLES + 0x3FF * 4, (TABLES + 0x1000) | PRESENT, 4);
    put(TABLES + 0x1000 + 0x3FE * 4, 0xABC000 | PRESENT, 4);
    put(TABLES + 1 * 4, (TABLES + 0x2000) | PRESENT | LARGE, 4);
    put(TABLES + 0x2000, 0xDEF000 | PRESENT, 4);
    check(&sregs, 0xFFFFE010, 0xABC010);
    check(&sregs, 0x400010, 0xDEF010);
    check_fails(&sregs, 0xFFFFF000, -EFAULT);
}

/* With PSE the same bit makes a page of 4 MiB, which may be above 4 GiB. */
Test(linear_memory, pages_of_4_mib)
{
    struct kvm_sregs sregs = {.cr0 = CR0_PAGED, .cr3 = TABLES, .cr4 = CR4_PSE};
    put(TABLES + 1 * 4, 0x00800000 | PRESENT | LARGE, 4);
    put(TABLES + 2 * 4, 0x00C00000 | 0xA5 << 13 | PRESENT | LARGE, 4);
    check(&sregs, 0x400010, 0x800010);
    check(&sregs, 0x7FFFFF, 0xBFFFFF);
    check(&sregs, 0x800000, 0xA500C00000);
}

Test(linear_memory, no_paging)
{
    struct kvm_sregs sregs = {.cr0 = 0x11, .cr3 = 0x123456000, .cr4 = CR4_PAE};
    check(&sregs, 0xFFFFFFFF, 0xFFFFFFFF);
    check(&sregs, 0x100000010, 0x10);
}

/* An entry that points to its own table is a legal way to see page tables as memory: it ends at level 1. */
Test(linear_memory, self_reference)
{
    struct kvm_sregs sregs = four_levels();
    put(TABLES + 511 * 8, TABLES | PRESENT, 8);
    check(&sregs, UINT64_MAX, TABLES + 0xFFF);
    check_fails(&sregs, 0xFFFF800000000000, -EFAULT);
}

/* Tables outside of RAM, at its very end, at the end of the address space, and a root nowhere. */
Test(linear_memory, tables_outside_of_ram)
{
    const uint64_t nowhere[] = {RAM_SIZE, 0xFEE00000, 0x000FFFFFFFFFF000};
    struct kvm_sregs sregs = four_levels();
    for (size_t i = 0; i < ARRAY_SIZE(nowhere); i++) {
        put(TABLES, nowhere[i] | PRESENT, 8);
        check_fails(&sregs, 0, -EFAULT);
        sregs.cr3 = nowhere[i];
        check_fails(&sregs, 0, -EFAULT);
        check_fails(&sregs, 0x00007FFFFFFFFFFF, -EFAULT);
        sregs.cr3 = TABLES;
    }
    sregs.cr3 = UINT64_MAX;
    check_fails(&sregs, 0, -EFAULT);
}

/* Random tables, in every mode: nothing can happen but an answer. */
Test(linear_memory, hostile_tables)
{
    uint64_t state = 88172645463325252;
    for (uint64_t i = 0; i < RAM_SIZE; i += 8) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        put(i, (state & 0xFFFFFF) | PRESENT, 8);
    }
    for (unsigned i = 0; i < 20000; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        struct kvm_sregs sregs = {
            .cr0 = CR0_PAGED,
            .cr3 = state >> 20,
            .cr4 = (i & 1 ? CR4_PAE : 0) | (i & 2 ? CR4_LA57 : 0) | (i & 4 ? CR4_PSE : 0),
            .efer = i & 8 ? EFER_LONG : 0,
        };
        char bytes[64];
        linear_read(&sregs, guest.space, state << (i & 31), bytes, sizeof(bytes));
    }
}

/* A read ends where the mapping does, and follows pages that are not neighbours. */
Test(linear_memory, reads_across_pages)
{
    struct kvm_sregs sregs = four_levels();
    put(TABLES, (TABLES + 0x1000) | PRESENT, 8);
    put(TABLES + 0x1000, (TABLES + 0x2000) | PRESENT, 8);
    put(TABLES + 0x2000, (TABLES + 0x3000) | PRESENT, 8);
    put(TABLES + 0x3000 + 4 * 8, 0x8000 | PRESENT, 8);
    put(TABLES + 0x3000 + 5 * 8, 0x6000 | PRESENT, 8);
    memset(guest.host + 0x8000, 'a', 0x1000);
    memset(guest.host + 0x6000, 'b', 0x1000);
    char bytes[16] = "";
    cr_assert_eq(linear_read(&sregs, guest.space, 0x4FFD, bytes, 6), 6);
    cr_assert(memcmp(bytes, "aaabbb", 6) == 0);
    cr_assert_eq(linear_read(&sregs, guest.space, 0x5FFD, bytes, 6), 3);
    cr_assert_eq(linear_read(&sregs, guest.space, 0x6000, bytes, 6), 0);
    cr_assert_eq(linear_read(&sregs, guest.space, UINT64_MAX - 2, bytes, 6), 0);
}

Test(linear_memory, reads_end_with_ram)
{
    struct kvm_sregs sregs = {.cr0 = 0x10};
    char bytes[16];
    cr_assert_eq(linear_read(&sregs, guest.space, RAM_SIZE - 5, bytes, sizeof(bytes)), 5);
    cr_assert_eq(linear_read(&sregs, guest.space, 0xFFFFFFF8, bytes, sizeof(bytes)), 0);
}
