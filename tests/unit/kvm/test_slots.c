/*
 * Memory that changes under a running guest. The guest `slots` reads and writes a range all the time, in
 * which the test splits, covers, moves, protects, resizes and removes; every MMIO exit of its vCPU is seen
 * here. What must hold: the guest finds no value that cannot be, and never exits for an address that is RAM
 * both before and after each change. The guest's own code lies in the slot that is split.
 */
#include <criterion/criterion.h>
#include <linux/kvm.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "guest/slots.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "tests/support/guest_vm.h"
#include "vmm/vcpu.h"

#define RAM_SIZE      (32 * MIB)
#define INNER         32 /* pages of the range that are the end of RAM; the others lie behind it */
#define AREA          (RAM_SIZE - INNER * RAM_PAGE_SIZE)
#define AT(page)      (AREA + (uint64_t)(page)*RAM_PAGE_SIZE)
#define PAGES(count)  ((uint64_t)(count)*RAM_PAGE_SIZE)
#define EDITS         1000
#define EDITS_A_ROUND 8

/* Where what happens; all other pages stay RAM, up to the last of the second block. */
#define PROTECTED     6  /* 2 pages: read-only at times */
#define COVERED       12 /* 2: behind a device at times */
#define BRIDGE        30 /* 4, across the end of RAM: behind a device at times */
#define REMOVED       40 /* 2: not there at times */
#define GROWN         44 /* 4: of which the first is always there */
#define WINDOW        50 /* 4: a window of 2 pages that moves */
#define WINDOW_SIZE   2

struct rig {
    struct guest_vm vm;
    volatile struct slots_control *control;
    uint8_t kinds[SLOTS_PAGES_MAX]; /* enum slots_kind */
    struct ram_block *block;        /* of what lies behind RAM */
    struct memory_region outer, removed, grown, source, device, bridge, protected, window;
    unsigned edits;
    atomic_uint holes;
    atomic_ullong hole; /* the last one */
};

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        struct error err = {0};                                                                              \
        int result = (call);                                                                                 \
        cr_assert_eq(result, 0, "%s", err.message);                                                          \
    } while (0)

/* ---- The vCPU's MMIO exits ---- */

static enum slots_kind kind_of(const struct rig *rig, uint64_t address)
{
    uint64_t page = (address - AREA) / RAM_PAGE_SIZE;
    return address < AREA || page >= SLOTS_PAGES_MAX ? SLOTS_RAM : (enum slots_kind)rig->kinds[page];
}

static void look_for_hole(struct rig *rig, uint64_t address, bool is_write)
{
    enum slots_kind kind = kind_of(rig, address);
    if (kind != SLOTS_RAM && (kind != SLOTS_READ_ONLY || is_write))
        return;
    atomic_store(&rig->hole, address);
    atomic_fetch_add(&rig->holes, 1);
}

static uint64_t exit_read(void *opaque, uint64_t address, unsigned size)
{
    struct rig *rig = opaque;
    uint64_t value = UINT64_MAX;
    look_for_hole(rig, address, false);
    address_space_read(rig->vm.memory_space, address, &value, size);
    return value;
}

static void exit_write(void *opaque, uint64_t address, uint64_t value, unsigned size)
{
    struct rig *rig = opaque;
    look_for_hole(rig, address, true);
    address_space_write(rig->vm.memory_space, address, &value, size);
}

static const struct memory_region_ops exit_ops = {
    .read = exit_read, .write = exit_write, .impl = {1, 8, true}};

static uint64_t device_read(void *opaque, uint64_t offset, unsigned size)
{
    return SLOTS_DEVICE;
}

static const struct memory_region_ops device_ops = {.read = device_read, .impl = {8, 8, false}};

/* ---- The machine ---- */

static void set_kinds(struct rig *rig, unsigned first, unsigned count, enum slots_kind kind)
{
    for (unsigned page = first; page < first + count; page++)
        rig->kinds[page] = (uint8_t)kind;
}

/* The second block, page by page of the range: so each page has one place in it, window or not. */
static uint64_t block_offset(unsigned page)
{
    return PAGES(page - INNER);
}

static void add_outer(struct rig *rig)
{
    struct memory *memory = rig->vm.memory;
    struct memory_region *root = &rig->vm.root;
    MUST(ram_block_create("outer", PAGES(SLOTS_PAGES_MAX - INNER), 0, &rig->block, &err));
    MUST(memory_region_init_ram(&rig->outer, memory, "outer", rig->block, 0, PAGES(REMOVED - INNER), &err));
    MUST(memory_region_add_subregion(root, AT(INNER), &rig->outer, 0, &err));
    MUST(memory_region_init_ram(&rig->removed, memory, "removed", rig->block, block_offset(REMOVED), PAGES(2),
                                &err));
    MUST(memory_region_add_subregion(root, AT(REMOVED), &rig->removed, 0, &err));
    MUST(memory_region_init_ram(&rig->grown, memory, "grown", rig->block, block_offset(GROWN), PAGES(4),
                                &err));
    MUST(memory_region_add_subregion(root, AT(GROWN), &rig->grown, 0, &err));
    MUST(memory_region_init_ram(&rig->source, memory, "source", rig->block, block_offset(WINDOW), PAGES(4),
                                &err));
    MUST(memory_region_init_alias(&rig->window, memory, "window", &rig->source, 0, PAGES(WINDOW_SIZE), &err));
    MUST(memory_region_add_subregion(root, AT(WINDOW), &rig->window, 0, &err));
}

static void add_overlays(struct rig *rig)
{
    struct memory *memory = rig->vm.memory;
    struct memory_region *root = &rig->vm.root;
    MUST(memory_region_init_mmio(&rig->device, memory, "device", &device_ops, NULL, PAGES(2), &err));
    MUST(memory_region_set_enabled(&rig->device, false, &err));
    MUST(memory_region_add_subregion(root, AT(COVERED), &rig->device, 1, &err));
    MUST(memory_region_init_mmio(&rig->bridge, memory, "bridge", &device_ops, NULL, PAGES(4), &err));
    MUST(memory_region_set_enabled(&rig->bridge, false, &err));
    MUST(memory_region_add_subregion(root, AT(BRIDGE), &rig->bridge, 1, &err));
    MUST(memory_region_init_alias(&rig->protected, memory, "protected", &rig->vm.ram_low, AT(PROTECTED),
                                  PAGES(2), &err));
    MUST(memory_region_add_subregion(root, AT(PROTECTED), &rig->protected, 1, &err));
}

static void fill_words(struct rig *rig)
{
    for (unsigned page = 0; page < SLOTS_PAGES_MAX; page++) {
        char *host = page < INNER ? (char *)guest_vm_at(&rig->vm, AT(page))
                                  : (char *)rig->block->host + block_offset(page);
        if (rig->kinds[page] == SLOTS_OVERLAID || rig->kinds[page] == SLOTS_ABSENT)
            for (size_t word = 0; word < RAM_PAGE_SIZE / sizeof(uint64_t); word++)
                ((uint64_t *)host)[word] = slots_word(page);
    }
}

static void create(struct rig *rig)
{
    memset(rig, 0, sizeof(*rig));
    const struct guest_vm_exits exits = {&exit_ops, rig};
    MUST(guest_vm_create(&rig->vm, RAM_SIZE, &exits, &err));
    add_outer(rig);
    add_overlays(rig);
    set_kinds(rig, PROTECTED, 2, SLOTS_READ_ONLY);
    set_kinds(rig, COVERED, 2, SLOTS_OVERLAID);
    set_kinds(rig, BRIDGE, 4, SLOTS_OVERLAID);
    set_kinds(rig, REMOVED, 4, SLOTS_ABSENT);
    set_kinds(rig, GROWN + 1, SLOTS_PAGES_MAX - GROWN - 1, SLOTS_ABSENT);
    fill_words(rig);
    rig->control = guest_vm_at(&rig->vm, GUEST_VM_CONTROL);
    char arguments[32];
    snprintf(arguments, sizeof(arguments), "control=%#x", GUEST_VM_CONTROL);
    MUST(guest_vm_boot(&rig->vm, DIRTY_LOG_AUTO, GUEST_FOLDER "/slots", arguments, &err));
    rig->control->area = AREA;
    memcpy((void *)rig->control->kinds, rig->kinds, sizeof(rig->kinds));
    __atomic_store_n(&rig->control->pages, SLOTS_PAGES_MAX, __ATOMIC_RELEASE);
}

static void destroy(struct rig *rig)
{
    __atomic_store_n(&rig->control->quit, 1, __ATOMIC_RELEASE);
    while (atomic_load(&rig->vm.status) == GUEST_VM_RUNNING)
        sched_yield();
    cr_assert_eq(atomic_load(&rig->vm.status), 0);
    struct memory_region *const regions[] = {&rig->outer,  &rig->removed, &rig->grown,     &rig->window,
                                             &rig->device, &rig->bridge,  &rig->protected, &rig->source};
    guest_vm_halt(&rig->vm);
    memory_region_remove_all_subregions(&rig->vm.root, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(regions); i++)
        memory_region_destroy(regions[i]);
    guest_vm_destroy(&rig->vm);
    ram_block_destroy(rig->block);
}

/* ---- Edits: what a test does to the memory under the guest, step by step ---- */

static void cover(struct rig *rig, unsigned step)
{
    MUST(memory_region_set_enabled(&rig->device, step % 2 == 0, &err));
}

static void bridge(struct rig *rig, unsigned step)
{
    MUST(memory_region_set_enabled(&rig->bridge, step % 2 == 0, &err));
}

static void protect(struct rig *rig, unsigned step)
{
    MUST(memory_region_set_readonly(&rig->protected, step % 2 == 0, &err));
}

static void remove_and_put_back(struct rig *rig, unsigned step)
{
    if (step % 2 == 0)
        MUST(memory_region_remove_subregion(&rig->removed, &err));
    else
        MUST(memory_region_add_subregion(&rig->vm.root, AT(REMOVED), &rig->removed, 0, &err));
}

static void resize(struct rig *rig, unsigned step)
{
    MUST(memory_region_set_size(&rig->grown, PAGES(1 + step % 4), &err));
}

static void move(struct rig *rig, unsigned step)
{
    MUST(memory_region_set_address(&rig->window, AT(WINDOW + step % 4), &err));
}

static void slide(struct rig *rig, unsigned step)
{
    MUST(memory_region_set_alias_offset(&rig->window, PAGES(step % 3), &err));
}

/* One device goes and the other comes in one commit. */
static void jump(struct rig *rig, unsigned step)
{
    memory_transaction_begin(rig->vm.memory);
    MUST(memory_region_set_enabled(&rig->device, step % 2 == 0, &err));
    MUST(memory_region_set_enabled(&rig->bridge, step % 2 != 0, &err));
    MUST(memory_transaction_commit(rig->vm.memory, &err));
}

/* Lets the guest go round while it finds nothing wrong. */
static void wait_for_round(struct rig *rig)
{
    uint64_t before = rig->control->rounds;
    while (rig->control->rounds == before && atomic_load(&rig->vm.status) == GUEST_VM_RUNNING)
        sched_yield();
    cr_assert_eq(atomic_load(&rig->vm.status), GUEST_VM_RUNNING,
                 "status %d, KVM's exit reason %u; the guest expected at 0x%llx 0x%llx and found 0x%llx",
                 atomic_load(&rig->vm.status), vcpu_run_area(rig->vm.vcpu)->exit_reason,
                 (unsigned long long)rig->control->address, (unsigned long long)rig->control->expected,
                 (unsigned long long)rig->control->found);
}

static void edit(void (*const *edits)(struct rig *, unsigned), size_t count)
{
    struct rig rig;
    unsigned steps[16] = {0}, random = 1;
    create(&rig);
    for (unsigned i = 0; i < EDITS; i++) {
        random = random * 1664525 + 1013904223;
        size_t which = (random >> 16) % count;
        edits[which](&rig, steps[which]++);
        if (i % EDITS_A_ROUND == 0)
            wait_for_round(&rig);
    }
    wait_for_round(&rig);
    destroy(&rig);
    cr_assert_eq(atomic_load(&rig.holes), 0, "%u exits where RAM was, the last at 0x%llx",
                 atomic_load(&rig.holes), (unsigned long long)atomic_load(&rig.hole));
}

#define EDIT_TEST(name, ...)                                                                                 \
    Test(slots, name)                                                                                        \
    {                                                                                                        \
        static void (*const edits[])(struct rig *, unsigned) = {__VA_ARGS__};                                \
        edit(edits, ARRAY_SIZE(edits));                                                                      \
    }

EDIT_TEST(a_device_that_comes_and_goes_splits_ram, cover)
EDIT_TEST(a_device_across_two_pieces_of_ram, bridge)
EDIT_TEST(a_device_that_jumps, jump)
EDIT_TEST(ram_that_is_read_only_at_times, protect)
EDIT_TEST(ram_that_is_removed_and_put_back, remove_and_put_back)
EDIT_TEST(ram_that_grows_and_shrinks, resize)
EDIT_TEST(a_window_that_moves, move, slide)
EDIT_TEST(everything_at_once, cover, bridge, protect, remove_and_put_back, resize, move, slide)
