/*
 * The KVM handle of one machine: /dev/kvm, the VM made from it, and what every vCPU thread shares.
 *
 * The fields are set by kvm_vm_create() and constant from then on, so any thread may read them. The ring of
 * held-back writes has a lock of its own.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address_space;
struct error;
struct kvm_coalesced_mmio_ring;
struct kvm_listener_ops;

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
};

/* The functions by which the memory core changes slots, ioeventfds and coalesced zones; their opaque is a
 * struct kvm_vm. */
extern const struct kvm_listener_ops kvm_vm_listener_ops;

/*
 * Opens /dev/kvm and checks that its API is the one that godwit speaks. Returns the descriptor, or -errno
 * with a message that says what is missing and what to do.
 */
int kvm_open(struct error *err);

/*
 * Opens KVM, checks that it has every capability that godwit needs, and creates a VM without memory,
 * interrupt controllers or vCPUs. On failure nothing is left and `vm` need not be destroyed.
 */
int kvm_vm_create(struct kvm_vm *vm, struct error *err);

/* Closes everything. The vCPUs must be gone. */
void kvm_vm_destroy(struct kvm_vm *vm);

/*
 * Tells the VM where a vCPU's shared area is mapped: behind the first one lies the ring of held-back writes,
 * for as long as that vCPU lives. Before any vCPU runs.
 */
void kvm_vm_adopt_run_area(struct kvm_vm *vm, void *run_area);

/* Hands the writes that KVM has held back to the address spaces, in order. Any vCPU thread, before it handles
 * an exit. */
void kvm_vm_drain_coalesced(struct kvm_vm *vm, struct address_space *memory, struct address_space *io);
