/*
 * A bare machine on a real KVM for tests and benchmarks: RAM, one vCPU that runs a tiny guest (guest/), and
 * an exit port. Whoever uses it has the region tree, the listener and the vCPU at hand, and adds what he
 * needs.
 */
#pragma once

#include <linux/kvm.h>
#include <stdatomic.h>
#include <stdint.h>

#include "memory/kvm_listener.h"
#include "memory/region.h"
#include "vmm/kvm.h"

struct dirty_reaper;
struct error;
struct kvm_listener;
struct vcpu;

#define GUEST_VM_CONTROL  0x10000 /* a page of RAM that guests and their drivers talk through */
#define GUEST_VM_RAM_HIGH 0x100000000ull
#define GUEST_VM_RUNNING  -1
#define GUEST_VM_FAILED   -2
#define GUEST_VM_SLOTS    8

struct guest_vm {
    struct memory *memory;
    struct ram_block *ram;
    struct memory_region root, ram_low, ram_high, io, exit_port, exits;
    struct address_space *memory_space, *io_space, *exit_space;

    struct kvm_vm kvm;
    struct kvm_listener *listener; /* NULL: not booted */
    struct dirty_reaper *reaper;
    struct vcpu *vcpu;
    /* The first slots, by number, as KVM was last told. */
    struct kvm_userspace_memory_region slots[GUEST_VM_SLOTS];
    const struct kvm_listener_ops *kvm_ops; /* those of `kvm`; private, as the next */
    struct kvm_listener_ops ops;
    atomic_int status; /* what the guest wrote to its exit port, or GUEST_VM_… */
};

struct guest_vm_exits {
    const struct memory_region_ops *ops;
    void *opaque;
};

/*
 * Creates the memory: `size` bytes of RAM, from 0 and what is over 3 GiB from GUEST_VM_RAM_HIGH on. Where
 * `exits` is given, the vCPU's MMIO exits go there, whatever their address, and not to the memory space.
 */
int guest_vm_create(struct guest_vm *vm, uint64_t size, const struct guest_vm_exits *exits,
                    struct error *err);

/* Creates a VM and starts `kernel` (a path) on it with `arguments`. Again and again, with the RAM as it was
 * left. */
int guest_vm_boot(struct guest_vm *vm, enum dirty_log_choice dirty_log, const char *kernel,
                  const char *arguments, struct error *err);

/* Takes vCPU, listener and VM away. */
void guest_vm_halt(struct guest_vm *vm);

/* Frees everything; what was added to the tree must be gone. Also where creating or booting failed. */
void guest_vm_destroy(struct guest_vm *vm);

/* RAM at a guest address. */
void *guest_vm_at(const struct guest_vm *vm, uint64_t address);
