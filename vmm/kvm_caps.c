#include "vmm/kvm_caps.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "base/macros.h"

#define REQUIRED(name, purpose)                                                                              \
    {                                                                                                        \
        "KVM_CAP_" #name, purpose, KVM_CAP_##name, true                                                      \
    }
#define OPTIONAL(name, purpose)                                                                              \
    {                                                                                                        \
        "KVM_CAP_" #name, purpose, KVM_CAP_##name, false                                                     \
    }

const struct kvm_capability kvm_capabilities[] = {
    REQUIRED(USER_MEMORY, "guest RAM"),
    REQUIRED(DESTROY_MEMORY_REGION_WORKS, "taking RAM away from a guest"),
    REQUIRED(READONLY_MEM, "ROM"),
    REQUIRED(IMMEDIATE_EXIT, "stopping a vCPU at an instruction boundary"),
    REQUIRED(IOEVENTFD, "guest writes that signal an eventfd in place of an exit"),
    REQUIRED(IRQFD, "interrupts that an eventfd raises"),
    REQUIRED(IRQ_ROUTING, "the way from interrupt lines to interrupt controllers"),
    REQUIRED(MP_STATE, "starting and stopping the CPUs of an SMP guest"),
    REQUIRED(IRQCHIP, "the PIC, the I/O APIC and the local APICs"),
    REQUIRED(PIT2, "the timer of the PC"),
    REQUIRED(EXT_CPUID, "the guest's CPUID"),
    REQUIRED(SET_TSS_ADDR, "real mode on Intel CPUs"),
    REQUIRED(SET_IDENTITY_MAP_ADDR, "real mode on Intel CPUs"),
    REQUIRED(ADJUST_CLOCK, "kvmclock, when a guest is paused or moved"),
    REQUIRED(VCPU_EVENTS, "moving a guest: pending exceptions and interrupts"),
    REQUIRED(DEBUGREGS, "moving a guest: debug registers"),
    REQUIRED(XSAVE, "moving a guest: vector registers"),
    REQUIRED(PIT_STATE2, "moving a guest: the timer of the PC"),
    OPTIONAL(IOEVENTFD_ANY_LENGTH, "one ioeventfd for writes of every width"),
    OPTIONAL(COALESCED_MMIO, "holding back MMIO writes that can wait"),
    OPTIONAL(COALESCED_PIO, "holding back port writes that can wait"),
    OPTIONAL(SIGNAL_MSI, "message-signalled interrupts without a route"),
    OPTIONAL(TSC_DEADLINE_TIMER, "the guest's cheapest timer"),
    OPTIONAL(KVMCLOCK_CTRL, "telling a guest that it was paused"),
    OPTIONAL(GET_TSC_KHZ, "moving a guest: the rate of its time stamp counter"),
    OPTIONAL(TSC_CONTROL, "keeping that rate on a host with another"),
    OPTIONAL(XCRS, "moving a guest: extended control registers, where the CPU has them"),
    OPTIONAL(XSAVE2, "moving a guest: vector registers beyond 4 KiB (AMX)"),
    OPTIONAL(MANUAL_DIRTY_LOG_PROTECT2, "dirty log: protecting pages just before they are sent"),
    OPTIONAL(DIRTY_LOG_RING, "dirty log: ring in place of bitmap"),
    OPTIONAL(DIRTY_LOG_RING_ACQ_REL, "dirty log: ring on CPUs with weak memory order"),
    OPTIONAL(DIRTY_LOG_RING_WITH_BITMAP, "dirty log: ring, with a bitmap for what is not a vCPU's"),
    OPTIONAL(NR_MEMSLOTS, "limit: memory slots"),
    OPTIONAL(NR_VCPUS, "limit: vCPUs worth using"),
    OPTIONAL(MAX_VCPUS, "limit: vCPUs"),
};

const size_t kvm_capability_count = ARRAY_SIZE(kvm_capabilities);

int kvm_capability_value(int fd, int number)
{
    int value = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)number);
    return value > 0 ? value : 0;
}

int kvm_check_required(int kvm_fd, struct error *err)
{
    char missing[ERROR_MESSAGE_SIZE] = "";
    size_t length = 0;
    for (size_t i = 0; i < kvm_capability_count; i++) {
        const struct kvm_capability *capability = &kvm_capabilities[i];
        if (!capability->required || kvm_capability_value(kvm_fd, capability->number))
            continue;
        snprintf(missing + length, sizeof(missing) - length, "%s%s (%s)", length ? ", " : "",
                 capability->name, capability->purpose);
        length = strlen(missing);
    }
    if (length == 0)
        return 0;
    return error_set(err, ENOTSUP,
                     "use a Linux kernel since 5.10 on the host, with all of KVM: this one's KVM lacks %s",
                     missing);
}
