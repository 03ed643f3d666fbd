/*
 * What the files of devices/pci/ share.
 */
#pragma once

#include <pthread.h>

#include "devices/pci/bus.h"
#include "devices/pci/function.h"
#include "memory/region.h"

struct pci_bus {
    struct pci_bus_config config;
    struct memory_region ecam, ports;
    struct pci_function host_bridge;
    struct pci_function *functions[PCI_DEVICES * PCI_FUNCTIONS];
    _Atomic uint32_t address; /* of mechanism 1 */
    pthread_mutex_t lines_lock;
    unsigned asserted[PCI_LINES]; /* pins that assert each line */
};

/* Brings a line up to date with a function's pin, after `intx_disabled` or `intx` have been set. With the
 * lock of lines held. */
void pci_bus_update_line(struct pci_bus *bus, struct pci_function *function);
