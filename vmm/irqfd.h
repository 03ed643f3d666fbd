/*
 * An eventfd that interrupts the guest: whatever is written to it arrives as one edge at an interrupt line,
 * in the kernel, without a thread of godwit's. It can be written to from any thread.
 *
 * Made and freed by the machine's thread.
 */
#pragma once

struct error;
struct kvm_vm;

struct irqfd {
    int fd; /* the eventfd, non-blocking; -1: none */
    int vm_fd;
    unsigned line;
};

/* Creates the eventfd and connects it to its line. The VM has interrupt controllers. -errno with a message;
 * irqfd_release() is allowed in every case. */
int irqfd_init(struct irqfd *irqfd, const struct kvm_vm *vm, unsigned line, struct error *err);

/* Disconnects and closes it. Before the VM's descriptor is closed. */
void irqfd_release(struct irqfd *irqfd);
