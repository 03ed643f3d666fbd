#include "lib/tree.h"

#include <libfdt.h>

#include "lib/boot.h"

int tree_find(const char *compatible)
{
    const void *tree = boot_tree();

    return tree ? fdt_node_offset_by_compatible(tree, -1, compatible) : -FDT_ERR_NOTFOUND;
}

static uint64_t cells(const fdt32_t *first, int count)
{
    uint64_t value = 0;

    for (int i = 0; i < count; i++)
        value = value << 32 | fdt32_to_cpu(first[i]);
    return value;
}

bool tree_range(int node, unsigned index, struct tree_range *range)
{
    const void *tree = boot_tree();
    const fdt32_t *reg;
    int bus, address_cells, size_cells, bytes;
    unsigned first;

    if (!tree || node < 0)
        return false;
    bus = fdt_parent_offset(tree, node);
    address_cells = fdt_address_cells(tree, bus);
    size_cells = fdt_size_cells(tree, bus);
    reg = fdt_getprop(tree, node, "reg", &bytes);
    first = index * (address_cells + size_cells);
    if (!reg || (first + address_cells + size_cells) * sizeof(*reg) > (unsigned)bytes)
        return false;

    // The first address cell of an ISA device tells memory (0) from ports (1).
    range->is_port = fdt_node_check_compatible(tree, bus, "isa") == 0;
    range->start = range->is_port ? fdt32_to_cpu(reg[first + 1]) : cells(reg + first, address_cells);
    range->size = cells(reg + first + address_cells, size_cells);
    return true;
}
