#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "tests/unit/memory/fixture.h"

#define READERS 3
#define COMMITS 20000

static struct fixture f;

static void start(void)
{
    fixture_start(&f);
}

static void end(void)
{
    fixture_end(&f);
}

TestSuite(readers, .init = start, .fini = end);

struct reader {
    atomic_bool *stop;
    unsigned reads;
};

/* Until told to stop, and at least once, reads where one of two regions always is. */
static void *read_on(void *opaque)
{
    struct reader *self = opaque;
    do {
        uint8_t byte = 0;
        cr_assert_eq(address_space_read(f.space, 0x1004, &byte, 1), 0);
        cr_assert(byte == 0x55 || byte == 0x11, "the one region or the other, never neither");
        struct guest_mapping mapping;
        cr_assert_eq(guest_map(f.space, 0x10000, PAGE, true, &mapping), 0);
        guest_unmap(&mapping, 0);
        self->reads++;
    } while (!atomic_load(self->stop));
    return NULL;
}

/* Commits as fast as they go beside busy readers: no reader sees a state in between, and views do not pile
 * up. */
Test(readers, commits_beside_busy_readers)
{
    struct memory_region *below = mmio(&f, "below", 0x10), *above = mmio(&f, "above", 0x10);
    add(&f.root, 0x10000, ram(&f, "ram", PAGE), 0);
    add(&f.root, 0x1000, below, 0);
    add(&f.root, 0x1004, above, 1);
    for (unsigned i = 0; i < 16; i++)
        add(&f.root, 0x100000 + 0x100 * i, mmio(&f, "more", 0x10), 0);
    atomic_bool stop = false;
    pthread_t threads[READERS];
    struct reader readers[READERS];
    for (unsigned i = 0; i < READERS; i++) {
        readers[i] = (struct reader){&stop, 0};
        cr_assert_eq(pthread_create(&threads[i], NULL, read_on, &readers[i]), 0);
    }
    size_t most = 0;
    for (unsigned i = 0; i < COMMITS; i++) {
        cr_assert_eq(memory_region_set_enabled(above, i % 2, NULL), 0);
        if (i % 256 == 0) {
            size_t used = mallinfo2().uordblks;
            most = used > most ? used : most;
        }
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < READERS; i++) {
        pthread_join(threads[i], NULL);
        cr_assert_gt(readers[i].reads, 0);
    }
    cr_assert_lt(most, MIB, "views of 2 KB by the thousand would show");
}

/* A device whose read waits until it is told to go on. */
struct slow {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool entered, go_on;
    atomic_bool left;
};

static uint64_t slow_read(void *opaque, uint64_t offset, unsigned size)
{
    struct slow *self = opaque;
    pthread_mutex_lock(&self->lock);
    self->entered = true;
    pthread_cond_broadcast(&self->changed);
    while (!self->go_on)
        pthread_cond_wait(&self->changed, &self->lock);
    pthread_mutex_unlock(&self->lock);
    atomic_store(&self->left, true);
    return 0;
}

static void *read_slow(void *opaque)
{
    uint8_t byte;
    address_space_read(f.space, 0x5000, &byte, 1);
    return NULL;
}

static void *let_go(void *opaque)
{
    struct slow *self = opaque;
    pthread_mutex_lock(&self->lock);
    self->go_on = true;
    pthread_cond_broadcast(&self->changed);
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

static void enter(struct slow *slow, pthread_t *thread)
{
    cr_assert_eq(pthread_create(thread, NULL, read_slow, NULL), 0);
    pthread_mutex_lock(&slow->lock);
    while (!slow->entered)
        pthread_cond_wait(&slow->changed, &slow->lock);
    pthread_mutex_unlock(&slow->lock);
}

static const struct memory_region_ops slow_ops = {.read = slow_read};

Test(readers, synchronize_waits_for_those_who_can_see_a_removed_region)
{
    struct slow *slow = calloc(1, sizeof(*slow));
    struct memory_region *region = calloc(1, sizeof(*region));
    pthread_mutex_init(&slow->lock, NULL);
    pthread_cond_init(&slow->changed, NULL);
    cr_assert_eq(memory_region_init_mmio(region, f.memory, "slow", &slow_ops, slow, 1, NULL), 0);
    add(&f.root, 0x5000, region, 0);
    pthread_t reader, helper;
    enter(slow, &reader);
    cr_assert_eq(memory_region_remove_subregion(region, NULL), 0);
    cr_assert_eq(pthread_create(&helper, NULL, let_go, slow), 0);
    memory_synchronize(f.memory);
    cr_assert(atomic_load(&slow->left));
    memory_region_destroy(region);
    free(region);
    pthread_join(reader, NULL);
    pthread_join(helper, NULL);
    pthread_cond_destroy(&slow->changed);
    pthread_mutex_destroy(&slow->lock);
    free(slow);
}

/* A reader that is stuck neither stops commits nor keeps more than its own view. */
Test(readers, a_stuck_reader_holds_one_view_and_nobody_up)
{
    struct slow slow = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    struct memory_region region, *other = mmio(&f, "other", 0x10);
    cr_assert_eq(memory_region_init_mmio(&region, f.memory, "slow", &slow_ops, &slow, 1, NULL), 0);
    add(&f.root, 0x5000, &region, 0);
    add(&f.root, 0x6000, other, 0);
    pthread_t reader;
    enter(&slow, &reader);
    size_t before = mallinfo2().uordblks;
    for (unsigned i = 0; i < 1000; i++)
        cr_assert_eq(memory_region_set_enabled(other, i % 2, NULL), 0);
    cr_assert_lt(mallinfo2().uordblks, before + 64 * KIB);
    let_go(&slow);
    pthread_join(reader, NULL);
    cr_assert_eq(memory_region_remove_subregion(&region, NULL), 0);
    memory_region_destroy(&region);
}

static void *commit_on(void *opaque)
{
    struct memory_region *region = opaque;
    for (unsigned i = 0; i < COMMITS / 10; i++)
        cr_assert_eq(memory_region_set_enabled(region, i % 2, NULL), 0);
    return NULL;
}

/* Commits and waits of several threads, with readers. */
Test(readers, synchronize_beside_commits)
{
    struct memory_region *region = mmio(&f, "x", 0x10);
    add(&f.root, 0x1000, mmio(&f, "fixed", 0x10), 0);
    add(&f.root, 0x10000, ram(&f, "ram", PAGE), 0);
    add(&f.root, 0x2000, region, 0);
    atomic_bool stop = false;
    struct reader reader = {&stop, 0};
    pthread_t reading, committing[2];
    cr_assert_eq(pthread_create(&reading, NULL, read_on, &reader), 0);
    for (unsigned i = 0; i < 2; i++)
        cr_assert_eq(pthread_create(&committing[i], NULL, commit_on, region), 0);
    for (unsigned i = 0; i < 500; i++)
        memory_synchronize(f.memory);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(committing[i], NULL);
    atomic_store(&stop, true);
    pthread_join(reading, NULL);
}

/* The guest's own stores, and another thread's, are never seen torn. */
static void *store_on(void *opaque)
{
    static const uint64_t patterns[] = {0, UINT64_MAX};
    atomic_bool *stop = opaque;
    for (unsigned i = 0; !atomic_load(stop); i++)
        cr_assert_eq(address_space_write(f.space, 0x10008, &patterns[i % 2], 8), 0);
    return NULL;
}

Test(readers, aligned_accesses_are_not_torn)
{
    add(&f.root, 0x10000, ram(&f, "ram", PAGE), 0);
    uint64_t value = 0;
    cr_assert_eq(address_space_write(f.space, 0x10008, &value, 8), 0);
    atomic_bool stop = false;
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, store_on, &stop), 0);
    for (unsigned i = 0; i < 100000; i++) {
        cr_assert_eq(address_space_read(f.space, 0x10008, &value, 8), 0);
        cr_assert(value == 0 || value == UINT64_MAX);
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
}
