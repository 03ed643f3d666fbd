/*
 * Bad input that no other test has: each is an error, or does what a header says. The rest is where it
 * belongs: sizes, cycles and second containers in test_region, ioeventfds in test_offloads, queries of dirty
 * pages in test_dirty, RAM that is not pages in test_kvm_listener, regions with readers in test_readers.
 */
#include <pthread.h>
#include <stdlib.h>

#include "memory/dirty.h"
#include "tests/unit/memory/recorder.h"

#define DEPTH 500

static struct fixture f;

static void start(void)
{
    fixture_start(&f);
}

static void end(void)
{
    fixture_end(&f);
}

TestSuite(bad_input, .init = start, .fini = end);

/* Among equals the last added wins, whatever the order and the overlap. */
Test(bad_input, equal_priorities_overlap_in_every_order)
{
    struct memory_region *regions[] = {mmio(&f, "a", 3), mmio(&f, "b", 3), mmio(&f, "c", 3)};
    static const unsigned orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    for (size_t order = 0; order < ARRAY_SIZE(orders); order++) {
        int top[5] = {-1, -1, -1, -1, -1};
        for (size_t i = 0; i < 3; i++) {
            unsigned which = orders[order][i];
            add(&f.root, which, regions[which], -7);
            for (unsigned at = which; at < which + 3; at++)
                top[at] = (int)which;
        }
        struct flat_view *view = flat_view_get(f.space);
        for (unsigned at = 0; at < 5; at++)
            cr_assert_eq(flat_view_find(view, at)->region, regions[top[at]]);
        flat_view_put(view);
        cr_assert_eq(memory_region_remove_all_subregions(&f.root, NULL), 0);
    }
}

Test(bad_input, offsets_that_wrap)
{
    struct memory_region *all = container(&f, "all", MEMORY_SIZE_MAX), *device = mmio(&f, "device", 0x10);
    struct memory_region *huge = mmio(&f, "huge", MEMORY_SIZE_MAX);
    struct memory_region *window = alias(&f, "window", all, UINT64_MAX - 0xf, 0x100);
    cr_assert_eq(memory_region_add_subregion(all, UINT64_MAX, device, 0, &f.err), -EOVERFLOW);
    cr_assert_not_null(strstr(f.err.message, "device"));
    add(all, UINT64_MAX - 0xf, device, 0);
    add(&f.root, 0x1000, window, 0);
    assert_shows(&f, "1000+10 device@0");
    cr_assert_eq(memory_region_add_subregion(&f.root, 1, huge, 0, NULL), -EOVERFLOW);
    cr_assert_eq(memory_region_add_ioeventfd(huge, UINT64_MAX, 2, false, 0, 3, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_ioeventfd(huge, UINT64_MAX - 1, 2, false, 0, 3, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(huge, UINT64_MAX, 2, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_coalesced(huge, 2, UINT64_MAX, NULL), -EINVAL);
    cr_assert_eq(memory_region_add_coalesced(huge, 1, UINT64_MAX, NULL), 0);
}

Test(bad_input, an_ioeventfd_is_removed_once)
{
    struct memory_region *device = mmio(&f, "device", 0x10), *box = container(&f, "box", 0x10);
    cr_assert_eq(memory_region_remove_ioeventfd(device, 0, 4, false, 0, 3, &f.err), -ENOENT);
    cr_assert_not_null(strstr(f.err.message, "device"));
    cr_assert_eq(memory_region_add_ioeventfd(device, 0, 4, false, 0, 3, NULL), 0);
    cr_assert_eq(memory_region_remove_ioeventfd(device, 0, 4, false, 0, 3, NULL), 0);
    cr_assert_eq(memory_region_remove_ioeventfd(device, 0, 4, false, 0, 3, NULL), -ENOENT);
    cr_assert_eq(memory_region_remove_ioeventfd(device, UINT64_MAX, 8, true, 1, -1, NULL), -ENOENT);
    cr_assert_lt(memory_region_remove_ioeventfd(box, 0, 4, false, 0, 3, NULL), 0);
    cr_assert_eq(memory_region_clear_coalesced(box, NULL), 0);
}

/* As deep as nobody nests, by containers and by aliases: it is shown, and no cycle of that length is let in.
 */
Test(bad_input, deep_trees)
{
    struct memory_region *boxes = calloc(DEPTH, sizeof(*boxes)), *aliases = calloc(DEPTH, sizeof(*aliases));
    struct memory_region *device = mmio(&f, "device", 0x10);
    for (unsigned i = 0; i < DEPTH; i++) {
        cr_assert_eq(memory_region_init_container(&boxes[i], f.memory, "box", 0x1000, NULL), 0);
        cr_assert_eq(memory_region_init_alias(&aliases[i], f.memory, "alias", &boxes[i], 0, 0x1000, NULL), 0);
        if (i)
            add(&boxes[i], 1, &aliases[i - 1], 0);
    }
    add(&f.root, 0, &aliases[DEPTH - 1], 0);
    add(&boxes[0], 1, device, 0);
    assert_shows(&f, "1f4+10 device@0");
    struct memory_region last;
    cr_assert_eq(memory_region_init_alias(&last, f.memory, "last", &boxes[DEPTH - 1], 0, 0x10, NULL), 0);
    cr_assert_eq(memory_region_add_subregion(&boxes[0], 0, &last, 0, &f.err), -EINVAL);
    cr_assert_eq(memory_region_remove_subregion(device, NULL), 0);
    assert_shows(&f, "");
    for (unsigned i = 0; i < DEPTH; i++)
        cr_assert_eq(memory_region_remove_subregion(&aliases[i], NULL), 0);
    memory_region_destroy(&last);
    for (unsigned i = 0; i < DEPTH; i++) {
        memory_region_destroy(&aliases[i]);
        memory_region_destroy(&boxes[i]);
    }
    free(boxes);
    free(aliases);
}

struct remover {
    struct memory_region *region;
    int result;
};

static void *remove_region(void *opaque)
{
    struct remover *self = opaque;
    self->result = memory_region_remove_subregion(self->region, NULL);
    return NULL;
}

/* Another thread removes what a transaction moves that then fails: it waits, and removes what is there again.
 */
Test(bad_input, removed_while_another_thread_is_in_a_transaction_that_fails)
{
    struct record record = {0};
    struct recorder recorder;
    struct memory_region *x = mmio(&f, "x", 0x10), *y = mmio(&f, "y", 0x10);
    add(&f.root, 0, x, 0);
    listen_to(f.space, &recorder, "a", 0, &record);
    forget(&record);
    recorder.fail = "+100 y";
    struct remover remover = {x, -1};
    pthread_t thread;
    memory_transaction_begin(f.memory);
    cr_assert_eq(pthread_create(&thread, NULL, remove_region, &remover), 0);
    cr_assert_eq(memory_region_remove_subregion(x, NULL), 0);
    add(&f.root, 0x100, y, 0);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(x, NULL), -EINVAL);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, &f.err), -EIO);
    pthread_join(thread, NULL);
    cr_assert_eq(remover.result, 0);
    assert_shows(&f, "");
    cr_assert_eq(memory_region_remove_subregion(y, NULL), -EINVAL);
    memory_listener_unregister(&recorder.listener);
}

/* A mapping keeps what it showed, though its region has gone. */
Test(bad_input, region_that_goes_while_a_mapping_holds_it)
{
    struct memory_region *region = calloc(1, sizeof(*region));
    cr_assert_eq(memory_region_init_ram(region, f.memory, "gone", f.block, 0, PAGE, NULL), 0);
    add(&f.root, 0, region, 0);
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, 0, PAGE, true, &mapping), 0);
    cr_assert_eq(memory_region_remove_subregion(region, NULL), 0);
    memset(mapping.iov[0].iov_base, 0x77, PAGE);
    guest_unmap(&mapping, PAGE);
    memory_synchronize(f.memory);
    memory_region_destroy(region);
    free(region);
    uint8_t byte;
    cr_assert_eq(address_space_read(f.space, 0, &byte, 1), -ENXIO);
    cr_assert_eq(*(uint8_t *)f.block->host, 0x77);
}

Test(bad_input, listeners_that_never_were)
{
    struct memory_listener listener = {.name = "never"};
    memory_listener_unregister(&listener);
    address_space_destroy(NULL);
    flat_view_put(NULL);
    dirty_stop(NULL);
    memory_destroy(NULL);
}

/* Marks outside of a block are left out; so are those of a block that nobody shows. */
Test(bad_input, dirty_marks_outside_of_a_block)
{
    struct dirty_client *client;
    uint64_t bits[] = {UINT64_MAX, UINT64_MAX};
    add(&f.root, 0, ram(&f, "ram", BLOCK), 0);
    cr_assert_eq(dirty_start(f.memory, "test", DIRTY_FROM_NOW, &client, NULL), 0);
    dirty_mark(f.block, BLOCK, 1);
    dirty_mark(f.block, UINT64_MAX, UINT64_MAX);
    dirty_mark(f.block, 0, 0);
    dirty_merge(f.block, BLOCK / PAGE, 128, bits);
    dirty_merge(f.block, UINT64_MAX, 128, bits);
    cr_assert_eq(dirty_count(client, NULL), 0);
    dirty_mark(f.block, BLOCK - 1, UINT64_MAX);
    dirty_merge(f.block, BLOCK / PAGE - 2, 128, bits);
    cr_assert_eq(dirty_count(client, f.block), 2);
    static const struct {
        uint64_t first, count;
    } bad[] = {{0, UINT64_MAX}, {UINT64_MAX - 63, 64}, {64, 64}, {128, 0}, {0, 63}, {1, 63}, {UINT64_MAX, 1}};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        cr_assert_eq(dirty_take(client, f.block, bad[i].first, bad[i].count, bits, NULL), -EINVAL, "%zu", i);
        cr_assert_eq(dirty_put_back(client, f.block, bad[i].first, bad[i].count, bits, NULL), -EINVAL);
    }
    cr_assert_eq(dirty_count(client, f.block), 2, "nothing was taken");
    dirty_stop(client);
}
