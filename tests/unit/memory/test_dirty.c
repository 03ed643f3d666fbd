#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "memory/dirty.h"
#include "tests/unit/memory/recorder.h"

#define BASE      0x10000
#define PAGES     64 /* of the fixture's block: one word */
#define ALL       UINT64_MAX

#define BIG_PAGES 200 /* of another block; not a whole number of words */
#define BIG_WORDS 4

static struct fixture f;
static struct memory_region *whole;
static struct ram_block *big;
static struct memory_region big_region;

static void start(void)
{
    fixture_start(&f);
    whole = ram(&f, "whole", BLOCK);
    add(&f.root, BASE, whole, 0);
    cr_assert_eq(ram_block_create("big", BIG_PAGES * PAGE, 0, &big, NULL), 0);
    cr_assert_eq(
        memory_region_init_ram(&big_region, f.memory, "big", big, PAGE, (BIG_PAGES - 1) * PAGE, NULL), 0);
    add(&f.root, BASE + BLOCK, &big_region, 0);
}

static void end(void)
{
    if (big_region.state.container)
        cr_assert_eq(memory_region_remove_subregion(&big_region, NULL), 0);
    memory_region_destroy(&big_region);
    fixture_end(&f);
    ram_block_destroy(big);
}

TestSuite(dirty, .init = start, .fini = end);

static struct dirty_client *track(enum dirty_first first)
{
    struct dirty_client *client;
    struct error err = {""};
    cr_assert_eq(dirty_start(f.memory, "client", first, &client, &err), 0, "%s", err.message);
    return client;
}

/* Takes the marks of the fixture's block. */
static uint64_t taken(struct dirty_client *client)
{
    uint64_t bitmap = 0x5555;
    struct error err = {""};
    int result = dirty_take(client, f.block, 0, PAGES, &bitmap, &err);
    cr_assert_eq(result, 0, "%s", err.message);
    return bitmap;
}

/* Takes those of the big one. */
static void take_big(struct dirty_client *client, uint64_t *bitmap)
{
    cr_assert_eq(dirty_take(client, big, 0, BIG_PAGES, bitmap, NULL), 0);
}

static uint64_t bit(unsigned page)
{
    return (uint64_t)1 << page;
}

static bool has(const uint64_t *bitmap, uint64_t page)
{
    return bitmap[page / DIRTY_WORD_PAGES] & bit(page % DIRTY_WORD_PAGES);
}

static void store(uint64_t address, size_t length)
{
    static const char data[4 * PAGE];
    cr_assert_leq(length, sizeof(data));
    cr_assert_eq(address_space_write(f.space, address, data, length), 0);
}

Test(dirty, begins_with_nothing_or_with_everything)
{
    store(BASE, 1);
    struct dirty_client *now = track(DIRTY_FROM_NOW), *all = track(DIRTY_EVERYTHING);
    cr_assert_eq(dirty_count(now, NULL), 0);
    cr_assert_eq(dirty_count(all, f.block), PAGES);
    cr_assert_eq(dirty_count(all, big), BIG_PAGES);
    cr_assert_eq(dirty_count(all, NULL), PAGES + BIG_PAGES);
    uint64_t bitmap[BIG_WORDS];
    take_big(all, bitmap);
    cr_assert_eq(bitmap[2], ALL);
    cr_assert_eq(bitmap[3], 0xff, "zero behind the last page");
    cr_assert_eq(taken(all), ALL);
    cr_assert_eq(dirty_count(all, NULL), 0);
    dirty_stop(now);
    dirty_stop(all);
    dirty_stop(NULL);
}

Test(dirty, what_is_written_is_marked)
{
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    store(BASE + 5 * PAGE, 1);
    cr_assert_eq(taken(client), bit(5));
    cr_assert_eq(taken(client), 0, "clean until the next write");
    store(BASE + 6 * PAGE - 1, 1);
    cr_assert_eq(taken(client), bit(5));
    store(BASE + 6 * PAGE - 1, 2);
    cr_assert_eq(taken(client), bit(5) | bit(6));
    store(BASE + 6 * PAGE - 1, 2 * PAGE + 2);
    cr_assert_eq(taken(client), bit(5) | bit(6) | bit(7) | bit(8));
    store(BASE + 6 * PAGE, PAGE);
    cr_assert_eq(taken(client), bit(6));
    store(BASE + 63 * PAGE, 2 * PAGE);
    cr_assert_eq(taken(client), bit(63));
    uint64_t bitmap[BIG_WORDS];
    take_big(client, bitmap);
    cr_assert_arr_eq(bitmap, ((uint64_t[]){2, 0, 0, 0}), sizeof(bitmap),
                     "its second page is the first shown");
    dirty_stop(client);
}

Test(dirty, what_is_not_stored_is_not_marked)
{
    add(&f.root, 0x1000, mmio(&f, "mmio", PAGE), 0);
    add(&f.root, 0x2000, rom(&f, "rom", PAGE), 0);
    add(&f.root, 0x3000, rom_device(&f, "device", PAGE), 0);
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    char data[3 * PAGE] = {0};
    cr_assert_eq(address_space_write(f.space, 0x1000, data, sizeof(data)), -EACCES);
    cr_assert_eq(address_space_read(f.space, BASE, data, sizeof(data)), 0);
    cr_assert_eq(dirty_count(client, NULL), 0);
    dirty_stop(client);
}

Test(dirty, aliases_mark_the_page_of_the_block)
{
    add(&f.root, 0x1000, alias(&f, "alias", whole, 7 * PAGE, 2 * PAGE), 0);
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    store(0x1fff, 2);
    cr_assert_eq(taken(client), bit(7) | bit(8));
    dirty_stop(client);
}

/* Maps `length` bytes, and gives them back with `written` bytes written. */
static void map_and_write(uint64_t address, uint64_t length, uint64_t written)
{
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, address, length, true, &mapping), 0);
    guest_unmap(&mapping, written);
}

Test(dirty, mappings_mark_what_was_written)
{
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    map_and_write(BASE + PAGE, 3 * PAGE, 0);
    cr_assert_eq(taken(client), 0);
    map_and_write(BASE + PAGE, 3 * PAGE, 1);
    cr_assert_eq(taken(client), bit(1));
    map_and_write(BASE + 2 * PAGE - 1, 3 * PAGE, 2);
    cr_assert_eq(taken(client), bit(1) | bit(2));
    map_and_write(BASE + PAGE, PAGE, PAGE);
    cr_assert_eq(taken(client), bit(1));
    map_and_write(BASE + PAGE, PAGE, 100 * PAGE);
    cr_assert_eq(taken(client), bit(1), "no further than it was mapped");
    map_and_write(BASE + PAGE, 0, PAGE);
    cr_assert_eq(dirty_count(client, NULL), 0);
    map_and_write(BASE + BLOCK - 1, 2 * PAGE, PAGE + 2);
    cr_assert_eq(taken(client), bit(63));
    uint64_t bitmap[BIG_WORDS];
    take_big(client, bitmap);
    cr_assert_arr_eq(bitmap, ((uint64_t[]){6, 0, 0, 0}), sizeof(bitmap));
    dirty_stop(client);
}

Test(dirty, mappings_mark_what_they_showed)
{
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    struct guest_mapping mapping;
    cr_assert_eq(guest_map(f.space, BASE + 3 * PAGE, PAGE, true, &mapping), 0);
    cr_assert_eq(memory_region_set_address(whole, BASE + 16 * BLOCK, NULL), 0);
    guest_unmap(&mapping, 1);
    cr_assert_eq(taken(client), bit(3));
    dirty_stop(client);
}

Test(dirty, views_mark_what_they_show)
{
    struct flat_view *view = flat_view_get(f.space);
    cr_assert(!flat_view_tracked(view));
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    cr_assert(flat_view_tracked(view));
    cr_assert_eq(memory_region_set_address(whole, BASE + 16 * BLOCK, NULL), 0);
    flat_view_mark(view, BASE + 3 * PAGE - 1, 2);
    flat_view_mark(view, BASE + 9 * PAGE, 0);
    cr_assert_eq(taken(client), bit(2) | bit(3));
    flat_view_put(view);
    dirty_stop(client);
}

Test(dirty, mark_keeps_to_the_block)
{
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    dirty_mark(f.block, 0, 0);
    dirty_mark(f.block, BLOCK, 1);
    dirty_mark(f.block, UINT64_MAX, UINT64_MAX);
    cr_assert_eq(dirty_count(client, NULL), 0);
    dirty_mark(f.block, BLOCK - 1, UINT64_MAX);
    cr_assert_eq(taken(client), bit(63));
    dirty_mark(f.block, 0, UINT64_MAX);
    cr_assert_eq(taken(client), ALL);
    dirty_mark(big, 0, UINT64_MAX);
    cr_assert_eq(dirty_count(client, NULL), BIG_PAGES);
    dirty_stop(client);
    dirty_mark(f.block, 0, 1);
}

/* Ranges of any place and length against a page at a time. */
Test(dirty, mark_every_range)
{
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    uint64_t bitmap[BIG_WORDS];
    for (uint64_t first = 0; first < BIG_PAGES; first += 7) {
        for (uint64_t last = first; last < BIG_PAGES; last += 5) {
            dirty_mark(big, first * PAGE + 17, (last - first) * PAGE + 1);
            take_big(client, bitmap);
            for (uint64_t page = 0; page < BIG_WORDS * DIRTY_WORD_PAGES; page++)
                cr_assert_eq(has(bitmap, page), page >= first && page <= last, "page %lu of %lu to %lu", page,
                             first, last);
        }
    }
    dirty_stop(client);
}

/* Bitmaps of any place and length against a bit at a time. What is behind their end must count for nothing.
 */
Test(dirty, merge_every_shift)
{
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    uint64_t from[BIG_WORDS + 1], bitmap[BIG_WORDS];
    for (unsigned round = 0; round < 3000; round++) {
        uint64_t first = (uint64_t)rand() % (BIG_PAGES + 10), count = (uint64_t)rand() % BIG_PAGES;
        for (unsigned i = 0; i < ARRAY_SIZE(from); i++)
            from[i] = round % 3 ? (uint64_t)rand() << 40 ^ (uint64_t)rand() << 20 ^ (uint64_t)rand() : ALL;
        dirty_merge(big, first, count, from);
        take_big(client, bitmap);
        for (uint64_t page = 0; page < BIG_WORDS * DIRTY_WORD_PAGES; page++) {
            bool inside = page >= first && page - first < count && page < BIG_PAGES;
            cr_assert_eq(has(bitmap, page), inside && has(from, page - first));
        }
    }
    dirty_stop(client);
}

Test(dirty, clients_do_not_disturb_each_other)
{
    struct dirty_client *a = track(DIRTY_FROM_NOW), *b = track(DIRTY_FROM_NOW);
    store(BASE, 1);
    cr_assert_eq(taken(a), bit(0));
    store(BASE + PAGE, 1);
    cr_assert_eq(taken(b), bit(0) | bit(1));
    struct dirty_client *c = track(DIRTY_FROM_NOW);
    cr_assert_eq(taken(a), bit(1), "who starts takes nothing from others");
    store(BASE + 2 * PAGE, 1);
    dirty_stop(b);
    cr_assert_eq(taken(a), bit(2));
    cr_assert_eq(taken(c), bit(2));
    store(BASE + 3 * PAGE, 1);
    b = track(DIRTY_FROM_NOW);
    cr_assert_eq(taken(b), 0, "nothing is left of who was there before");
    cr_assert_eq(taken(c), bit(3));
    dirty_stop(a);
    dirty_stop(b);
    dirty_stop(c);
}

Test(dirty, what_was_taken_can_be_put_back)
{
    struct dirty_client *a = track(DIRTY_FROM_NOW), *b = track(DIRTY_FROM_NOW);
    store(BASE, 1);
    uint64_t bitmap = taken(a);
    store(BASE + PAGE, 1);
    taken(b);
    cr_assert_eq(dirty_put_back(a, f.block, 0, PAGES, &bitmap, NULL), 0);
    cr_assert_eq(taken(a), bit(0) | bit(1));
    cr_assert_eq(taken(b), 0);
    uint64_t end[] = {bit(0), ALL};
    cr_assert_eq(dirty_put_back(a, big, 128, BIG_PAGES - 128, end, NULL), 0);
    cr_assert_eq(dirty_count(a, NULL), 9);
    dirty_stop(a);
    dirty_stop(b);
}

Test(dirty, part_of_a_block_can_be_taken)
{
    struct dirty_client *client = track(DIRTY_EVERYTHING);
    uint64_t bitmap[BIG_WORDS] = {0};
    cr_assert_eq(dirty_take(client, big, 64, 64, bitmap, NULL), 0);
    cr_assert_arr_eq(bitmap, ((uint64_t[]){ALL, 0, 0, 0}), sizeof(bitmap), "one word");
    cr_assert_eq(dirty_take(client, big, 64, BIG_PAGES - 64, bitmap, NULL), 0);
    cr_assert_arr_eq(bitmap, ((uint64_t[]){0, ALL, 0xff, 0}), sizeof(bitmap));
    cr_assert_eq(dirty_take(client, big, 64, 0, bitmap, NULL), 0);
    cr_assert_eq(dirty_count(client, big), 64);
    dirty_stop(client);
}

static void assert_refused(struct dirty_client *client, struct ram_block *block, uint64_t first,
                           uint64_t count)
{
    uint64_t bitmap[BIG_WORDS] = {1, 2, 3, 4};
    struct error err = {""};
    uint64_t before = dirty_count(client, NULL);
    cr_assert_eq(dirty_take(client, block, first, count, bitmap, &err), -EINVAL);
    cr_assert_not_null(strstr(err.message, block->name));
    cr_assert_eq(dirty_put_back(client, block, first, count, bitmap, &err), -EINVAL);
    cr_assert_arr_eq(bitmap, ((uint64_t[]){1, 2, 3, 4}), sizeof(bitmap));
    cr_assert_eq(dirty_count(client, NULL), before);
}

Test(dirty, queries_outside_of_a_block_are_refused)
{
    struct dirty_client *client = track(DIRTY_EVERYTHING);
    assert_refused(client, big, 1, 64);
    assert_refused(client, big, 0, 63);
    assert_refused(client, big, 0, 256);
    assert_refused(client, big, 256, 0);
    assert_refused(client, big, 256, 64);
    assert_refused(client, big, UINT64_MAX - 63, 64);
    assert_refused(client, big, 64, UINT64_MAX - 63);
    assert_refused(client, big, 192, 9);
    struct ram_block *other;
    cr_assert_eq(ram_block_create("other", BLOCK, 0, &other, NULL), 0);
    assert_refused(client, other, 0, 64);
    cr_assert_eq(dirty_count(client, other), 0);
    dirty_mark(other, 0, PAGE);
    dirty_stop(client);
    ram_block_destroy(other);
}

Test(dirty, has_a_limit_of_clients)
{
    struct dirty_client *clients[DIRTY_CLIENTS_MAX], *other;
    for (unsigned i = 0; i < DIRTY_CLIENTS_MAX; i++)
        clients[i] = track(DIRTY_EVERYTHING);
    cr_assert_eq(dirty_start(f.memory, "other", DIRTY_FROM_NOW, &other, &f.err), -EBUSY);
    cr_assert_not_null(strstr(f.err.message, "other"));
    dirty_stop(clients[3]);
    clients[3] = track(DIRTY_FROM_NOW);
    store(BASE, 1);
    cr_assert_eq(taken(clients[3]), bit(0));
    for (unsigned i = 0; i < DIRTY_CLIENTS_MAX; i++)
        dirty_stop(clients[i]);
}

Test(dirty, does_not_start_within_a_transaction)
{
    struct dirty_client *client;
    memory_transaction_begin(f.memory);
    cr_assert_eq(dirty_start(f.memory, "client", DIRTY_FROM_NOW, &client, &f.err), -EBUSY);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
}

Test(dirty, ram_that_comes_is_tracked_and_dirty)
{
    struct dirty_client *client = track(DIRTY_FROM_NOW);
    struct ram_block *more;
    struct memory_region first, second;
    cr_assert_eq(ram_block_create("more", 3 * PAGE, 0, &more, NULL), 0);
    cr_assert_eq(dirty_count(client, more), 0);
    cr_assert_eq(memory_region_init_ram(&first, f.memory, "first", more, 0, PAGE, NULL), 0);
    cr_assert_eq(dirty_count(client, more), 3);
    uint64_t bitmap;
    cr_assert_eq(dirty_take(client, more, 0, 3, &bitmap, NULL), 0);
    cr_assert_eq(bitmap, 7);
    cr_assert_eq(memory_region_init_rom(&second, f.memory, "second", more, PAGE, PAGE, NULL), 0);
    cr_assert_eq(dirty_count(client, more), 0, "the block was there already");
    add(&f.root, 0, &first, 0);
    add(&f.root, PAGE, &second, 0);
    store(0, 1);
    cr_assert_eq(dirty_take(client, more, 0, 3, &bitmap, NULL), 0);
    cr_assert_eq(bitmap, 1);
    struct flat_view *view = flat_view_get(f.space);
    cr_assert_eq(flat_view_find(view, 0)->log, flat_view_find(view, BASE)->log);
    cr_assert_eq(flat_view_find(view, PAGE)->log, flat_view_find(view, BASE)->log);
    flat_view_put(view);
    cr_assert_eq(memory_region_remove_subregion(&first, NULL), 0);
    memory_region_destroy(&first);
    dirty_mark(more, 0, 1);
    cr_assert_eq(dirty_take(client, more, 0, 3, &bitmap, NULL), 0);
    cr_assert_eq(bitmap, 1, "a region less is nothing to the block");
    cr_assert_eq(memory_region_remove_subregion(&second, NULL), 0);
    memory_region_destroy(&second);
    cr_assert_eq(dirty_take(client, more, 0, 3, &bitmap, NULL), -EINVAL, "the block has gone");
    cr_assert_eq(memory_region_init_ram(&first, f.memory, "first", more, 0, PAGE, NULL), 0);
    cr_assert_eq(dirty_count(client, more), 3, "and is here again");
    memory_region_destroy(&first);
    dirty_stop(client);
    ram_block_destroy(more);
}

Test(dirty, block_is_of_one_machine)
{
    struct memory *other = memory_create();
    struct memory_region region;
    cr_assert_eq(memory_region_init_ram(&region, other, "region", f.block, 0, PAGE, &f.err), -EINVAL);
    cr_assert_not_null(strstr(f.err.message, "another machine"));
    memory_region_destroy(&region);
    memory_destroy(other);
}

/* A source whose calls are written down, and that has pages to add. */
struct fake_source {
    struct dirty_source source;
    struct record *record;
    const char *fail;
    uint64_t known;   /* pages of the fixture's block that it would add */
    uint64_t watched; /* of that block, at the last watch */
};

static int hear_source(struct fake_source *self, const char *call, struct error *err)
{
    strcat(strcat(self->record->text, call), "; ");
    return self->fail && strcmp(self->fail, call) == 0 ? error_set(err, EIO, "source: no %s", call) : 0;
}

static int fake_sync(struct dirty_source *source, struct error *err)
{
    struct fake_source *self = container_of(source, struct fake_source, source);
    dirty_merge(f.block, 0, PAGES, &self->known);
    self->known = 0;
    return hear_source(self, "sync", err);
}

static int fake_watch(struct dirty_source *source, struct ram_block *block, uint64_t first, uint64_t count,
                      const uint64_t *bitmap, struct error *err)
{
    struct fake_source *self = container_of(source, struct fake_source, source);
    if (block == f.block)
        self->watched = bitmap[0];
    char call[64];
    snprintf(call, sizeof(call), "watch %s %lu+%lu", block->name, first, count);
    return hear_source(self, call, err);
}

static const struct dirty_source_ops fake_ops = {.sync = fake_sync, .watch = fake_watch};
static const struct dirty_source_ops knowing_ops = {.sync = fake_sync};

Test(dirty, sources_are_asked)
{
    struct record record = {0};
    struct fake_source source = {{.ops = &fake_ops}, &record, NULL, bit(9), 0},
                       knowing = {{.ops = &knowing_ops}, &record, NULL, bit(8), 0};
    dirty_source_add(&source.source, f.memory);
    dirty_source_add(&knowing.source, f.memory);
    cr_assert_eq(dirty_sync(f.memory, NULL), 0);
    assert_heard(&record, "");
    struct dirty_client *a = track(DIRTY_EVERYTHING);
    assert_heard(&record, "");
    cr_assert_eq(taken(a), ALL);
    assert_heard(&record, "watch block 0+64; ");
    cr_assert_eq(source.watched, ALL);
    cr_assert_eq(taken(a), 0);
    assert_heard(&record, "");
    cr_assert_eq(dirty_sync(f.memory, NULL), 0);
    assert_heard(&record, "sync; sync; ");
    source.known = bit(1);
    struct dirty_client *b = track(DIRTY_FROM_NOW);
    assert_heard(&record, "sync; sync; watch big 0+200; watch block 0+64; ");
    cr_assert_eq(taken(b), 0);
    cr_assert_eq(taken(a), bit(1) | bit(8) | bit(9), "who starts takes nothing from others");
    cr_assert_eq(source.watched, bit(1) | bit(8) | bit(9));
    forget(&record);
    dirty_source_remove(&source.source);
    dirty_source_remove(&source.source);
    dirty_source_remove(&knowing.source);
    cr_assert_eq(dirty_sync(f.memory, NULL), 0);
    assert_heard(&record, "");
    dirty_stop(a);
    dirty_stop(b);
}

Test(dirty, errors_of_sources_lose_nothing)
{
    struct record record = {0};
    struct fake_source first = {{.ops = &fake_ops}, &record, "sync", bit(1), 0},
                       second = {{.ops = &fake_ops}, &record, NULL, bit(2), 0};
    dirty_source_add(&first.source, f.memory);
    dirty_source_add(&second.source, f.memory);
    struct dirty_client *client, *other = track(DIRTY_EVERYTHING);
    taken(other);
    forget(&record);
    cr_assert_eq(dirty_start(f.memory, "client", DIRTY_FROM_NOW, &client, &f.err), -EIO);
    cr_assert_str_eq(f.err.message, "client: source: no sync");
    first.known = bit(3);
    cr_assert_eq(dirty_sync(f.memory, &f.err), -EIO);
    cr_assert_str_eq(f.err.message, "source: no sync");
    assert_heard(&record, "sync; sync; sync; sync; ");
    second.fail = "watch block 0+64";
    uint64_t bitmap;
    cr_assert_eq(dirty_take(other, f.block, 0, PAGES, &bitmap, &f.err), -EIO);
    cr_assert_eq(dirty_count(other, f.block), 3, "put back");
    first.fail = NULL;
    cr_assert_eq(dirty_start(f.memory, "client", DIRTY_FROM_NOW, &client, &f.err), -EIO);
    cr_assert_eq(whole->state.log, 1);
    second.fail = NULL;
    cr_assert_eq(taken(other), bit(1) | bit(2) | bit(3));
    dirty_stop(other);
    dirty_source_remove(&first.source);
    dirty_source_remove(&second.source);
}

Test(dirty, listeners_hear_who_logs)
{
    struct record record = {0};
    struct recorder recorder;
    listen_to_logs(f.space, &recorder, "l", 0, &record);
    forget(&record);
    struct dirty_client *a = track(DIRTY_EVERYTHING);
    assert_heard(&record,
                 "l:prepare; l:=10000 whole; l:log 10000 whole 0>1; l:=50000 big; l:log 50000 big 0>1; "
                 "l:apply; l:commit; ");
    struct dirty_client *b = track(DIRTY_FROM_NOW);
    assert_heard(&record,
                 "l:prepare; l:=10000 whole; l:log 10000 whole 1>3; l:=50000 big; l:log 50000 big 1>3; "
                 "l:apply; l:commit; ");
    dirty_stop(a);
    assert_heard(&record, "l:prepare; l:=10000 whole; l:unlog 10000 whole 3>2; l:=50000 big; "
                          "l:unlog 50000 big 3>2; l:apply; l:commit; ");
    dirty_stop(b);
    forget(&record);
    memory_listener_unregister(&recorder.listener);
}

/* Whichever call fails, a start that fails has not been. */
Test(dirty, start_fails_as_a_whole)
{
    static const char *const calls[] = {"prepare", "log 10000 whole 1>3", "log 50000 big 1>3", "apply"};
    struct record record = {0};
    struct recorder low, high;
    struct dirty_client *client, *other = track(DIRTY_FROM_NOW);
    listen_to_logs(f.space, &low, "l", 0, &record);
    listen_to_logs(f.space, &high, "h", 1, &record);
    store(BASE, 1);
    for (unsigned i = 0; i < 2 * ARRAY_SIZE(calls); i++) {
        forget(&record);
        low.fail = i % 2 ? calls[i / 2] : NULL;
        high.fail = i % 2 ? NULL : calls[i / 2];
        cr_assert_eq(
            dirty_start(f.memory, "client", i % 4 ? DIRTY_FROM_NOW : DIRTY_EVERYTHING, &client, &f.err),
            -EIO);
        cr_assert_not_null(strstr(f.err.message, calls[i / 2]));
        cr_assert_eq(whole->state.log, 1);
        cr_assert_eq(big_region.state.log, 1);
        cr_assert_eq(dirty_count(other, NULL), 1);
    }
    low.fail = high.fail = NULL;
    forget(&record);
    client = track(DIRTY_FROM_NOW);
    store(BASE + PAGE, 1);
    cr_assert_eq(taken(client), bit(1));
    cr_assert_eq(taken(other), bit(0) | bit(1));
    dirty_stop(client);
    dirty_stop(other);
    memory_listener_unregister(&low.listener);
    memory_listener_unregister(&high.listener);
}

/* A listener that goes on to log is put right when the next client comes or goes. */
Test(dirty, stop_succeeds_all_the_same)
{
    struct record record = {0};
    struct recorder recorder;
    struct dirty_client *a = track(DIRTY_FROM_NOW), *b = track(DIRTY_FROM_NOW);
    listen_to_logs(f.space, &recorder, "l", 0, &record);
    recorder.fail = "unlog 50000 big 3>2";
    dirty_stop(a);
    store(BASE, 1);
    cr_assert_eq(taken(b), bit(0));
    recorder.fail = NULL;
    forget(&record);
    dirty_stop(b);
    assert_heard(&record, "l:prepare; l:=10000 whole; l:unlog 10000 whole 3>0; l:=50000 big; "
                          "l:unlog 50000 big 3>0; l:apply; l:commit; ");
    a = track(DIRTY_FROM_NOW);
    cr_assert_eq(dirty_count(a, NULL), 0);
    dirty_stop(a);
    forget(&record);
    memory_listener_unregister(&recorder.listener);
}

/*
 * The race: in each round two threads store a number into pages, each page a few times, while takers keep
 * copies by copying what they take. When a round is over and its last marks are taken the copies must be
 * right, all of them: a mark that is lost is not made good by a later one.
 */
#define MARKERS    2
#define TAKERS     2
#define ROUNDS     2000
#define STORES_MAX 3 /* to a page in a round */

struct race {
    pthread_barrier_t barrier; /* of all markers and takers */
    atomic_uint finished;      /* rounds of markers */
};

struct racer {
    struct race *race;
    unsigned number;
    pthread_t thread;
};

static char *host_of(unsigned page)
{
    return (char *)f.block->host + page * PAGE;
}

static uint64_t look(unsigned page)
{
    return atomic_load_explicit((_Atomic uint64_t *)host_of(page), memory_order_relaxed);
}

/* Each of the ways to store, in turn. */
static void store_number(unsigned way, unsigned page, uint64_t number)
{
    if (way == 0) {
        cr_assert_eq(address_space_write(f.space, BASE + page * PAGE, &number, 8), 0);
        return;
    }
    struct guest_mapping mapping = {.view = NULL};
    if (way == 1)
        cr_assert_eq(guest_map(f.space, BASE + page * PAGE, 8, true, &mapping), 0);
    atomic_store_explicit((_Atomic uint64_t *)host_of(page), number, memory_order_relaxed);
    if (way == 1)
        guest_unmap(&mapping, 8);
    else
        dirty_mark(f.block, page * PAGE, 8);
}

static void *mark_on(void *opaque)
{
    struct racer *self = opaque;
    struct race *race = self->race;
    for (uint64_t round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&race->barrier);
        for (unsigned page = self->number; page < PAGES; page += MARKERS)
            for (uint64_t i = 0; i < 1 + page / 2 % STORES_MAX; i++)
                store_number((page / 2 + (unsigned)round) % 4, page, round * STORES_MAX + i + 1);
        atomic_fetch_add(&race->finished, 1);
        pthread_barrier_wait(&race->barrier);
    }
    return NULL;
}

static void copy_pages(uint64_t *copy, uint64_t bits)
{
    for (; bits; bits &= bits - 1) {
        unsigned page = (unsigned)__builtin_ctzll(bits);
        copy[page] = look(page);
    }
}

static void *copy_on(void *opaque)
{
    struct racer *self = opaque;
    struct race *race = self->race;
    struct dirty_client *client = track(DIRTY_EVERYTHING);
    uint64_t copy[PAGES] = {0};
    for (unsigned round = 0; round < ROUNDS; round++) {
        pthread_barrier_wait(&race->barrier);
        while (atomic_load(&race->finished) < (round + 1) * MARKERS)
            copy_pages(copy, taken(client));
        copy_pages(copy, taken(client));
        for (unsigned page = 0; page < PAGES; page++)
            cr_assert_eq(copy[page], look(page), "round %u: a write to page %u was lost", round, page);
        pthread_barrier_wait(&race->barrier);
    }
    dirty_stop(client);
    return NULL;
}
/* Clients come and go, and RAM moves, beside all this. */
static void *come_and_go(void *opaque)
{
    atomic_bool *over = opaque;
    while (!atomic_load(over)) {
        struct dirty_client *client = track(DIRTY_FROM_NOW);
        cr_assert_eq(memory_region_set_address(&big_region, BASE + 2 * BLOCK, NULL), 0);
        dirty_stop(client);
        cr_assert_eq(memory_region_set_address(&big_region, BASE + BLOCK, NULL), 0);
    }
    return NULL;
}

Test(dirty, no_mark_is_lost)
{
    struct race race = {.finished = 0};
    struct racer racers[MARKERS + TAKERS];
    atomic_bool over = false;
    pthread_t other;
    cr_assert_eq(pthread_barrier_init(&race.barrier, NULL, MARKERS + TAKERS), 0);
    for (unsigned i = 0; i < MARKERS + TAKERS; i++) {
        racers[i] = (struct racer){&race, i, 0};
        cr_assert_eq(pthread_create(&racers[i].thread, NULL, i < MARKERS ? mark_on : copy_on, &racers[i]), 0);
    }
    cr_assert_eq(pthread_create(&other, NULL, come_and_go, &over), 0);
    for (unsigned i = 0; i < MARKERS + TAKERS; i++)
        pthread_join(racers[i].thread, NULL);
    atomic_store(&over, true);
    pthread_join(other, NULL);
    pthread_barrier_destroy(&race.barrier);
}
