/*
 * Crash reports, made from plain data: for each kind of crash, what a person must find in the report.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "tests/unit/vmm/guest_ram.h"
#include "vmm/x86/crash_report.h"

#define RAM_SIZE    (2 * MIB)
#define CODE        0x5100
#define STACK       0x8000
#define IDT         0x9000
#define PAGE_TABLES 0x10000

static struct guest_ram guest;

static void set_up(void)
{
    guest_ram_create(&guest, RAM_SIZE);
}

static void tear_down(void)
{
    guest_ram_destroy(&guest);
}

TestSuite(crash_report, .init = set_up, .fini = tear_down);

static void put(uint64_t address, const void *bytes, size_t size)
{
    memcpy(guest.host + address, bytes, size);
}

#define PUT(address, ...) put(address, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* A CPU in 64-bit kernel mode, the first 2 MiB mapped one to one, about to execute POPCNT. */
static struct crash_info long_mode_crash(uint32_t reason)
{
    const uint64_t entries[] = {(PAGE_TABLES + 0x1000) | 1, (PAGE_TABLES + 0x2000) | 1, 0x81};
    for (unsigned i = 0; i < ARRAY_SIZE(entries); i++)
        put(PAGE_TABLES + i * 0x1000, &entries[i], sizeof(entries[i]));
    PUT(CODE - 6, 0x31, 0xC0, 0x48, 0x89, 0xD8, 0x90);               /* xor, mov, nop */
    PUT(CODE, 0xF3, 0x48, 0x0F, 0xB8, 0xC3, 0x48, 0xFF, 0xC0, 0xC3); /* popcnt, inc, ret */
    return (struct crash_info){
        .vcpu = 3,
        .hardware = true,
        .run.exit_reason = reason,
        .has_registers = true,
        .regs = {.rip = CODE, .rsp = STACK, .rax = 0x1234567890ABCDEF, .rflags = 0x246},
        .sregs =
            {
                .cr0 = 0x80000011,
                .cr2 = 0xFEEDFACE,
                .cr3 = PAGE_TABLES,
                .cr4 = 0x20,
                .efer = 0x500,
                .cs = {.selector = 0x10, .limit = ~0u, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1},
                .idt = {.base = IDT, .limit = 0xFFF},
            },
    };
}

static struct crash_info emulation_failure(void)
{
    struct crash_info crash = long_mode_crash(KVM_EXIT_INTERNAL_ERROR);
    crash.run.internal.suberror = KVM_INTERNAL_ERROR_EMULATION;
    return crash;
}

/* The report, in which line ends and runs of blanks are one blank. */
static const char *report(const struct crash_info *crash)
{
    static char text[1 << 16];
    char *raw = NULL;
    size_t size = 0, length = 0;
    FILE *out = open_memstream(&raw, &size);
    crash_report_write(crash, guest.space, out);
    fclose(out);
    cr_assert_lt(size, sizeof(text));
    for (size_t i = 0; i < size; i++) {
        char c = raw[i] == '\n' ? ' ' : raw[i];
        if (c != ' ' || (length > 0 && text[length - 1] != ' '))
            text[length++] = c;
    }
    text[length] = '\0';
    free(raw);
    return text;
}

static void expect(const struct crash_info *crash, const char *const texts[], size_t count)
{
    const char *text = report(crash);
    for (size_t i = 0; i < count; i++)
        cr_assert(strstr(text, texts[i]), "no \"%s\" in: %s", texts[i], text);
}

#define EXPECT(crash, ...)                                                                                   \
    expect(crash, (const char *const[]){__VA_ARGS__},                                                        \
           sizeof((const char *const[]){__VA_ARGS__}) / sizeof(const char *))

Test(crash_report, instruction_that_pvm_does_not_know)
{
    struct crash_info crash = emulation_failure();
    crash.hardware = false;
    crash.run.emulation_failure.flags = KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES;
    crash.run.emulation_failure.insn_size = 15;
    memcpy(crash.run.emulation_failure.insn_bytes, (uint8_t[15]){0xF3, 0x48, 0x0F, 0xB8, 0xC3}, 15);
    memset(guest.host + CODE, 0, 5); /* what KVM read counts */
    EXPECT(&crash,
           "godwit: the guest crashed: vCPU 3: KVM cannot emulate POPCNT at 0x5100: popcnt rax, rbx "
           "Cause this host's KVM works without virtualization hardware (PVM): it interprets the guest's "
           "kernel mode, and cannot do POPCNT Remedy run the guest on a host whose KVM has",
           "00000000000050fa xor eax, eax ; 31 c0", "00000000000050fc mov rax, rbx ; 48 89 d8",
           "00000000000050ff nop ; 90 > 0000000000005100 popcnt rax, rbx ; f3 48 0f b8 c3",
           "0000000000005105 inc rax ; 48 ff c0", "0000000000005108 ret ; c3",
           "Registers (64-bit mode, CPL 0, 4-level paging)", "RAX 1234567890abcdef", "RSP 0000000000008000",
           "RIP 0000000000005100", "RFLAGS 0000000000000246 PF ZF IF",
           "CR0 0000000080000011 PE ET PG CR2 00000000feedface CR3 0000000000010000 "
           "CR4 0000000000000020 PAE EFER 0000000000000500 LME LMA",
           "CS 0010 base 0000000000000000 limit ffffffff type 11 DPL 0 64-bit",
           "IDTR base 0000000000009000 limit 0fff");
}

Test(crash_report, instruction_that_no_kvm_emulates)
{
    struct crash_info crash = emulation_failure();
    EXPECT(&crash, "KVM cannot emulate POPCNT at 0x5100: popcnt rax, rbx", "accesses a device",
           "access devices by plain moves");
    crash.hardware = false;
    crash.sregs.ss.dpl = 3; /* user mode: PVM runs that natively */
    EXPECT(&crash, "accesses a device", "CPL 3");
}

Test(crash_report, bytes_that_are_no_instruction)
{
    struct crash_info crash = emulation_failure();
    PUT(CODE, 0x06);
    EXPECT(&crash,
           "KVM cannot emulate what it is to execute at 0x5100 Cause the bytes at 0x5100 are no "
           "instruction",
           "> 0000000000005100 no instruction ; 06");
}

Test(crash_report, execution_where_no_ram_is)
{
    struct crash_info crash = emulation_failure();
    const uint64_t apic = 0xFEE00081;
    put(PAGE_TABLES + 0x2000 + 8, &apic, sizeof(apic));
    crash.regs.rip = 0x200010;
    EXPECT(&crash, "KVM cannot emulate what it is to execute at 0x200010",
           "there is no RAM at physical address 0xfee00010", "more --memory");
}

Test(crash_report, execution_where_no_page_is)
{
    struct crash_info crash = emulation_failure();
    crash.regs.rip = 0x400000;
    EXPECT(&crash, "no page is mapped at 0x400000", "stray");
    crash.run.exit_reason = KVM_EXIT_SHUTDOWN;
    EXPECT(&crash, "triple fault at 0x400000", "no page is mapped at 0x400000");
}

Test(crash_report, triple_fault_without_idt)
{
    struct crash_info crash = long_mode_crash(KVM_EXIT_SHUTDOWN);
    crash.sregs.idt.limit = 0;
    EXPECT(&crash, "vCPU 3: triple fault at 0x5100: popcnt rax, rbx",
           "before the guest had an interrupt descriptor table, probably in \"popcnt rax, rbx\"",
           "earlyprintk=serial,ttyS0");
}

Test(crash_report, triple_fault_with_unmapped_idt_or_stack)
{
    struct crash_info crash = long_mode_crash(KVM_EXIT_SHUTDOWN);
    crash.sregs.idt.base = 0xFFFFFFFF80000000;
    EXPECT(&crash, "the interrupt descriptor table, at 0xffffffff80000000, was not mapped");
    crash.sregs.idt.base = IDT;
    crash.regs.rsp = 0x200010;
    EXPECT(&crash, "the stack, at 0x200010, was not mapped");
    crash.regs.rsp = STACK;
    EXPECT(&crash, "a gate of the interrupt descriptor table");
}

Test(crash_report, triple_fault_of_which_the_cpu_kept_nothing)
{
    struct crash_info crash = {.run.exit_reason = KVM_EXIT_SHUTDOWN, .has_registers = true};
    crash.regs.rip = 0xFFF0;
    crash.sregs.cs.base = 0xFFFF0000;
    crash.sregs.cr0 = 0x60000010;
    EXPECT(&crash, "vCPU 0: triple fault Cause", "an AMD CPU resets the registers then",
           "Registers (real mode");
}

Test(crash_report, refused_entry)
{
    struct crash_info crash = long_mode_crash(KVM_EXIT_FAIL_ENTRY);
    const struct {
        uint64_t reason;
        const char *text;
    } cases[] = {
        {0x80000022, "one of the MSRs"},
        {7, "KVM set up the virtual CPU wrongly"},
        {12345, "manual of the host's CPU"},
    };
    crash.run.fail_entry.cpu = 5;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        crash.run.fail_entry.hardware_entry_failure_reason = cases[i].reason;
        EXPECT(&crash, "CPU 5 of the host refused to enter the guest", cases[i].text, "please report it");
    }
}

Test(crash_report, forbidden_state)
{
    const uint64_t reasons[] = {0x80000021, UINT64_MAX, UINT32_MAX};
    struct crash_info crash = long_mode_crash(KVM_EXIT_FAIL_ENTRY);
    for (size_t i = 0; i < ARRAY_SIZE(reasons); i++) {
        crash.run.fail_entry.hardware_entry_failure_reason = reasons[i];
        EXPECT(&crash, "not one that a CPU can be in: which part", "segment and control registers");
    }
    EXPECT(&crash, "hardware reason 0xffffffff at 0x5100: popcnt");
    crash.sregs.cs.db = 1;
    EXPECT(&crash, "both 64-bit (L) and 32-bit (D)");
    crash.sregs.cr4 = 0;
    EXPECT(&crash, "long mode is on without CR4.PAE");
    crash.sregs.cr0 |= 1u << 29;
    EXPECT(&crash, "CR0.NW is set without CR0.CD");
    crash.sregs.cr0 &= ~1u;
    EXPECT(&crash, "paging is on without protected mode");
}

Test(crash_report, internal_errors)
{
    struct crash_info crash = long_mode_crash(KVM_EXIT_INTERNAL_ERROR);
    const struct {
        uint32_t suberror;
        const char *text;
    } cases[] = {
        {KVM_INTERNAL_ERROR_SIMUL_EX, "two exceptions at once in emulated real mode"},
        {KVM_INTERNAL_ERROR_DELIVERY_EV, "interrupt descriptor table (0x9000)"},
        {KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON, "does not know: 0x4d"},
        {99, "internal error 99 of KVM"},
    };
    crash.run.internal.data[0] = 0x4D;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        crash.run.internal.suberror = cases[i].suberror;
        EXPECT(&crash, cases[i].text, "popcnt rax, rbx", "Cause", "Remedy");
    }
}

Test(crash_report, other_exits)
{
    struct crash_info crash = long_mode_crash(KVM_EXIT_HYPERCALL);
    EXPECT(&crash, "KVM left the guest for reason 3 (hypercall)");
    crash.run.exit_reason = 4711;
    EXPECT(&crash, "KVM left the guest for reason 4711 (not known to godwit)");
    crash.run.exit_reason = KVM_EXIT_UNKNOWN;
    crash.run.hw.hardware_exit_reason = 0x2A;
    EXPECT(&crash, "reason 0 (unknown)", "the hardware's reason is 0x2a");
}

Test(crash_report, kvm_run_that_fails)
{
    struct crash_info crash = long_mode_crash(KVM_EXIT_SHUTDOWN);
    crash.run_error = EFAULT;
    EXPECT(&crash, "KVM cannot run the vCPU: Bad address at 0x5100", "out of memory or of huge pages",
           "less --memory");
    crash.run_error = EINVAL;
    EXPECT(&crash, "Invalid argument", "error 22");
    crash.has_registers = false;
    EXPECT(&crash, "KVM cannot run the vCPU: Invalid argument Cause");
}

Test(crash_report, no_registers)
{
    struct crash_info crash = {.run.exit_reason = KVM_EXIT_SHUTDOWN};
    const char *text = report(&crash);
    cr_assert(strstr(text, "vCPU 0: triple fault Cause not to be told"), "%s", text);
    cr_assert(!strstr(text, "RAX"));
}

/* The same bytes mean something else in each mode, and are found by way of the segment's base. */
Test(crash_report, modes)
{
    struct crash_info crash = emulation_failure();
    crash.sregs.cr0 = 0x10;
    crash.sregs.efer = 0;
    crash.sregs.cs = (struct kvm_segment){.base = 0x4000, .selector = 0x400, .limit = 0xFFFF, .present = 1};
    crash.regs.rip = 0x1100;
    PUT(CODE, 0x8B, 0x07);
    EXPECT(&crash, "MOV at 0x5100: mov ax, [bx]", "Registers (real mode, CPL 0, no paging)");
    crash.sregs.cr0 = 0x11;
    crash.sregs.cs.db = 1;
    EXPECT(&crash, "MOV at 0x5100: mov eax, [edi]", "(32-bit protected mode, CPL 0, no paging)");
    crash = emulation_failure();
    PUT(CODE, 0x8B, 0x07);
    EXPECT(&crash, "MOV at 0x5100: mov eax, [rdi]");
    crash.sregs.cs.l = 0;
    crash.sregs.cs.db = 1;
    EXPECT(&crash, "MOV at 0x5100: mov eax, [edi]", "compatibility mode");
}

/* Lengths that lie, addresses at the ends of everything, page tables that lead to themselves. */
Test(crash_report, hostile_state)
{
    struct crash_info crash = emulation_failure();
    crash.run.emulation_failure.flags = ~0ull;
    crash.run.emulation_failure.insn_size = 255;
    crash.run.emulation_failure.ndata = ~0u;
    memset(crash.run.emulation_failure.insn_bytes, 0x66, 15);
    EXPECT(&crash, "no instruction");

    const uint64_t loop = PAGE_TABLES | 1, places[] = {0, 0xFFF, 0x7FFFFFFFFFFF, 0x800000000000, UINT64_MAX};
    for (unsigned i = 0; i < 512; i++)
        put(PAGE_TABLES + 8 * i, &loop, sizeof(loop));
    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        crash = long_mode_crash(i & 1 ? KVM_EXIT_SHUTDOWN : KVM_EXIT_FAIL_ENTRY);
        crash.regs.rip = crash.regs.rsp = crash.sregs.idt.base = places[i];
        EXPECT(&crash, "Cause", "Remedy", "LDTR");
    }
}
