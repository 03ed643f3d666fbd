/*
 * The report on a guest that KVM cannot run any further: for a person who wants to know what happened, where,
 * why, and what to do about it.
 *
 * What is known of a crash is collected on the vCPU's thread, and is plain data from then on: the report
 * needs that and guest memory, but no KVM. Everything in it may come from a hostile guest.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdio.h>

struct address_space;
struct vcpu;

struct crash_info {
    unsigned vcpu;
    bool hardware; /* KVM uses virtualization hardware (vmm/host.h) */
    int run_error; /* errno of a KVM_RUN that failed; 0: `run` says what happened */
    struct kvm_run run;
    bool has_registers; /* KVM gave the next two */
    struct kvm_regs regs;
    struct kvm_sregs sregs;
};

/*
 * Fills `crash` from a vCPU that stopped because of `error`, or of what its run area says where that is 0. On
 * the vCPU's thread, or while it is paused.
 */
void crash_info_collect(struct crash_info *crash, const struct vcpu *vcpu, int error);

/* Writes the report: one line that says it all first, then cause, remedy, code and registers. */
void crash_report_write(const struct crash_info *crash, struct address_space *memory, FILE *out);
