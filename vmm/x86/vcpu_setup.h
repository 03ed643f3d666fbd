/*
 * What an x86 vCPU is given before its first instruction: CPUID, the MSRs that firmware would have set, and,
 * for the first one, the state that the boot protocol wants. The others wait for INIT and SIPI, which KVM's
 * local APIC handles.
 */
#pragma once

struct boot_entry;
struct cpuid_options;
struct error;
struct kvm_cpuid2;
struct vcpu;

/* The CPUID that this host's KVM can give to a guest, malloced for the caller to free. -errno with a message.
 */
int vcpu_supported_cpuid(int kvm_fd, struct kvm_cpuid2 **cpuid, struct error *err);

/*
 * Sets up a vCPU that is not yet started, from what vcpu_supported_cpuid() gave and `options`
 * (vmm/x86/cpuid.h). `entry` is NULL for all but the first. -errno with a message.
 */
int vcpu_setup(struct vcpu *vcpu, const struct kvm_cpuid2 *supported, const struct cpuid_options *options,
               const struct boot_entry *entry, struct error *err);
