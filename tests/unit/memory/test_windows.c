#include "memory/listener.h"
#include "tests/unit/memory/fixture.h"

/* A listener that holds the windows of each change against the rules of memory/listener.h. */
struct watcher {
    struct memory_listener listener;
    char text[TEXT_SIZE]; /* of the last change: "START-END " for each window */
    size_t count;         /* of its windows */
};

static struct fixture f;
static struct watcher watcher;

static bool in_window(const struct memory_change *change, const struct flat_range *range)
{
    for (size_t i = 0; i < change->window_count; i++) {
        const struct memory_window *window = &change->windows[i];
        if (range->start >= window->end || flat_range_end(range) <= window->start)
            continue;
        cr_assert(range->start >= window->start && flat_range_end(range) <= window->end, "as a whole");
        return true;
    }
    return false;
}

static const struct flat_range *skip_windows(const struct memory_change *change, const struct flat_view *view,
                                             const struct flat_range *range)
{
    while (range && in_window(change, range))
        range = flat_view_next(view, range);
    return range;
}

static void check_outside(const struct memory_change *change)
{
    const struct flat_view *old_view = change->old_view, *new_view = change->new_view;
    const struct flat_range *old = skip_windows(change, old_view, flat_view_from(old_view, 0));
    const struct flat_range *new = skip_windows(change, new_view, flat_view_from(new_view, 0));
    while (old && new) {
        cr_assert(flat_range_equal(old, new));
        old = skip_windows(change, old_view, flat_view_next(old_view, old));
        new = skip_windows(change, new_view, flat_view_next(new_view, new));
    }
    cr_assert(!old && !new);
}

static int watch(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct watcher *self = container_of(listener, struct watcher, listener);
    size_t length = 0;
    self->count = change->window_count;
    for (size_t i = 0; i < change->window_count; i++) {
        const struct memory_window *window = &change->windows[i];
        cr_assert_lt(window->start, window->end);
        if (i > 0)
            cr_assert_gt(window->start, window[-1].end);
        if (length < TEXT_SIZE - 64)
            length += (size_t)snprintf(self->text + length, TEXT_SIZE - length, "%llx-%llx ",
                                       (unsigned long long)window->start, (unsigned long long)window->end);
    }
    check_outside(change);
    return 0;
}

static const struct memory_listener_ops watcher_ops = {.prepare = watch};

static void start(void)
{
    fixture_start(&f);
    watcher = (struct watcher){.listener = {.name = "watcher", .ops = &watcher_ops}};
    cr_assert_eq(memory_listener_register(&watcher.listener, f.space, NULL), 0);
}

static void end(void)
{
    memory_listener_unregister(&watcher.listener);
    fixture_end(&f);
}

TestSuite(windows, .init = start, .fini = end);

static void commit(void)
{
    watcher.count = 0;
    watcher.text[0] = 0;
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
}

Test(windows, one_for_each_place_that_changes)
{
    memory_transaction_begin(f.memory);
    add(&f.root, 0x9000, mmio(&f, "c", 0x10), 0);
    add(&f.root, 0x1000, mmio(&f, "a", 0x10), 0);
    add(&f.root, UINT64_MAX, mmio(&f, "d", 1), 0);
    add(&f.root, 0x5000, mmio(&f, "b", 0x10), 0);
    commit();
    cr_assert_str_eq(watcher.text, "1000-1010 5000-5010 9000-9010 ffffffffffffffff-0 ");
}

Test(windows, hold_whole_ranges)
{
    add(&f.root, 0, ram(&f, "ram", 8 * PAGE), 0);
    add(&f.root, 0x20000, mmio(&f, "far", 0x10), 0);
    memory_transaction_begin(f.memory);
    add(&f.root, 0x2000, mmio(&f, "hole", 0x10), 1);
    add(&f.root, 0x6000, mmio(&f, "hole", 0x10), 1);
    add(&f.root, 0x30000, mmio(&f, "new", 0x10), 1);
    commit();
    cr_assert_str_eq(watcher.text, "0-8000 30000-30010 ");
}

Test(windows, leave_out_neighbours_that_stay)
{
    add(&f.root, 0x1000, mmio(&f, "a", 0x1000), 0);
    add(&f.root, 0x3000, mmio(&f, "b", 0x1000), 0);
    memory_transaction_begin(f.memory);
    add(&f.root, 0x2000, mmio(&f, "between", 0x1000), 0);
    commit();
    cr_assert_str_eq(watcher.text, "2000-3000 ");
}

Test(windows, hold_neighbours_that_join)
{
    struct memory_region *target = ram(&f, "ram", 3 * PAGE), *between = alias(&f, "b", target, PAGE, PAGE);
    add(&f.root, 0x1000, alias(&f, "a", target, 0, PAGE), 0);
    add(&f.root, 0x3000, alias(&f, "c", target, 2 * PAGE, PAGE), 0);
    memory_transaction_begin(f.memory);
    add(&f.root, 0x2000, between, 0);
    commit();
    cr_assert_str_eq(watcher.text, "1000-4000 ");
}

Test(windows, where_nothing_came_of_a_change_there_is_none)
{
    struct memory_region *a = mmio(&f, "a", 0x10), *b = mmio(&f, "b", 0x10);
    add(&f.root, 0x1000, a, 0);
    add(&f.root, 0x2000, b, 0);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_set_enabled(a, false, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(b, false, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(a, true, NULL), 0);
    commit();
    cr_assert_str_eq(watcher.text, "2000-2010 ");
}

#define MANY 3000

/* Enables every `step`-th region beginning with number `first`, in no order of addresses; disables the rest.
 */
static void enable_some(struct memory_region *regions, unsigned first, unsigned step)
{
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < MANY; i++) {
        unsigned at = i * 1009 % MANY;
        cr_assert_eq(memory_region_set_enabled(&regions[at], at % step == first, NULL), 0);
    }
    commit();
}

Test(windows, as_many_as_there_are_places)
{
    static struct memory_region regions[MANY];
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert_eq(memory_region_init_mmio(&regions[i], f.memory, "region", &fixture_ops, NULL, 0x10, NULL),
                     0);
        add(&f.root, 0x100 * i, &regions[i], 0);
    }
    commit();
    cr_assert_eq(watcher.count, MANY);
    for (unsigned step = 2; step < 9; step++)
        enable_some(regions, step / 2, step);
    enable_some(regions, 0, 1);
    cr_assert_geq(watcher.count, MANY / 2);
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert_eq(memory_region_remove_subregion(&regions[i], NULL), 0);
        memory_region_destroy(&regions[i]);
    }
}
