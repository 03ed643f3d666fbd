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

TestSuite(region, .init = start, .fini = end);

Test(region, size_is_one_byte_to_two_to_the_64)
{
    struct memory_region region;
    cr_assert_eq(memory_region_init_container(&region, f.memory, "x", 0, &f.err), -EINVAL);
    cr_assert_not_null(strstr(f.err.message, "region x"));
    memory_region_destroy(&region);
    cr_assert_eq(
        memory_region_init_mmio(&region, f.memory, "x", &fixture_ops, NULL, MEMORY_SIZE_MAX + 1, NULL),
        -EINVAL);
    memory_region_destroy(&region);
    cr_assert_eq(memory_region_init_container(&region, f.memory, "x", 1, NULL), 0);
    cr_assert_eq(memory_region_set_size(&region, 0, NULL), -EINVAL);
    cr_assert_eq(memory_region_set_size(&region, MEMORY_SIZE_MAX + 1, NULL), -EINVAL);
    cr_assert_eq(memory_region_set_size(&region, MEMORY_SIZE_MAX, NULL), 0);
    memory_region_destroy(&region);
}

Test(region, ram_lies_within_its_block)
{
    struct memory_region region;
    static const struct {
        uint64_t offset;
        memory_size size;
    } bad[] = {
        {0, BLOCK + PAGE},
        {PAGE, BLOCK},
        {BLOCK, PAGE},
        {BLOCK + PAGE, PAGE},
        {1, PAGE},
        {0, PAGE + 1},
        {0, 1},
        {UINT64_MAX - PAGE + 1, PAGE},
        {PAGE, MEMORY_SIZE_MAX - PAGE},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        cr_assert_eq(
            memory_region_init_ram(&region, f.memory, "x", f.block, bad[i].offset, bad[i].size, &f.err),
            -EINVAL);
        memory_region_destroy(&region);
    }
    cr_assert_eq(memory_region_init_ram(&region, f.memory, "x", f.block, BLOCK - PAGE, PAGE, NULL), 0);
    cr_assert_eq(memory_region_set_size(&region, 2 * PAGE, NULL), -EINVAL);
    cr_assert_eq(memory_region_set_size(&region, PAGE / 2, NULL), -EINVAL);
    memory_region_destroy(&region);
}

Test(region, access_sizes_are_checked)
{
    static const struct memory_access_sizes bad[] = {
        {.min = 3}, {.max = 16}, {.max = 5}, {.min = 4, .max = 2}, {.min = 16},
    };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct memory_region region;
        struct memory_region_ops valid = {.valid = bad[i]}, impl = {.impl = bad[i]};
        cr_assert_eq(memory_region_init_mmio(&region, f.memory, "x", &valid, NULL, 8, NULL), -EINVAL);
        memory_region_destroy(&region);
        cr_assert_eq(memory_region_init_mmio(&region, f.memory, "x", &impl, NULL, 8, NULL), -EINVAL);
        memory_region_destroy(&region);
    }
}

Test(region, zeroed_region_may_be_destroyed)
{
    struct memory_region region = {0};
    memory_region_destroy(&region);
}

Test(region, has_one_container)
{
    struct memory_region *a = container(&f, "a", 0x100), *b = container(&f, "b", 0x100);
    struct memory_region *child = mmio(&f, "child", 0x10);
    add(a, 0, child, 0);
    cr_assert_eq(memory_region_add_subregion(a, 0, child, 0, &f.err), -EINVAL);
    cr_assert_eq(memory_region_add_subregion(b, 0, child, 0, &f.err), -EINVAL);
    cr_assert_not_null(strstr(f.err.message, "alias"), "says what to do");
    cr_assert_eq(memory_region_remove_subregion(child, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(child, NULL), -EINVAL);
    cr_assert_eq(memory_region_set_address(child, 0, NULL), -EINVAL);
    add(b, 0, child, 0);
}

Test(region, a_container_can_be_emptied)
{
    struct memory_region *box = container(&f, "box", 0x100);
    struct memory_region *x = mmio(&f, "x", 1), *y = mmio(&f, "y", 1);
    add(box, 0, x, 0);
    add(box, 1, y, 0);
    cr_assert_eq(memory_region_remove_all_subregions(box, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(x, NULL), -EINVAL);
    cr_assert_eq(memory_region_remove_subregion(y, NULL), -EINVAL);
    cr_assert_eq(memory_region_remove_all_subregions(box, NULL), 0);
}

Test(region, alias_holds_no_subregions)
{
    struct memory_region *box = container(&f, "box", 0x100);
    struct memory_region *window = alias(&f, "alias", box, 0, 0x100);
    cr_assert_eq(memory_region_add_subregion(window, 0, mmio(&f, "x", 1), 0, NULL), -EINVAL);
}

Test(region, no_cycle_of_containers)
{
    struct memory_region *a = container(&f, "a", 0x100), *b = container(&f, "b", 0x100);
    struct memory_region *c = container(&f, "c", 0x100);
    cr_assert_eq(memory_region_add_subregion(a, 0, a, 0, NULL), -EINVAL);
    add(a, 0, b, 0);
    add(b, 0, c, 0);
    cr_assert_eq(memory_region_add_subregion(c, 0, a, 0, &f.err), -EINVAL);
    cr_assert_eq(memory_region_add_subregion(b, 0, a, 0, NULL), -EINVAL);
}

Test(region, no_cycle_through_aliases)
{
    struct memory_region *a = container(&f, "a", 0x100), *b = container(&f, "b", 0x100);
    struct memory_region *shows_a = alias(&f, "shows-a", a, 0, 0x100);
    struct memory_region *shows_alias = alias(&f, "shows-alias", shows_a, 0, 0x100);
    cr_assert_eq(memory_region_add_subregion(a, 0, shows_a, 0, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_subregion(a, 0, shows_alias, 0, NULL), -EINVAL);
    add(b, 0, shows_alias, 0);
    cr_assert_eq(memory_region_add_subregion(a, 0, b, 0, NULL), -EINVAL);
}

Test(region, alias_of_itself_or_of_another_machine_is_refused)
{
    struct memory_region region, foreign;
    struct memory *other = memory_create();
    cr_assert_eq(memory_region_init_container(&foreign, other, "foreign", 0x100, NULL), 0);
    cr_assert_eq(memory_region_init_alias(&region, f.memory, "x", &region, 0, 1, NULL), -EINVAL);
    memory_region_destroy(&region);
    cr_assert_eq(memory_region_init_alias(&region, f.memory, "x", &foreign, 0, 1, NULL), -EINVAL);
    memory_region_destroy(&region);
    cr_assert_eq(memory_region_add_subregion(&f.root, 0, &foreign, 0, NULL), -EINVAL);
    memory_region_destroy(&foreign);
    memory_destroy(other);
}

Test(region, nothing_passes_two_to_the_64)
{
    struct memory_region *child = mmio(&f, "child", 0x10);
    cr_assert_eq(memory_region_add_subregion(&f.root, UINT64_MAX - 0xe, child, 0, &f.err), -EOVERFLOW);
    add(&f.root, UINT64_MAX - 0xf, child, 0);
    cr_assert_eq(memory_region_set_size(child, 0x11, NULL), -EOVERFLOW);
    cr_assert_eq(memory_region_set_address(child, UINT64_MAX, NULL), -EOVERFLOW);
    assert_shows(&f, "fffffffffffffff0+10 child@0");
}

Test(region, setters_that_do_not_fit_the_kind)
{
    struct memory_region *box = container(&f, "box", 0x100);
    cr_assert_eq(memory_region_set_alias_offset(box, 0, NULL), -EINVAL);
    cr_assert_eq(memory_region_set_romd(box, true, NULL), -EINVAL);
}

Test(region, destroyed_with_an_open_transaction)
{
    struct memory_region region;
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_init_mmio(&region, f.memory, "x", &fixture_ops, NULL, 1, NULL), 0);
    add(&f.root, 0, &region, 0);
    cr_assert_eq(memory_region_remove_subregion(&region, NULL), 0);
    memory_region_destroy(&region);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_shows(&f, "");
}

Test(region, address_space_is_not_created_within_a_transaction_or_with_a_foreign_root)
{
    struct memory *other = memory_create();
    struct address_space *space;
    memory_transaction_begin(f.memory);
    cr_assert_eq(address_space_create(f.memory, "x", &f.root, &space, &f.err), -EBUSY);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    cr_assert_eq(address_space_create(other, "x", &f.root, &space, &f.err), -EINVAL);
    memory_destroy(other);
}
