#include <stdlib.h>

#include "memory/mtree.h"
#include "tests/unit/memory/fixture.h"

static struct fixture f;

static void start(void)
{
    fixture_start(&f);
}

static void end(void)
{
    fixture_end(&f);
}

TestSuite(mtree, .init = start, .fini = end);

static void assert_prints(const char *wanted)
{
    char *text;
    size_t size;
    FILE *file = open_memstream(&text, &size);
    mtree_print(f.memory, file);
    fclose(file);
    cr_assert_str_eq(text, wanted);
    free(text);
}

Test(mtree, of_an_empty_space)
{
    assert_prints("address space space\n"
                  "  0000000000000000-ffffffffffffffff (prio 0, container): root\n"
                  "  flat view:\n"
                  "    (nothing)\n");
}

Test(mtree, of_every_kind)
{
    struct memory_region *box = container(&f, "box", 0x10000), *target = ram(&f, "ram", 4 * PAGE);
    struct memory_region *device = mmio(&f, "device", 0x100), *flash = rom_device(&f, "flash", PAGE);
    struct memory_region *window = alias(&f, "ram-low", target, 0, 3 * PAGE), *off = mmio(&f, "off", 1);
    add(&f.root, 0, window, 0);
    add(&f.root, 0x100000, box, -1);
    add(box, 0x2000, device, 2);
    add(box, 0x2080, reservation(&f, "reserved", 0x10), 3);
    add(box, 0x1000, rom(&f, "rom", PAGE), 0);
    add(&f.root, 0x200000, flash, 0);
    add(&f.root, 0x300000, off, 0);
    memory_region_set_enabled(off, false, NULL);
    memory_region_set_readonly(window, true, NULL);
    memory_region_set_unmergeable(target, true, NULL);
    memory_region_set_romd(flash, false, NULL);
    memory_region_add_ioeventfd(device, 0, 4, true, 0x10, 5, NULL);
    memory_region_add_ioeventfd(device, 4, 0, false, 0, 6, NULL);
    memory_region_add_coalesced(device, 0x20, 8, NULL);
    assert_prints(
        "address space space\n"
        "  0000000000000000-ffffffffffffffff (prio 0, container): root\n"
        "    0000000000000000-0000000000002fff (prio 0, alias, read-only): ram-low -> ram "
        "@0000000000000000\n"
        "    0000000000100000-000000000010ffff (prio -1, container): box\n"
        "      0000000000101000-0000000000101fff (prio 0, rom): rom\n"
        "      0000000000102000-00000000001020ff (prio 2, mmio): device\n"
        "      0000000000102080-000000000010208f (prio 3, reservation): reserved\n"
        "    0000000000200000-0000000000200fff (prio 0, rom device, romd off): flash\n"
        "    0000000000300000-0000000000300000 (prio 0, mmio): off [disabled]\n"
        "  flat view:\n"
        "    0000000000000000-0000000000002fff (ram, read-only, unmergeable): ram @0000000000000000\n"
        "    0000000000101000-0000000000101fff (rom): rom @0000000000000000\n"
        "    0000000000102000-000000000010207f (mmio): device @0000000000000000\n"
        "      ioeventfd 0000000000102000 length 4 value 0x10 fd 5\n"
        "      ioeventfd 0000000000102004 fd 6\n"
        "      coalesced 0000000000102020-0000000000102027\n"
        "    0000000000102080-000000000010208f (reservation): reserved @0000000000000000\n"
        "    0000000000102090-00000000001020ff (mmio): device @0000000000000090\n"
        "    0000000000200000-0000000000200fff (rom device, romd off): flash @0000000000000000\n"
        "shown by aliases\n"
        "  0000000000000000-0000000000003fff (prio 0, ram, unmergeable): ram\n");
}

Test(mtree, siblings_at_one_address_show_the_topmost_first)
{
    add(&f.root, 0, mmio(&f, "low", 1), 0);
    add(&f.root, 0, mmio(&f, "high", 1), 1);
    assert_prints("address space space\n"
                  "  0000000000000000-ffffffffffffffff (prio 0, container): root\n"
                  "    0000000000000000-0000000000000000 (prio 1, mmio): high\n"
                  "    0000000000000000-0000000000000000 (prio 0, mmio): low\n"
                  "  flat view:\n"
                  "    0000000000000000-0000000000000000 (mmio): high @0000000000000000\n");
}

Test(mtree, each_alias_target_is_shown_once)
{
    struct memory_region *box = container(&f, "box", 0x100), *x = mmio(&f, "x", 0x10);
    add(box, 0, x, 0);
    add(&f.root, 0, alias(&f, "a", x, 0, 0x10), 0);
    add(&f.root, 0x10, alias(&f, "b", box, 0, 0x10), 0);
    add(&f.root, 0x20, alias(&f, "c", &f.regions[2], 0, 0x10), 0);
    assert_prints("address space space\n"
                  "  0000000000000000-ffffffffffffffff (prio 0, container): root\n"
                  "    0000000000000000-000000000000000f (prio 0, alias): a -> x @0000000000000000\n"
                  "    0000000000000010-000000000000001f (prio 0, alias): b -> box @0000000000000000\n"
                  "    0000000000000020-000000000000002f (prio 0, alias): c -> a @0000000000000000\n"
                  "  flat view:\n"
                  "    0000000000000000-000000000000000f (mmio): x @0000000000000000\n"
                  "    0000000000000010-000000000000001f (mmio): x @0000000000000000\n"
                  "    0000000000000020-000000000000002f (mmio): x @0000000000000000\n"
                  "shown by aliases\n"
                  "  0000000000000000-00000000000000ff (prio 0, container): box\n"
                  "    0000000000000000-000000000000000f (prio 0, mmio): x\n");
}
