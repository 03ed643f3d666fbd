#include "vmm/x86/crash_cause.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/macros.h"
#include "vmm/x86/cpu_bits.h"
#include "vmm/x86/crash_report.h"
#include "vmm/x86/linear_memory.h"

/* Hardware reasons of a refused entry: VM-instruction errors and exit reasons (SDM 3C, 31.4 and appendix C),
 * VMEXIT_INVALID (APM 2, appendix C). */
#define VMX_INVALID_CONTROLS    7
#define VMX_INVALID_HOST        8
#define VMX_INVALID_GUEST_STATE 0x80000021
#define VMX_INVALID_MSR         0x80000022
#define SVM_INVALID             UINT64_MAX
#define SVM_INVALID_32          UINT32_MAX /* from kernels that keep 32 bits of the exit code */

/* Where a CPU is after a reset. */
#define RESET_RIP               0xFFF0
#define RESET_CS_BASE           0xFFFF0000

#define GATE_SIZE_LONG          16
#define GATE_SIZE_PROTECTED     8

#define REMEDY_BUG                                                                                           \
    "this is a fault of godwit, KVM or the host rather than of the guest: please report it with this text "  \
    "and the end of the host's kernel log (dmesg)"
#define REMEDY_STATE                                                                                          \
    "check what the guest loads into its segment and control registers; if it runs elsewhere, please report " \
    "this text as a fault of godwit or KVM"
#define REMEDY_HARDWARE                                                                                      \
    "run the guest on a host whose KVM has virtualization hardware (Intel VMX or AMD SVM), or in an "        \
    "emulated machine that has (godwit's \"./dev rig\" makes one)"
#define REMEDY_TRIPLE                                                                                        \
    "find out why the guest's first exception happened; an interrupt descriptor table set up early "         \
    "catches it, and Linux prints it when started with --append 'earlyprintk=serial,ttyS0'"

static void say(char *to, size_t size, const char *format, ...) __attribute__((format(printf, 3, 4)));

static void say(char *to, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(to, size, format, args);
    va_end(args);
}

#define WHAT(cause, ...)   say((cause)->what, sizeof((cause)->what), __VA_ARGS__)
#define WHY(cause, ...)    say((cause)->why, sizeof((cause)->why), __VA_ARGS__)
#define REMEDY(cause, ...) say((cause)->remedy, sizeof((cause)->remedy), __VA_ARGS__)

static bool is_long_mode(const struct kvm_sregs *sregs)
{
    return (sregs->efer & EFER_LMA) && sregs->cs.l;
}

static uint64_t linear_rip(const struct crash_info *crash)
{
    if (is_long_mode(&crash->sregs))
        return crash->regs.rip;
    return (crash->sregs.cs.base + crash->regs.rip) & UINT32_MAX;
}

static uint64_t linear_rsp(const struct crash_info *crash)
{
    if (is_long_mode(&crash->sregs))
        return crash->regs.rsp;
    return (crash->sregs.ss.base + crash->regs.rsp) & UINT32_MAX;
}

static bool is_emulation_failure(const struct crash_info *crash)
{
    return !crash->run_error && crash->run.exit_reason == KVM_EXIT_INTERNAL_ERROR &&
           crash->run.internal.suberror == KVM_INTERNAL_ERROR_EMULATION;
}

/* The instruction as KVM read it, which need not be what memory holds by now. */
static size_t bytes_from_exit(const struct crash_info *crash, uint8_t bytes[INSTRUCTION_SIZE_MAX])
{
    if (!is_emulation_failure(crash) ||
        !(crash->run.emulation_failure.flags & KVM_INTERNAL_ERROR_EMULATION_FLAG_INSTRUCTION_BYTES))
        return 0;
    size_t size = crash->run.emulation_failure.insn_size;
    if (size > INSTRUCTION_SIZE_MAX)
        size = INSTRUCTION_SIZE_MAX;
    memcpy(bytes, crash->run.emulation_failure.insn_bytes, size);
    return size;
}

/* After a triple fault KVM resets a vCPU on an AMD CPU, which does not keep its state. */
static bool was_reset(const struct crash_info *crash)
{
    return !crash->run_error && crash->run.exit_reason == KVM_EXIT_SHUTDOWN && crash->regs.rip == RESET_RIP &&
           crash->sregs.cs.base == RESET_CS_BASE && !(crash->sregs.cr0 & CR0_PE);
}

void crash_find_site(const struct crash_info *crash, struct address_space *memory, struct crash_site *site)
{
    *site = (struct crash_site){.known = crash->has_registers && !was_reset(crash)};
    if (!site->known)
        return;
    site->linear = linear_rip(crash);
    site->translated = linear_translate(&crash->sregs, memory, site->linear, &site->physical);
    site->size = bytes_from_exit(crash, site->bytes);
    if (site->size == 0)
        site->size = linear_read(&crash->sregs, memory, site->linear, site->bytes, sizeof(site->bytes));
    site->decoded = disassemble(&crash->sregs, site->linear, site->bytes, site->size, &site->instruction);
}

/* Where the instruction is not to be had: true with the reason said. */
static bool is_lost(const struct crash_site *site, struct crash_cause *cause)
{
    if (site->translated < 0)
        WHY(cause, "no page is mapped at 0x%llx, where the vCPU executes: a jump or return that went astray",
            (unsigned long long)site->linear);
    else if (site->size == 0)
        WHY(cause,
            "there is no RAM at physical address 0x%llx, where the vCPU executes: a jump or return that went "
            "astray, or more RAM is expected than the guest has",
            (unsigned long long)site->physical);
    else
        return false;
    return true;
}

static bool has_no_idt(const struct crash_info *crash)
{
    size_t gate = crash->sregs.efer & EFER_LMA ? GATE_SIZE_LONG : GATE_SIZE_PROTECTED;
    return (crash->sregs.cr0 & CR0_PE) && crash->sregs.idt.limit + 1u < gate;
}

static bool is_readable(const struct crash_info *crash, struct address_space *memory, uint64_t linear)
{
    uint8_t byte;
    return linear_read(&crash->sregs, memory, linear, &byte, sizeof(byte)) == sizeof(byte);
}

static void judge_triple_fault(const struct crash_info *crash, const struct crash_site *site,
                               struct address_space *memory, struct crash_cause *cause)
{
    WHAT(cause, "triple fault");
    REMEDY(cause, REMEDY_TRIPLE);
    uint64_t stack = linear_rsp(crash) - sizeof(uint64_t);
    if (!site->known)
        WHY(cause, "an exception could not be delivered, nor the one that this caused; an AMD CPU resets the "
                   "registers then, so those below say nothing about the guest");
    else if (is_lost(site, cause))
        return;
    else if (has_no_idt(crash))
        WHY(cause, "an exception happened before the guest had an interrupt descriptor table%s%s%s",
            site->decoded ? ", probably in \"" : "", site->decoded ? site->instruction.text : "",
            site->decoded ? "\"" : "");
    else if (!is_readable(crash, memory, crash->sregs.idt.base))
        WHY(cause, "an exception happened while the interrupt descriptor table, at 0x%llx, was not mapped",
            (unsigned long long)crash->sregs.idt.base);
    else if (!is_readable(crash, memory, stack))
        WHY(cause, "an exception happened while the stack, at 0x%llx, was not mapped: it may have overflowed",
            (unsigned long long)crash->regs.rsp);
    else
        WHY(cause, "an exception could not be delivered, nor the one that this caused: a gate of the "
                   "interrupt descriptor table, or the handler's segment or stack, is wrong");
}

static void judge_emulation(const struct crash_info *crash, const struct crash_site *site,
                            struct crash_cause *cause)
{
    const char *name = site->decoded ? site->instruction.mnemonic : "the instruction";
    bool kernel = crash->sregs.ss.dpl == 0;
    WHAT(cause, "KVM cannot emulate %s", site->decoded ? name : "what it is to execute");
    if (is_lost(site, cause)) {
        REMEDY(cause, "look for a wrong pointer or a smashed stack in the guest, or give it more --memory");
    } else if (!site->decoded) {
        WHY(cause, "the bytes at 0x%llx are no instruction: a jump that went astray, or overwritten code",
            (unsigned long long)site->linear);
        REMEDY(cause, "look for a wrong pointer or a stray write in the guest");
    } else if (!crash->hardware && kernel) {
        WHY(cause,
            "this host's KVM works without virtualization hardware (PVM): it interprets the guest's "
            "kernel mode, and cannot do %s",
            name);
        REMEDY(cause, REMEDY_HARDWARE);
    } else {
        WHY(cause,
            "KVM emulates an instruction that accesses a device or where the CPU cannot run it (in "
            "real mode, for one), and it does not know %s there",
            name);
        REMEDY(cause, "have the guest access devices by plain moves, and check that the addresses it uses as "
                      "memory are RAM");
    }
}

static void judge_internal_error(const struct crash_info *crash, const struct crash_site *site,
                                 struct crash_cause *cause)
{
    REMEDY(cause, REMEDY_BUG);
    switch (crash->run.internal.suberror) {
    case KVM_INTERNAL_ERROR_EMULATION:
        judge_emulation(crash, site, cause);
        break;
    case KVM_INTERNAL_ERROR_SIMUL_EX:
        WHAT(cause, "two exceptions at once in emulated real mode");
        WHY(cause, "KVM emulates real mode on this CPU and cannot deliver an exception during another");
        break;
    case KVM_INTERNAL_ERROR_DELIVERY_EV:
        WHAT(cause, "an interrupt or exception could not be delivered");
        WHY(cause,
            "the guest's interrupt descriptor table (0x%llx), its task state segment (0x%llx) or its "
            "stack lies where there is no RAM",
            (unsigned long long)crash->sregs.idt.base, (unsigned long long)crash->sregs.tr.base);
        REMEDY(cause, "check these three addresses in the guest");
        break;
    case KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON:
        WHAT(cause, "the CPU left the guest for a reason that KVM does not know: 0x%llx",
             (unsigned long long)crash->run.internal.data[0]);
        WHY(cause, "the host's kernel does not know this CPU well enough");
        break;
    default:
        WHAT(cause, "internal error %u of KVM", crash->run.internal.suberror);
        WHY(cause, "unknown to godwit");
    }
}

/* The states that the manuals forbid and a guest reaches most easily (APM 2, 15.5.1; SDM 3C, 27.3.1). */
static const char *forbidden_state(const struct kvm_sregs *sregs)
{
    bool long_mode = (sregs->efer & EFER_LME) && (sregs->cr0 & CR0_PG);
    if ((sregs->cr0 & CR0_PG) && !(sregs->cr0 & CR0_PE))
        return "paging is on without protected mode";
    if ((sregs->cr0 & CR0_NW) && !(sregs->cr0 & CR0_CD))
        return "CR0.NW is set without CR0.CD";
    if (long_mode && !(sregs->cr4 & CR4_PAE))
        return "long mode is on without CR4.PAE";
    if (long_mode && sregs->cs.l && sregs->cs.db)
        return "the code segment is both 64-bit (L) and 32-bit (D)";
    return "which part of it is not plain to see";
}

static void judge_refused_entry(const struct crash_info *crash, struct crash_cause *cause)
{
    uint64_t reason = crash->run.fail_entry.hardware_entry_failure_reason;
    WHAT(cause, "CPU %u of the host refused to enter the guest, hardware reason 0x%llx",
         crash->run.fail_entry.cpu, (unsigned long long)reason);
    REMEDY(cause, REMEDY_BUG);
    switch (reason) {
    case VMX_INVALID_GUEST_STATE:
    case SVM_INVALID:
    case SVM_INVALID_32:
        WHY(cause, "the guest's state is not one that a CPU can be in: %s", forbidden_state(&crash->sregs));
        REMEDY(cause, REMEDY_STATE);
        break;
    case VMX_INVALID_MSR:
        WHY(cause, "one of the MSRs to be loaded for the guest has a value that the CPU refuses");
        break;
    case VMX_INVALID_CONTROLS:
    case VMX_INVALID_HOST:
        WHY(cause, "KVM set up the virtual CPU wrongly for this CPU");
        break;
    default:
        WHY(cause, "the manual of the host's CPU tells what the hardware reason means");
    }
}

static const char *exit_name(uint32_t reason)
{
    static const char *const names[] = {
        [KVM_EXIT_UNKNOWN] = "unknown",
        [KVM_EXIT_EXCEPTION] = "exception",
        [KVM_EXIT_HYPERCALL] = "hypercall",
        [KVM_EXIT_DEBUG] = "debug",
        [KVM_EXIT_HLT] = "halt",
        [KVM_EXIT_TPR_ACCESS] = "access to the TPR",
        [KVM_EXIT_NMI] = "NMI",
        [KVM_EXIT_SYSTEM_EVENT] = "system event",
        [KVM_EXIT_X86_RDMSR] = "RDMSR",
        [KVM_EXIT_X86_WRMSR] = "WRMSR",
        [KVM_EXIT_X86_BUS_LOCK] = "bus lock",
        [KVM_EXIT_NOTIFY] = "no progress",
    };
    return reason < ARRAY_SIZE(names) && names[reason] ? names[reason] : "not known to godwit";
}

static void judge_other_exit(const struct crash_info *crash, struct crash_cause *cause)
{
    uint32_t reason = crash->run.exit_reason;
    WHAT(cause, "KVM left the guest for reason %u (%s)", reason, exit_name(reason));
    if (reason == KVM_EXIT_UNKNOWN)
        WHY(cause, "KVM does not know why the CPU left the guest; the hardware's reason is 0x%llx",
            (unsigned long long)crash->run.hw.hardware_exit_reason);
    else
        WHY(cause, "godwit asked for no such exits");
    REMEDY(cause, REMEDY_BUG);
}

static void judge_failed_run(const struct crash_info *crash, struct crash_cause *cause)
{
    WHAT(cause, "KVM cannot run the vCPU: %s", strerrordesc_np(crash->run_error));
    if (crash->run_error == EFAULT || crash->run_error == ENOMEM || crash->run_error == EHWPOISON) {
        WHY(cause, "the host cannot give memory that the guest accesses: it has run out of memory or of huge "
                   "pages, or the memory is broken");
        REMEDY(cause, "free memory on the host, give the guest less --memory, or leave out --huge-pages; the "
                      "host's kernel log (dmesg) tells more");
    } else {
        WHY(cause, "the host's kernel gave error %d", crash->run_error);
        REMEDY(cause, REMEDY_BUG);
    }
}

void crash_find_cause(const struct crash_info *crash, const struct crash_site *site,
                      struct address_space *memory, struct crash_cause *cause)
{
    *cause = (struct crash_cause){0};
    if (crash->run_error)
        judge_failed_run(crash, cause);
    else if (crash->run.exit_reason == KVM_EXIT_SHUTDOWN)
        judge_triple_fault(crash, site, memory, cause);
    else if (crash->run.exit_reason == KVM_EXIT_INTERNAL_ERROR)
        judge_internal_error(crash, site, cause);
    else if (crash->run.exit_reason == KVM_EXIT_FAIL_ENTRY)
        judge_refused_entry(crash, cause);
    else
        judge_other_exit(crash, cause);
    if (!crash->has_registers && !crash->run_error)
        WHY(cause, "not to be told: KVM does not give the vCPU's registers");
}
