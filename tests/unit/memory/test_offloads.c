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

static int add_fd(struct memory_region *region, uint64_t offset, unsigned length, int fd)
{
    return memory_region_add_ioeventfd(region, offset, length, false, 0, fd, &f.err);
}

/* Forgets the record and does what is visible of the ioeventfds and zones, by replaying it. */
static const char *offloads(void)
{
    static struct record replay;
    static char only[TEXT_SIZE];
    size_t length = 0;
    struct recorder other;
    forget(&replay);
    listen_to(f.space, &other, "r", 0, &replay);
    only[0] = 0;
    char *saved;
    for (char *call = strtok_r(replay.text, ";", &saved); call; call = strtok_r(NULL, ";", &saved))
        if (strstr(call, "fd") || strstr(call, "zone"))
            length += (size_t)snprintf(only + length, TEXT_SIZE - length, "%s%s", length ? " " : "",
                                       strchr(call, ':') + 1);
    replay.length = 0;
    memory_listener_unregister(&other.listener);
    forget(&record);
    return only;
}

#define assert_offloads(wanted) cr_assert_str_eq(offloads(), wanted)

TestSuite(ioeventfd, .init = start, .fini = end);

Test(ioeventfd, follows_its_region)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
    assert_offloads("");
    add(&f.root, 0x1000, region, 0);
    assert_offloads("+fd5 1010");
    cr_assert_eq(memory_region_set_address(region, 0x2000, NULL), 0);
    assert_heard(&record, "a:prepare; a:-1000 x; a:+2000 x; a:-fd5 1010; a:+fd5 2010; a:apply; a:commit; ");
    cr_assert_eq(memory_region_set_size(region, 0x13, NULL), 0);
    assert_offloads("");
    cr_assert_eq(memory_region_set_size(region, 0x14, NULL), 0);
    assert_offloads("+fd5 2010");
    cr_assert_eq(memory_region_set_enabled(region, false, NULL), 0);
    assert_offloads("");
}

Test(ioeventfd, alone_is_a_change_like_any_other)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    add(&f.root, 0x1000, region, 0);
    forget(&record);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
    assert_heard(&record, "a:prepare; a:+fd5 1010; a:apply; a:commit; ");
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 4, false, 0, 5, NULL), 0);
    assert_heard(&record, "a:prepare; a:-fd5 1010; a:apply; a:commit; ");
}

Test(ioeventfd, is_there_where_all_its_bytes_are)
{
    struct memory_region *region = mmio(&f, "x", 0x100), *over = mmio(&f, "over", 2);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
    add(&f.root, 0x1000, region, 0);
    add(&f.root, 0x1012, over, 1);
    assert_offloads("");
    cr_assert_eq(memory_region_set_address(over, 0x1014, NULL), 0);
    assert_offloads("+fd5 1010");
    cr_assert_eq(memory_region_set_address(over, 0x100e, NULL), 0);
    assert_offloads("+fd5 1010");
    cr_assert_eq(memory_region_set_address(over, 0x100f, NULL), 0);
    assert_offloads("");
}

Test(ioeventfd, of_any_length_needs_its_first_byte)
{
    struct memory_region *region = mmio(&f, "x", 0x100), *over = mmio(&f, "over", 0x10);
    cr_assert_eq(add_fd(region, 0x10, 0, 5), 0);
    add(&f.root, 0x1000, region, 0);
    add(&f.root, 0x1011, over, 1);
    assert_offloads("+fd5 1010");
    cr_assert_eq(memory_region_set_address(over, 0x1001, NULL), 0);
    assert_offloads("");
}

Test(ioeventfd, shows_through_every_alias)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
    add(&f.root, 0x1000, alias(&f, "whole", region, 0, 0x100), 0);
    add(&f.root, 0x2000, alias(&f, "part", region, 0x10, 4), 0);
    add(&f.root, 0x3000, alias(&f, "short", region, 0x10, 3), 0);
    add(&f.root, 0x4000, alias(&f, "later", region, 0x11, 0x10), 0);
    assert_offloads("+fd5 1010 +fd5 2000");
}

Test(ioeventfd, does_not_stand_for_a_write_that_is_not_allowed)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
    add(&f.root, 0x1000, region, 0);
    cr_assert_eq(memory_region_set_readonly(region, true, NULL), 0);
    assert_offloads("");
}

Test(ioeventfd, identity_is_exact)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    add(&f.root, 0x1000, region, 0);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), -EEXIST);
    cr_assert_eq(add_fd(region, 0x10, 0, 5), 0);
    cr_assert_eq(add_fd(region, 0x10, 4, 6), 0);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0x10, 4, true, 1, 5, NULL), 0);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0x10, 4, true, 1, 5, NULL), -EEXIST);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0x10, 4, true, 2, 5, NULL), 0);
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 8, false, 0, 5, NULL), -ENOENT);
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 4, true, 0, 5, NULL), -ENOENT);
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 4, false, 0, 7, NULL), -ENOENT);
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x11, 4, false, 0, 5, NULL), -ENOENT);
    forget(&record);
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 0, false, 0, 5, NULL), 0);
    assert_heard(&record, "a:prepare; a:-fd5 1010; a:apply; a:commit; ");
    assert_offloads("+fd5 1010 +fd6 1010 +fd5 1010 +fd5 1010");
}

/* What other implementations get wrong: the wildcard sorts first, and so would be added before the others go.
 */
Test(ioeventfd, wildcard_and_datamatch_change_places_in_one_commit)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    add(&f.root, 0x1000, region, 0);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0x10, 4, true, 1, 5, NULL), 0);
    forget(&record);
    memory_transaction_begin(f.memory);
    cr_assert_eq(add_fd(region, 0x10, 0, 6), 0);
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 4, true, 1, 5, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_heard(&record, "a:prepare; a:-fd5 1010; a:+fd6 1010; a:apply; a:commit; ");
}

Test(ioeventfd, is_left_alone_when_its_range_is_cut_elsewhere)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
    add(&f.root, 0x1000, region, 0);
    forget(&record);
    add(&f.root, 0x1080, mmio(&f, "over", 0x10), 1);
    assert_heard(&record, "a:prepare; a:-1000 x; a:+1000 x; a:+1080 over; a:+1090 x; a:apply; a:commit; ");
}

Test(ioeventfd, bad_ones_are_refused)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(add_fd(region, 0, 3, 5), -EINVAL);
    cr_assert_eq(add_fd(region, 0, 16, 5), -EINVAL);
    cr_assert_eq(add_fd(region, 0xfd, 4, 5), -EINVAL);
    cr_assert_eq(add_fd(region, 0x100, 0, 5), -EINVAL);
    cr_assert_eq(add_fd(region, UINT64_MAX, 8, 5), -EINVAL);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0, 0, true, 1, 5, NULL), -EINVAL);
    cr_assert_eq(add_fd(ram(&f, "ram", PAGE), 0, 4, 5), -EINVAL);
    cr_assert_eq(add_fd(container(&f, "box", PAGE), 0, 4, 5), -EINVAL);
    cr_assert_eq(add_fd(region, 0xfc, 4, 5), 0);
    cr_assert_eq(add_fd(region, 0xff, 0, 5), 0);
}

Test(ioeventfd, refused_by_a_listener_is_not_there)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    add(&f.root, 0x1000, region, 0);
    recorder.fail = "+fd5 1010";
    cr_assert_eq(add_fd(region, 0x10, 4, 5), -EIO);
    assert_offloads("");
    recorder.fail = NULL;
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 4, false, 0, 5, NULL), -ENOENT);
    cr_assert_eq(add_fd(region, 0x10, 4, 5), 0);
}

TestSuite(coalesced, .init = start, .fini = end);

Test(coalesced, is_there_as_far_as_the_range_shows_it)
{
    struct memory_region *region = mmio(&f, "x", 0x100), *over = mmio(&f, "over", 0x8);
    cr_assert_eq(memory_region_add_coalesced(region, 0x10, 0x20, NULL), 0);
    add(&f.root, 0x1000, region, 0);
    assert_offloads("+zone 1010+20");
    add(&f.root, 0x1018, over, 1);
    assert_offloads("+zone 1010+8 +zone 1020+10");
    add(&f.root, 0x5000, alias(&f, "alias", region, 0x20, 0x8), 0);
    assert_offloads("+zone 1010+8 +zone 1020+10 +zone 5000+8");
}

/* Ranges of one region that do not meet the first zone must still get the second. */
Test(coalesced, every_range_has_every_zone)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(memory_region_add_coalesced(region, 0x80, 0x10, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(region, 0x10, 0x10, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(region, 0x40, 0x10, NULL), 0);
    add(&f.root, 0x1000, alias(&f, "a", region, 0x40, 0x60), 0);
    assert_offloads("+zone 1000+10 +zone 1040+10");
}

Test(coalesced, changes_alone)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    add(&f.root, 0x1000, region, 0);
    forget(&record);
    cr_assert_eq(memory_region_add_coalesced(region, 0x10, 0x10, NULL), 0);
    assert_heard(&record, "a:prepare; a:+zone 1010+10; a:apply; a:commit; ");
    cr_assert_eq(memory_region_clear_coalesced(region, NULL), 0);
    assert_heard(&record, "a:prepare; a:-zone 1010+10; a:apply; a:commit; ");
    cr_assert_eq(memory_region_clear_coalesced(region, NULL), 0);
    assert_heard(&record, "");
}

Test(coalesced, bad_ones_are_refused)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    cr_assert_eq(memory_region_add_coalesced(region, 0xff, 2, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_coalesced(region, 0, 0, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_coalesced(region, UINT64_MAX, UINT64_MAX, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_coalesced(ram(&f, "ram", PAGE), 0, 1, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_coalesced(region, 0x10, 0x10, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(region, 0x1f, 1, NULL), -EEXIST);
    cr_assert_eq(memory_region_add_coalesced(region, 0x8, 0x9, NULL), -EEXIST);
    cr_assert_eq(memory_region_add_coalesced(region, 0x20, 1, NULL), 0);
}
