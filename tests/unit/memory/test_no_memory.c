#include "memory/dirty.h"
#include "memory/kvm_listener.h"
#include "memory/shared_log.h"
#include "memory/trace.h"
#include "tests/support/failing_malloc.h"
#include "tests/support/fake_kvm.h"
#include "tests/unit/memory/recorder.h"

/* Every allocation of a change fails once, one after the other: each time all must be as before. */
static struct fixture f;
static struct fake_kvm kvm;
static struct memory_region *ram_region, *device, *hole, *window;

static void start(void)
{
    fixture_start(&f);
    kvm = (struct fake_kvm){.slots_max = 16};
    ram_region = ram(&f, "ram", 8 * PAGE);
    device = mmio(&f, "device", 0x100);
    hole = mmio(&f, "hole", PAGE);
    window = alias(&f, "window", device, 0, 0x80);
    add(&f.root, 0, ram_region, 0);
    add(&f.root, 0x20000, device, 0);
}

static void end(void)
{
    fake_kvm_free(&kvm);
    fixture_end(&f);
}

TestSuite(no_memory, .init = start, .fini = end);

/* Several changes, each of which may fail; then the transaction is none. */
static int change(void)
{
    memory_transaction_begin(f.memory);
    int result = memory_region_add_ioeventfd(device, 0x10, 4, false, 0, 5, NULL);
    if (!result)
        result = memory_region_add_coalesced(device, 0x20, 8, NULL);
    if (!result)
        result = memory_region_add_subregion(&f.root, PAGE, hole, 1, NULL);
    if (!result)
        result = memory_region_add_subregion(&f.root, 0x30000, window, 0, NULL);
    int committed = memory_transaction_commit(f.memory, &f.err);
    return result ? result : committed;
}

/* Takes back what change() has done of it, which nothing may hinder. */
static void unchange(void)
{
    memory_region_remove_ioeventfd(device, 0x10, 4, false, 0, 5, NULL);
    memory_region_clear_coalesced(device, NULL);
    memory_region_remove_subregion(hole, NULL);
    memory_region_remove_subregion(window, NULL);
}

Test(no_memory, for_a_commit)
{
    struct record record = {0};
    struct recorder recorder;
    struct kvm_listener *listener;
    struct kvm_listener_config config = {.ops = &fake_kvm_ops, .opaque = &kvm, .slots_max = kvm.slots_max};
    cr_assert_eq(kvm_listener_create(f.space, &config, &listener, NULL), 0);
    listen_to(f.space, &recorder, "a", 20, &record);
    for (unsigned at = 1;; at++) {
        failing_malloc_arm(at);
        int result = change();
        bool failed = failing_malloc_failed();
        failing_malloc_arm(0);
        if (result == 0)
            assert_shows(&f, "0+1000 ram@0, 1000+1000 hole@0, 2000+6000 ram@2000, 20000+100 device@0, "
                             "30000+80 device@0");
        if (!failed) {
            cr_assert_gt(at, 10, "what fails only once has had its turn");
            break;
        }
        /* An index of subregions can do without memory. */
        cr_assert(result == -ENOMEM || result == 0, "allocation %u", at);
        unchange();
        assert_shows(&f, "0+8000 ram@0, 20000+100 device@0");
        cr_assert_eq(kvm.broken, 0, "%s", kvm.rule);
        cr_assert_eq(kvm.ioeventfd_count, 0);
        forget(&record);
    }
    memory_listener_unregister(&recorder.listener);
    kvm_listener_destroy(listener);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 0);
}

/* A commit that alone runs out of memory, everything before it having succeeded. */
Test(no_memory, for_the_last_step)
{
    struct record record = {0};
    struct recorder recorder;
    listen_to(f.space, &recorder, "a", 0, &record);
    forget(&record);
    for (unsigned at = 1;; at++) {
        memory_transaction_begin(f.memory);
        cr_assert_eq(memory_region_set_address(device, 0x40000, NULL), 0);
        add(&f.root, PAGE, hole, 1);
        failing_malloc_arm(at);
        int result = memory_transaction_commit(f.memory, &f.err);
        failing_malloc_arm(0);
        if (result == 0)
            break;
        cr_assert_eq(result, -ENOMEM);
        cr_assert_not_null(strstr(f.err.message, "memory"));
        assert_shows(&f, "0+8000 ram@0, 20000+100 device@0");
        cr_assert_null(hole->state.container);
        forget(&record);
    }
    assert_shows(&f, "0+1000 ram@0, 1000+1000 hole@0, 2000+6000 ram@2000, 40000+100 device@0");
    memory_listener_unregister(&recorder.listener);
}

Test(no_memory, to_create_things)
{
    struct kvm_listener *listener;
    struct kvm_listener_config config = {.ops = &fake_kvm_ops, .opaque = &kvm, .slots_max = kvm.slots_max};
    int result;
    failing_malloc_arm(1);
    cr_assert_null(memory_create());
    for (unsigned at = 1;; at++) {
        failing_malloc_arm(at);
        result = kvm_listener_create(f.space, &config, &listener, NULL);
        failing_malloc_arm(0);
        if (!result)
            break;
        cr_assert_eq(result, -ENOMEM);
        cr_assert_eq(fake_kvm_slot_count(&kvm), 0);
    }
    kvm_listener_destroy(listener);
    for (unsigned at = 1;; at++) {
        struct address_space *space;
        failing_malloc_arm(at);
        result = address_space_create(f.memory, "x", &f.root, &space, NULL);
        failing_malloc_arm(0);
        if (!result) {
            address_space_destroy(space);
            break;
        }
        cr_assert_eq(result, -ENOMEM);
    }
    struct ram_block *block;
    failing_malloc_arm(1);
    cr_assert_eq(ram_block_create("x", PAGE, 0, &block, NULL), -ENOMEM);
    failing_malloc_arm(0);
}

/* A client that does not start leaves nothing behind; one that ends does so whatever there is. */
Test(no_memory, to_start_and_stop_dirty_tracking)
{
    struct record record = {0};
    struct recorder recorder;
    struct dirty_client *client;
    bool over;
    listen_to_logs(f.space, &recorder, "a", 0, &record);
    for (unsigned at = 1;; at++) {
        forget(&record);
        failing_malloc_arm(at);
        int result = dirty_start(f.memory, "client", DIRTY_FROM_NOW, &client, &f.err);
        over = failing_malloc_armed();
        failing_malloc_arm(0);
        if (over) {
            cr_assert_eq(result, 0);
            cr_assert_gt(at, 3, "what fails only once has had its turn");
            break;
        }
        cr_assert_eq(result, -ENOMEM, "allocation %u", at);
        cr_assert_not_null(strstr(f.err.message, "client"));
        cr_assert_eq(ram_region->state.log, 0);
    }
    over = false;
    for (unsigned at = 1; !over; at++) {
        forget(&record);
        failing_malloc_arm(at);
        dirty_stop(client);
        over = failing_malloc_armed();
        failing_malloc_arm(0);
        cr_assert_eq(dirty_start(f.memory, "client", DIRTY_FROM_NOW, &client, &f.err), 0);
        cr_assert_eq(dirty_count(client, NULL), 0);
    }
    dirty_stop(client);
    memory_listener_unregister(&recorder.listener);
}

Test(no_memory, for_ram_while_clients_track)
{
    struct dirty_client *client;
    struct ram_block *block;
    struct memory_region region;
    cr_assert_eq(dirty_start(f.memory, "client", DIRTY_FROM_NOW, &client, NULL), 0);
    cr_assert_eq(ram_block_create("more", PAGE, 0, &block, NULL), 0);
    failing_malloc_arm(1);
    cr_assert_eq(memory_region_init_ram(&region, f.memory, "more", block, 0, PAGE, &f.err), -ENOMEM);
    cr_assert(failing_malloc_failed());
    cr_assert_not_null(strstr(f.err.message, "more"));
    memory_region_destroy(&region);
    dirty_stop(client);
    ram_block_destroy(block);
}

Test(no_memory, to_share_a_log)
{
    struct shared_log *shared;
    int result;
    for (unsigned at = 1;; at++) {
        failing_malloc_arm(at);
        result = shared_log_create(f.space, &shared, &f.err);
        if (failing_malloc_armed())
            break;
        cr_assert_eq(result, -ENOMEM);
    }
    failing_malloc_arm(0);
    cr_assert_eq(result, 0);
    shared_log_destroy(shared);
}

Test(no_memory, to_trace)
{
    struct memory_trace *trace;
    int result;
    for (unsigned at = 1;; at++) {
        failing_malloc_arm(at);
        result = memory_trace_create(f.space, NULL, &trace, &f.err);
        if (failing_malloc_armed())
            break;
        cr_assert_eq(result, -ENOMEM);
    }
    failing_malloc_arm(0);
    cr_assert_eq(result, 0);
    memory_trace_destroy(trace);
}
