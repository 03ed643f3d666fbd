/*
 * A PCI function: 256 bytes of configuration space and up to six base address registers (BARs).
 *
 * Configuration space is bytes and a mask that says which bits a guest can write. Whatever is behind a BAR is
 * a memory region of the device, which is in the container that the bus (pci/bus.h) was given for it, enabled
 * only while the guest has decoding on, and at the address that the guest wrote. Each write that changes
 * where regions are is one memory transaction. If memory refuses it, the write has not taken place:
 * configuration space reads as before, the BARs are where they were, and the log says why.
 *
 * BARs are below all else in their container (PCI_BAR_PRIORITY), so a guest that puts one over its RAM or
 * over a device at a fixed address gets what was there before. Of BARs over each other the one moved last is
 * seen, and what it covered comes back when it goes. A BAR whose register (either half of it) was last
 * written with 32 ones is being sized, and is nowhere; narrower writes cannot be told from placing it.
 * Address 0 is an address like others. Bus Master is a bit that a guest can set: access by the device does
 * not depend on it.
 *
 * Threads. Functions that a guest's accesses lead to may be called on any number of vCPU threads at once. The
 * function's lock guards configuration space; it is held during the transaction, so it comes before the lock
 * of memory, and nobody may call these functions from a memory listener or within a transaction. It is not
 * held while the device's hooks are called. A device is put together, added to its bus and destroyed while no
 * vCPU runs.
 *
 * Specification: PCI Local Bus Specification 3.0, sections 6.1 to 6.2 (header type 0, BARs in 6.2.5.1), 6.7
 * and appendix H (capabilities).
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct log;
struct memory_region;
struct pci_bus;
struct pci_function;

#define PCI_CONFIG_SIZE       256
#define PCI_BARS              6
#define PCI_BAR_PRIORITY      (-1)

/* A capability begins with its id and a link. */
#define PCI_CAPABILITY_HEADER 2

struct pci_identity {
    uint16_t vendor, device;
    uint16_t subsystem_vendor, subsystem;
    uint32_t class_code; /* base class, subclass, interface: 0x020000 is an Ethernet controller */
    uint8_t revision;
    uint8_t interrupt_pin; /* 1 is INTA; 0: none */
};

/* What the device wants to know of the guest's accesses; all optional. On the vCPU's thread, with no lock
 * held; `offset` and `size` (1, 2 or 4) lie within one aligned word of 4 bytes. */
struct pci_function_ops {
    /* These bytes are read next. */
    void (*config_reading)(struct pci_function *function, unsigned offset, unsigned size);
    /* These bytes have been written, as far as they can be. */
    void (*config_written)(struct pci_function *function, unsigned offset, unsigned size);
};

enum pci_bar_kind {
    PCI_BAR_IO,
    PCI_BAR_MEMORY_32,
    PCI_BAR_MEMORY_64, /* takes the next register too */
};

struct pci_bar {
    struct memory_region *region; /* NULL: there is none */
    enum pci_bar_kind kind;
    uint64_t address; /* where the region is */
    bool mapped;      /* whether it is seen there */
};

/* Embedded in its device. Private. */
struct pci_function {
    const char *name;
    const struct pci_function_ops *ops;
    const struct log *log;
    struct pci_bus *bus; /* NULL until it is added to one */
    unsigned devfn;
    unsigned capabilities_end;
    uint8_t *last_link; /* to the next capability */
    pthread_mutex_t lock;
    uint8_t config[PCI_CONFIG_SIZE];
    uint8_t writable[PCI_CONFIG_SIZE];
    unsigned sizing; /* mask of the BAR registers that were last written with ones */
    struct pci_bar bars[PCI_BARS];
    unsigned complaints;
    /* Guarded by the bus's lock of lines: */
    bool intx;          /* the device wants an interrupt */
    bool intx_disabled; /* by the command register */
    bool intx_asserted;
};

/* ---- For devices ---- */

/* `name` is for messages; it, `ops` and `log` (may be NULL) are borrowed. */
void pci_function_init(struct pci_function *function, const char *name, const struct pci_identity *identity,
                       const struct pci_function_ops *ops, const struct log *log);

/* Gives BAR `index` a region (borrowed, in no container), whose size is a power of two: at least 16 bytes of
 * memory, 4 to 256 bytes of ports. Before the function is on a bus. */
void pci_function_add_bar(struct pci_function *function, unsigned index, enum pci_bar_kind kind,
                          struct memory_region *region);

/*
 * Adds a capability, whose two-byte header comes before the `size` bytes of `body`, of which `writable`
 * (NULL: nothing) says what the guest can write. Returns its offset. They show in the order in which they are
 * added, and must all fit into 192 bytes.
 */
unsigned pci_function_add_capability(struct pci_function *function, uint8_t id, const void *body,
                                     const void *writable, unsigned size);

/* Configuration space as the device sees it. Any thread; not within a hook's caller's lock. `offset` and
 * `size` lie within it. Setting changes capabilities' bytes only. */
void pci_function_get(struct pci_function *function, unsigned offset, void *data, unsigned size);
void pci_function_set(struct pci_function *function, unsigned offset, const void *data, unsigned size);

/* The level of its interrupt pin (section 2.2.6), which the guest can disable. Any thread; does not block. */
void pci_function_set_intx(struct pci_function *function, bool level);

/* Takes the function off its bus and its BARs out of their containers. */
void pci_function_destroy(struct pci_function *function);

/* ---- For buses ---- */

/* An access by the guest, of 1, 2 or 4 bytes, aligned. Beyond PCI_CONFIG_SIZE there are zeroes: no extended
 * capabilities. Any thread; not within a memory transaction. */
uint32_t pci_function_read_config(struct pci_function *function, unsigned offset, unsigned size);
void pci_function_write_config(struct pci_function *function, unsigned offset, uint32_t value, unsigned size);
