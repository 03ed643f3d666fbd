/*
 * PCI on a machine: a bus, where its functions are, and what firmware does before a system starts: each BAR
 * has an address in one of the host bridge's windows and is decoded there, and functions are told the
 * interrupt that their pin leads to. Systems accept this as it is, and a tiny guest finds devices ready.
 *
 * Functions are devices 1 to 31 of bus 0, in the order in which they are added. 64-bit BARs are below 4 GiB
 * as long as there is room.
 *
 * Made, used and freed by the machine's thread, while no vCPU runs.
 *
 * Specification: PCI Firmware Specification 3.x, section 3.5 (device state at firmware hand-off); PCI Local
 * Bus Specification 3.0, section 6.2.5.1 (sizing BARs).
 */
#pragma once

#include <stdint.h>

#include "devices/pci/bus.h"

struct error;
struct memory_region;
struct pci_function;
struct pci_host;

#define PCI_HOST_FUNCTIONS_MAX (PCI_DEVICES - 1) /* beside the host bridge */

struct pci_window {
    uint64_t base, size; /* size 0: there is none */
};

/* What of the address spaces is for BARs, behind the host bridge. */
struct pci_windows {
    struct pci_window ports;
    struct pci_window low;  /* memory below 4 GiB */
    struct pci_window high; /* memory above, for 64-bit BARs */
};

struct pci_host_config {
    struct pci_bus_config bus;
    struct pci_windows windows;
    uint8_t irqs[PCI_LINES]; /* what systems know its lines as */
};

/* Creates the bus. -errno with a message. */
int pci_host_create(const struct pci_host_config *config, struct pci_host **host, struct error *err);

/* The bus, for the regions by which a guest reaches it. */
struct pci_bus *pci_host_bus(struct pci_host *host);

/* Adds a function (borrowed) as the next device. -ENOSPC with a message where there is no place left. */
int pci_host_add(struct pci_host *host, struct pci_function *function, struct error *err);

/* Does what firmware does. Not within a transaction of memory. -ENOSPC with a
 * message where a window has no room for a BAR. */
int pci_host_set_up(struct pci_host *host, struct error *err);

/* All functions have been destroyed, and the bus's regions are mapped nowhere. NULL is allowed. */
void pci_host_destroy(struct pci_host *host);
