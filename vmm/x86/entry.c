#include "vmm/x86/entry.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "vmm/x86/cpu_bits.h"
#include "vmm/x86/layout.h"

#define PAGE_SIZE      4096
#define PAGE_ENTRIES   512
#define PAGE_PRESENT   (1 << 0)
#define PAGE_WRITE     (1 << 1)
#define PAGE_LARGE     (1 << 7)

#define RFLAGS_INITIAL 2

/* Selectors: index into the GDT times 8. */
#define SELECTOR_CODE  0x10
#define SELECTOR_DATA  0x18
#define SELECTOR_TSS   0x20
#define GDT_ENTRIES    6 /* a 64-bit TSS takes two */

/* Segment types, all accessed or busy. */
#define TYPE_DATA      3
#define TYPE_CODE      11
#define TYPE_TSS       11

static struct kvm_segment code_segment(enum boot_mode mode)
{
    return (struct kvm_segment){
        .limit = UINT32_MAX,
        .selector = SELECTOR_CODE,
        .type = TYPE_CODE,
        .present = 1,
        .s = 1,
        .g = 1,
        .l = mode == BOOT_LONG_MODE,
        .db = mode == BOOT_PROTECTED_MODE,
    };
}

static struct kvm_segment data_segment(void)
{
    return (struct kvm_segment){
        .limit = UINT32_MAX,
        .selector = SELECTOR_DATA,
        .type = TYPE_DATA,
        .present = 1,
        .s = 1,
        .g = 1,
        .db = 1,
    };
}

/* Entry checks of the hardware want a task register; nothing uses it. */
static struct kvm_segment task_segment(void)
{
    return (struct kvm_segment){.limit = 0x67, .selector = SELECTOR_TSS, .type = TYPE_TSS, .present = 1};
}

/* A segment as the GDT says it; Intel SDM volume 3, 3.4.5. */
static uint64_t descriptor(const struct kvm_segment *segment)
{
    uint64_t limit = segment->g ? segment->limit >> 12 : segment->limit;
    uint64_t access = segment->type | segment->s << 4 | segment->dpl << 5 | segment->present << 7;
    uint64_t flags = segment->l << 1 | segment->db << 2 | segment->g << 3;
    return (limit & 0xFFFF) | (segment->base & 0xFFFFFF) << 16 | access << 40 | (limit >> 16 & 0xF) << 48 |
           flags << 52 | (segment->base >> 24 & 0xFF) << 56;
}

static int write_gdt(enum boot_mode mode, struct address_space *memory)
{
    struct kvm_segment code = code_segment(mode), data = data_segment(), task = task_segment();
    uint64_t gdt[GDT_ENTRIES] = {
        [SELECTOR_CODE / 8] = descriptor(&code),
        [SELECTOR_DATA / 8] = descriptor(&data),
        [SELECTOR_TSS / 8] = descriptor(&task),
    };
    return address_space_write(memory, LAYOUT_GDT, gdt, sizeof(gdt));
}

/* One page of a table whose entries lead to, or map, ascending addresses. */
static int write_table(struct address_space *memory, uint64_t address, unsigned count, uint64_t first,
                       uint64_t step)
{
    uint64_t table[PAGE_ENTRIES] = {0};
    for (unsigned i = 0; i < count; i++)
        table[i] = first + i * step;
    return address_space_write(memory, address, table, sizeof(table));
}

/* PML4, PDPT, then a page directory for each GiB. */
static int write_page_tables(struct address_space *memory)
{
    const uint64_t flags = PAGE_PRESENT | PAGE_WRITE;
    const uint64_t pdpt = LAYOUT_PAGE_TABLES + PAGE_SIZE, directories = pdpt + PAGE_SIZE;
    int result = write_table(memory, LAYOUT_PAGE_TABLES, 1, pdpt | flags, 0);
    if (!result)
        result = write_table(memory, pdpt, 4, directories | flags, PAGE_SIZE);
    for (unsigned i = 0; !result && i < 4; i++)
        result = write_table(memory, directories + i * PAGE_SIZE, PAGE_ENTRIES, i * GIB | flags | PAGE_LARGE,
                             2 * MIB);
    return result;
}

int entry_write_tables(enum boot_mode mode, struct address_space *memory, struct error *err)
{
    int result = write_gdt(mode, memory);
    if (!result && mode == BOOT_LONG_MODE)
        result = write_page_tables(memory);
    return result ? error_set_errno(err, -result, "cannot write page tables and descriptors") : 0;
}

void boot_set_registers(const struct boot_entry *entry, struct kvm_sregs *sregs, struct kvm_regs *regs)
{
    bool long_mode = entry->mode == BOOT_LONG_MODE;
    struct kvm_segment data = data_segment();
    sregs->cs = code_segment(entry->mode);
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->tr = task_segment();
    sregs->ldt = (struct kvm_segment){.unusable = 1};
    sregs->gdt = (struct kvm_dtable){.base = LAYOUT_GDT, .limit = GDT_ENTRIES * sizeof(uint64_t) - 1};
    sregs->idt = (struct kvm_dtable){0};
    sregs->cr0 = CR0_PE | CR0_ET | CR0_NE | (long_mode ? CR0_PG : 0);
    sregs->cr2 = 0;
    sregs->cr3 = long_mode ? LAYOUT_PAGE_TABLES : 0;
    sregs->cr4 = long_mode ? CR4_PAE : 0;
    sregs->efer = long_mode ? EFER_LME | EFER_LMA : 0;
    *regs = (struct kvm_regs){
        .rip = entry->rip,
        .rax = entry->rax,
        .rbx = entry->rbx,
        .rsi = entry->rsi,
        .rdi = entry->rdi,
        .rflags = RFLAGS_INITIAL,
    };
}
