/*
 * fdt: finds everything in the device tree and uses it: prints by the console that /chosen names, ends by the
 * exit port.
 */
#include <libfdt.h>
#include <stdint.h>

#include "guest/lib/boot.h"
#include "guest/lib/checksum.h"
#include "guest/lib/console.h"
#include "guest/lib/string.h"
#include "guest/lib/tree.h"

static void use_console(const void *tree)
{
    const char *path = fdt_getprop(tree, fdt_path_offset(tree, "/chosen"), "stdout-path", NULL);
    struct tree_range ports;

    if (path && tree_range(fdt_path_offset(tree, path), 0, &ports) && ports.is_port)
        console_use(ports.start);
    print("fdt: console %s at port 0x%x\n", path ? path : "none", console_port());
}

static void print_memory(const void *tree)
{
    struct tree_range range;

    for (unsigned i = 0; tree_range(fdt_path_offset(tree, "/memory@0"), i, &range); i++)
        print("fdt: memory 0x%lx size 0x%lx\n", range.start, range.size);
}

static void print_cpus(void)
{
    uint8_t ids[256];
    unsigned count = tree_cpus(ids, sizeof(ids));

    print("fdt: %u cpus\n", count);
    for (unsigned i = 0; i < count; i++)
        print("fdt: cpu %u\n", ids[i]);
}

static void print_arguments(void)
{
    const char *text = boot_arguments();
    const char *other = boot_protocol_arguments();

    print("fdt: bootargs ");
    console_write(text, strlen(text));
    print("\nfdt: the boot protocol (%s) passes %s\n", boot_entry(),
          !other                     ? "none"
          : strcmp(text, other) == 0 ? "the same"
                                     : "others");
}

static void print_initrd(void)
{
    static struct checksum sum;
    struct tree_range initrd;

    if (!tree_initrd(&initrd)) {
        print("fdt: no initrd\n");
        return;
    }
    checksum_begin(&sum);
    checksum_add(&sum, (const void *)initrd.start, initrd.size);
    print("fdt: initrd 0x%lx: cksum %u %lu\n", initrd.start, checksum_end(&sum), sum.length);
}

static void print_seed(const void *tree)
{
    int size = 0;
    const uint8_t *seed = fdt_getprop(tree, fdt_path_offset(tree, "/chosen"), "rng-seed", &size);
    unsigned zeroes = 0;

    for (int i = 0; seed && i < size; i++)
        zeroes += seed[i] == 0;
    print("fdt: rng-seed %d bytes, %u of them zero\n", seed ? size : 0, zeroes);
}

static void print_device(const void *tree, int node, const char *compatible)
{
    struct tree_range range;
    uint32_t irq;

    for (unsigned i = 0; tree_range(node, i, &range); i++)
        print("fdt: device %s %s 0x%lx size 0x%lx\n", compatible, range.is_port ? "port" : "mmio",
              range.start, range.size);
    if (tree_cell(node, "interrupts", 0, &irq))
        print("fdt: device %s irq %u\n", compatible, irq);
}

static void print_devices(const void *tree)
{
    for (int node = fdt_next_node(tree, -1, NULL); node >= 0; node = fdt_next_node(tree, node, NULL)) {
        const char *compatible = fdt_getprop(tree, node, "compatible", NULL);
        if (compatible)
            print_device(tree, node, compatible);
    }
}

int main(void)
{
    const void *tree = boot_tree();

    if (!tree) {
        print("fdt: no device tree\n");
        return 1;
    }
    use_console(tree);
    print("fdt: %s, %u bytes at 0x%lx\n", (const char *)fdt_getprop(tree, 0, "compatible", NULL),
          fdt_totalsize(tree), (uint64_t)tree);
    print_memory(tree);
    print_cpus();
    print_arguments();
    print_initrd();
    print_seed(tree);
    print_devices(tree);
    return 0;
}
