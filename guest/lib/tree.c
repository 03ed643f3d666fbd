#include "guest/lib/tree.h"

#include <libfdt.h>

#include "guest/lib/boot.h"
#include "guest/lib/string.h"

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

    /* The first address cell of an ISA device tells memory (0) from ports (1). */
    range->is_port = fdt_node_check_compatible(tree, bus, "isa") == 0;
    range->start = range->is_port ? fdt32_to_cpu(reg[first + 1]) : cells(reg + first, address_cells);
    range->size = cells(reg + first + address_cells, size_cells);
    return true;
}

bool tree_cell(int node, const char *property, unsigned index, uint32_t *value)
{
    const void *tree = boot_tree();
    int bytes = 0;
    const fdt32_t *first = tree && node >= 0 ? fdt_getprop(tree, node, property, &bytes) : NULL;

    if (!first || (index + 1) * sizeof(*first) > (unsigned)bytes)
        return false;
    *value = fdt32_to_cpu(first[index]);
    return true;
}

/* A number of one or two cells. */
static bool number(int node, const char *property, uint64_t *value)
{
    uint32_t first, second;

    if (!tree_cell(node, property, 0, &first))
        return false;
    *value = tree_cell(node, property, 1, &second) ? (uint64_t)first << 32 | second : first;
    return true;
}

bool tree_initrd(struct tree_range *range)
{
    const void *tree = boot_tree();
    int chosen = tree ? fdt_path_offset(tree, "/chosen") : -FDT_ERR_NOTFOUND;
    uint64_t end;

    if (!number(chosen, "linux,initrd-start", &range->start) || !number(chosen, "linux,initrd-end", &end))
        return false;
    range->size = end - range->start;
    range->is_port = false;
    return true;
}

unsigned tree_cpus(uint8_t *apic_ids, unsigned limit)
{
    const void *tree = boot_tree();
    unsigned count = 0;
    int node;

    if (!tree)
        return 0;
    fdt_for_each_subnode(node, tree, fdt_path_offset(tree, "/cpus"))
    {
        const char *type = fdt_getprop(tree, node, "device_type", NULL);
        uint32_t id;
        if (type && strcmp(type, "cpu") == 0 && tree_cell(node, "reg", 0, &id) && count < limit)
            apic_ids[count++] = id;
    }
    return count;
}
