#include "memory/dirty.h"
#include "memory/kvm_listener.h"
#include "memory/listener.h"
#include "tests/support/fake_kvm.h"
#include "tests/unit/memory/fixture.h"

/*
 * Which slots move, are relabelled or made anew, when vCPUs are stopped for it, and that whatever fails on
 * the way is taken back.
 */
static struct fixture f;
static struct fake_kvm kvm, before; /* the latter is what note() saw */
static struct kvm_listener *listener;

static void start(void)
{
    fixture_start(&f);
    kvm = (struct fake_kvm){.slots_max = 16};
    struct kvm_listener_config config = {.ops = &fake_kvm_ops, .opaque = &kvm, .slots_max = kvm.slots_max};
    cr_assert_eq(kvm_listener_create(f.space, &config, &listener, &f.err), 0, "%s", f.err.message);
}

static void end(void)
{
    kvm_listener_destroy(listener);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 0);
    cr_assert_eq(kvm.broken, 0, "%s", kvm.rule);
    cr_assert(!kvm.stopped);
    fake_kvm_free(&kvm);
    fake_kvm_free(&before);
    fixture_end(&f);
}

TestSuite(kvm_slots, .init = start, .fini = end);

/* From here on calls are counted, and what vanishes for a moment is noticed. */
static void note(void)
{
    fake_kvm_copy(&before, &kvm);
    kvm.slot_calls = kvm.move_calls = kvm.stops = 0;
    fake_kvm_begin_change(&kvm);
}

/* How many calls for slots, moves among them, and stops of vCPUs there were since. */
static void assert_calls(unsigned calls, unsigned moves, unsigned stops)
{
    fake_kvm_end_change(&kvm);
    cr_assert_eq(kvm.broken, 0, "%s", kvm.rule);
    cr_assert_eq(kvm.slot_calls, calls, "%u calls", kvm.slot_calls);
    cr_assert_eq(kvm.move_calls, moves, "%u moves", kvm.move_calls);
    cr_assert_eq(kvm.stops, stops, "%u stops", kvm.stops);
}

/* The slot at `address` is number `id`, and maps this offset of the block. */
static void assert_slot(uint64_t address, unsigned id, uint64_t offset)
{
    const struct kvm_userspace_memory_region *slot = fake_kvm_find(&kvm, address);
    cr_assert_not_null(slot);
    cr_assert_eq(slot->guest_phys_addr, address);
    cr_assert_eq(slot->slot, id);
    cr_assert_eq(slot->userspace_addr - (uintptr_t)f.block->host, offset);
}

/* RAM from this page of the block on. */
static struct memory_region *part(const char *name, unsigned first, unsigned pages)
{
    struct memory_region *region = next_region(&f);
    cr_assert_eq(memory_region_init_ram(region, f.memory, name, f.block, first * PAGE, pages * PAGE, NULL),
                 0);
    return region;
}

static struct memory_region *piece(unsigned index)
{
    return part("piece", 2 * index, 2);
}

static void move_all(struct memory_region *const *regions, unsigned count, const uint64_t *places)
{
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < count; i++)
        cr_assert_eq(memory_region_set_address(regions[i], places[i], NULL), 0);
    int result = memory_transaction_commit(f.memory, &f.err);
    cr_assert_eq(result, 0, "%s", f.err.message);
}

Test(kvm_slots, a_moved_region_keeps_its_slot)
{
    struct memory_region *region = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, region, 0);
    note();
    cr_assert_eq(memory_region_set_address(region, 0x10000, NULL), 0);
    assert_calls(1, 1, 0);
    assert_slot(0x10000, 0, 0);
}

Test(kvm_slots, moving_by_less_than_its_size_stops_vcpus)
{
    struct memory_region *region = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, region, 0);
    note();
    cr_assert_eq(memory_region_set_address(region, PAGE, NULL), 0);
    assert_calls(1, 1, 1);
    assert_slot(PAGE, 0, 0);
}

Test(kvm_slots, a_moved_rom_keeps_its_slot)
{
    struct memory_region *region = rom(&f, "rom", 4 * PAGE);
    add(&f.root, 0, region, 0);
    note();
    cr_assert_eq(memory_region_set_address(region, 0x10000, NULL), 0);
    assert_calls(1, 1, 0);
}

Test(kvm_slots, what_becomes_readonly_cannot_move)
{
    struct memory_region *region = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, region, 0);
    note();
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_set_address(region, 0x10000, NULL), 0);
    cr_assert_eq(memory_region_set_readonly(region, true, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_calls(2, 0, 0);
}

/* Each can only move after the next one has, in either direction and in no particular order. */
Test(kvm_slots, a_row_moves_piece_by_piece)
{
    struct memory_region *regions[6];
    for (unsigned i = 0; i < 6; i++) {
        regions[i] = piece(i);
        add(&f.root, 2 * i * PAGE, regions[i], 0);
    }
    note();
    move_all(regions, 6, (uint64_t[]){0x2000, 0x4000, 0x6000, 0x8000, 0xa000, 0xc000});
    assert_calls(6, 6, 1);
    for (unsigned i = 0; i < 6; i++)
        assert_slot(2 * (i + 1) * PAGE, i, 2 * i * PAGE);
    note();
    move_all(regions, 6, (uint64_t[]){0, 0x2000, 0x4000, 0x6000, 0x8000, 0xa000});
    assert_calls(6, 6, 1);
    note();
    move_all(regions, 6, (uint64_t[]){0x8000, 0x10000, 0x2000, 0x4000, 0x6000, 0x12000});
    assert_calls(5 + 1, 5 + 1, 1);
    assert_slot(0x8000, 0, 0);
    assert_slot(0x12000, 5, 10 * PAGE);
}

Test(kvm_slots, of_a_circle_one_is_made_anew)
{
    struct memory_region *regions[4];
    for (unsigned i = 0; i < 4; i++) {
        regions[i] = piece(i);
        add(&f.root, 2 * i * PAGE, regions[i], 0);
    }
    note();
    move_all(regions, 2, (uint64_t[]){0x2000, 0});
    assert_calls(3, 1, 1);
    assert_slot(0, 1, 2 * PAGE);
    assert_slot(0x2000, 0, 0);
    note();
    move_all(regions, 4, (uint64_t[]){0x4000, 0x2000, 0x6000, 0});
    assert_calls(5, 3, 1);
}

Test(kvm_slots, a_refused_move_is_made_otherwise)
{
    struct memory_region *region = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, region, 0);
    kvm.refuse_moves = true;
    note();
    cr_assert_eq(memory_region_set_address(region, 0x10000, NULL), 0);
    assert_calls(3, 1, 0);
    assert_slot(0x10000, 0, 0);
}

Test(kvm_slots, vcpus_run_on_where_nothing_vanishes)
{
    struct memory_region *a = piece(0), *b = piece(1), *device = mmio(&f, "device", PAGE);
    note();
    add(&f.root, 0, a, 0);
    add(&f.root, 0x10000, b, 0);
    add(&f.root, 0x20000, device, 0);
    cr_assert_eq(memory_region_add_ioeventfd(device, 0, 4, false, 0, 5, NULL), 0);
    cr_assert_eq(memory_region_set_address(b, 0x30000, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(a, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(device, NULL), 0);
    add(&f.root, 0x30000, device, 1); /* covers the first of two pages */
    assert_calls(6, 1, 1);
    note();
    cr_assert_eq(memory_region_remove_subregion(device, NULL), 0);
    cr_assert_eq(memory_region_set_readonly(b, true, NULL), 0);
    assert_calls(1 + 3, 0, 1);
}

Test(kvm_slots, windows_far_apart)
{
    struct memory_region *regions[8];
    for (unsigned i = 0; i < 8; i++) {
        regions[i] = piece(i);
        add(&f.root, i * 0x10000, regions[i], 0);
    }
    note();
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_set_enabled(regions[0], false, NULL), 0);
    cr_assert_eq(memory_region_set_enabled(regions[7], false, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_calls(2, 0, 0);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 6);
}

/* One slot maps more than one window touches. */
Test(kvm_slots, one_slot_under_two_windows)
{
    struct memory_region *target = ram(&f, "ram", 16 * PAGE), *holes[3];
    add(&f.root, 0, target, 0);
    for (unsigned i = 0; i < 3; i++)
        holes[i] = mmio(&f, "hole", PAGE);
    note();
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < 3; i++)
        add(&f.root, (2 + 5 * i) * PAGE, holes[i], 1);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_calls(5, 0, 1);
    assert_slot(3 * PAGE, fake_kvm_find(&kvm, 3 * PAGE)->slot, 3 * PAGE);
    cr_assert_eq(fake_kvm_find(&kvm, 3 * PAGE)->memory_size, 4 * PAGE);
    note();
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < 3; i++)
        cr_assert_eq(memory_region_remove_subregion(holes[i], NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_calls(3, 0, 0);
}

Test(kvm_slots, tracking_relabels_slots_in_place)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE);
    struct dirty_client *a, *b;
    add(&f.root, 0, target, 0);
    add(&f.root, 0x10000, rom(&f, "rom", PAGE), 0);
    note();
    cr_assert_eq(dirty_start(f.memory, "a", DIRTY_EVERYTHING, &a, NULL), 0);
    assert_calls(1, 0, 0);
    cr_assert_eq(fake_kvm_find(&kvm, 0)->flags, KVM_MEM_LOG_DIRTY_PAGES);
    cr_assert_eq(fake_kvm_find(&kvm, 0x10000)->flags, KVM_MEM_READONLY);
    note();
    cr_assert_eq(dirty_start(f.memory, "b", DIRTY_EVERYTHING, &b, NULL), 0);
    dirty_stop(a);
    assert_calls(0, 0, 0);
    note();
    dirty_stop(b);
    assert_calls(1, 0, 0);
    cr_assert_eq(fake_kvm_find(&kvm, 0)->flags, 0);
}

Test(kvm_slots, a_logging_slot_goes_only_while_vcpus_are_stopped)
{
    struct memory_region *a = piece(0), *b = piece(1);
    struct dirty_client *client;
    cr_assert_eq(dirty_start(f.memory, "a", DIRTY_EVERYTHING, &client, NULL), 0);
    note();
    add(&f.root, 0, a, 0);
    add(&f.root, 0x10000, b, 0);
    assert_calls(2, 0, 0);
    note();
    cr_assert_eq(memory_region_set_address(a, 0x20000, NULL), 0);
    assert_calls(1, 1, 1);
    note();
    cr_assert_eq(memory_region_remove_subregion(b, NULL), 0);
    assert_calls(1, 0, 1);
    dirty_stop(client);
}

/* Slots run out: all are made anew but for those that need not be, which may have to be relabelled. */
Test(kvm_slots, joining_pieces_spares_what_is_right)
{
    struct memory_region *grows = ram(&f, "ram", PAGE), *pieces[13];
    add(&f.root, 0, grows, 0);
    for (unsigned i = 0; i < 13; i++) {
        pieces[i] = piece(i + 4);
        add(&f.root, (i + 1) * 0x10000, pieces[i], 0);
    }
    for (unsigned pages = 2; pages <= 3; pages++)
        cr_assert_eq(memory_region_set_size(grows, pages * PAGE, NULL), 0);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 16);
    note();
    cr_assert_eq(memory_region_set_size(grows, 4 * PAGE, NULL), 0);
    assert_calls(4, 0, 1);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 14);
}

/* A change that deletes, moves in a row and in a circle, relabels, adds, and has ioeventfds and a zone. */
static struct memory_region *row[6], *split, *hole;

static void arrange(void)
{
    for (unsigned i = 0; i < 6; i++) {
        row[i] = piece(i);
        add(&f.root, 2 * i * PAGE, row[i], 0);
    }
    hole = mmio(&f, "hole", PAGE);
    memory_region_add_ioeventfd(hole, 0, 4, false, 0, 5, NULL);
    memory_region_add_coalesced(hole, 8, 8, NULL);
    split = part("split", 16, 4);
    add(&f.root, 0x20000, split, 0);
}

static int rearrange(void)
{
    static const uint64_t places[] = {0x2000, 0, 0x6000, 0x8000, 0x10000};
    memory_transaction_begin(f.memory);
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(memory_region_set_address(row[i], places[i], NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(row[5], NULL), 0);
    add(&f.root, 0x21000, hole, 1);
    return memory_transaction_commit(f.memory, &f.err);
}

static void put_back(void)
{
    kvm.fail_at = 0;
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(hole, NULL), 0);
    for (unsigned i = 0; i < 5; i++)
        cr_assert_eq(memory_region_set_address(row[i], 2 * i * PAGE, NULL), 0);
    add(&f.root, 10 * PAGE, row[5], 0);
    cr_assert_eq(memory_region_remove_subregion(split, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    add(&f.root, 0x20000, split, 0); /* in one piece again */
}

/* The change fails at this call, and all is as it was; or it is a move, which can be made otherwise. */
static void fail_at(unsigned call)
{
    static const char *shows = "0+2000 piece@0, 2000+2000 piece@0, 4000+2000 piece@0, 6000+2000 piece@0, "
                               "8000+2000 piece@0, a000+2000 piece@0, 20000+4000 split@0";
    note();
    kvm.fail_at = kvm.calls + call;
    kvm.fail_with = -EIO;
    kvm.failed_move = false;
    int result = rearrange();
    cr_assert_eq(result, kvm.failed_move ? 0 : -EIO, "call %u", call);
    cr_assert_eq(kvm.broken, 0, "%s", kvm.rule);
    if (kvm.failed_move) {
        put_back();
        return;
    }
    cr_assert(strstr(f.err.message, "region") || strstr(f.err.message, "slot"), "%s", f.err.message);
    cr_assert_null(strstr(f.err.message, "lost"), "%s", f.err.message);
    cr_assert(fake_kvm_equal(&kvm, &before), "call %u", call);
    assert_shows(&f, shows);
}

/* Lets one call after the other fail, until none of them does. */
static void fail_each(unsigned calls)
{
    for (unsigned call = 1; call <= calls; call++)
        fail_at(call);
    kvm.fail_at = 0;
    unsigned made = kvm.calls;
    cr_assert_eq(rearrange(), 0);
    cr_assert_eq(kvm.calls - made, calls);
}

Test(kvm_slots, whatever_fails_is_taken_back)
{
    arrange();
    /* A zone and an ioeventfd; 2 slots go and one more for the circle; 4 move; that one and 2 come. */
    fail_each(2 + 3 + 4 + 3);
}

Test(kvm_slots, whatever_fails_is_taken_back_while_tracking)
{
    struct dirty_client *client;
    arrange();
    cr_assert_eq(dirty_start(f.memory, "a", DIRTY_FROM_NOW, &client, NULL), 0);
    fail_each(2 + 2 * 3 + 4 + 3); /* what goes is read first */
    dirty_stop(client);
}

Test(kvm_slots, failing_to_start_or_stop_tracking)
{
    struct dirty_client *client;
    arrange();
    for (unsigned call = 1; call <= 7; call++) {
        note();
        kvm.fail_at = kvm.calls + call;
        kvm.fail_with = -ENOMEM;
        cr_assert_eq(dirty_start(f.memory, "a", DIRTY_EVERYTHING, &client, &f.err), -ENOMEM);
        cr_assert_not_null(strstr(f.err.message, "region"), "%s", f.err.message);
        cr_assert(fake_kvm_equal(&kvm, &before));
    }
    cr_assert_eq(dirty_start(f.memory, "a", DIRTY_EVERYTHING, &client, &f.err), 0);
    kvm.fail_at = kvm.calls + 3;
    dirty_stop(client); /* they go on to log, until the next one stops */
    cr_assert_eq(dirty_start(f.memory, "a", DIRTY_EVERYTHING, &client, &f.err), 0);
    dirty_stop(client);
    for (uint64_t at = 0; at < 0x24000; at += 2 * PAGE)
        cr_assert(!fake_kvm_find(&kvm, at) || fake_kvm_find(&kvm, at)->flags == 0);
}

static int refuse(struct memory_listener *self, const struct memory_change *change, struct error *err)
{
    return error_set(err, EPERM, "no");
}

Test(kvm_slots, a_later_listeners_failure_is_taken_back)
{
    static const struct memory_listener_ops willing = {0}, refusing = {.apply = refuse};
    struct memory_listener late = {.name = "late", .priority = 100, .ops = &willing};
    arrange();
    cr_assert_eq(memory_listener_register(&late, f.space, NULL), 0);
    late.ops = &refusing;
    note();
    cr_assert_eq(rearrange(), -EPERM);
    cr_assert(fake_kvm_equal(&kvm, &before));
    cr_assert_eq(kvm.stops, 2);
    struct dirty_client *client;
    cr_assert_eq(dirty_start(f.memory, "a", DIRTY_EVERYTHING, &client, &f.err), -EPERM);
    cr_assert(fake_kvm_equal(&kvm, &before));
    late.ops = &willing;
    cr_assert_eq(rearrange(), 0);
    memory_listener_unregister(&late);
}

/* Whatever KVM says at the end, nothing is left behind. */
Test(kvm_slots, failing_to_take_all_out)
{
    arrange();
    kvm.fail_at = kvm.calls + 4;
    kvm.fail_with = -EIO;
}
