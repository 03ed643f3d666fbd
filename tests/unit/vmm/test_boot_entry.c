/* The state that the first CPU starts with, read as the processor's manual says. */
#include <linux/kvm.h>

#include "boot_fixture.h"

static struct kvm_sregs reset_state(void)
{
    struct kvm_sregs sregs = {.apic_base = 0xfee00900, .cr0 = 0x60000010, .cs = {.base = 0xffff0000}};
    return sregs;
}

static void boot_elf64(struct boot_fixture *fixture)
{
    uint8_t image[ELF_SIZE];
    make_elf64(image);
    fixture_init(fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture->err.message);
}

/* Walks the 4-level page tables in RAM. */
static uint64_t translate(const struct boot_fixture *fixture, uint64_t cr3, uint64_t address)
{
    uint64_t table = cr3;
    for (int shift = 39; shift >= 12; shift -= 9) {
        uint64_t entry = ram_get(fixture, table + (address >> shift & 511) * 8, 8);
        cr_assert_eq(entry & 3, 3, "0x%llx is not mapped for writing", (unsigned long long)address);
        uint64_t base = entry & 0x000ffffffffff000ull;
        uint64_t offset_mask = ((uint64_t)1 << shift) - 1;
        if (entry & 0x80 && shift < 39)
            return (base & ~offset_mask) | (address & offset_mask);
        table = base;
    }
    return table | (address & 0xfff);
}

Test(boot_entry, the_low_4_gib_are_mapped_one_to_one)
{
    struct boot_fixture fixture;
    struct kvm_sregs sregs = reset_state();
    struct kvm_regs regs;
    boot_elf64(&fixture);
    boot_set_registers(&fixture.entry, &sregs, &regs);
    for (uint64_t address = 0x123; address < 4 * GIB; address += 2 * MIB)
        cr_assert_eq(translate(&fixture, sregs.cr3, address), address);
    cr_expect_eq(translate(&fixture, sregs.cr3, 4 * GIB - 1), 4 * GIB - 1);
    fixture_destroy(&fixture);
}

/* A descriptor's fields must be those of the hidden part that goes with its selector. */
static void expect_descriptor(const struct boot_fixture *fixture, const struct kvm_sregs *sregs,
                              const struct kvm_segment *segment)
{
    cr_assert_leq(segment->selector + 7u, sregs->gdt.limit);
    uint64_t bits = ram_get(fixture, sregs->gdt.base + segment->selector, 8);
    uint32_t limit = (uint32_t)((bits & 0xffff) | (bits >> 32 & 0xf0000));
    uint32_t base = (uint32_t)((bits >> 16 & 0xffffff) | (bits >> 32 & 0xff000000));
    cr_expect_eq(base, segment->base);
    cr_expect_eq(bits >> 55 & 1, segment->g);
    cr_expect_eq(segment->g ? limit << 12 | 0xfff : limit, segment->limit);
    cr_expect_eq(bits >> 54 & 1, segment->db);
    cr_expect_eq(bits >> 53 & 1, segment->l);
    cr_expect_eq(bits >> 47 & 1, segment->present);
    cr_expect_eq(bits >> 45 & 3, segment->dpl);
    cr_expect_eq(bits >> 44 & 1, segment->s);
    cr_expect_eq(bits >> 40 & 15, segment->type);
}

static void expect_descriptors(const struct boot_fixture *fixture, const struct kvm_sregs *sregs)
{
    const struct kvm_segment *segments[] = {&sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
                                            &sregs->gs, &sregs->ss, &sregs->tr};
    for (size_t i = 0; i < ARRAY_SIZE(segments); i++)
        expect_descriptor(fixture, sregs, segments[i]);
    cr_expect_eq(sregs->cs.selector, 0x10);
    cr_expect_eq(sregs->ds.selector, 0x18);
    cr_expect_eq(sregs->ss.selector, 0x18);
    cr_expect_eq(sregs->tr.type, 11); /* busy */
    cr_expect_eq(sregs->ldt.unusable, 1);
    cr_expect_eq(ram_get(fixture, sregs->gdt.base, 8), 0);
    cr_expect_eq(sregs->apic_base, 0xfee00900);
}

Test(boot_entry, long_mode)
{
    struct boot_fixture fixture;
    struct kvm_sregs sregs = reset_state();
    struct kvm_regs regs;
    boot_elf64(&fixture);
    boot_set_registers(&fixture.entry, &sregs, &regs);
    cr_expect_eq(sregs.cr0, 0x80000031u); /* PG NE ET PE */
    cr_expect_eq(sregs.cr4, 0x20);        /* PAE */
    cr_expect_eq(sregs.efer, 0x500);      /* LMA LME */
    cr_expect(sregs.cs.l && !sregs.cs.db);
    expect_descriptors(&fixture, &sregs);
    cr_expect_eq(regs.rip, ELF_CODE + 0x10);
    cr_expect_eq(regs.rflags, 2);
    cr_expect_eq(regs.rsi, fixture.entry.rsi);
    cr_expect_eq(regs.rdi, fixture.entry.rdi);
    cr_expect_eq(regs.rsp, 0);
    fixture_destroy(&fixture);
}

Test(boot_entry, protected_mode)
{
    struct boot_fixture fixture;
    struct kvm_sregs sregs = reset_state();
    struct kvm_regs regs;
    uint8_t image[ELF_SIZE];
    make_elf32(image);
    put(image, 0x1000, 0x1BADB002, 4);
    put(image, 0x1004, 0, 4);
    put(image, 0x1008, -0x1BADB002u, 4);
    fixture_init(&fixture, 16 * MIB);
    cr_assert_eq(fixture_boot(&fixture, image, sizeof(image), NULL, 0), 0, "%s", fixture.err.message);
    boot_set_registers(&fixture.entry, &sregs, &regs);
    cr_expect_eq(sregs.cr0, 0x31);
    cr_expect_eq(sregs.cr4, 0);
    cr_expect_eq(sregs.efer, 0);
    cr_expect(!sregs.cs.l && sregs.cs.db);
    cr_expect_eq(sregs.cs.limit, 0xffffffff);
    expect_descriptors(&fixture, &sregs);
    cr_expect_eq(regs.rax, 0x2BADB002);
    cr_expect_eq(regs.rbx, fixture.entry.rbx);
    cr_expect_eq(regs.rdi, fixture.entry.rdi);
    fixture_destroy(&fixture);
}
