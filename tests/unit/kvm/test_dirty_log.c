/*
 * Dirty tracking of a real guest, in each mode that this host's KVM has. The guest `dirtier` numbers its
 * writes, and which page each goes to follows from its number: so what every pass has to find, and what it
 * must not, is known without any log. Where the memory changes meanwhile the oracle is a migration: a copy
 * into which nothing goes but the pages that were taken must in the end be what the RAM is.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/dirty.h"
#include "memory/ram_block.h"
#include "tests/support/dirtier.h"
#include "tests/support/guest_vm.h"

#define RAM_SIZE     (96 * MIB)
#define AREA         (16 * MIB)
#define AREA_PAGES   16384
#define WORD_BITS    DIRTY_WORD_PAGES
#define WORDS(n)     (((n) + WORD_BITS - 1) / WORD_BITS)

/* Where memory changes: a window on the end of RAM, and RAM of its own, in a range that the guest writes. */
#define MOVING       GIB
#define MOVING_PAGES 4096
#define WINDOW_SIZE  (8 * MIB)
#define WINDOW_FROM  (48 * MIB)
#define GROWN        (MOVING + 12 * MIB)
#define GROWN_SIZE   (4 * MIB)
#define DEVICE_SIZE  (16 * RAM_PAGE_SIZE)

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        struct error err = {0};                                                                              \
        int result = (call);                                                                                 \
        cr_assert_eq(result, 0, "%s", err.message);                                                          \
    } while (0)

typedef void mode_test(struct guest_vm *vm);

static void in_each_mode(mode_test *test)
{
    int fd = kvm_open(NULL);
    cr_assert_geq(fd, 0);
    for (enum kvm_dirty_mode mode = KVM_DIRTY_GET; mode <= KVM_DIRTY_RING; mode++) {
        struct guest_vm vm;
        enum dirty_log_choice choice;
        if (!dirty_log_has_mode(fd, mode)) {
            fprintf(stderr, "not tested, as this host's KVM has it not: mode %s\n",
                    dirty_log_mode_name(mode));
            continue;
        }
        cr_assert_eq(dirty_log_parse(dirty_log_mode_name(mode), &choice), 0);
        MUST(guest_vm_create(&vm, RAM_SIZE, NULL, &err));
        MUST(dirtier_boot(&vm, choice, &err));
        test(&vm);
        guest_vm_destroy(&vm);
    }
    close(fd);
}

/* ---- Bitmaps of the guest's area ---- */

static void take_area(struct guest_vm *vm, struct dirty_client *client, uint64_t *bitmap)
{
    MUST(dirty_sync(vm->memory, &err));
    MUST(dirty_take(client, vm->ram, AREA / RAM_PAGE_SIZE, AREA_PAGES, bitmap, &err));
}

/* The pages of the writes after `after` up to `last`. */
static void pages_of_writes(uint64_t *bitmap, uint64_t after, uint64_t last)
{
    memset(bitmap, 0, AREA_PAGES / 8);
    if (last > after + AREA_PAGES)
        after = last - AREA_PAGES;
    for (uint64_t write = after + 1; write <= last; write++) {
        uint64_t page = dirtier_page(write, AREA_PAGES);
        bitmap[page / WORD_BITS] |= (uint64_t)1 << page % WORD_BITS;
    }
}

/* How many pages are in `part` and not in `whole`. */
static unsigned missing(const uint64_t *part, const uint64_t *whole)
{
    unsigned count = 0;
    for (size_t i = 0; i < WORDS(AREA_PAGES); i++)
        count += (unsigned)__builtin_popcountll(part[i] & ~whole[i]);
    return count;
}

static const uint64_t no_page[WORDS(AREA_PAGES)];

/* ---- Passes over a guest that waits, and over one that runs ---- */

static void each_pass_finds_what_was_written(struct guest_vm *vm)
{
    static const uint64_t counts[] = {1, 0, 64, AREA_PAGES / 100, AREA_PAGES, 1, 3 * AREA_PAGES, 7};
    uint64_t taken[WORDS(AREA_PAGES)], expected[WORDS(AREA_PAGES)], before;
    struct dirty_client *client;
    MUST(dirty_start(vm->memory, "test", DIRTY_FROM_NOW, &client, &err));
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        before = dirtier_written(vm);
        dirtier_order(vm, AREA, AREA_PAGES, counts[i]);
        cr_assert(dirtier_wait(vm));
        pages_of_writes(expected, before, before + counts[i]);
        take_area(vm, client, taken);
        cr_assert_eq(missing(expected, taken), 0, "%u pages lost", missing(expected, taken));
        cr_assert_eq(missing(taken, expected), 0, "%u pages too many", missing(taken, expected));
        take_area(vm, client, taken);
        cr_assert_eq(missing(taken, no_page), 0, "%u pages twice", missing(taken, no_page));
    }
    dirty_stop(client);
    cr_assert_eq(dirtier_quit(vm), 0);
}

Test(dirty_log, each_pass_finds_what_was_written_once)
{
    in_each_mode(each_pass_finds_what_was_written);
}

/*
 * A write that is over before a pass begins, and began after the one before ended, has to be found by it. One
 * that was over before the pass before began must not.
 */
static void passes_over_a_running_guest(struct guest_vm *vm)
{
    uint64_t taken[WORDS(AREA_PAGES)], bound[WORDS(AREA_PAGES)];
    struct dirty_client *client;
    unsigned found = 0;
    MUST(dirty_start(vm->memory, "test", DIRTY_FROM_NOW, &client, &err));
    uint64_t last_begin = dirtier_written(vm), last_end = last_begin;
    dirtier_order(vm, AREA, AREA_PAGES, DIRTIER_FOREVER);
    for (int pass = 0; pass < 100; pass++) {
        while (dirtier_written(vm) < last_end + 100)
            cr_assert_eq(atomic_load(&vm->status), GUEST_VM_RUNNING);
        uint64_t begin = dirtier_written(vm);
        take_area(vm, client, taken);
        uint64_t end = dirtier_written(vm) + 1;
        pages_of_writes(bound, last_end, begin);
        cr_assert_eq(missing(bound, taken), 0, "pass %d: %u pages lost", pass, missing(bound, taken));
        found += missing(bound, no_page);
        pages_of_writes(bound, last_begin, end);
        cr_assert_eq(missing(taken, bound), 0, "pass %d: %u pages twice", pass, missing(taken, bound));
        last_begin = begin;
        last_end = end;
    }
    cr_assert_gt(found, 100);
    dirty_stop(client);
    cr_assert_eq(dirtier_quit(vm), 0);
}

Test(dirty_log, each_pass_over_a_running_guest)
{
    in_each_mode(passes_over_a_running_guest);
}

/* ---- The migration that serves as an oracle ---- */

struct copy {
    struct guest_vm *vm;
    struct dirty_client *client;
    struct ram_block *blocks[2];
    char *pages[2];
    uint64_t *bitmap;
};

static void copy_begin(struct copy *copy, struct guest_vm *vm, struct ram_block *more)
{
    *copy = (struct copy){.vm = vm, .blocks = {vm->ram, more}};
    copy->bitmap = calloc(WORDS(RAM_SIZE / RAM_PAGE_SIZE), sizeof(uint64_t));
    for (int i = 0; i < 2 && copy->blocks[i]; i++)
        copy->pages[i] = calloc(1, copy->blocks[i]->size);
    MUST(dirty_start(vm->memory, "copy", DIRTY_EVERYTHING, &copy->client, &err));
}

/* Others write meanwhile, and this is most of the work: ThreadSanitizer need not look. */
__attribute__((no_sanitize("thread"))) static void copy_page(char *to, const char *from)
{
    for (size_t i = 0; i < RAM_PAGE_SIZE; i += sizeof(uint64_t))
        *(uint64_t *)(to + i) = __atomic_load_n((const uint64_t *)(from + i), __ATOMIC_RELAXED);
}

static void copy_block(struct copy *copy, int index)
{
    struct ram_block *block = copy->blocks[index];
    uint64_t count = block->size / RAM_PAGE_SIZE;
    MUST(dirty_take(copy->client, block, 0, count, copy->bitmap, &err));
    for (uint64_t page = 0; page < count; page++)
        if (copy->bitmap[page / WORD_BITS] >> page % WORD_BITS & 1)
            copy_page(copy->pages[index] + page * RAM_PAGE_SIZE,
                      (const char *)block->host + page * RAM_PAGE_SIZE);
}

static void copy_pass(struct copy *copy)
{
    MUST(dirty_sync(copy->vm->memory, &err));
    for (int i = 0; i < 2 && copy->blocks[i]; i++)
        copy_block(copy, i);
}

/* After the last writer has stopped. */
static void copy_end(struct copy *copy)
{
    copy_pass(copy);
    for (int i = 0; i < 2 && copy->blocks[i]; i++) {
        uint64_t wrong = 0, last = 0;
        for (uint64_t at = 0; at < copy->blocks[i]->size; at += RAM_PAGE_SIZE) {
            if (memcmp(copy->pages[i] + at, (const char *)copy->blocks[i]->host + at, RAM_PAGE_SIZE) == 0)
                continue;
            wrong++;
            last = at;
        }
        cr_assert_eq(wrong, 0, "mode %s: %llu pages of block %d differ from their copy, the last at 0x%llx",
                     dirty_log_mode_name(copy->vm->kvm.dirty_log.mode), (unsigned long long)wrong, i,
                     (unsigned long long)last);
        free(copy->pages[i]);
    }
    dirty_stop(copy->client);
    free(copy->bitmap);
}

/* ---- A thread that works beside the guest ---- */

struct worker {
    struct guest_vm *vm;
    void (*step)(struct worker *worker);
    pthread_t thread;
    atomic_bool ended;
    atomic_uint steps;
    uint32_t random;
    struct memory_region *window, *grown, *device;
};

static uint32_t next_random(struct worker *worker)
{
    worker->random = worker->random * 1664525 + 1013904223;
    return worker->random >> 8;
}

static void *work(void *opaque)
{
    struct worker *worker = opaque;
    while (!atomic_load(&worker->ended)) {
        worker->step(worker);
        atomic_fetch_add(&worker->steps, 1);
    }
    return NULL;
}

static void worker_start(struct worker *worker)
{
    cr_assert_eq(pthread_create(&worker->thread, NULL, work, worker), 0);
}

static void worker_end(struct worker *worker)
{
    atomic_store(&worker->ended, true);
    pthread_join(worker->thread, NULL);
    cr_assert_gt(atomic_load(&worker->steps), 0);
}

/* A device stores a few bytes, somewhere in RAM behind the first MiBs or in the range that changes. */
static void store(struct worker *worker)
{
    static const char bytes[] = "what a device stores, of more than one word";
    uint64_t offset = next_random(worker) % (RAM_SIZE - AREA - sizeof(bytes));
    uint64_t address = next_random(worker) % 4 ? AREA + offset : MOVING + offset % (16 * MIB);
    address_space_write(worker->vm->memory_space, address, bytes, 1 + next_random(worker) % sizeof(bytes));
}

/* A second client comes, takes a part of what there is, and goes. */
static void come_and_go(struct worker *worker)
{
    struct guest_vm *vm = worker->vm;
    uint64_t bitmap[WORDS(AREA_PAGES)];
    struct dirty_client *client;
    enum dirty_first first = next_random(worker) % 2 ? DIRTY_FROM_NOW : DIRTY_EVERYTHING;
    MUST(dirty_start(vm->memory, "visitor", first, &client, &err));
    for (unsigned passes = next_random(worker) % 4; passes > 0; passes--)
        take_area(vm, client, bitmap);
    dirty_stop(client);
}

static void devices_and_visitors(struct guest_vm *vm)
{
    struct worker device = {.vm = vm, .step = store, .random = 1};
    struct worker visitors = {.vm = vm, .step = come_and_go, .random = 2};
    struct copy copy;
    dirtier_order(vm, AREA, AREA_PAGES, DIRTIER_FOREVER);
    copy_begin(&copy, vm, NULL);
    worker_start(&device);
    worker_start(&visitors);
    for (int pass = 0; pass < 30; pass++)
        copy_pass(&copy);
    worker_end(&device);
    worker_end(&visitors);
    cr_assert(dirtier_stop(vm));
    copy_end(&copy);
    cr_assert_eq(dirtier_quit(vm), 0);
}

Test(dirty_log, devices_write_and_other_clients_come_and_go)
{
    in_each_mode(devices_and_visitors);
}

/* Abandons one attempt after the other: with the last one all must be there. */
static void attempts_that_are_abandoned(struct guest_vm *vm)
{
    struct copy copy;
    dirtier_order(vm, AREA, AREA_PAGES, DIRTIER_FOREVER);
    for (int attempt = 0; attempt < 6; attempt++) {
        copy_begin(&copy, vm, NULL);
        for (int pass = 0; pass < attempt % 3; pass++)
            copy_pass(&copy);
        if (attempt < 5) {
            dirty_stop(copy.client);
            free(copy.pages[0]);
            free(copy.bitmap);
        }
    }
    cr_assert(dirtier_stop(vm));
    copy_end(&copy);
    cr_assert_eq(dirtier_quit(vm), 0);
}

Test(dirty_log, attempts_that_are_abandoned)
{
    in_each_mode(attempts_that_are_abandoned);
}

/* ---- Slots that log are deleted, moved, split, resized and protected ---- */

static void edit(struct worker *worker)
{
    struct guest_vm *vm = worker->vm;
    uint32_t random = next_random(worker), amount = next_random(worker);
    switch (random % 6) {
    case 0:
        MUST(memory_region_set_address(worker->window, MOVING + amount % 5 * MIB, &err));
        break;
    case 1:
        MUST(memory_region_set_alias_offset(worker->window, WINDOW_FROM + amount % 8 * MIB, &err));
        break;
    case 2:
        MUST(memory_region_set_readonly(worker->window, amount % 2, &err));
        break;
    case 3:
        MUST(memory_region_set_size(worker->grown, (1 + amount % 4) * MIB, &err));
        break;
    case 4:
        MUST(memory_region_set_enabled(worker->device, amount % 2, &err));
        break;
    default:
        if (worker->grown->state.container)
            MUST(memory_region_remove_subregion(worker->grown, &err));
        else
            MUST(memory_region_add_subregion(&vm->root, GROWN, worker->grown, 0, &err));
    }
}

static const struct memory_region_ops no_ops = {0};

static void changes_of_slots(struct guest_vm *vm)
{
    struct memory_region window, grown, device_region;
    struct ram_block *block;
    MUST(ram_block_create("grown", GROWN_SIZE, 0, &block, &err));
    MUST(memory_region_init_alias(&window, vm->memory, "window", &vm->ram_low, WINDOW_FROM, WINDOW_SIZE,
                                  &err));
    MUST(memory_region_add_subregion(&vm->root, MOVING, &window, 0, &err));
    MUST(memory_region_init_ram(&grown, vm->memory, "grown", block, 0, GROWN_SIZE, &err));
    MUST(memory_region_add_subregion(&vm->root, GROWN, &grown, 0, &err));
    MUST(memory_region_init_mmio(&device_region, vm->memory, "device", &no_ops, NULL, DEVICE_SIZE, &err));
    MUST(memory_region_add_subregion(&vm->root, MOVING + 6 * MIB, &device_region, 1, &err));

    struct worker editor = {
        .vm = vm, .step = edit, .random = 3, .window = &window, .grown = &grown, .device = &device_region};
    struct worker device = {.vm = vm, .step = store, .random = 4};
    struct copy copy;
    dirtier_order(vm, MOVING, MOVING_PAGES, DIRTIER_FOREVER);
    copy_begin(&copy, vm, block);
    worker_start(&editor);
    worker_start(&device);
    for (int pass = 0; pass < 40; pass++)
        copy_pass(&copy);
    worker_end(&device);
    worker_end(&editor);
    cr_assert(dirtier_stop(vm));
    copy_end(&copy);
    cr_assert_eq(dirtier_quit(vm), 0);

    guest_vm_halt(vm);
    memory_region_remove_all_subregions(&vm->root, NULL);
    memory_region_destroy(&window);
    memory_region_destroy(&grown);
    memory_region_destroy(&device_region);
    ram_block_destroy(block);
}

Test(dirty_log, slots_that_log_change)
{
    in_each_mode(changes_of_slots);
}
