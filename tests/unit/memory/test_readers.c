#include <malloc.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "memory/listener.h"
#include "tests/unit/memory/fixture.h"

#define READERS 3
#define COMMITS 2000

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
    _Atomic uint64_t reads;
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
        struct flat_view *view = flat_view_get(f.space), *same = flat_view_get(f.space);
        flat_view_put(view);
        guest_unmap(&mapping, 1);
        flat_view_put(same);
        atomic_fetch_add_explicit(&self->reads, 1, memory_order_relaxed);
    } while (!atomic_load(self->stop));
    return NULL;
}

struct crowd {
    struct memory_region *above; /* that comes and goes */
    atomic_bool stop;
    struct reader readers[READERS];
    pthread_t threads[READERS];
    uint64_t seen[READERS];
};

static void start_crowd(struct crowd *crowd)
{
    *crowd = (struct crowd){.above = mmio(&f, "above", 0x10)};
    add(&f.root, 0x10000, ram(&f, "ram", PAGE), 0);
    add(&f.root, 0x1000, mmio(&f, "below", 0x10), 0);
    add(&f.root, 0x1004, crowd->above, 1);
    for (unsigned i = 0; i < 16; i++)
        add(&f.root, 0x100000 + 0x100 * i, mmio(&f, "more", 0x10), 0);
    for (unsigned i = 0; i < READERS; i++) {
        crowd->readers[i].stop = &crowd->stop;
        cr_assert_eq(pthread_create(&crowd->threads[i], NULL, read_on, &crowd->readers[i]), 0);
    }
}

static void end_crowd(struct crowd *crowd)
{
    atomic_store(&crowd->stop, true);
    for (unsigned i = 0; i < READERS; i++)
        pthread_join(crowd->threads[i], NULL);
}

/* Notes how far each reader is. */
static void look_at(struct crowd *crowd)
{
    for (unsigned i = 0; i < READERS; i++)
        crowd->seen[i] = atomic_load(&crowd->readers[i].reads);
}

/* Whether every reader has gone on by as many reads since. */
static bool all_went_on(const struct crowd *crowd, uint64_t reads)
{
    for (unsigned i = 0; i < READERS; i++)
        if (atomic_load(&crowd->readers[i].reads) - crowd->seen[i] < reads)
            return false;
    return true;
}

/* Sanitizers count for themselves what is allocated. */
size_t __sanitizer_get_current_allocated_bytes(void) __attribute__((weak));

static size_t allocated(void)
{
    return __sanitizer_get_current_allocated_bytes ? __sanitizer_get_current_allocated_bytes()
                                                   : mallinfo2().uordblks;
}

/* How long the burst goes on: without sanitizers, or if asked for, ten seconds. */
static time_t seconds_of_burst(void)
{
    return __sanitizer_get_current_allocated_bytes && !getenv("GODWIT_LONG") ? 2 : 10;
}

/* Commits until every reader has gone on by a thousand reads. Returns the most memory that was in use. */
static size_t commit_until_all_went_on(struct crowd *crowd)
{
    size_t most = 0;
    look_at(crowd);
    for (unsigned i = 0; i < 1000 || !all_went_on(crowd, 1000); i++) {
        cr_assert_eq(memory_region_set_enabled(crowd->above, i % 2, NULL), 0);
        size_t used = i % 64 ? 0 : allocated();
        most = used > most ? used : most;
    }
    return most;
}

/*
 * Commits as fast as they go, for seconds, beside busy readers: no reader sees a state in between, none waits
 * for a pause in the commits (it would be waited for here for ever), and views do not pile up.
 */
Test(readers, commits_beside_busy_readers)
{
    struct crowd crowd;
    start_crowd(&crowd);
    commit_until_all_went_on(&crowd);
    size_t before = allocated(), most = 0;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    time_t end = now.tv_sec + seconds_of_burst();
    while (now.tv_sec < end) {
        size_t used = commit_until_all_went_on(&crowd);
        most = used > most ? used : most;
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
    end_crowd(&crowd);
    cr_assert_lt(most, before + 64 * KIB, "%zu bytes, then %zu: views by the thousand would show", before,
                 most);
}

/* Lets readers go on while a commit waits for them, in each of its steps. */
struct patient {
    struct memory_listener listener;
    struct crowd *crowd;
    unsigned waits;
};

static void wait_for_readers(struct memory_listener *listener)
{
    struct patient *self = container_of(listener, struct patient, listener);
    look_at(self->crowd);
    while (!all_went_on(self->crowd, 100))
        sched_yield();
    self->waits++;
}

static int patient_prepare(struct memory_listener *listener, const struct memory_change *change,
                           struct error *err)
{
    wait_for_readers(listener);
    return 0;
}

static int patient_range(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_range *range, struct error *err)
{
    wait_for_readers(listener);
    return 0;
}

static void patient_commit(struct memory_listener *listener, const struct memory_change *change)
{
    wait_for_readers(listener);
}

Test(readers, do_not_wait_for_a_commit_under_way)
{
    static const struct memory_listener_ops ops = {
        .prepare = patient_prepare,
        .range_del = patient_range,
        .range_add = patient_range,
        .apply = patient_prepare,
        .commit = patient_commit,
    };
    struct crowd crowd;
    start_crowd(&crowd);
    struct patient patient = {.listener = {.name = "patient", .ops = &ops}, .crowd = &crowd};
    cr_assert_eq(memory_listener_register(&patient.listener, f.space, NULL), 0);
    patient.waits = 0;
    cr_assert_eq(memory_region_set_enabled(crowd.above, false, NULL), 0);
    cr_assert_gt(patient.waits, 4);
    memory_listener_unregister(&patient.listener);
    end_crowd(&crowd);
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
    for (unsigned i = 0; i < COMMITS; i++)
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
    struct reader reader = {.stop = &stop};
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
