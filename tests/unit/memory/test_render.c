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

TestSuite(render, .init = start, .fini = end);

Test(render, shows_nothing_without_regions)
{
    assert_shows(&f, "");
}

Test(render, shows_terminating_regions_only)
{
    struct memory_region *box = container(&f, "box", 0x10000);
    add(&f.root, 0x10000, box, 0);
    assert_shows(&f, "");
    add(box, 0, ram(&f, "ram", PAGE), 0);
    add(box, 0x1000, mmio(&f, "mmio", 0x10), 0);
    add(box, 0x2000, reservation(&f, "reserved", 0x10), 0);
    assert_shows(&f, "10000+1000 ram@0, 11000+10 mmio@0, 12000+10 reserved@0");
}

Test(render, higher_priority_hides_lower)
{
    add(&f.root, 0, mmio(&f, "low", 0x30), -1);
    add(&f.root, 0x10, mmio(&f, "high", 0x10), 1);
    assert_shows(&f, "0+10 low@0, 10+10 high@0, 20+10 low@20");
}

Test(render, priority_not_order_decides)
{
    add(&f.root, 0x10, mmio(&f, "high", 0x10), 1);
    add(&f.root, 0, mmio(&f, "low", 0x30), -1);
    assert_shows(&f, "0+10 low@0, 10+10 high@0, 20+10 low@20");
}

Test(render, among_equals_the_last_added_wins)
{
    add(&f.root, 0, mmio(&f, "first", 0x20), 0);
    add(&f.root, 0x10, mmio(&f, "second", 0x20), 0);
    assert_shows(&f, "0+10 first@0, 10+20 second@0");
}

Test(render, moving_puts_on_top_of_equals)
{
    struct memory_region *first = mmio(&f, "first", 0x20);
    add(&f.root, 0, first, 0);
    add(&f.root, 0x10, mmio(&f, "second", 0x20), 0);
    cr_assert_eq(memory_region_set_address(first, 0, NULL), 0);
    assert_shows(&f, "0+20 first@0, 20+10 second@10");
}

Test(render, nothing_deep_inside_shows_through_a_higher_sibling)
{
    struct memory_region *low = container(&f, "low", 0x100);
    add(low, 0, mmio(&f, "deep", 0x20), 1000);
    add(&f.root, 0, low, 0);
    add(&f.root, 0, mmio(&f, "high", 0x10), 1);
    assert_shows(&f, "0+10 high@0, 10+10 deep@10");
}

Test(render, holes_of_a_container_fall_through)
{
    struct memory_region *high = container(&f, "high", 0x100);
    add(high, 0x10, mmio(&f, "part", 0x10), 0);
    add(&f.root, 0, high, 1);
    add(&f.root, 0, mmio(&f, "below", 0x40), 0);
    assert_shows(&f, "0+10 below@0, 10+10 part@0, 20+20 below@20");
}

Test(render, subregions_lie_over_their_own_parent)
{
    struct memory_region *parent = ram(&f, "parent", 3 * PAGE);
    add(parent, PAGE, mmio(&f, "window", PAGE), -5);
    add(&f.root, 0, parent, 0);
    assert_shows(&f, "0+1000 parent@0, 1000+1000 window@0, 2000+1000 parent@2000");
}

Test(render, containers_clip)
{
    struct memory_region *box = container(&f, "box", 0x20);
    add(box, 0x10, mmio(&f, "long", 0x100), 0);
    add(&f.root, 0x1000, box, 0);
    assert_shows(&f, "1010+10 long@0");
}

Test(render, terminating_parents_clip_too)
{
    struct memory_region *parent = mmio(&f, "parent", 0x20);
    add(parent, 0x18, mmio(&f, "child", 0x100), 0);
    add(&f.root, 0, parent, 0);
    assert_shows(&f, "0+18 parent@0, 18+8 child@0");
}

Test(render, disabled_regions_hide_their_subtree)
{
    struct memory_region *box = container(&f, "box", 0x100);
    add(box, 0, mmio(&f, "inner", 0x10), 0);
    add(&f.root, 0, box, 0);
    cr_assert_eq(memory_region_set_enabled(box, false, NULL), 0);
    assert_shows(&f, "");
    cr_assert_eq(memory_region_set_enabled(box, true, NULL), 0);
    assert_shows(&f, "0+10 inner@0");
}

Test(render, alias_shows_a_window)
{
    struct memory_region *target = mmio(&f, "target", 0x100);
    add(&f.root, 0x1000, alias(&f, "alias", target, 0x40, 0x20), 0);
    assert_shows(&f, "1000+20 target@40");
}

Test(render, alias_past_the_targets_end_shows_nothing_there)
{
    struct memory_region *target = mmio(&f, "target", 0x100);
    add(&f.root, 0, alias(&f, "alias", target, 0xf0, 0x100), 0);
    add(&f.root, 0x1000, alias(&f, "beyond", target, 0x100, 0x100), 0);
    assert_shows(&f, "0+10 target@f0");
}

Test(render, alias_of_alias_clips_by_each)
{
    struct memory_region *target = mmio(&f, "target", 0x100);
    struct memory_region *first = alias(&f, "first", target, 0x10, 0x20);
    add(&f.root, 0, alias(&f, "second", first, 0x8, 0x100), 0);
    assert_shows(&f, "0+18 target@18");
}

Test(render, place_and_priority_of_an_alias_target_do_not_matter)
{
    struct memory_region *box = container(&f, "box", 0x1000);
    struct memory_region *target = mmio(&f, "target", 0x100);
    add(box, 0x800, target, -100);
    add(box, 0x800, mmio(&f, "over", 0x100), 100);
    add(&f.root, 0, alias(&f, "alias", target, 0, 0x100), 0);
    assert_shows(&f, "0+100 target@0");
}

Test(render, alias_arithmetic_may_go_below_zero)
{
    struct memory_region *box = container(&f, "box", MEMORY_SIZE_MAX);
    add(box, 0xfffffffffffff000, mmio(&f, "last", 0x1000), 0);
    add(&f.root, 0x10, alias(&f, "alias", box, 0xfffffffffffff800, 0x400), 0);
    assert_shows(&f, "10+400 last@800");
}

Test(render, disabled_alias_target_shows_nothing)
{
    struct memory_region *target = mmio(&f, "target", 0x100);
    add(&f.root, 0, alias(&f, "alias", target, 0, 0x100), 0);
    cr_assert_eq(memory_region_set_enabled(target, false, NULL), 0);
    assert_shows(&f, "");
}

Test(render, alias_of_a_container_shows_what_is_in_it)
{
    struct memory_region *box = container(&f, "box", 0x1000);
    add(box, 0x100, mmio(&f, "a", 0x100), 0);
    add(box, 0x400, mmio(&f, "b", 0x100), 0);
    add(&f.root, 0x10000, box, 0);
    add(&f.root, 0, alias(&f, "alias", box, 0x180, 0x300), 0);
    assert_shows(&f, "0+80 a@80, 280+80 b@0, 10100+100 a@0, 10400+100 b@0");
}

Test(render, one_space_may_show_twice)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, target, 0);
    add(&f.root, 0x100000, alias(&f, "alias", target, PAGE, PAGE), 0);
    assert_shows(&f, "0+4000 ram@0, 100000+1000 ram@1000");
}

Test(render, neighbours_of_one_region_merge)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, alias(&f, "a", target, 0, 2 * PAGE), 0);
    add(&f.root, 2 * PAGE, alias(&f, "b", target, 2 * PAGE, 2 * PAGE), 0);
    assert_shows(&f, "0+4000 ram@0");
}

Test(render, neighbours_apart_in_the_region_do_not_merge)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, alias(&f, "a", target, 0, PAGE), 0);
    add(&f.root, PAGE, alias(&f, "b", target, 2 * PAGE, PAGE), 0);
    assert_shows(&f, "0+1000 ram@0, 1000+1000 ram@2000");
}

Test(render, neighbours_of_different_attributes_do_not_merge)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE);
    struct memory_region *second = alias(&f, "b", target, 2 * PAGE, 2 * PAGE);
    add(&f.root, 0, alias(&f, "a", target, 0, 2 * PAGE), 0);
    add(&f.root, 2 * PAGE, second, 0);
    cr_assert_eq(memory_region_set_readonly(second, true, NULL), 0);
    assert_shows(&f, "0+2000 ram@0, 2000+2000 ram@2000 r");
}

Test(render, unmergeable_neighbours_stay_apart)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, alias(&f, "a", target, 0, 2 * PAGE), 0);
    add(&f.root, 2 * PAGE, alias(&f, "b", target, 2 * PAGE, 2 * PAGE), 0);
    cr_assert_eq(memory_region_set_unmergeable(target, true, NULL), 0);
    assert_shows(&f, "0+2000 ram@0 u, 2000+2000 ram@2000 u");
}

Test(render, an_unmergeable_region_is_not_cut_by_what_it_hides)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE);
    cr_assert_eq(memory_region_set_unmergeable(target, true, NULL), 0);
    add(&f.root, 0, target, 1);
    add(&f.root, PAGE, mmio(&f, "hidden", PAGE), 0);
    assert_shows(&f, "0+4000 ram@0 u");
}

Test(render, readonly_is_inherited)
{
    struct memory_region *box = container(&f, "box", 0x10000);
    struct memory_region *target = ram(&f, "ram", PAGE);
    add(box, 0, alias(&f, "alias", target, 0, PAGE), 0);
    add(&f.root, 0, box, 0);
    add(&f.root, 0x10000, target, 0);
    cr_assert_eq(memory_region_set_readonly(box, true, NULL), 0);
    assert_shows(&f, "0+1000 ram@0 r, 10000+1000 ram@0");
}

Test(render, rom_is_readonly_and_a_rom_device_has_modes)
{
    struct memory_region *device = rom_device(&f, "device", PAGE);
    add(&f.root, 0, rom(&f, "rom", PAGE), 0);
    add(&f.root, 0x10000, device, 0);
    assert_shows(&f, "0+1000 rom@0 r, 10000+1000 device@0 d");
    cr_assert_eq(memory_region_set_romd(device, false, NULL), 0);
    assert_shows(&f, "0+1000 rom@0 r, 10000+1000 device@0");
}

Test(render, sizes_go_to_two_to_the_64)
{
    add(&f.root, 0, mmio(&f, "all", MEMORY_SIZE_MAX), -1);
    assert_shows(&f, "0+1:0 all@0");
    add(&f.root, UINT64_MAX, mmio(&f, "last", 1), 0);
    assert_shows(&f, "0+ffffffffffffffff all@0, ffffffffffffffff+1 last@0");
}

Test(render, resizing_and_shifting_an_alias)
{
    struct memory_region *target = mmio(&f, "target", 0x100);
    struct memory_region *window = alias(&f, "alias", target, 0, 0x10);
    add(&f.root, 0, window, 0);
    cr_assert_eq(memory_region_set_size(window, 0x20, NULL), 0);
    assert_shows(&f, "0+20 target@0");
    cr_assert_eq(memory_region_set_alias_offset(window, 0x80, NULL), 0);
    assert_shows(&f, "0+20 target@80");
}

/* A change in the middle of a large view must leave the same view as building it at once. */
Test(render, a_changed_window_joins_its_surroundings)
{
    struct memory_region *target = ram(&f, "ram", 8 * PAGE);
    struct memory_region *hole = mmio(&f, "hole", PAGE);
    add(&f.root, 0, target, 0);
    add(&f.root, 0x100000, mmio(&f, "far", PAGE), 0);
    add(&f.root, 3 * PAGE, hole, 1);
    assert_shows(&f, "0+3000 ram@0, 3000+1000 hole@0, 4000+4000 ram@4000, 100000+1000 far@0");
    cr_assert_eq(memory_region_remove_subregion(hole, NULL), 0);
    assert_shows(&f, "0+8000 ram@0, 100000+1000 far@0");
}

Test(render, lookup_finds_each_byte)
{
    add(&f.root, 0x10, mmio(&f, "a", 0x10), 0);
    add(&f.root, 0x40, mmio(&f, "b", 0x10), 0);
    struct flat_view *view = flat_view_get(f.space);
    cr_assert_null(flat_view_find(view, 0xf));
    cr_assert_str_eq(flat_view_find(view, 0x10)->region->name, "a");
    cr_assert_str_eq(flat_view_find(view, 0x1f)->region->name, "a");
    cr_assert_null(flat_view_find(view, 0x20));
    cr_assert_str_eq(flat_view_from(view, 0x20)->region->name, "b");
    cr_assert_str_eq(flat_view_find(view, 0x4f)->region->name, "b");
    cr_assert_null(flat_view_from(view, 0x50));
    cr_assert_null(flat_view_find(view, UINT64_MAX));
    flat_view_put(view);
}
