/*
 * One vCPU: a thread that runs the guest, and hands what the guest does to ports and MMIO to the address
 * spaces.
 *
 * A vCPU is made by its machine, given its registers while no thread runs it, then started. Any thread may
 * ask it to pause and wait until it has: it is then parked at an instruction boundary, with no half-done
 * access, and its KVM state may be read and written by whoever paused it, until it is resumed. KVM notices a
 * request by `immediate_exit`, and is taken out of the guest by a real-time signal that does nothing else;
 * all other signals are blocked in vCPU threads. A kick may come without a wish, from the gate
 * (vmm/vcpu_gate.h), which keeps vCPUs out of the guest without pausing them.
 *
 * A lock in each vCPU guards what is wanted of it; everything else belongs to its thread, or to whoever has
 * paused it.
 */
#pragma once

#include <signal.h>
#include <stdint.h>

struct address_space;
struct dirty_reaper;
struct error;
struct kvm_run;
struct kvm_vm;
struct vcpu;

/* The signal that takes a vCPU thread out of KVM_RUN; the process must leave it to godwit. */
#define VCPU_KICK_SIGNAL SIGRTMIN

struct vcpu_config {
    struct kvm_vm *vm;
    struct address_space *memory;
    struct address_space *io;    /* ports */
    unsigned index;              /* the vCPU's id, and its APIC id */
    struct dirty_reaper *reaper; /* NULL unless the VM's dirty log is in rings */
    /*
     * KVM cannot go on with the guest: vcpu_run_area() says why, or `error` does where KVM_RUN itself failed
     * (errno; otherwise 0). Called once, on the vCPU's thread, which ends afterwards; the vCPU counts as
     * paused meanwhile.
     */
    void (*failed)(void *opaque, struct vcpu *vcpu, int error);
    void *opaque;
};

/* Creates the vCPU in KVM, with the state of a reset. -errno with a message. */
int vcpu_create(const struct vcpu_config *config, struct vcpu **vcpu, struct error *err);

/* Stops the thread if there is one, and frees the vCPU. Not on that thread. NULL is allowed. */
void vcpu_destroy(struct vcpu *vcpu);

/* Starts the thread, which runs the guest at once. -errno with a message. */
int vcpu_start(struct vcpu *vcpu, struct error *err);

/* Asks the vCPU to pause; returns at once, and may be called on the vCPU's own thread by a device. */
void vcpu_request_pause(struct vcpu *vcpu);

/* Waits until a vCPU that was asked to pause has. Not on its own thread. */
void vcpu_wait_paused(struct vcpu *vcpu);

/* Lets a paused vCPU go on. */
void vcpu_resume(struct vcpu *vcpu);

unsigned vcpu_index(const struct vcpu *vcpu);

/* How often KVM_RUN has returned, and why. */
struct vcpu_exits {
    uint64_t ports, mmio, dirty_ring;
    uint64_t interrupted; /* to pause, or for a change of memory slots */
    uint64_t other;
};

/* As vcpu_fd(). */
const struct vcpu_exits *vcpu_exits(const struct vcpu *vcpu);

/* The vCPU's descriptor in KVM, for its owner before vcpu_start() and while it is paused. */
int vcpu_fd(const struct vcpu *vcpu);

/* What KVM said at the last exit. As vcpu_fd(). */
const struct kvm_run *vcpu_run_area(const struct vcpu *vcpu);
