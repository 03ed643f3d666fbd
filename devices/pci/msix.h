/*
 * MSI-X: interrupts that a function sends as messages, each with an address and data that the guest chose.
 *
 * Each vector has an eventfd, which the device signals; that is all it does, from any thread, with no lock.
 * Who carries a message to the guest is the machine's business: `struct msi_ops` makes a route, an object
 * that knows one message, and attaches an eventfd to it. On KVM these are an entry of the table of GSI routes
 * and an irqfd. An eventfd is attached while its vector can send; while the vector is masked (by its entry,
 * by the function's mask, or because MSI-X is off) it is not, and what is signalled stays in the eventfd:
 * that is the pending bit, and it is delivered by being attached. So nothing is lost, and nothing is sent
 * that is masked. A route is made when its vector is unmasked for the first time, and told a new message when
 * it is unmasked after a change; masking and unmasking alone cost no more than detaching and attaching.
 * Turning MSI-X off forgets what is pending.
 *
 * If the machine refuses a route the log says so, the vector stays silent, and the next unmasking tries
 * again.
 *
 * Threads. The table's lock guards the table and its routes, and is held while the machine's functions are
 * called, so these must not lead back here. It comes before the lock of the function (pci/function.h).
 *
 * Specification: PCI Local Bus Specification 3.0, section 6.8.2 (structures) and 6.8.3 (operation).
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct error;
struct log;
struct memory;
struct memory_region;
struct msix;
struct pci_function;

#define MSIX_VECTORS_MAX 2048

struct msi_message {
    uint64_t address;
    uint32_t data;
};

#define MSI_NO_ROUTE UINT32_MAX

/* Any thread; none blocks longer than a system call. Eventfds are borrowed and non-blocking. */
struct msi_ops {
    /* Gives `*route` a message: makes it if it is MSI_NO_ROUTE, otherwise changes it or puts another in its
     * place (nothing is attached to it then). -errno with a message, and `*route` as it was. */
    int (*set_route)(void *opaque, const struct msi_message *message, uint32_t *route, struct error *err);
    /* Ends a route to which nothing is attached. */
    void (*drop_route)(void *opaque, uint32_t route);
    /* From now on a signal to `fd` sends the route's message, one that has been there before the call too.
     * -errno with a message. */
    int (*attach)(void *opaque, int fd, uint32_t route, struct error *err);
    /* From its return on, signals stay in `fd`. */
    void (*detach)(void *opaque, int fd, uint32_t route);
};

struct msix_config {
    struct memory *memory;
    struct pci_function *function; /* not on a bus yet */
    const struct msi_ops *ops;
    void *opaque;
    const char *name;                /* for messages */
    const struct log *log;           /* NULL: none; borrowed, as all else */
    unsigned vectors;                /* 1 to MSIX_VECTORS_MAX */
    unsigned bar;                    /* whose region is a container ... */
    struct memory_region *container; /* ... this one, ... */
    uint32_t offset;                 /* ... in which table and pending bits begin here, on a page */
};

/* Bytes that the table and the pending bits of so many vectors take, each on pages of its own. */
uint32_t msix_size(unsigned vectors);

/* Adds the capability to the function, and table and pending bits to the container. -errno with a message. */
int msix_create(const struct msix_config *config, struct msix **msix, struct error *err);

/* For the function's hook `config_written`: takes over what the guest has changed of the capability. */
void msix_config_written(struct msix *msix, unsigned offset, unsigned size);

/* Whether the guest has turned MSI-X on: then there is no interrupt pin. Any thread. */
bool msix_enabled(struct msix *msix);

/* Sends the vector's message, or makes it pending. A vector that is not there is silent. Any thread; does not
 * block. */
void msix_raise(struct msix *msix, unsigned vector);

/* The eventfd that does the same; -1 for a vector that is not there. */
int msix_fd(const struct msix *msix, unsigned vector);

/* Ends all routes. No vCPU runs, and nobody raises interrupts; the container is in no view any more. NULL is
 * allowed. */
void msix_destroy(struct msix *msix);
