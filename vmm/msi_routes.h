/*
 * Message-signalled interrupts on KVM: the machine's side of MSI-X (devices/pci/msix.h), for every device
 * that sends messages.
 *
 * A route is an entry of KVM's table of GSI routes, behind those of the interrupt controllers, and an eventfd
 * is attached to it as an irqfd: what is signalled there arrives in the guest without godwit. KVM takes the
 * table as a whole and waits for those who read the old one, milliseconds on some hosts; so it is told of as
 * little as can be. Vectors with the same message share a route. One that nobody uses any more stays, for
 * whoever wants its message again, as long as there is room. And as systems give out vectors in order, those
 * that follow a message on the same CPU get their routes with it.
 *
 * Messages can go to local APICs alone: a write elsewhere would be one to memory, which no device of godwit
 * sends.
 *
 * Threads. `msi_routes_ops` may be called from any thread; the table's lock is held while KVM takes it over.
 *
 * Specification: Linux Documentation/virt/kvm/api.rst, KVM_SET_GSI_ROUTING and KVM_IRQFD; Intel SDM volume
 * 3A, 11.11 (messages).
 */
#pragma once

#include "devices/pci/msix.h"

struct error;
struct kvm_irq_routing;
struct kvm_irq_routing_entry;
struct kvm_irqfd;
struct msi_routes;

/* The calls of KVM that it needs: 0 or -errno. */
struct msi_routes_kvm_ops {
    int (*set_routing)(void *opaque, const struct kvm_irq_routing *table);
    int (*set_irqfd)(void *opaque, const struct kvm_irqfd *irqfd);
};

/* On a real KVM; opaque: a `const struct kvm_vm`. */
extern const struct msi_routes_kvm_ops msi_routes_kvm_ops;

struct msi_routes_config {
    const struct msi_routes_kvm_ops *kvm;
    void *opaque; /* for it; borrowed */
    /* The routes of the interrupt controllers, which the table begins with (copied), and how many entries KVM
     * has room for (KVM_CAP_IRQ_ROUTING). GSIs from `first_gsi` on are for messages. */
    const struct kvm_irq_routing_entry *fixed;
    unsigned fixed_count;
    unsigned entries_max;
    unsigned first_gsi;
};

/* Does not tell KVM anything yet. -ENOMEM with a message. */
int msi_routes_create(const struct msi_routes_config *config, struct msi_routes **routes, struct error *err);

/* What devices are given, with the routes as `opaque`. Once the VM has interrupt controllers. */
extern const struct msi_ops msi_routes_ops;

/* All routes have been dropped. NULL is allowed. */
void msi_routes_destroy(struct msi_routes *routes);
