/* What a PCI function has to be given back after it has been under attack. */
#pragma once

#include "guest/hostile/target.h"

/* Remembers where its BAR is. */
void pci_save(const struct target *target);

/* Puts the BAR back, lets the function decode memory and be a master, and turns MSI-X off. */
void pci_restore(const struct target *target);

/* Ends with a row without a name. */
extern const struct attack pci_attacks[];
