/*
 * The KVM handle of one machine: /dev/kvm, the VM made from it, and what every vCPU thread shares.
 *
 * The fields are set by kvm_vm_create() and constant from then on, so any thread may read them. The ring of
 * held-back writes has a lock of its own, and so has the gate.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/dirty_log.h"
#include "vmm/vcpu_gate.h"

struct address_space;
struct error;
struct kvm_coalesced_mmio_ring;
struct kvm_dirty_gfn;

struct kvm_vm {
    int kvm_fd;
    int vm_fd;
    size_t run_size; /* of a vCPU's shared area */
    unsigned slots_max;
    bool coalesced_memory, coalesced_ports; /* KVM can hold writes back */
    /* Writes that KVM holds back; NULL before the first vCPU. The consumer's side is guarded by `ring_lock`.
     */
    struct kvm_coalesced_mmio_ring *ring;
    pthread_mutex_t ring_lock;
    struct dirty_log dirty_log;
    struct kvm_dirty_gfn **dirty_rings; /* mappings, by vCPU in order of their creation */
    unsigned dirty_ring_count;
    struct vcpu_gate gate; /* every vCPU enters the guest through it */
};

/*
 * Opens /dev/kvm and checks that its API is the one that godwit speaks. Returns the descriptor, or -errno
 * with a message that says what is missing and what to do.
 */
int kvm_open(struct error *err);

/*
 * Opens KVM, checks that it has every capability that godwit needs, and creates a VM without memory,
 * interrupt controllers or vCPUs, whose dirty log is as chosen. On failure nothing is left and `vm` need not
 * be destroyed.
 */
int kvm_vm_create(struct kvm_vm *vm, enum dirty_log_choice dirty_log, struct error *err);

/* Closes and unmaps everything. The vCPUs and the listeners must be gone. */
void kvm_vm_destroy(struct kvm_vm *vm);

/*
 * Tells the VM where a vCPU's shared area is mapped: behind the first one lies the ring of held-back writes,
 * for as long as that vCPU lives. Before any vCPU runs.
 */
void kvm_vm_adopt_run_area(struct kvm_vm *vm, void *run_area);

/* Hands the writes that KVM has held back to the address spaces, in order. Any vCPU thread, before it handles
 * an exit. */
void kvm_vm_drain_coalesced(struct kvm_vm *vm, struct address_space *memory, struct address_space *io);

/* What a listener of the memory space that keeps this VM in step needs (memory/kvm_listener.h). */
struct kvm_listener_config kvm_vm_listener_config(struct kvm_vm *vm);

/* Mode ring: maps a vCPU's ring, until the VM is destroyed. From the thread that creates the vCPUs. */
int kvm_vm_map_dirty_ring(struct kvm_vm *vm, int vcpu_fd, struct kvm_dirty_gfn **ring, struct error *err);
