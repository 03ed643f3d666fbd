#include <pthread.h>

#include "tests/unit/memory/recorder.h"

static struct fixture f;
static struct record record;
static struct recorder recorder;

static void start(void)
{
    fixture_start(&f);
    listen_to(f.space, &recorder, "a", 0, &record);
    forget(&record);
}

static void end(void)
{
    memory_listener_unregister(&recorder.listener);
    fixture_end(&f);
}

TestSuite(transaction, .init = start, .fini = end);

Test(transaction, nothing_is_visible_before_the_outermost_commit)
{
    memory_transaction_begin(f.memory);
    add(&f.root, 0, mmio(&f, "x", 1), 0);
    memory_transaction_begin(f.memory);
    add(&f.root, 0x10, mmio(&f, "y", 1), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_shows(&f, "");
    assert_heard(&record, "");
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_shows(&f, "0+1 x@0, 10+1 y@0");
    assert_heard(&record, "a:prepare; a:+0 x; a:+10 y; a:apply; a:commit; ");
}

Test(transaction, without_effect_calls_nobody)
{
    struct memory_region *region = mmio(&f, "x", 0x10), *box = container(&f, "box", 0x10);
    add(&f.root, 0, region, 1);
    forget(&record);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_set_enabled(region, false, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(region, true, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    cr_assert_eq(memory_region_set_address(region, 0, NULL), 0);
    add(&f.root, 0, mmio(&f, "hidden", 0x10), 0);
    add(&f.root, 0x100, box, 0);
    cr_assert_eq(memory_region_set_size(box, 0x20, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(box, false, NULL), 0);
    assert_heard(&record, "");
}

/* Changes of what cannot be seen do not even render: the published view stays the very same. */
Test(transaction, unreachable_changes_render_nothing)
{
    struct memory_region *detached = container(&f, "detached", 0x1000);
    struct memory_region *off = container(&f, "off", 0x1000), *x = mmio(&f, "x", 0x10);
    cr_assert_eq(memory_region_set_enabled(off, false, NULL), 0);
    add(&f.root, 0, off, 0);
    struct flat_view *view = flat_view_get(f.space);
    add(detached, 0, x, 0);
    cr_assert_eq(memory_region_set_size(x, 0x20, NULL), 0);
    cr_assert_eq(memory_region_add_ioeventfd(x, 0, 4, false, 0, 3, NULL), 0);
    add(off, 0, mmio(&f, "y", 0x10), 0);
    cr_assert_eq(memory_region_set_readonly(off, true, NULL), 0);
    struct flat_view *same = flat_view_get(f.space);
    cr_assert_eq(view, same);
    flat_view_put(view);
    flat_view_put(same);
    assert_heard(&record, "");
}

Test(transaction, reaches_every_space_that_shows_the_region)
{
    struct memory_region inner;
    struct address_space *other;
    struct recorder second;
    cr_assert_eq(memory_region_init_container(&inner, f.memory, "inner", 0x1000, NULL), 0);
    cr_assert_eq(address_space_create(f.memory, "other", &inner, &other, NULL), 0);
    listen_to(other, &second, "b", 0, &record);
    struct memory_region window;
    cr_assert_eq(memory_region_init_alias(&window, f.memory, "window", &inner, 0x100, 0x100, NULL), 0);
    add(&f.root, 0x5000, &window, 0);
    forget(&record);
    struct memory_region *x = mmio(&f, "x", 0x10), *y = mmio(&f, "y", 0x10);
    add(&inner, 0x140, x, 0);
    assert_heard(&record,
                 "a:prepare; b:prepare; a:+5040 x; a:apply; b:+140 x; b:apply; a:commit; b:commit; ");
    add(&inner, 0, y, 0);
    assert_heard(&record, "b:prepare; b:+0 y; b:apply; b:commit; ");
    memory_listener_unregister(&second.listener);
    memory_region_remove_subregion(x, NULL);
    memory_region_remove_subregion(y, NULL);
    memory_region_remove_subregion(&window, NULL);
    memory_region_destroy(&window);
    address_space_destroy(other);
    memory_region_destroy(&inner);
}

Test(transaction, failure_undoes_every_kind_of_change)
{
    struct memory_region *box = container(&f, "box", 0x1000), *device = rom_device(&f, "device", PAGE);
    struct memory_region *a = mmio(&f, "a", 0x20), *b = mmio(&f, "b", 0x20), *c = mmio(&f, "c", 0x20);
    struct memory_region *target = mmio(&f, "target", 0x100), *window = alias(&f, "window", target, 0, 0x10);
    add(&f.root, 0, a, 0);
    add(&f.root, 0x10, b, 0);
    add(&f.root, 0x18, c, 0);
    add(&f.root, 0x1000, box, 0);
    add(&f.root, 0x10000, device, 0);
    add(&f.root, 0x20000, window, 0);
    cr_assert_eq(memory_region_add_ioeventfd(a, 0, 4, false, 0, 5, NULL), 0);
    char before[TEXT_SIZE];
    snprintf(before, sizeof(before), "%s", shown(&f));
    recorder.fail = "apply";
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(a, NULL), 0);
    add(box, 0x10, a, 7);
    cr_assert_eq(memory_region_set_address(b, 0x100, NULL), 0);
    cr_assert_eq(memory_region_set_size(c, 0x8, NULL), 0);
    cr_assert_eq(memory_region_set_romd(device, false, NULL), 0);
    cr_assert_eq(memory_region_set_readonly(device, true, NULL), 0);
    cr_assert_eq(memory_region_set_unmergeable(c, true, NULL), 0);
    cr_assert_eq(memory_region_set_alias_offset(window, 0x80, NULL), 0);
    cr_assert_eq(memory_region_remove_ioeventfd(a, 0, 4, false, 0, 5, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(box, false, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, &f.err), -EIO);
    assert_shows(&f, before);
    recorder.fail = NULL;
    /* Order among equals is back as well: what hid what still does when all is rendered again. */
    cr_assert_eq(memory_region_set_enabled(&f.root, false, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(&f.root, true, NULL), 0);
    assert_shows(&f, before);
    cr_assert_eq(memory_region_remove_ioeventfd(a, 0, 4, false, 0, 5, NULL), 0, "is there again");
}

Test(transaction, failure_of_one_space_undoes_all)
{
    struct memory_region other_root;
    struct address_space *other;
    struct recorder second;
    cr_assert_eq(memory_region_init_container(&other_root, f.memory, "other", 0x1000, NULL), 0);
    cr_assert_eq(address_space_create(f.memory, "other", &other_root, &other, NULL), 0);
    listen_to(other, &second, "b", 0, &record);
    forget(&record);
    second.fail = "+0 y";
    struct memory_region *x = mmio(&f, "x", 0x10), *y = mmio(&f, "y", 0x10);
    memory_transaction_begin(f.memory);
    add(&f.root, 0, x, 0);
    add(&other_root, 0, y, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), -EIO);
    assert_heard(&record,
                 "a:prepare; b:prepare; a:+0 x; a:apply; b:+0 y; a:revert; a:-0 x; b:abort; a:abort; ");
    assert_shows(&f, "");
    memory_listener_unregister(&second.listener);
    address_space_destroy(other);
    memory_region_destroy(&other_root);
}

Test(transaction, error_within_one_changes_nothing_and_does_not_end_it)
{
    struct memory_region *x = mmio(&f, "x", 0x10);
    memory_transaction_begin(f.memory);
    add(&f.root, 0, x, 0);
    cr_assert_eq(memory_region_add_subregion(&f.root, 0, x, 0, NULL), -EINVAL);
    cr_assert_eq(memory_region_set_size(x, 0, NULL), -EINVAL);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_shows(&f, "0+10 x@0");
}

struct other_thread {
    struct fixture *fixture;
    struct memory_region *region;
    int result;
};

static void *remove_region(void *opaque)
{
    struct other_thread *self = opaque;
    self->result = memory_region_remove_subregion(self->region, NULL);
    return NULL;
}

Test(transaction, other_threads_wait_for_its_end)
{
    struct memory_region *x = mmio(&f, "x", 0x10);
    add(&f.root, 0, x, 0);
    pthread_t thread;
    struct other_thread other = {&f, x, -1};
    memory_transaction_begin(f.memory);
    cr_assert_eq(pthread_create(&thread, NULL, remove_region, &other), 0);
    cr_assert_eq(memory_region_set_address(x, 0x100, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    pthread_join(thread, NULL);
    cr_assert_eq(other.result, 0);
    assert_shows(&f, "");
    cr_assert_not_null(strstr(record.text, "+100 x"), "the transaction came first, as a whole");
}
