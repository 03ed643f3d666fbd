#include "vmm/x86/crash_report.h"

#include <string.h>
#include <sys/ioctl.h>

#include "base/macros.h"
#include "vmm/host.h"
#include "vmm/print_wrapped.h"
#include "vmm/vcpu.h"
#include "vmm/x86/cpu_bits.h"
#include "vmm/x86/crash_cause.h"
#include "vmm/x86/linear_memory.h"

#define PAGE_SIZE         4096
#define TEXT_COLUMN       10
#define TEXT_WIDTH        78
#define BYTES_BEFORE      48 /* how far back to look for instructions before */
#define LINES_BEFORE      3
#define LINES_AFTER       4
#define INSTRUCTION_BYTES 10 /* printed; more show as "…" */

void crash_info_collect(struct crash_info *crash, const struct vcpu *vcpu, int error)
{
    *crash = (struct crash_info){
        .vcpu = vcpu_index(vcpu),
        .hardware = host_kvm_is_hardware(),
        .run_error = error,
        .run = *vcpu_run_area(vcpu),
    };
    crash->has_registers = ioctl(vcpu_fd(vcpu), KVM_GET_REGS, &crash->regs) == 0 &&
                           ioctl(vcpu_fd(vcpu), KVM_GET_SREGS, &crash->sregs) == 0;
}

static void print_paragraph(FILE *out, const char *heading, const char *text)
{
    fprintf(out, "  %-8s", heading);
    print_wrapped(out, text, TEXT_COLUMN, TEXT_WIDTH);
    fputc('\n', out);
}

static void print_bytes(FILE *out, const uint8_t *bytes, unsigned count)
{
    for (unsigned i = 0; i < count && i < INSTRUCTION_BYTES; i++)
        fprintf(out, " %02x", bytes[i]);
    fputs(count > INSTRUCTION_BYTES ? " …\n" : "\n", out);
}

static void print_instruction(FILE *out, char mark, uint64_t address, const struct instruction *instruction,
                              const uint8_t *bytes)
{
    fprintf(out, "  %c %016llx  %-36s ;", mark, (unsigned long long)address, instruction->text);
    print_bytes(out, bytes, instruction->length);
}

/* Code that was read from `address` on. */
struct code {
    const struct kvm_sregs *sregs;
    uint64_t address;
    uint8_t bytes[BYTES_BEFORE + LINES_AFTER * INSTRUCTION_SIZE_MAX];
    size_t size;
};

static bool decode(const struct code *code, size_t offset, struct instruction *instruction)
{
    return offset < code->size && disassemble(code->sregs, code->address + offset, code->bytes + offset,
                                              code->size - offset, instruction);
}

/*
 * How many instructions lie between `offset` and the end of the code, or 0 where no sequence of them ends
 * there exactly.
 */
static unsigned count_to_end(const struct code *code, size_t offset)
{
    struct instruction instruction;
    unsigned count = 0;
    while (decode(code, offset, &instruction)) {
        offset += instruction.length;
        count++;
    }
    return offset == code->size ? count : 0;
}

/*
 * x86 code cannot be read backwards, but read from a wrong start it falls into step within a few
 * instructions: so the longest run that ends at the address is most likely what was executed.
 */
static void print_code_before(FILE *out, struct address_space *memory, struct code *code, uint64_t address)
{
    uint64_t in_page = address % PAGE_SIZE;
    size_t wanted = in_page < BYTES_BEFORE ? in_page : BYTES_BEFORE;
    code->address = address - wanted;
    code->size = linear_read(code->sregs, memory, code->address, code->bytes, wanted);
    size_t offset = 0;
    while (offset < wanted && count_to_end(code, offset) == 0)
        offset++;
    struct instruction instruction;
    for (unsigned left = count_to_end(code, offset); left > 0 && decode(code, offset, &instruction); left--) {
        if (left <= LINES_BEFORE)
            print_instruction(out, ' ', code->address + offset, &instruction, code->bytes + offset);
        offset += instruction.length;
    }
}

static void print_code_after(FILE *out, struct address_space *memory, struct code *code, uint64_t address)
{
    code->address = address;
    code->size = linear_read(code->sregs, memory, address, code->bytes, sizeof(code->bytes));
    struct instruction instruction;
    size_t offset = 0;
    for (unsigned i = 0; i < LINES_AFTER && decode(code, offset, &instruction); i++) {
        print_instruction(out, ' ', address + offset, &instruction, code->bytes + offset);
        offset += instruction.length;
    }
}

static void print_code(FILE *out, const struct crash_info *crash, const struct crash_site *site,
                       struct address_space *memory)
{
    struct code code = {.sregs = &crash->sregs};
    if (site->size == 0)
        return;
    fputs("\n  Code (linear addresses)\n", out);
    print_code_before(out, memory, &code, site->linear);
    if (!site->decoded) {
        fprintf(out, "  > %016llx  %-36s ;", (unsigned long long)site->linear, "no instruction");
        print_bytes(out, site->bytes, (unsigned)site->size);
        return;
    }
    print_instruction(out, '>', site->linear, &site->instruction, site->bytes);
    print_code_after(out, memory, &code, site->linear + site->instruction.length);
}

struct bit_name {
    unsigned bit;
    const char *name;
};

static void print_bits(FILE *out, uint64_t value, const struct bit_name *names, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (value >> names[i].bit & 1)
            fprintf(out, " %s", names[i].name);
    }
    fputc('\n', out);
}

static void print_flags(FILE *out, uint64_t rflags)
{
    static const struct bit_name names[] = {
        {0, "CF"},  {2, "PF"},  {4, "AF"},  {6, "ZF"},  {7, "SF"},  {8, "TF"},  {9, "IF"},
        {10, "DF"}, {11, "OF"}, {14, "NT"}, {16, "RF"}, {17, "VM"}, {18, "AC"},
    };
    fprintf(out, "  RFLAGS %016llx", (unsigned long long)rflags);
    print_bits(out, rflags, names, ARRAY_SIZE(names));
}

static void print_general(FILE *out, const struct kvm_regs *regs)
{
    const struct {
        const char *name;
        uint64_t value;
    } all[] = {
        {"RAX", regs->rax}, {"RBX", regs->rbx}, {"RCX", regs->rcx}, {"RDX", regs->rdx},
        {"RSI", regs->rsi}, {"RDI", regs->rdi}, {"RBP", regs->rbp}, {"RSP", regs->rsp},
        {"R8", regs->r8},   {"R9", regs->r9},   {"R10", regs->r10}, {"R11", regs->r11},
        {"R12", regs->r12}, {"R13", regs->r13}, {"R14", regs->r14}, {"R15", regs->r15},
    };
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        fprintf(out, "  %-4s %016llx%s", all[i].name, (unsigned long long)all[i].value,
                i % 3 == 2 ? "\n" : "");
    fprintf(out, "  RIP  %016llx\n", (unsigned long long)regs->rip);
    print_flags(out, regs->rflags);
}

static void print_control(FILE *out, const struct kvm_sregs *sregs)
{
    static const struct bit_name cr0[] = {{0, "PE"},  {1, "MP"},  {2, "EM"},  {3, "TS"},
                                          {4, "ET"},  {5, "NE"},  {16, "WP"}, {18, "AM"},
                                          {29, "NW"}, {30, "CD"}, {31, "PG"}};
    static const struct bit_name cr4[] = {{0, "VME"},      {1, "PVI"},    {2, "TSD"},       {3, "DE"},
                                          {4, "PSE"},      {5, "PAE"},    {6, "MCE"},       {7, "PGE"},
                                          {8, "PCE"},      {9, "OSFXSR"}, {10, "OSXMM"},    {11, "UMIP"},
                                          {12, "LA57"},    {13, "VMXE"},  {16, "FSGSBASE"}, {17, "PCIDE"},
                                          {18, "OSXSAVE"}, {20, "SMEP"},  {21, "SMAP"},     {22, "PKE"}};
    static const struct bit_name efer[] = {{0, "SCE"}, {8, "LME"}, {10, "LMA"}, {11, "NXE"}, {12, "SVME"}};
    fprintf(out, "  CR0    %016llx", (unsigned long long)sregs->cr0);
    print_bits(out, sregs->cr0, cr0, ARRAY_SIZE(cr0));
    fprintf(out, "  CR2    %016llx\n", (unsigned long long)sregs->cr2);
    fprintf(out, "  CR3    %016llx\n", (unsigned long long)sregs->cr3);
    fprintf(out, "  CR4    %016llx", (unsigned long long)sregs->cr4);
    print_bits(out, sregs->cr4, cr4, ARRAY_SIZE(cr4));
    fprintf(out, "  EFER   %016llx", (unsigned long long)sregs->efer);
    print_bits(out, sregs->efer, efer, ARRAY_SIZE(efer));
}

static void print_segment(FILE *out, const char *name, const struct kvm_segment *segment)
{
    fprintf(out, "  %-4s %04x  base %016llx  limit %08x  ", name, segment->selector,
            (unsigned long long)segment->base, segment->limit);
    if (segment->unusable || !segment->present)
        fputs("not present\n", out);
    else
        fprintf(out, "type %2u  DPL %u%s%s%s\n", segment->type, segment->dpl, segment->s ? "" : "  system",
                segment->l ? "  64-bit" : "", segment->db ? "  32-bit" : "");
}

static void print_segments(FILE *out, const struct kvm_sregs *sregs)
{
    print_segment(out, "CS", &sregs->cs);
    print_segment(out, "SS", &sregs->ss);
    print_segment(out, "DS", &sregs->ds);
    print_segment(out, "ES", &sregs->es);
    print_segment(out, "FS", &sregs->fs);
    print_segment(out, "GS", &sregs->gs);
    print_segment(out, "TR", &sregs->tr);
    print_segment(out, "LDTR", &sregs->ldt);
    fprintf(out, "  GDTR       base %016llx  limit %04x\n", (unsigned long long)sregs->gdt.base,
            sregs->gdt.limit);
    fprintf(out, "  IDTR       base %016llx  limit %04x\n", (unsigned long long)sregs->idt.base,
            sregs->idt.limit);
}

static const char *mode_name(const struct kvm_sregs *sregs)
{
    if (sregs->efer & EFER_LMA)
        return sregs->cs.l ? "64-bit mode" : "compatibility mode";
    if (!(sregs->cr0 & CR0_PE))
        return "real mode";
    return sregs->cs.db ? "32-bit protected mode" : "16-bit protected mode";
}

static const char *paging_name(const struct kvm_sregs *sregs)
{
    if (!(sregs->cr0 & CR0_PG))
        return "no paging";
    if (sregs->efer & EFER_LMA)
        return sregs->cr4 & CR4_LA57 ? "5-level paging" : "4-level paging";
    return sregs->cr4 & CR4_PAE ? "PAE paging" : "32-bit paging";
}

static void print_registers(FILE *out, const struct crash_info *crash)
{
    fprintf(out, "\n  Registers (%s, CPL %u, %s)\n", mode_name(&crash->sregs), crash->sregs.ss.dpl,
            paging_name(&crash->sregs));
    print_general(out, &crash->regs);
    print_control(out, &crash->sregs);
    print_segments(out, &crash->sregs);
}

static void print_headline(FILE *out, const struct crash_info *crash, const struct crash_site *site,
                           const struct crash_cause *cause)
{
    fprintf(out, "godwit: the guest crashed: vCPU %u: %s", crash->vcpu, cause->what);
    if (site->known)
        fprintf(out, " at 0x%llx%s%s", (unsigned long long)site->linear, site->decoded ? ": " : "",
                site->decoded ? site->instruction.text : "");
    fputc('\n', out);
}

void crash_report_write(const struct crash_info *crash, struct address_space *memory, FILE *out)
{
    struct crash_site site;
    struct crash_cause cause;
    crash_find_site(crash, memory, &site);
    crash_find_cause(crash, &site, memory, &cause);
    print_headline(out, crash, &site, &cause);
    print_paragraph(out, "Cause", cause.why);
    print_paragraph(out, "Remedy", cause.remedy);
    if (crash->has_registers) {
        print_code(out, crash, &site, memory);
        print_registers(out, crash);
    }
    fflush(out);
}
