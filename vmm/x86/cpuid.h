/*
 * What the guest's CPUID instruction says.
 *
 * The table of each vCPU is what KVM supports on this host (KVM_GET_SUPPORTED_CPUID), changed where the
 * machine differs from the host: the topology is one package of as many cores as there are vCPUs, one thread
 * each, with the vCPU's number as APIC id; and what cannot be moved to another host or is not there at all is
 * hidden (performance monitoring, nested virtualization, SGX, a TSC that promises to be invariant). The
 * functions here are pure: no KVM is needed to call them.
 *
 * Specifications: Intel SDM volume 2A, CPUID, and volume 3A, 9.9 (topology); AMD APM volume 3, appendix E;
 * Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#pragma once

#include <stdbool.h>

struct error;
struct kvm_cpuid2;

#define CPUID_BRAND_SIZE 48

/* What KVM_GET_SUPPORTED_CPUID does not tell. */
struct cpuid_options {
    unsigned cpus;                /* 1 to 255 */
    bool tsc_deadline;            /* KVM_CAP_TSC_DEADLINE_TIMER */
    char brand[CPUID_BRAND_SIZE]; /* the brand string, as in leaves 0x80000002 to 0x80000004 */
};

/* The brand string of the CPU that executes the call; zeroes where it has none. */
void cpuid_host_brand(char brand[CPUID_BRAND_SIZE]);

/*
 * Builds the table of vCPU number `cpu` for KVM_SET_CPUID2: malloced, for the caller to free. -EINVAL where
 * `supported` lacks the leaves that every CPU has, -ENOMEM.
 */
int cpuid_build(const struct kvm_cpuid2 *supported, const struct cpuid_options *options, unsigned cpu,
                struct kvm_cpuid2 **table, struct error *err);
