/*
 * The reaper of dirty rings: has what the vCPUs' rings hold moved into the bitmaps, so that guests seldom
 * have to stop because a ring is full.
 *
 * It has a thread that sleeps until a ring has been full once, from then on reaps every 50 ms, and sleeps
 * again after a second in which there was nothing: a machine that is not tracked has no thread that wakes up.
 */
#pragma once

struct dirty_reaper;
struct error;
struct kvm_listener;
struct kvm_vm;

/* For a VM in mode ring (vmm/dirty_log.h) and the listener of its memory. -errno with a message. */
int dirty_reaper_create(struct kvm_vm *vm, struct kvm_listener *listener, struct dirty_reaper **reaper,
                        struct error *err);

/* Ends the thread. Before the listener goes, after the vCPUs. NULL is allowed. */
void dirty_reaper_destroy(struct dirty_reaper *reaper);

/* Maps the ring of a vCPU that has never run and has it reaped too; the mapping is `vm`'s. */
int dirty_reaper_add_vcpu(struct dirty_reaper *reaper, int vcpu_fd, struct error *err);

/*
 * For the thread of a vCPU that left the guest because its ring is full: makes room. Takes the memory lock.
 * 0, or KVM's -errno.
 */
int dirty_reaper_ring_full(struct dirty_reaper *reaper);
