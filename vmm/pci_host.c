#include "vmm/pci_host.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/pci/function.h"

#define BAR_SIZE 4 /* of one register */

struct pci_host {
    struct pci_host_config config;
    struct pci_bus *bus;
    struct pci_windows left; /* of the windows */
    struct pci_function *functions[PCI_HOST_FUNCTIONS_MAX];
    unsigned function_count;
};

int pci_host_create(const struct pci_host_config *config, struct pci_host **out, struct error *err)
{
    struct pci_host *host = calloc(1, sizeof(*host));
    if (!host)
        return error_set(err, ENOMEM, "not enough memory for a PCI bus");
    host->config = *config;
    host->left = config->windows;
    int result = pci_bus_create(&config->bus, &host->bus, err);
    if (result < 0) {
        free(host);
        return result;
    }
    *out = host;
    return 0;
}

struct pci_bus *pci_host_bus(struct pci_host *host)
{
    return host->bus;
}

int pci_host_add(struct pci_host *host, struct pci_function *function, struct error *err)
{
    unsigned index = host->function_count;
    if (index == PCI_HOST_FUNCTIONS_MAX)
        return error_set(err, ENOSPC, "a machine has at most %u PCI devices", PCI_HOST_FUNCTIONS_MAX);
    int result = pci_bus_add(host->bus, index + 1, 0, function, err);
    if (result < 0)
        return result;
    host->functions[host->function_count++] = function;
    return 0;
}

/* ---- What firmware does ---- */

/* A BAR as its registers tell. */
struct bar {
    struct pci_function *function;
    unsigned offset;
    bool is_port, is_64;
    uint64_t size; /* 0: there is none */
};

/* Writes ones, and reads what stays of them. */
static uint32_t probe(struct pci_function *function, unsigned offset)
{
    pci_function_write_config(function, offset, UINT32_MAX, BAR_SIZE);
    return pci_function_read_config(function, offset, BAR_SIZE);
}

static struct bar read_bar(struct pci_function *function, unsigned offset)
{
    uint32_t low = probe(function, offset);
    struct bar bar = {.function = function, .offset = offset, .is_port = low & PCI_BASE_ADDRESS_SPACE_IO};
    uint64_t mask = low & (uint32_t)(bar.is_port ? PCI_BASE_ADDRESS_IO_MASK : PCI_BASE_ADDRESS_MEM_MASK);
    bar.is_64 = !bar.is_port && (low & PCI_BASE_ADDRESS_MEM_TYPE_MASK) == PCI_BASE_ADDRESS_MEM_TYPE_64;
    if (bar.is_64)
        mask |= (uint64_t)probe(function, offset + BAR_SIZE) << 32;
    bar.size = mask & -mask;
    return bar;
}

static unsigned list_bars(struct pci_host *host, struct bar *bars)
{
    unsigned count = 0;
    for (unsigned i = 0; i < host->function_count; i++) {
        for (unsigned offset = PCI_BASE_ADDRESS_0; offset <= PCI_BASE_ADDRESS_5; offset += BAR_SIZE) {
            struct bar bar = read_bar(host->functions[i], offset);
            if (bar.size)
                bars[count++] = bar;
            if (bar.is_64)
                offset += BAR_SIZE;
        }
    }
    return count;
}

/* The largest first, which leaves no gaps; in the order of devices otherwise. */
static int compare_bars(const void *left, const void *right)
{
    const struct bar *a = left, *b = right;
    if (a->size != b->size)
        return a->size > b->size ? -1 : 1;
    unsigned x = a->function->devfn << 8 | a->offset, y = b->function->devfn << 8 | b->offset;
    return x < y ? -1 : x > y;
}

static bool take(struct pci_window *window, uint64_t size, uint64_t *address)
{
    uint64_t end = window->base + window->size;
    *address = align_up(window->base, size);
    if (*address < window->base || *address > end || size > end - *address)
        return false;
    *window = (struct pci_window){*address + size, end - *address - size};
    return true;
}

static int place(struct pci_host *host, const struct bar *bar, struct error *err)
{
    struct pci_windows *left = &host->left;
    uint64_t address;
    bool placed = take(bar->is_port ? &left->ports : &left->low, bar->size, &address) ||
                  (bar->is_64 && take(&left->high, bar->size, &address));
    if (!placed)
        return error_set(
            err, ENOSPC,
            "there is no room for the 0x%llx %s of BAR %u of %s: the machine has too many devices",
            (unsigned long long)bar->size, bar->is_port ? "ports" : "bytes",
            (bar->offset - PCI_BASE_ADDRESS_0) / BAR_SIZE, bar->function->name);
    pci_function_write_config(bar->function, bar->offset, (uint32_t)address, BAR_SIZE);
    if (bar->is_64)
        pci_function_write_config(bar->function, bar->offset + BAR_SIZE, (uint32_t)(address >> 32), BAR_SIZE);
    return 0;
}

/* The bits of decoding that it does not have stay clear. */
static void enable(struct pci_host *host, unsigned device)
{
    struct pci_function *function = host->functions[device - 1];
    uint32_t pin = pci_function_read_config(function, PCI_INTERRUPT_PIN, 1);
    if (pin)
        pci_function_write_config(function, PCI_INTERRUPT_LINE, host->config.irqs[pci_line(device, pin)], 1);
    pci_function_write_config(function, PCI_COMMAND, PCI_COMMAND_IO | PCI_COMMAND_MEMORY, 2);
}

int pci_host_set_up(struct pci_host *host, struct error *err)
{
    struct bar bars[PCI_HOST_FUNCTIONS_MAX * PCI_BARS];
    unsigned count = list_bars(host, bars);
    qsort(bars, count, sizeof(bars[0]), compare_bars);
    for (unsigned i = 0; i < count; i++) {
        int result = place(host, &bars[i], err);
        if (result < 0)
            return result;
    }
    for (unsigned i = 0; i < host->function_count; i++)
        enable(host, i + 1);
    return 0;
}

void pci_host_destroy(struct pci_host *host)
{
    if (!host)
        return;
    pci_bus_destroy(host->bus);
    free(host);
}
