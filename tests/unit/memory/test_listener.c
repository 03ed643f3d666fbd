#include "memory/internal.h"
#include "tests/unit/memory/recorder.h"

static struct fixture f;
static struct record record;

static void start(void)
{
    fixture_start(&f);
    forget(&record);
}

static void end(void)
{
    fixture_end(&f);
}

TestSuite(listener, .init = start, .fini = end);

Test(listener, hears_of_the_difference_only)
{
    struct recorder a;
    struct memory_region *ram_region = ram(&f, "ram", 8 * PAGE);
    add(&f.root, 0, ram_region, 0);
    add(&f.root, 0x100000, mmio(&f, "far", 0x10), 0);
    listen_to(f.space, &a, "a", 0, &record);
    forget(&record);
    struct memory_region *hole = mmio(&f, "hole", PAGE);
    add(&f.root, PAGE, hole, 1);
    assert_heard(&record, "a:prepare; a:-0 ram; a:+0 ram; a:+1000 hole; a:+2000 ram; a:apply; a:commit; ");
    cr_assert_eq(memory_region_set_enabled(hole, false, NULL), 0);
    assert_heard(&record, "a:prepare; a:-0 ram; a:-1000 hole; a:-2000 ram; a:+0 ram; a:apply; a:commit; ");
    memory_listener_unregister(&a.listener);
}

Test(listener, every_step_in_its_order)
{
    struct recorder low, high;
    struct memory_region *first = mmio(&f, "first", 0x100), *second = mmio(&f, "second", 0x100);
    cr_assert_eq(memory_region_add_ioeventfd(first, 0, 4, false, 0, 7, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(first, 0x10, 8, NULL), 0);
    cr_assert_eq(memory_region_add_ioeventfd(second, 0, 4, false, 0, 8, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(second, 0x10, 8, NULL), 0);
    add(&f.root, 0x1000, first, 0);
    listen_to(f.space, &high, "h", 20, &record);
    listen_to(f.space, &low, "l", 10, &record);
    forget(&record);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(first, NULL), 0);
    add(&f.root, 0x800, second, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_heard(&record, "l:prepare; h:prepare; "
                          "h:-zone 1010+8; l:-zone 1010+8; "
                          "h:-1000 first; l:-1000 first; "
                          "l:+800 second; h:+800 second; "
                          "l:+zone 810+8; h:+zone 810+8; "
                          "h:-fd7 1000; l:-fd7 1000; "
                          "l:+fd8 800; h:+fd8 800; "
                          "l:apply; h:apply; "
                          "l:commit; h:commit; ");
    memory_listener_unregister(&low.listener);
    memory_listener_unregister(&high.listener);
}

Test(listener, equals_are_called_in_order_of_registration)
{
    struct recorder a, b;
    listen_to(f.space, &a, "a", 5, &record);
    listen_to(f.space, &b, "b", 5, &record);
    forget(&record);
    struct memory_region *region = mmio(&f, "x", 1);
    add(&f.root, 0, region, 0);
    assert_heard(&record, "a:prepare; b:prepare; a:+0 x; b:+0 x; a:apply; b:apply; a:commit; b:commit; ");
    cr_assert_eq(memory_region_remove_subregion(region, NULL), 0);
    assert_heard(&record, "a:prepare; b:prepare; b:-0 x; a:-0 x; a:apply; b:apply; a:commit; b:commit; ");
    memory_listener_unregister(&a.listener);
    memory_listener_unregister(&b.listener);
}

Test(listener, registration_replays_and_its_end_mirrors)
{
    struct recorder a;
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0, 0, false, 0, 7, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(region, 0x10, 8, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(region, 0x20, 8, NULL), 0);
    add(&f.root, 0x1000, region, 0);
    add(&f.root, 0x2000, mmio(&f, "y", 1), 0);
    listen_to(f.space, &a, "a", 0, &record);
    assert_heard(&record,
                 "a:prepare; a:+1000 x; a:+2000 y; a:+zone 1010+8; a:+zone 1020+8; a:+fd7 1000; a:apply; "
                 "a:commit; ");
    memory_listener_unregister(&a.listener);
    assert_heard(&record,
                 "a:prepare; a:-zone 1010+8; a:-zone 1020+8; a:-1000 x; a:-2000 y; a:-fd7 1000; a:apply; "
                 "a:commit; ");
    memory_listener_unregister(&a.listener);
    assert_heard(&record, "");
}

Test(listener, that_refuses_its_registration_is_not_registered)
{
    struct recorder a = {{.name = "a", .ops = &recorder_ops}, &record, "+2000 y"};
    add(&f.root, 0x1000, mmio(&f, "x", 1), 0);
    add(&f.root, 0x2000, mmio(&f, "y", 1), 0);
    cr_assert_eq(memory_listener_register(&a.listener, f.space, &f.err), -EIO);
    cr_assert_str_eq(f.err.message, "a does not want +2000 y");
    assert_heard(&record, "a:prepare; a:+1000 x; a:+2000 y; a:-1000 x; a:abort; ");
    add(&f.root, 0x3000, mmio(&f, "z", 1), 0);
    assert_heard(&record, "");
}

Test(listener, failures_of_unregistering_count_for_nothing)
{
    struct recorder a;
    add(&f.root, 0x1000, mmio(&f, "x", 1), 0);
    add(&f.root, 0x2000, mmio(&f, "y", 1), 0);
    listen_to(f.space, &a, "a", 0, &record);
    forget(&record);
    a.fail = "-1000 x";
    memory_listener_unregister(&a.listener);
    assert_heard(&record, "a:prepare; a:-1000 x; a:-2000 y; a:apply; a:commit; ");
}

Test(listener, may_refuse_beforehand)
{
    struct recorder a, b, c;
    listen_to(f.space, &a, "a", 1, &record);
    listen_to(f.space, &b, "b", 2, &record);
    listen_to(f.space, &c, "c", 3, &record);
    forget(&record);
    c.fail = "prepare";
    struct memory_region *region = mmio(&f, "x", 1);
    cr_assert_eq(memory_region_add_subregion(&f.root, 0, region, 0, &f.err), -EIO);
    cr_assert_str_eq(f.err.message, "c does not want prepare");
    assert_heard(&record, "a:prepare; b:prepare; c:prepare; b:abort; a:abort; ");
    assert_shows(&f, "");
    c.fail = NULL;
    add(&f.root, 0, region, 0);
    memory_listener_unregister(&a.listener);
    memory_listener_unregister(&b.listener);
    memory_listener_unregister(&c.listener);
}

Test(listener, failure_is_taken_back_in_exactly_the_reverse_order)
{
    struct recorder a, b;
    struct memory_region *old = mmio(&f, "old", 0x100), *new = mmio(&f, "new", 0x100);
    cr_assert_eq(memory_region_add_ioeventfd(new, 0, 4, false, 0, 8, NULL), 0);
    add(&f.root, 0x1000, old, 0);
    listen_to(f.space, &a, "a", 1, &record);
    listen_to(f.space, &b, "b", 2, &record);
    forget(&record);
    b.fail = "+fd8 2000";
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(old, NULL), 0);
    add(&f.root, 0x2000, new, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, &f.err), -EIO);
    assert_heard(&record,
                 "a:prepare; b:prepare; b:-1000 old; a:-1000 old; a:+2000 new; b:+2000 new; "
                 "a:+fd8 2000; b:+fd8 2000; "
                 "a:-fd8 2000; b:-2000 new; a:-2000 new; a:+1000 old; b:+1000 old; b:abort; a:abort; ");
    assert_shows(&f, "1000+100 old@0");
    cr_assert_eq(memory_region_remove_subregion(new, NULL), -EINVAL, "the tree is as before");
    memory_listener_unregister(&a.listener);
    memory_listener_unregister(&b.listener);
}

Test(listener, failing_apply_is_followed_by_reverts)
{
    struct recorder a, b;
    listen_to(f.space, &a, "a", 1, &record);
    listen_to(f.space, &b, "b", 2, &record);
    forget(&record);
    b.fail = "apply";
    struct memory_region *region = mmio(&f, "x", 1);
    cr_assert_eq(memory_region_add_subregion(&f.root, 0, region, 0, NULL), -EIO);
    assert_heard(&record, "a:prepare; b:prepare; a:+0 x; b:+0 x; a:apply; b:apply; a:revert; b:-0 x; a:-0 x; "
                          "b:abort; a:abort; ");
    memory_listener_unregister(&a.listener);
    memory_listener_unregister(&b.listener);
}

Test(listener, failing_to_go_back_is_said)
{
    struct recorder a, b;
    listen_to(f.space, &a, "a", 1, &record);
    listen_to(f.space, &b, "b", 2, &record);
    a.fail = "-0 x";
    b.fail = "+0 x";
    struct memory_region *region = mmio(&f, "x", 1);
    cr_assert_eq(memory_region_add_subregion(&f.root, 0, region, 0, &f.err), -EIO);
    cr_assert_not_null(strstr(f.err.message, "a could not go back (a does not want -0 x)"));
    cr_assert_not_null(strstr(f.err.message, "b does not want +0 x"));
    memory_listener_unregister(&a.listener);
    memory_listener_unregister(&b.listener);
}

Test(listener, may_have_no_callbacks)
{
    static const struct memory_listener_ops none = {0};
    struct memory_listener listener = {.name = "none", .ops = &none};
    cr_assert_eq(memory_listener_register(&listener, f.space, NULL), 0);
    struct memory_region *region = mmio(&f, "x", 0x10);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0, 4, false, 0, 8, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(region, 8, 4, NULL), 0);
    add(&f.root, 0, region, 0);
    memory_listener_unregister(&listener);
}

/* A listener that looks at everything it may look at. */
struct prying {
    struct memory_listener listener;
    struct memory_region *region;
    unsigned looks;
};

static int pry(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct prying *self = container_of(listener, struct prying, listener);
    struct flat_view *current = flat_view_get(change->space);
    cr_assert_eq(current, change->old_view, "accesses see the old view until the commit");
    flat_view_put(current);
    cr_assert_null(flat_view_find(change->old_view, 0));
    cr_assert_eq(flat_view_find(change->new_view, 0)->region, self->region);
    cr_assert_eq(memory_region_set_enabled(self->region, false, NULL), -EBUSY);
    struct memory_listener other = {.name = "other", .ops = listener->ops};
    cr_assert_eq(memory_listener_register(&other, change->space, NULL), -EBUSY);
    self->looks++;
    return 0;
}

static void pry_commit(struct memory_listener *listener, const struct memory_change *change)
{
    struct prying *self = container_of(listener, struct prying, listener);
    struct flat_view *current = flat_view_get(change->space);
    cr_assert_eq(current, change->new_view);
    cr_assert_null(flat_view_find(change->old_view, 0), "the old view is still there");
    flat_view_put(current);
    self->looks++;
}

Test(listener, is_given_both_views_and_may_not_change_anything)
{
    static const struct memory_listener_ops prying_ops = {.prepare = pry, .apply = pry, .commit = pry_commit};
    static const struct memory_listener_ops none = {0};
    struct memory_region *region = mmio(&f, "x", 0x10);
    struct prying prying = {.listener = {.name = "prying", .ops = &none}, .region = region};
    cr_assert_eq(memory_listener_register(&prying.listener, f.space, NULL), 0);
    prying.listener.ops = &prying_ops;
    add(&f.root, 0, region, 0);
    cr_assert_eq(prying.looks, 3);
    prying.listener.ops = &none;
    memory_listener_unregister(&prying.listener);
}

static void set_log(struct memory_region *region, unsigned clients)
{
    struct error err = {""};
    int result = memory_region_set_log(region, clients, &err);
    cr_assert_eq(result, 0, "%s", err.message);
}

Test(listener, who_logs_a_range_changes_in_place)
{
    struct recorder low, high;
    struct memory_region *region = ram(&f, "ram", PAGE);
    add(&f.root, 0x10000, region, 0);
    listen_to_logs(f.space, &low, "l", 10, &record);
    listen_to_logs(f.space, &high, "h", 20, &record);
    forget(&record);
    set_log(region, 1);
    assert_heard(&record, "l:prepare; h:prepare; l:=10000 ram; h:=10000 ram; "
                          "l:log 10000 ram 0>1; h:log 10000 ram 0>1; l:apply; h:apply; l:commit; h:commit; ");
    set_log(region, 1);
    assert_heard(&record, "");
    set_log(region, 6);
    assert_heard(&record, "l:prepare; h:prepare; l:=10000 ram; h:=10000 ram; "
                          "l:log 10000 ram 1>6; h:log 10000 ram 1>6; l:apply; h:apply; l:commit; h:commit; ");
    set_log(region, 4);
    assert_heard(&record,
                 "l:prepare; h:prepare; l:=10000 ram; h:=10000 ram; "
                 "h:unlog 10000 ram 6>4; l:unlog 10000 ram 6>4; l:apply; h:apply; l:commit; h:commit; ");
    memory_listener_unregister(&low.listener);
    memory_listener_unregister(&high.listener);
}

/* Deletions, then all that stays, range by range, then additions; a range that moves says who logs it when it
 * is added. */
Test(listener, what_stays_comes_between_deletions_and_additions)
{
    struct recorder a;
    struct memory_region *stays = ram(&f, "stays", PAGE), *below = ram(&f, "below", PAGE),
                         *goes = mmio(&f, "goes", PAGE), *moves = ram(&f, "moves", PAGE);
    add(&f.root, 0x10000, below, 0);
    add(&f.root, 0x12000, stays, 0);
    add(&f.root, 0x13000, moves, 0);
    add(&f.root, 0x16000, goes, 0);
    set_log(stays, 1);
    listen_to_logs(f.space, &a, "a", 0, &record);
    forget(&record);
    memory_transaction_begin(f.memory);
    set_log(below, 1);
    set_log(stays, 0);
    set_log(moves, 3);
    cr_assert_eq(memory_region_set_address(moves, 0x14000, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(goes, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_heard(&record, "a:prepare; a:-13000 moves; a:-16000 goes; "
                          "a:=10000 below; a:log 10000 below 0>1; a:=12000 stays; a:unlog 12000 stays 1>0; "
                          "a:+14000 moves; a:apply; a:commit; ");
    cr_assert_eq(flat_view_find(a.listener.space->view, 0x14000)->log, 3);
    memory_listener_unregister(&a.listener);
}

Test(listener, log_steps_are_taken_back_with_masks_exchanged)
{
    struct recorder a, b;
    struct memory_region *first = ram(&f, "first", PAGE), *second = ram(&f, "second", PAGE);
    add(&f.root, 0x10000, first, 0);
    add(&f.root, 0x12000, second, 0);
    set_log(second, 2);
    listen_to_logs(f.space, &a, "a", 1, &record);
    listen_to_logs(f.space, &b, "b", 2, &record);
    forget(&record);
    a.fail = "unlog 12000 second 2>0";
    memory_transaction_begin(f.memory);
    set_log(first, 5);
    set_log(second, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, &f.err), -EIO);
    assert_heard(&record, "a:prepare; b:prepare; "
                          "a:=10000 first; b:=10000 first; a:log 10000 first 0>5; b:log 10000 first 0>5; "
                          "a:=12000 second; b:=12000 second; b:unlog 12000 second 2>0; "
                          "a:unlog 12000 second 2>0; "
                          "b:log 12000 second 0>2; b:unlog 10000 first 5>0; a:unlog 10000 first 5>0; "
                          "b:abort; a:abort; ");
    cr_assert_eq(first->state.log, 0);
    cr_assert_eq(second->state.log, 2);
    memory_listener_unregister(&a.listener);
    memory_listener_unregister(&b.listener);
}

Test(listener, nobody_hears_who_logs_what_cannot_be_seen)
{
    struct recorder a;
    struct memory_region *hidden = ram(&f, "hidden", PAGE);
    add(&f.root, 0x10000, hidden, 0);
    add(&f.root, 0x10000, mmio(&f, "over", PAGE), 1);
    listen_to_logs(f.space, &a, "a", 0, &record);
    forget(&record);
    set_log(hidden, 1);
    set_log(ram(&f, "nowhere", PAGE), 1);
    assert_heard(&record, "");
    memory_listener_unregister(&a.listener);
}

/* The range that a log step is told of is of the new view, when it is taken back of what was the old one. */
struct log_views {
    struct memory_listener listener;
    unsigned calls;
};

static int look_log(struct memory_listener *listener, const struct memory_change *change,
                    const struct flat_range *range, unsigned old, struct error *err)
{
    struct log_views *self = container_of(listener, struct log_views, listener);
    cr_assert_eq(range, flat_view_find(change->new_view, range->start));
    cr_assert_eq(old, flat_view_find(change->old_view, range->start)->log);
    self->calls++;
    return 0;
}

static int refuse_apply(struct memory_listener *listener, const struct memory_change *change,
                        struct error *err)
{
    return error_set(err, EIO, "no");
}

Test(listener, log_steps_are_given_ranges_of_the_new_view)
{
    static const struct memory_listener_ops quiet_ops = {.log_start = look_log, .log_stop = look_log};
    static const struct memory_listener_ops failing_ops = {
        .log_start = look_log, .log_stop = look_log, .apply = refuse_apply};
    struct log_views views = {.listener = {.name = "views", .ops = &quiet_ops}};
    struct memory_region *region = ram(&f, "ram", PAGE);
    add(&f.root, 0x10000, region, 0);
    cr_assert_eq(memory_listener_register(&views.listener, f.space, NULL), 0);
    set_log(region, 1);
    cr_assert_eq(views.calls, 1);
    views.listener.ops = &failing_ops;
    cr_assert_eq(memory_region_set_log(region, 0, NULL), -EIO);
    cr_assert_eq(views.calls, 3);
    views.listener.ops = &quiet_ops;
    memory_listener_unregister(&views.listener);
}
