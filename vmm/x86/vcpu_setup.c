#include "vmm/x86/vcpu_setup.h"

#include <asm/kvm.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/vcpu.h"
#include "vmm/x86/boot.h"
#include "vmm/x86/cpuid.h"

#define CPUID_ENTRIES_MAX     256

#define MSR_IA32_MISC_ENABLE  0x1A0
#define MISC_ENABLE_FAST_REP  1
#define MSR_IA32_MTRR_DEFTYPE 0x2FF
#define MTRR_ENABLE           (1u << 11)
#define MTRR_WRITE_BACK       6

int vcpu_supported_cpuid(int kvm_fd, struct kvm_cpuid2 **out, struct error *err)
{
    struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUID_ENTRIES_MAX * sizeof(cpuid->entries[0]));
    if (!cpuid)
        return error_set(err, ENOMEM, "not enough memory for the CPUID table");
    cpuid->nent = CPUID_ENTRIES_MAX;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0) {
        int code = errno;
        free(cpuid);
        return error_set_errno(err, code, "KVM does not tell which CPU features it supports");
    }
    *out = cpuid;
    return 0;
}

static int set_cpuid(struct vcpu *vcpu, const struct kvm_cpuid2 *supported,
                     const struct cpuid_options *options, struct error *err)
{
    struct kvm_cpuid2 *table;
    int result = cpuid_build(supported, options, vcpu_index(vcpu), &table, err);
    if (result < 0)
        return result;
    if (ioctl(vcpu_fd(vcpu), KVM_SET_CPUID2, table) < 0)
        result = error_set_errno(err, errno, "KVM refuses the CPUID table of vCPU %u", vcpu_index(vcpu));
    free(table);
    return result;
}

/*
 * What firmware leaves behind: memory is write-back unless a page table says otherwise, and string moves are
 * fast. A KVM without one of these MSRs loses nothing that a guest depends on, so a refusal is not an error.
 */
static void set_msrs(struct vcpu *vcpu)
{
    static const struct kvm_msr_entry firmware_msrs[] = {
        {.index = MSR_IA32_MTRR_DEFTYPE, .data = MTRR_ENABLE | MTRR_WRITE_BACK},
        {.index = MSR_IA32_MISC_ENABLE, .data = MISC_ENABLE_FAST_REP},
    };
    for (size_t i = 0; i < ARRAY_SIZE(firmware_msrs); i++) {
        union {
            struct kvm_msrs msrs;
            char room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
        } request = {.msrs.nmsrs = 1};
        request.msrs.entries[0] = firmware_msrs[i];
        ioctl(vcpu_fd(vcpu), KVM_SET_MSRS, &request);
    }
}

static int set_registers(struct vcpu *vcpu, const struct boot_entry *entry, struct error *err)
{
    struct kvm_sregs sregs;
    struct kvm_regs regs;
    if (ioctl(vcpu_fd(vcpu), KVM_GET_SREGS, &sregs) < 0)
        return error_set_errno(err, errno, "KVM does not give the registers of vCPU %u", vcpu_index(vcpu));
    boot_set_registers(entry, &sregs, &regs);
    if (ioctl(vcpu_fd(vcpu), KVM_SET_SREGS, &sregs) < 0 || ioctl(vcpu_fd(vcpu), KVM_SET_REGS, &regs) < 0)
        return error_set_errno(err, errno, "KVM refuses the entry state of vCPU %u", vcpu_index(vcpu));
    return 0;
}

int vcpu_setup(struct vcpu *vcpu, const struct kvm_cpuid2 *supported, const struct cpuid_options *options,
               const struct boot_entry *entry, struct error *err)
{
    int result = set_cpuid(vcpu, supported, options, err);
    if (result < 0)
        return result;
    set_msrs(vcpu);
    return entry ? set_registers(vcpu, entry, err) : 0;
}
