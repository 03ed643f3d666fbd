#include "guest/lib/pci.h"

#include "guest/lib/apic.h"
#include "guest/lib/io.h"
#include "guest/lib/tree.h"

#define CONFIG_ADDRESS      0xcf8
#define CONFIG_DATA         0xcfc
#define CONFIG_ENABLE       0x80000000

#define STATUS_CAPABILITIES 0x100000 /* with the command in the lower half */
#define FUNCTIONS           256

#define BAR_IO              1
#define BAR_64              4
#define BAR_FLAGS           0xf

#define MSIX_ENABLE         0x80000000 /* with the header of the capability in the lower half */
#define MSIX_MASK_ALL       0x40000000
#define MSIX_TABLE          4
#define MSIX_BAR            7
#define MSIX_ENTRY_SIZE     16
#define MSI_ADDRESS         0xfee00000

/* Where function 0 lies by ECAM; 0: nowhere. */
static uint64_t ecam(void)
{
    static bool known;
    static struct tree_range range;

    if (!known && !tree_range(tree_find("pci-host-ecam-generic"), 0, &range))
        range.start = 0;
    known = true;
    return range.start;
}

static uint64_t place(struct pci_function function, unsigned offset)
{
    if (ecam())
        return ecam() + ((uint64_t)function.slot << 12) + offset;
    out32(CONFIG_ADDRESS, CONFIG_ENABLE | (uint32_t)function.slot << 8 | offset);
    return CONFIG_DATA;
}

uint32_t pci_read(struct pci_function function, unsigned offset)
{
    uint64_t at = place(function, offset);

    return at == CONFIG_DATA ? in32(at) : mmio_read32(at);
}

void pci_write(struct pci_function function, unsigned offset, uint32_t value)
{
    uint64_t at = place(function, offset);

    if (at == CONFIG_DATA)
        out32(at, value);
    else
        mmio_write32(at, value);
}

/* Functions 1 to 7 are there only beside a function 0. */
bool pci_next(struct pci_function *function)
{
    for (unsigned slot = function->slot; slot < FUNCTIONS; slot++) {
        *function = (struct pci_function){slot};
        if (pci_read(*function, PCI_VENDOR) != UINT32_MAX)
            return true;
        if (slot % 8 == 0)
            slot += 7;
    }
    return false;
}

unsigned pci_capability(struct pci_function function, uint8_t kind, unsigned after)
{
    unsigned at = after ? after + 1 : PCI_CAPABILITIES;

    if (!(pci_read(function, PCI_COMMAND) & STATUS_CAPABILITIES))
        return 0;
    /* No more than fit into the configuration space. */
    for (unsigned count = 0; count < 48; count++) {
        at = pci_read(function, at & 0xfc) >> at % 4 * 8 & 0xfc;
        if (!at || (pci_read(function, at) & 0xff) == kind)
            return at;
        at++;
    }
    return 0;
}

uint64_t pci_bar(struct pci_function function, unsigned index)
{
    uint32_t low = pci_read(function, PCI_BAR0 + 4 * index);

    if (low & BAR_IO || (low & BAR_64 && pci_read(function, PCI_BAR0 + 4 * index + 4)))
        return 0;
    return low & ~BAR_FLAGS;
}

void pci_enable(struct pci_function function)
{
    uint32_t command = pci_read(function, PCI_COMMAND) & 0xffff;

    pci_write(function, PCI_COMMAND, command | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

bool pci_msix(struct pci_function function, unsigned entry, uint8_t vector)
{
    unsigned capability = pci_capability(function, PCI_CAPABILITY_MSIX, 0);
    uint32_t header, table;
    uint64_t at;

    if (!capability)
        return false;
    header = pci_read(function, capability);
    table = pci_read(function, capability + MSIX_TABLE);
    at = pci_bar(function, table & MSIX_BAR);
    if (!at)
        return false;
    pci_write(function, capability, (header | MSIX_ENABLE) & ~MSIX_MASK_ALL);
    at += (table & ~MSIX_BAR) + entry * MSIX_ENTRY_SIZE;
    mmio_write32(at, MSI_ADDRESS | (uint32_t)lapic_id() << 12);
    mmio_write32(at + 4, 0);
    mmio_write32(at + 8, vector);
    mmio_write32(at + 12, 0);
    return true;
}
