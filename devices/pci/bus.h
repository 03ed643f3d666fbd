/*
 * A PCI bus, number 0, with a host bridge at 00:00.0: how a guest reaches the configuration space of its
 * functions, and how their interrupt pins reach the machine.
 *
 * Configuration space is seen in two ways, which the board maps: the enhanced access mechanism (ECAM), a
 * region of 1 MiB in which each function has 4 KiB; and mechanism 1, an address and a data port at 0xCF8 and
 * 0xCFC. The address port answers to 4 bytes at once only; what narrower accesses there reach is another
 * region of the board's, for that is where chipsets have their reset register. Functions that are not there,
 * and all other buses, read as ones.
 *
 * An interrupt pin is wired to one of four lines, by the device's number: INTA of device 0 to the first, of
 * device 1 to the second. Pins that share a line are OR-ed; lines are level-triggered.
 *
 * Threads. As pci/function.h says. The address port is a single word: vCPUs that use it at the same time must
 * agree among themselves, as on any PC. The lock of lines is held while lines are set, and is the last to be
 * taken.
 *
 * Specification: PCI Local Bus Specification 3.0, section 3.2.2.3.2 (mechanism 1) and 2.2.6 (interrupts); PCI
 * Express Base Specification, section 7.2.2, and PCI Firmware Specification 3.x, section 4.1 (ECAM).
 */
#pragma once

#include <stdint.h>

#include "devices/irq_line.h"

struct error;
struct log;
struct memory;
struct memory_region;
struct pci_bus;
struct pci_function;

#define PCI_DEVICES    32
#define PCI_FUNCTIONS  8
#define PCI_LINES      4
#define PCI_ECAM_SIZE  0x100000
#define PCI_PORTS      0xCF8 /* where the region of ports belongs */
#define PCI_PORTS_SIZE 8

struct pci_bus_config {
    struct memory *memory;
    struct memory_region *memory_container, *io_container; /* in which BARs are seen */
    struct memory_region *narrow_ports; /* 4 bytes of ports for narrow accesses to 0xCF8; NULL: none */
    struct irq_line lines[PCI_LINES];
    const struct log *log; /* NULL: none; borrowed, as all else */
};

/* Creates a bus with its host bridge. -errno with a message. */
int pci_bus_create(const struct pci_bus_config *config, struct pci_bus **bus, struct error *err);

/* Owned by the bus; to be taken out of their containers before it is destroyed. */
struct memory_region *pci_bus_ecam(struct pci_bus *bus);
struct memory_region *pci_bus_ports(struct pci_bus *bus);

/*
 * Adds a function (borrowed), in a place that is free, with its BARs nowhere. A device has a function 0, and
 * a guest looks for others only then. -EBUSY with a message where there is one already; otherwise as
 * memory_region_add_subregion().
 */
int pci_bus_add(struct pci_bus *bus, unsigned device, unsigned function, struct pci_function *added,
                struct error *err);

/* The line to which pin `pin` (1 is INTA) of `device` is wired. */
static inline unsigned pci_line(unsigned device, unsigned pin)
{
    return (device + pin - 1) % PCI_LINES;
}

/* All functions must be destroyed. NULL is allowed. */
void pci_bus_destroy(struct pci_bus *bus);
