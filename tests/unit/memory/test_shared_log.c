#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memory/dirty.h"
#include "memory/shared_log.h"
#include "tests/unit/memory/recorder.h"

#define BASE  0x40000
#define PAGES 64 /* of the fixture's block */

static struct fixture f;
static struct memory_region *whole;
static struct shared_log *shared;
static struct dirty_client *client;
static atomic_uchar *bytes; /* the log, as another process maps it */

static void map_log(void)
{
    void *mapped =
        mmap(NULL, shared_log_size(shared), PROT_READ | PROT_WRITE, MAP_SHARED, shared_log_fd(shared), 0);
    cr_assert_neq(mapped, MAP_FAILED);
    bytes = mapped;
}

static void start(void)
{
    fixture_start(&f);
    whole = ram(&f, "whole", BLOCK);
    add(&f.root, BASE, whole, 0);
    cr_assert_eq(shared_log_create(f.space, &shared, &f.err), 0);
    map_log();
}

static void end(void)
{
    munmap((void *)bytes, shared_log_size(shared));
    shared_log_destroy(shared);
    dirty_stop(client);
    fixture_end(&f);
}

TestSuite(shared_log, .init = start, .fini = end);

static void track(enum dirty_first first)
{
    struct error err = {""};
    cr_assert_eq(dirty_start(f.memory, "client", first, &client, &err), 0, "%s", err.message);
}

/* What the other process does after a write. */
static void set(uint64_t address)
{
    uint64_t page = address / PAGE;
    atomic_fetch_or(&bytes[page / 8], (unsigned char)(1 << page % 8));
}

static bool is_set(uint64_t address)
{
    uint64_t page = address / PAGE;
    return bytes[page / 8] >> page % 8 & 1;
}

static uint64_t bit(unsigned page)
{
    return (uint64_t)1 << page;
}

static uint64_t taken_without_sync(void)
{
    uint64_t bitmap;
    cr_assert_eq(dirty_take(client, f.block, 0, PAGES, &bitmap, NULL), 0);
    return bitmap;
}

static uint64_t taken(void)
{
    cr_assert_eq(dirty_sync(f.memory, NULL), 0);
    return taken_without_sync();
}

Test(shared_log, bits_become_pages)
{
    track(DIRTY_FROM_NOW);
    cr_assert_geq(shared_log_size(shared), (BASE + BLOCK) / PAGE / 8);
    set(BASE);
    set(BASE + 9 * PAGE);
    set(BASE + 63 * PAGE);
    cr_assert_eq(taken(), bit(0) | bit(9) | bit(63));
    cr_assert(!is_set(BASE), "taken out of the log");
    cr_assert_eq(taken(), 0);
}

Test(shared_log, bits_are_seen_through_aliases)
{
    add(&f.root, 0x3000, alias(&f, "alias", whole, 62 * PAGE, 2 * PAGE), 0);
    struct memory_region *protected = alias(&f, "protected", whole, 0, PAGE);
    cr_assert_eq(memory_region_set_readonly(protected, true, NULL), 0);
    add(&f.root, 0x1000, protected, 0);
    add(&f.root, BASE + 5 * PAGE, mmio(&f, "mmio", PAGE), 1);
    track(DIRTY_FROM_NOW);
    set(0x3000);
    set(0x4000);
    set(0x5000);
    set(0x1000);
    set(BASE + 5 * PAGE);
    set(BASE + 6 * PAGE);
    cr_assert_eq(taken(), bit(62) | bit(63) | bit(6));
}

Test(shared_log, pages_that_do_not_lie_at_pages)
{
    add(&f.root, 0x2800, alias(&f, "later", whole, 8 * PAGE, 2 * PAGE), 0);
    add(&f.root, 0x8000, alias(&f, "odd", whole, 16 * PAGE + 0x100, PAGE), 0);
    track(DIRTY_FROM_NOW);
    set(0x2000);
    cr_assert_eq(taken(), bit(8));
    set(0x3000);
    cr_assert_eq(taken(), bit(8) | bit(9));
    set(0x4000);
    cr_assert_eq(taken(), bit(9));
    set(0x8000);
    cr_assert_eq(taken(), bit(16) | bit(17));
    set(0x9000);
    cr_assert_eq(taken(), 0);
}

Test(shared_log, pages_that_several_ranges_share)
{
    add(&f.root, 0x2000, alias(&f, "first", whole, 8 * PAGE, 0x400), 0);
    add(&f.root, 0x2400, alias(&f, "second", whole, 16 * PAGE, 0x400), 0);
    add(&f.root, 0x2800, alias(&f, "third", whole, 24 * PAGE, 2 * PAGE), 0);
    add(&f.root, BASE + 0x800, mmio(&f, "hole", 0x100), 1);
    track(DIRTY_FROM_NOW);
    set(0x2000);
    set(0x4000);
    set(BASE);
    cr_assert_eq(taken(), bit(0) | bit(8) | bit(16) | bit(24) | bit(25));
    set(0x2000);
    struct memory_region *more = mmio(&f, "more", 0x10);
    add(&f.root, 0x2410, more, 1);
    cr_assert_eq(taken(), bit(8) | bit(16) | bit(24), "through a change of a part of it");
    cr_assert_eq(taken(), 0);
}

Test(shared_log, garbage_counts_for_nothing)
{
    track(DIRTY_FROM_NOW);
    for (uint64_t i = 0; i < shared_log_size(shared); i++)
        bytes[i] = 0xff;
    cr_assert_eq(taken(), UINT64_MAX);
    cr_assert_eq(taken(), 0);
    cr_assert_neq(ftruncate(shared_log_fd(shared), 0), 0);
    cr_assert_neq(ftruncate(shared_log_fd(shared), (off_t)GIB), 0);
}

Test(shared_log, nothing_is_left_from_before)
{
    set(BASE);
    track(DIRTY_FROM_NOW);
    cr_assert_eq(taken(), 0);
    dirty_stop(client);
    set(BASE + PAGE);
    track(DIRTY_EVERYTHING);
    cr_assert_eq(taken_without_sync(), UINT64_MAX);
    cr_assert_eq(taken(), 0);
}

Test(shared_log, last_bits_are_taken_out)
{
    track(DIRTY_FROM_NOW);
    set(BASE);
    shared_log_destroy(shared);
    cr_assert_eq(taken_without_sync(), bit(0));
    cr_assert_eq(shared_log_create(f.space, &shared, &f.err), 0, "also while clients track");
    shared_log_destroy(NULL);
}

/* A bit that is set when the view changes counts for what was there and for what comes. */
Test(shared_log, a_change_takes_bits_through_both_views)
{
    struct memory_region *low = alias(&f, "low", whole, 0, PAGE),
                         *high = alias(&f, "high", whole, PAGE, PAGE);
    add(&f.root, 0x1000, low, 0);
    track(DIRTY_FROM_NOW);
    set(0x1000);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(low, NULL), 0);
    add(&f.root, 0x1000, high, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    cr_assert_eq(taken_without_sync(), bit(0) | bit(1));
    set(0x1000);
    cr_assert_eq(memory_region_remove_subregion(high, NULL), 0);
    cr_assert_eq(taken(), bit(1));
}

Test(shared_log, a_failed_change_does_too)
{
    struct record record = {0};
    struct recorder recorder;
    struct memory_region *low = alias(&f, "low", whole, 0, PAGE),
                         *high = alias(&f, "high", whole, PAGE, PAGE);
    add(&f.root, 0x1000, low, 0);
    listen_to(f.space, &recorder, "after", 100, &record);
    track(DIRTY_FROM_NOW);
    recorder.fail = "apply";
    set(0x1000);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(low, NULL), 0);
    add(&f.root, 0x1000, high, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), -EIO);
    cr_assert_eq(taken(), bit(0) | bit(1));
    recorder.fail = NULL;
    memory_listener_unregister(&recorder.listener);
}

Test(shared_log, grows_while_nobody_tracks)
{
    uint64_t size = shared_log_size(shared), far = size * 8 * PAGE;
    struct memory_region *high = alias(&f, "high", whole, PAGE, PAGE);
    track(DIRTY_FROM_NOW);
    int result = memory_region_add_subregion(&f.root, far, high, 0, &f.err);
    cr_assert_eq(result, -ENOSPC);
    cr_assert_not_null(strstr(f.err.message, "whole"), "%s", f.err.message);
    cr_assert_eq(shared_log_size(shared), size);
    add(&f.root, far - PAGE, high, 0);
    cr_assert_eq(shared_log_size(shared), size, "it just fits");
    set(far - PAGE);
    cr_assert_eq(taken(), bit(1));
    dirty_stop(client);
    client = NULL;
    cr_assert_eq(memory_region_set_address(high, far, NULL), 0);
    cr_assert_gt(shared_log_size(shared), size);
    munmap((void *)bytes, size);
    map_log();
    track(DIRTY_FROM_NOW);
    set(far);
    cr_assert_eq(taken(), bit(1));
}

Test(shared_log, stays_where_its_growth_comes_to_nothing)
{
    struct record record = {0};
    struct recorder recorder;
    struct memory_region *high = alias(&f, "high", whole, PAGE, PAGE);
    int fd = shared_log_fd(shared);
    listen_to(f.space, &recorder, "after", 100, &record);
    recorder.fail = "prepare";
    cr_assert_eq(memory_region_add_subregion(&f.root, GIB, high, 0, NULL), -EIO);
    cr_assert_eq(shared_log_fd(shared), fd);
    cr_assert_eq(memory_region_add_subregion(&f.root, UINT64_MAX - PAGE + 1, high, 0, &f.err), -ENOMEM);
    cr_assert_eq(shared_log_fd(shared), fd);
    recorder.fail = NULL;
    memory_listener_unregister(&recorder.listener);
}

/* Of a space without RAM, and one whose RAM is beyond what the host can share. */
Test(shared_log, of_no_ram_and_of_too_much)
{
    struct shared_log *other;
    shared_log_destroy(shared);
    shared = NULL;
    cr_assert_eq(memory_region_remove_subregion(whole, NULL), 0);
    cr_assert_eq(shared_log_create(f.space, &other, NULL), 0);
    cr_assert_gt(shared_log_size(other), 0);
    shared_log_destroy(other);
    add(&f.root, UINT64_MAX - BLOCK + 1, whole, 0);
    cr_assert_eq(shared_log_create(f.space, &other, &f.err), -ENOMEM);
    cr_assert_eq(memory_region_remove_subregion(whole, NULL), 0);
    cr_assert_eq(shared_log_create(f.space, &shared, NULL), 0);
    map_log();
}

/*
 * A back end: a process that writes guest memory at full speed by a table of what it may write, and logs what
 * it wrote: in each round a number into each page, once. Its listener here gives it each new table and waits
 * until it has let go of the old one.
 */
#define SLOTS  4
#define WINDOW 16 /* pages that a slot of the table shows */
#define ROUNDS 400

struct table {
    atomic_uint version; /* odd: it is being changed */
    atomic_uint seen;    /* the version that the process writes by */
    atomic_uint round;   /* 0: not yet */
    atomic_uint finished;
    _Atomic uint64_t address[SLOTS]; /* in the guest; 0: this slot shows nothing */
    _Atomic uint64_t written;
};

struct back_end {
    struct memory_listener listener;
    struct table *table;
};

static void write_page(struct table *table, unsigned page, uint64_t number)
{
    uint64_t address = atomic_load(&table->address[page / WINDOW]);
    if (!address)
        return;
    char *host = (char *)f.block->host + page * PAGE;
    atomic_store_explicit((_Atomic uint64_t *)host, number, memory_order_relaxed);
    set(address + page % WINDOW * PAGE);
    atomic_fetch_add(&table->written, 1);
}

static _Noreturn void back_end_process(struct table *table)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (unsigned page = 0;;) {
        unsigned version = atomic_load(&table->version), round = atomic_load(&table->round);
        atomic_store(&table->seen, version);
        if (round > ROUNDS)
            _exit(0);
        if (version % 2 || round == atomic_load(&table->finished)) {
            sched_yield();
            continue;
        }
        write_page(table, page++, round);
        if (page == SLOTS * WINDOW) {
            page = 0;
            atomic_store(&table->finished, round);
        }
    }
}

static int give_table(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct table *table = container_of(listener, struct back_end, listener)->table;
    unsigned version = atomic_load(&table->version);
    atomic_store(&table->version, version + 1);
    while (atomic_load(&table->seen) != version + 1)
        sched_yield();
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        uint64_t address = 0;
        for (const struct flat_range *range = flat_view_from(change->new_view, 0); range;
             range = flat_view_next(change->new_view, range))
            if (range->region == whole && range->offset_in_region <= slot * WINDOW * PAGE &&
                range->offset_in_region + range->size >= (slot + 1) * WINDOW * PAGE)
                address = range->start + (slot * WINDOW * PAGE - range->offset_in_region);
        atomic_store(&table->address[slot], address);
    }
    atomic_store(&table->version, version + 2);
    return 0;
}

static const struct memory_listener_ops back_end_ops = {.apply = give_table, .revert = give_table};

static uint64_t look(unsigned page)
{
    const char *host = f.block->host;
    return atomic_load_explicit((const _Atomic uint64_t *)(host + page * PAGE), memory_order_relaxed);
}

/* Copies the pages whose bits are set. */
static void copy_pages(uint64_t *copy, uint64_t bits)
{
    for (; bits; bits &= bits - 1) {
        unsigned page = (unsigned)__builtin_ctzll(bits);
        copy[page] = look(page);
    }
}

/* The windows on the block change places, hide each other, come and go, now and then to no avail. */
static void shuffle(struct memory_region **windows, struct recorder *recorder, unsigned round)
{
    recorder->fail = round % 5 == 4 ? "apply" : NULL;
    int wanted = recorder->fail ? -EIO : 0;
    memory_transaction_begin(f.memory);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        uint64_t place = BASE + (slot + round) % SLOTS * WINDOW * PAGE + round % 3 * 24 * PAGE;
        cr_assert_eq(memory_region_set_address(windows[slot], place, NULL), 0);
        cr_assert_eq(memory_region_set_enabled(windows[slot], (round + slot) % 7 != 0, NULL), 0);
    }
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), wanted);
}

Test(shared_log, no_bit_is_lost)
{
    struct record record = {0};
    struct recorder recorder;
    struct memory_region *windows[SLOTS];
    cr_assert_eq(memory_region_remove_subregion(whole, NULL), 0);
    for (unsigned slot = 0; slot < SLOTS; slot++) {
        windows[slot] = alias(&f, "window", whole, slot * WINDOW * PAGE, WINDOW * PAGE);
        add(&f.root, BASE + slot * WINDOW * PAGE, windows[slot], 0);
    }
    struct table *table = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(table, MAP_FAILED);
    pid_t child = fork();
    cr_assert_geq(child, 0);
    if (child == 0)
        back_end_process(table);
    struct back_end back_end = {
        {.name = "back end", .priority = MEMORY_LISTENER_PRIORITY_BACK_END, .ops = &back_end_ops}, table};
    cr_assert_eq(memory_listener_register(&back_end.listener, f.space, NULL), 0);
    listen_to(f.space, &recorder, "after", 100, &record);
    track(DIRTY_EVERYTHING);
    uint64_t copy[PAGES] = {0};
    for (unsigned round = 1; round <= ROUNDS; round++) {
        forget(&record);
        atomic_store(&table->round, round);
        if (round % 4 == 0)
            shuffle(windows, &recorder, round / 4);
        while (atomic_load(&table->finished) < round)
            copy_pages(copy, taken());
        copy_pages(copy, taken());
        for (unsigned page = 0; page < SLOTS * WINDOW; page++)
            cr_assert_eq(copy[page], look(page), "round %u: a write to page %u was lost", round, page);
    }
    atomic_store(&table->round, ROUNDS + 1);
    int status;
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_assert_eq(status, 0);
    cr_assert_gt(atomic_load(&table->written), ROUNDS);
    recorder.fail = NULL;
    memory_listener_unregister(&recorder.listener);
    back_end.listener.ops = &(struct memory_listener_ops){0};
    memory_listener_unregister(&back_end.listener);
    munmap(table, PAGE);
}
