#include "memory/kvm_listener.h"
#include "memory/listener.h"
#include "tests/support/fake_kvm.h"
#include "tests/unit/memory/fixture.h"

static struct fixture f;
static struct fake_kvm kvm, before; /* the latter is what note() saw */
static struct kvm_listener *listener;

static void attach(bool ports)
{
    struct kvm_listener_config config = {
        .ops = &fake_kvm_ops, .opaque = &kvm, .ports = ports, .slots_max = kvm.slots_max};
    cr_assert_eq(kvm_listener_create(f.space, &config, &listener, &f.err), 0, "%s", f.err.message);
}

static void start(void)
{
    fixture_start(&f);
    kvm = (struct fake_kvm){.slots_max = 16};
    attach(false);
}

static void note(void)
{
    fake_kvm_copy(&before, &kvm);
}

/* Nothing is left behind, and no rule was ever broken. */
static void end(void)
{
    kvm_listener_destroy(listener);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 0);
    cr_assert_eq(kvm.ioeventfd_count, 0);
    cr_assert_eq(kvm.zone_count, 0);
    cr_assert_eq(kvm.broken, 0, "%s", kvm.rule);
    fake_kvm_free(&kvm);
    fake_kvm_free(&before);
    fixture_end(&f);
}

/* Slots by address: "START+SIZE@HOST", HOST in the block, "r" for read-only. */
static const char *slots(void)
{
    size_t length = 0;
    f.text[0] = 0;
    for (uint64_t page = 0; page < 256; page++) {
        const struct kvm_userspace_memory_region *slot = fake_kvm_find(&kvm, page * PAGE);
        if (!slot || slot->guest_phys_addr != page * PAGE)
            continue;
        length += (size_t)snprintf(f.text + length, TEXT_SIZE - length, "%s%llx+%llx@%llx%s",
                                   length ? ", " : "", slot->guest_phys_addr, slot->memory_size,
                                   slot->userspace_addr - (uintptr_t)f.block->host,
                                   slot->flags & KVM_MEM_READONLY ? " r" : "");
    }
    return f.text;
}

#define assert_slots(wanted) cr_assert_str_eq(slots(), wanted)

TestSuite(kvm_listener, .init = start, .fini = end);

Test(kvm_listener, maps_ram_only)
{
    add(&f.root, 0, ram(&f, "ram", 4 * PAGE), 0);
    add(&f.root, 0x10000, mmio(&f, "mmio", PAGE), 0);
    add(&f.root, 0x20000, reservation(&f, "reserved", PAGE), 0);
    assert_slots("0+4000@0");
}

Test(kvm_listener, learns_of_what_was_there_before)
{
    kvm_listener_destroy(listener);
    add(&f.root, 0x8000, ram(&f, "ram", 4 * PAGE), 0);
    attach(false);
    assert_slots("8000+4000@0");
}

Test(kvm_listener, honours_what_is_shown_not_the_region)
{
    struct memory_region *target = ram(&f, "ram", 8 * PAGE),
                         *window = alias(&f, "pam", target, 2 * PAGE, PAGE);
    add(&f.root, 0, target, 0);
    add(&f.root, 2 * PAGE, window, 1);
    assert_slots("0+8000@0");
    cr_assert_eq(memory_region_set_readonly(window, true, NULL), 0);
    assert_slots("0+2000@0, 2000+1000@2000 r, 3000+5000@3000");
    cr_assert_eq(memory_region_set_readonly(window, false, NULL), 0);
    assert_slots("0+2000@0, 2000+1000@2000, 3000+5000@3000");
}

Test(kvm_listener, rom_and_rom_devices)
{
    struct memory_region *device = rom_device(&f, "flash", PAGE);
    add(&f.root, 0, rom(&f, "rom", PAGE), 0);
    add(&f.root, 0x10000, device, 0);
    assert_slots("0+1000@0 r, 10000+1000@0 r");
    cr_assert_eq(memory_region_set_romd(device, false, NULL), 0);
    assert_slots("0+1000@0 r");
    cr_assert_eq(memory_region_set_romd(device, true, NULL), 0);
    assert_slots("0+1000@0 r, 10000+1000@0 r");
}

Test(kvm_listener, what_does_not_change_stays_in_place)
{
    struct memory_region *low = ram(&f, "low", 4 * PAGE), *high = ram(&f, "high", 4 * PAGE);
    struct memory_region *hole = mmio(&f, "hole", PAGE);
    add(&f.root, 0, low, 0);
    add(&f.root, 0x10000, high, 0);
    kvm.slot_calls = 0;
    add(&f.root, PAGE, hole, 1);
    assert_slots("0+1000@0, 2000+2000@2000, 10000+4000@0");
    cr_assert_eq(kvm.slot_calls, 3, "one slot goes, two come");
    kvm.slot_calls = 0;
    cr_assert_eq(memory_region_set_enabled(hole, false, NULL), 0);
    assert_slots("0+1000@0, 1000+1000@1000, 2000+2000@2000, 10000+4000@0");
    cr_assert_eq(kvm.slot_calls, 1, "what was uncovered is mapped, the rest stays");
}

Test(kvm_listener, growing_ram_keeps_its_slot)
{
    struct memory_region *region = ram(&f, "ram", 4 * PAGE);
    add(&f.root, 0, region, 0);
    kvm.slot_calls = 0;
    cr_assert_eq(memory_region_set_size(region, 6 * PAGE, NULL), 0);
    assert_slots("0+4000@0, 4000+2000@4000");
    cr_assert_eq(memory_region_set_size(region, 4 * PAGE, NULL), 0);
    assert_slots("0+4000@0");
    cr_assert_eq(kvm.slot_calls, 2);
}

Test(kvm_listener, same_memory_by_another_way_stays_in_place)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE), *first = alias(&f, "a", target, 0, 4 * PAGE);
    struct memory_region *half = alias(&f, "b", target, 0, 2 * PAGE);
    struct memory_region *rest = alias(&f, "c", target, 2 * PAGE, 2 * PAGE);
    add(&f.root, 0, first, 0);
    kvm.slot_calls = 0;
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(first, NULL), 0);
    cr_assert_eq(memory_region_set_unmergeable(half, true, NULL), 0);
    add(&f.root, 0, half, 0);
    add(&f.root, 2 * PAGE, rest, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_shows(&f, "0+2000 ram@0 u, 2000+2000 ram@2000");
    assert_slots("0+4000@0");
    cr_assert_eq(kvm.slot_calls, 0);
}

Test(kvm_listener, refuses_ram_that_is_not_pages)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE), *over = mmio(&f, "over", 0x10);
    struct memory_region *window = alias(&f, "window", target, 0x100, PAGE);
    add(&f.root, 0, target, 0);
    note();
    cr_assert_eq(memory_region_add_subregion(&f.root, 0x1800, over, 1, &f.err), -EINVAL);
    cr_assert_not_null(strstr(f.err.message, "region ram"));
    cr_assert_not_null(strstr(f.err.message, "0x17ff"));
    cr_assert_eq(memory_region_add_subregion(&f.root, 0x10000, window, 0, NULL), -EINVAL, "host side");
    cr_assert_eq(memory_region_set_address(target, 0x20010, NULL), -EINVAL);
    cr_assert_eq(memory_region_set_address(target, UINT64_MAX - 4 * PAGE + 1, NULL), -EINVAL, "end of space");
    cr_assert(fake_kvm_equal(&kvm, &before));
    assert_shows(&f, "0+4000 ram@0");
}

Test(kvm_listener, limit_of_slots_is_an_error_that_names_the_region)
{
    struct memory_region *target = ram(&f, "ram", PAGE);
    for (unsigned i = 0; i < kvm.slots_max; i++)
        add(&f.root, 2 * i * PAGE, alias(&f, "piece", target, 0, PAGE), 0);
    cr_assert_eq(fake_kvm_slot_count(&kvm), kvm.slots_max);
    struct memory_region *last = rom(&f, "too-much", PAGE);
    note();
    cr_assert_eq(memory_region_add_subregion(&f.root, 0x100000, last, 0, &f.err), -ENOSPC);
    cr_assert_not_null(strstr(f.err.message, "too-much"));
    cr_assert_not_null(strstr(f.err.message, "17"));
    cr_assert(fake_kvm_equal(&kvm, &before));
    /* In place of another it fits. */
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_subregion(&f.regions[1], NULL), 0);
    add(&f.root, 0x100000, last, 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
}

Test(kvm_listener, pieces_are_joined_before_slots_run_out)
{
    kvm_listener_destroy(listener);
    kvm.slots_max = 2;
    attach(false);
    struct memory_region *region = ram(&f, "ram", PAGE);
    add(&f.root, 0, region, 0);
    cr_assert_eq(memory_region_set_size(region, 2 * PAGE, NULL), 0);
    assert_slots("0+1000@0, 1000+1000@1000");
    cr_assert_eq(memory_region_set_size(region, 3 * PAGE, NULL), 0);
    assert_slots("0+3000@0");
}

/* The example of docs/memory.md. */
Test(kvm_listener, shadowed_ram_and_a_doorbell)
{
    struct memory_region *target = ram(&f, "ram", 4 * PAGE), *device = mmio(&f, "device", PAGE);
    struct memory_region *shadow = alias(&f, "shadow", target, PAGE, 3 * PAGE);
    cr_assert_eq(memory_region_set_readonly(shadow, true, NULL), 0);
    cr_assert_eq(memory_region_add_ioeventfd(device, 0x80, 4, false, 0, 9, NULL), 0);
    memory_transaction_begin(f.memory);
    add(&f.root, 0, alias(&f, "ram-low", target, 0, 4 * PAGE), 0);
    add(&f.root, PAGE, shadow, 1);
    add(&f.root, 2 * PAGE, device, 2);
    add(&f.root, 0x8000, alias(&f, "window", device, 0x40, 0xc0), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_shows(&f, "0+1000 ram@0, 1000+1000 ram@1000 r, 2000+1000 device@0, 3000+1000 ram@3000 r, "
                     "8000+c0 device@40");
    assert_slots("0+1000@0, 1000+1000@1000 r, 3000+1000@3000 r");
    cr_assert(kvm.ioeventfd_count == 2 && kvm.ioeventfds[0].addr == 0x2080 &&
              kvm.ioeventfds[1].addr == 0x8040);
    unsigned calls = kvm.calls;
    cr_assert_eq(memory_region_set_readonly(shadow, false, NULL), 0);
    assert_shows(&f, "0+2000 ram@0, 2000+1000 device@0, 3000+1000 ram@3000, 8000+c0 device@40");
    assert_slots("0+1000@0, 1000+1000@1000, 3000+1000@3000");
    cr_assert_eq(kvm.calls - calls, 4, "two slots made anew, and nothing else");
}

Test(kvm_listener, no_slot_exceeds_what_kvm_takes)
{
    uint64_t size = (uint64_t)9 << 40;
    struct ram_block block = {
        .name = "huge", .host = (void *)(8 * size), .size = size}; /* never looked into */
    struct memory_region huge;
    cr_assert_eq(memory_region_init_ram(&huge, f.memory, "huge", &block, 0, size, NULL), 0);
    add(&f.root, 0, &huge, 0);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 3);
    for (uint64_t at = 0; at < size; at += size / 64)
        cr_assert_eq(fake_kvm_find(&kvm, at)->userspace_addr - fake_kvm_find(&kvm, at)->guest_phys_addr,
                     (uintptr_t)block.host);
    cr_assert_eq(memory_region_remove_subregion(&huge, NULL), 0);
    memory_region_destroy(&huge);
}

Test(kvm_listener, ioeventfds_of_memory)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    memory_region_add_ioeventfd(region, 0x10, 4, true, 7, 5, NULL);
    memory_region_add_ioeventfd(region, 0x20, 0, false, 0, 6, NULL);
    add(&f.root, 0x1000, region, 0);
    cr_assert_eq(kvm.ioeventfd_count, 2);
    const struct kvm_ioeventfd *first = &kvm.ioeventfds[0], *second = &kvm.ioeventfds[1];
    cr_assert(first->addr == 0x1010 && first->len == 4 && first->datamatch == 7 && first->fd == 5);
    cr_assert_eq(first->flags, KVM_IOEVENTFD_FLAG_DATAMATCH);
    cr_assert(second->addr == 0x1020 && second->len == 0 && second->fd == 6 && second->flags == 0);
    add(&f.root, 0x2000, alias(&f, "alias", region, 0, 0x18), 0);
    cr_assert_eq(kvm.ioeventfd_count, 3);
}

Test(kvm_listener, colliding_ioeventfds_are_refused_and_exchanged)
{
    struct memory_region *region = mmio(&f, "x", 0x100);
    add(&f.root, 0x1000, region, 0);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0x10, 4, true, 7, 5, NULL), 0);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0x10, 0, false, 0, 6, &f.err), -EEXIST);
    cr_assert_not_null(strstr(f.err.message, "region x"));
    cr_assert_eq(kvm.ioeventfd_count, 1);
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_add_ioeventfd(region, 0x10, 0, false, 0, 6, NULL), 0);
    cr_assert_eq(memory_region_remove_ioeventfd(region, 0x10, 4, true, 7, 5, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    cr_assert_eq(kvm.ioeventfds[0].fd, 6);
}

/* KVM's ioeventfds by address and descriptor: "ADDRESS/LENGTH=DATA:FD", all but the address decimal. */
static const char *ioeventfds(void)
{
    size_t length = 0;
    f.text[0] = 0;
    for (uint64_t place = 0; place < 0x4000 * 16; place++) {
        for (size_t i = 0; i < kvm.ioeventfd_count; i++) {
            const struct kvm_ioeventfd *found = &kvm.ioeventfds[i];
            char match[32] = "";
            if (found->addr != place / 16 || found->fd != (int)(place % 16))
                continue;
            if (found->flags & KVM_IOEVENTFD_FLAG_DATAMATCH)
                snprintf(match, sizeof(match), "=%llu", found->datamatch);
            length += (size_t)snprintf(f.text + length, TEXT_SIZE - length, "%s%llx/%u%s:%d",
                                       length ? " " : "", found->addr, found->len, match, found->fd);
        }
    }
    return f.text;
}

#define assert_ioeventfds(wanted) cr_assert_str_eq(ioeventfds(), wanted)

static void follow_a_region(void)
{
    struct memory_region *region = mmio(&f, "x", 0x100), *over = mmio(&f, "over", 0x80);
    struct memory_region *window = alias(&f, "window", region, 0x10, 0x20);
    memory_region_add_ioeventfd(region, 0x10, 4, true, 7, 5, NULL);
    memory_region_add_ioeventfd(region, 0x2e, 4, false, 0, 6, NULL);
    memory_region_add_ioeventfd(region, 0x90, 0, false, 0, 7, NULL);
    add(&f.root, 0x1000, region, 0);
    assert_ioeventfds("1010/4=7:5 102e/4:6 1090/0:7");
    cr_assert_eq(memory_region_set_address(region, 0x2000, NULL), 0);
    assert_ioeventfds("2010/4=7:5 202e/4:6 2090/0:7");
    add(&f.root, 0x3000, window, 0); /* shows half of the second one */
    assert_ioeventfds("2010/4=7:5 202e/4:6 2090/0:7 3000/4=7:5");
    cr_assert_eq(memory_region_set_size(region, 0x90, NULL), 0);
    assert_ioeventfds("2010/4=7:5 202e/4:6 3000/4=7:5");
    add(&f.root, 0x2000, over, 1);
    assert_ioeventfds("3000/4=7:5");
    cr_assert_eq(memory_region_set_address(over, 0x2012, NULL), 0);
    assert_ioeventfds("3000/4=7:5");
    cr_assert_eq(memory_region_set_address(over, 0x2030, NULL), 0);
    assert_ioeventfds("2010/4=7:5 3000/4=7:5");
    cr_assert_eq(memory_region_set_enabled(over, false, NULL), 0);
    assert_ioeventfds("2010/4=7:5 202e/4:6 3000/4=7:5");
    cr_assert_eq(memory_region_set_size(region, 0x100, NULL), 0);
    cr_assert_eq(memory_region_set_alias_offset(window, 0x20, NULL), 0);
    assert_ioeventfds("2010/4=7:5 202e/4:6 2090/0:7 300e/4:6");
    cr_assert_eq(memory_region_remove_subregion(region, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(window, NULL), 0);
    assert_ioeventfds("");
}

Test(kvm_listener, ioeventfds_follow_their_region)
{
    follow_a_region();
}

Test(kvm_listener, ioeventfds_of_ports_follow_their_region)
{
    kvm_listener_destroy(listener);
    attach(true);
    follow_a_region();
}

/* What KVM would take for one may change places in one commit, between regions too. */
static void exchange_places(void)
{
    struct memory_region *a = mmio(&f, "a", 0x100), *b = mmio(&f, "b", 0x100);
    memory_region_add_ioeventfd(a, 0x10, 2, true, 1, 5, NULL);
    memory_region_add_ioeventfd(a, 0x10, 2, true, 2, 6, NULL);
    memory_region_add_ioeventfd(b, 0x10, 0, false, 0, 7, NULL);
    add(&f.root, 0x1000, a, 0);
    add(&f.root, 0x2000, b, 0);
    assert_ioeventfds("1010/2=1:5 1010/2=2:6 2010/0:7");
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_set_address(a, 0x2000, NULL), 0);
    cr_assert_eq(memory_region_set_address(b, 0x1000, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_ioeventfds("1010/0:7 2010/2=1:5 2010/2=2:6");
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_remove_ioeventfd(b, 0x10, 0, false, 0, 7, NULL), 0);
    cr_assert_eq(memory_region_add_ioeventfd(b, 0x10, 1, false, 0, 7, NULL), 0);
    cr_assert_eq(memory_region_add_ioeventfd(b, 0x10, 2, true, 0, 8, NULL), 0);
    cr_assert_eq(memory_transaction_commit(f.memory, NULL), 0);
    assert_ioeventfds("1010/1:7 1010/2=0:8 2010/2=1:5 2010/2=2:6");
    /* A third one over both, and each call failing once. */
    note();
    struct memory_region *over = mmio(&f, "over", 0x2000);
    memory_region_add_ioeventfd(over, 0x10, 0, false, 0, 9, NULL);
    memory_region_add_ioeventfd(over, 0x1010, 2, false, 0, 9, NULL);
    kvm.fail_with = -EIO;
    for (unsigned call = 1; call <= 6; call++) {
        kvm.fail_at = kvm.calls + call;
        cr_assert_eq(memory_region_add_subregion(&f.root, 0x1000, over, 1, &f.err), -EIO);
        cr_assert_not_null(strstr(f.err.message, call <= 4 ? "remove" : "region over"));
        cr_assert(fake_kvm_equal(&kvm, &before));
    }
    kvm.fail_at = 0;
    add(&f.root, 0x1000, over, 1);
    assert_ioeventfds("1010/0:9 2010/2:9");
}

Test(kvm_listener, ioeventfds_exchange_places)
{
    exchange_places();
}

Test(kvm_listener, ioeventfds_of_ports_exchange_places)
{
    kvm_listener_destroy(listener);
    attach(true);
    exchange_places();
}

Test(kvm_listener, ports)
{
    kvm_listener_destroy(listener);
    attach(true);
    struct memory_region *region = mmio(&f, "x", 8);
    memory_region_add_ioeventfd(region, 2, 2, true, 7, 5, NULL);
    memory_region_add_coalesced(region, 4, 1, NULL);
    add(&f.root, 0x3f8, region, 0);
    add(&f.root, 0x10000, ram(&f, "ram", PAGE), 0);
    cr_assert_eq(fake_kvm_slot_count(&kvm), 0);
    cr_assert_eq(kvm.ioeventfds[0].flags, KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH);
    cr_assert(kvm.zones[0].addr == 0x3fc && kvm.zones[0].size == 1 && kvm.zones[0].pio == 1);
}

Test(kvm_listener, coalesced_zones)
{
    struct memory_region *region = mmio(&f, "x", 0x100), *over = mmio(&f, "over", 4);
    memory_region_add_coalesced(region, 0x10, 0x10, NULL);
    add(&f.root, 0x1000, region, 0);
    cr_assert(kvm.zone_count == 1 && kvm.zones[0].addr == 0x1010 && kvm.zones[0].size == 0x10);
    add(&f.root, 0x1018, over, 1);
    cr_assert_eq(kvm.zone_count, 2);
    struct memory_region *vast = mmio(&f, "vast", (memory_size)1 << 33);
    cr_assert_eq(memory_region_add_coalesced(vast, 0, (uint64_t)1 << 32, NULL), 0);
    cr_assert_eq(memory_region_add_subregion(&f.root, (uint64_t)1 << 40, vast, 0, &f.err), -EINVAL);
    cr_assert_not_null(strstr(f.err.message, "vast"));
}

Test(kvm_listener, without_coalescing)
{
    kvm_listener_destroy(listener);
    struct kvm_listener_ops ops = fake_kvm_ops;
    ops.register_coalesced = ops.unregister_coalesced = NULL;
    struct kvm_listener_config config = {.ops = &ops, .opaque = &kvm, .slots_max = kvm.slots_max};
    struct memory_region *region = mmio(&f, "x", 0x100);
    memory_region_add_coalesced(region, 0x10, 0x10, NULL);
    add(&f.root, 0x1000, region, 0);
    cr_assert_eq(kvm_listener_create(f.space, &config, &listener, NULL), 0);
    cr_assert_eq(kvm.zone_count, 0);
    kvm_listener_destroy(listener);
    listener = NULL;
}

Test(kvm_listener, creation_fails_as_a_whole)
{
    kvm_listener_destroy(listener);
    listener = NULL;
    add(&f.root, 0, ram(&f, "a", PAGE), 0);
    add(&f.root, 0x10000, rom(&f, "b", PAGE), 0);
    kvm.fail_at = kvm.calls + 2;
    kvm.fail_with = -ENOMEM;
    struct kvm_listener_config config = {.ops = &fake_kvm_ops, .opaque = &kvm, .slots_max = kvm.slots_max};
    cr_assert_eq(kvm_listener_create(f.space, &config, &listener, &f.err), -ENOMEM);
    cr_assert_not_null(strstr(f.err.message, "region b"));
    cr_assert_eq(fake_kvm_slot_count(&kvm), 0);
}
