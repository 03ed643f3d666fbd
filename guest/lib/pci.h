/*
 * PCI functions of bus 0, as the firmware or the machine has set them up: configuration space by ECAM where
 * the device tree has it ("pci-host-ecam-generic"), otherwise by the ports 0xcf8 and 0xcfc; capabilities,
 * BARs, MSI-X.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define PCI_VENDOR            0x00
#define PCI_COMMAND           0x04
#define PCI_BAR0              0x10
#define PCI_CAPABILITIES      0x34

#define PCI_COMMAND_MEMORY    2
#define PCI_COMMAND_MASTER    4
#define PCI_CAPABILITY_VENDOR 0x09
#define PCI_CAPABILITY_MSIX   0x11

struct pci_function {
    uint8_t slot; /* device << 3 | function */
};

/* Of its configuration space; `offset` is a multiple of 4. */
uint32_t pci_read(struct pci_function function, unsigned offset);
void pci_write(struct pci_function function, unsigned offset, uint32_t value);

/* Takes the first function from `*function` on that is there. False behind the last. */
bool pci_next(struct pci_function *function);

/* Offset of the first capability of this kind, or of the next one behind `after`; 0: none. */
unsigned pci_capability(struct pci_function function, uint8_t kind, unsigned after);

/* The address of a memory BAR, 0 if it has none, or one above 4 GiB, where nothing is mapped. */
uint64_t pci_bar(struct pci_function function, unsigned index);

/* Lets the function decode its memory and be a master of the bus. */
void pci_enable(struct pci_function function);

/* Has entry `entry` of its MSI-X table interrupt this CPU by `vector`, and enables MSI-X. False without. */
bool pci_msix(struct pci_function function, unsigned entry, uint8_t vector);
