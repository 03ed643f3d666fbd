#include "tests/support/memory_driver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "memory/kvm_listener.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "tests/support/failing_malloc.h"
#include "tests/support/memory_driver_internal.h"

unsigned pick(struct driver *driver, unsigned limit)
{
    if (!driver->left)
        return 0;
    driver->left--;
    return *driver->step++ % limit;
}

uint64_t driver_node(const struct driver *driver, const struct memory_region *region)
{
    return (uint64_t)(region - driver->regions);
}

static uint64_t read_byte(void *opaque, uint64_t offset, unsigned size)
{
    return offset + 16 * (uint64_t)(uintptr_t)opaque;
}

static void write_nothing(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
}

const struct memory_region_ops driver_device_ops = {.read = read_byte, .write = write_nothing};

/* A node that is alive or not, the first from a random one on; ORACLE_NONE: there is none. */
static int pick_index(struct driver *driver, bool alive)
{
    unsigned first = pick(driver, ORACLE_NODES);
    for (unsigned i = 0; i < ORACLE_NODES; i++) {
        unsigned index = (first + i) % ORACLE_NODES;
        if (driver->now.nodes[index].alive == alive)
            return (int)index;
    }
    return ORACLE_NONE;
}

int pick_node(struct driver *driver)
{
    return pick_index(driver, true);
}

int pick_suitable(struct driver *driver, bool (*suits)(const struct oracle_node *node))
{
    int first = pick_node(driver);
    bool any = pick(driver, 8) == 7;
    for (int i = 0; i < ORACLE_NODES && !any; i++) {
        int index = (first + i) % ORACLE_NODES;
        if (driver->now.nodes[index].alive && suits(&driver->now.nodes[index]))
            return index;
    }
    return first;
}

int pick_dead(struct driver *driver)
{
    return pick_index(driver, false);
}

uint64_t pick_place(struct driver *driver)
{
    unsigned units = driver->now.units, choice = pick(driver, 4 * units + 4);
    if (choice >= 4 * units && driver->huge)
        return 0 - (choice - 4 * units + 1) * driver->now.unit;
    unsigned place = choice < units ? choice : 4 * (choice % 3) + choice % 2;
    return place * driver->now.unit;
}

/* Whether there are more ranges to map than KVM has slots. */
static bool slots_short(const struct driver *driver, const struct oracle_view *view)
{
    unsigned mapped = 0;
    for (unsigned i = 0; i < view->range_count; i++)
        mapped += oracle_mapped(&driver->now, &view->ranges[i].first, false);
    return mapped > driver->kvm.slots_max;
}

/* Whether two ioeventfds would be one to KVM. */
static bool ioeventfds_collide(const struct oracle_view *view)
{
    for (unsigned i = 0; i < view->ioeventfd_count; i++) {
        const struct oracle_ioeventfd *a = &view->ioeventfds[i];
        for (unsigned j = 0; j < i; j++) {
            const struct oracle_ioeventfd *b = &view->ioeventfds[j];
            bool differ = a->length == b->length && a->match && b->match && a->data != b->data;
            bool apart = a->length && b->length && a->length != b->length;
            if (a->place == b->place && !differ && !apart)
                return true;
        }
    }
    return false;
}

/* What the listeners must hear of the transaction that just ended, if all goes well. */
static void expect_all(struct driver *driver, struct oracle_view new[SIDES], const bool changed[SIDES])
{
    for (unsigned i = 0; i < SIDES; i++)
        if (changed[i])
            log_expect_prepare(driver, i);
    for (unsigned i = 0; i < SIDES; i++) {
        struct side *side = &driver->sides[i];
        if (changed[i])
            log_expect_steps(driver, i, &side->shown, &new[i], side->order, side->order_count);
    }
}

static void settle_success(struct driver *driver, struct oracle_view new[SIDES], const bool changed[SIDES])
{
    if (has_failed(driver))
        dirty_inexact(driver);
    for (unsigned i = 0; i < SIDES; i++) {
        if (changed[i])
            log_expect_commit(driver, i);
        driver->sides[i].shown = new[i];
    }
    driver->begun = driver->now;
}

static void settle_failure(struct driver *driver)
{
    log_expect_failure(driver);
    driver->refused = true;
    dirty_inexact(driver);
    EXPECT(driver, fake_kvm_equal(&driver->kvm, &driver->kvm_begun));
    driver->now = driver->begun;
}

/* Whether KVM cannot map something that `view` shows: parts of pages, or the last page of all. */
static bool unmappable(const struct driver *driver, const struct oracle_view *view)
{
    for (unsigned i = 0; i < view->range_count; i++) {
        const struct oracle_range *range = &view->ranges[i];
        if (oracle_mapped(&driver->now, &range->first, false) &&
            ((range->start | (uint64_t)range->size | range->first.offset) % RAM_PAGE_SIZE ||
             range->start + range->size == MEMORY_SIZE_MAX))
            return true;
    }
    return false;
}

static bool kvm_has_failed(const struct driver *driver)
{
    return driver->kvm.fail_at && driver->kvm.calls >= driver->kvm.fail_at;
}

bool has_failed(const struct driver *driver)
{
    return driver->failed || kvm_has_failed(driver) || failing_malloc_failed();
}

/* Judges the result of a transaction that shows `new` in the space that KVM has; `changed`: it shows that
 * anew. */
static void judge(struct driver *driver, const struct oracle_view *new, bool changed, int result)
{
    bool kvm_changed = driver->kvm_listener && changed, kvm_failed = kvm_has_failed(driver);
    bool collide = kvm_changed && ioeventfds_collide(new);
    bool bad = kvm_changed && unmappable(driver, new);
    bool must_fail = driver->failed || collide || bad ||
                     (kvm_failed && !driver->kvm.failed_move && !driver->kvm.failed_clear);
    switch (result) {
    case 0:
        EXPECT(driver, !must_fail);
        break;
    case -EREMOTEIO:
        EXPECT(driver, driver->failed || kvm_failed);
        break;
    case -EEXIST:
        EXPECT(driver, collide);
        break;
    case -EINVAL:
        EXPECT(driver, bad);
        break;
    case -ENOSPC: /* one slot may map several ranges, so it is not sure that too many are too many slots */
        EXPECT(driver, slots_short(driver, new));
        break;
    default:
        EXPECT(driver, result == -ENOMEM && failing_malloc_failed());
    }
}

/* Nothing is to fail any more. */
static void disarm(struct driver *driver)
{
    driver->failed = driver->kvm.failed_move = driver->kvm.failed_clear = false;
    driver->fail_at = driver->kvm.fail_at = 0;
    failing_malloc_arm(0);
}

/* What KVM has now is what it has before the next transaction. */
static void end_settling(struct driver *driver)
{
    disarm(driver);
    for (unsigned i = 0; i < SIDES; i++)
        driver->sides[i].window_count = 0;
    fake_kvm_copy(&driver->kvm_begun, &driver->kvm);
    driver->settled = true;
}

void settle(struct driver *driver, int result)
{
    struct oracle_view new[SIDES];
    bool changed[SIDES];
    for (unsigned i = 0; i < SIDES; i++) {
        oracle_look(&driver->now, driver->sides[i].root, &new[i]);
        changed[i] = !oracle_view_equal(&driver->sides[i].shown, &new[i]);
    }
    expect_all(driver, new, changed);
    judge(driver, &new[0], changed[0], result);
    if (result)
        settle_failure(driver);
    else
        settle_success(driver, new, changed);
    log_check(driver);
    if (driver->kvm_listener && driver->kvm.slots_max == FAKE_KVM_SLOTS_MAX)
        check_kept(driver, &driver->kvm_begun);
    end_settling(driver);
}

/* Adds what is to be heard of a commit after which the spaces show `new`, which they then do. */
static void expect_commit(struct driver *driver, struct oracle_view new[SIDES])
{
    bool changed[SIDES];
    for (unsigned i = 0; i < SIDES; i++)
        changed[i] = !oracle_view_equal(&driver->sides[i].shown, &new[i]);
    expect_all(driver, new, changed);
    for (unsigned i = 0; i < SIDES; i++)
        if (changed[i])
            log_expect_commit(driver, i);
    for (unsigned i = 0; i < SIDES; i++)
        driver->sides[i].shown = new[i];
}

void settle_attempt(struct driver *driver, const struct oracle_tree *attempted)
{
    struct oracle_view tried[SIDES], new[SIDES];
    bool went_well = log_heard(driver, COMMIT);
    for (unsigned i = 0; i < SIDES; i++) {
        oracle_look(attempted ? attempted : &driver->now, driver->sides[i].root, &tried[i]);
        oracle_look(&driver->now, driver->sides[i].root, &new[i]);
    }
    expect_commit(driver, tried);
    if (!went_well)
        log_expect_failure(driver);
    else
        expect_commit(driver, new);
    for (unsigned i = 0; i < SIDES; i++)
        driver->sides[i].shown = new[i];
    if (attempted)
        log_check(driver);
    driver->log.count = driver->expected.count = 0;
    driver->begun = driver->now;
    driver->refused = true;
    dirty_inexact(driver);
    end_settling(driver);
}

void made(struct driver *driver, int predicted, int result)
{
    bool no_memory = result == -ENOMEM && failing_malloc_failed();
    if (result)
        narrate(driver, "    fails: %s", driver->err.message);
    EXPECT(driver, !predicted || result == predicted || no_memory);
    if (!predicted && !driver->depth)
        settle(driver, result);
    else
        EXPECT(driver, predicted || !result || no_memory);
    if (no_memory && driver->depth)
        driver->now = driver->saved;
    else if (failing_malloc_armed())
        driver->saved = driver->now;
}

void op_begin(struct driver *driver)
{
    if (driver->depth == 3)
        return;
    narrate(driver, "begin");
    memory_transaction_begin(driver->memory);
    driver->depth++;
}

void op_commit(struct driver *driver)
{
    if (!driver->depth)
        return;
    narrate(driver, "commit");
    int result = memory_transaction_commit(driver->memory, &driver->err);
    if (result)
        narrate(driver, "    fails: %s", driver->err.message);
    if (--driver->depth == 0)
        settle(driver, result);
    else
        EXPECT(driver, !result);
}

void driver_arm_kvm(struct driver *driver, unsigned call)
{
    disarm(driver);
    driver->kvm.fail_at = driver->kvm.calls + call;
    driver->kvm.fail_with = -EREMOTEIO;
}

/* Lets something fail in the next commit, or before: only once, because what takes it back must not. */
static void op_arm(struct driver *driver)
{
    unsigned what = pick(driver, 3), at = 1 + pick(driver, 2) * pick(driver, 48) + pick(driver, 8);
    static const char *const names[] = {"call of a listener", "call of KVM", "allocation"};
    disarm(driver);
    narrate(driver, "let %s %u fail", names[what], at);
    if (what == 0) {
        driver->fail_at = at;
    } else if (what == 1 && driver->kvm_listener) {
        driver_arm_kvm(driver, at);
    } else if (what == 2) {
        driver->saved = driver->now;
        failing_malloc_arm(at);
    }
}

typedef void operation(struct driver *driver);

static operation *const all_operations[] = {
    op_create,
    op_crowd,
    op_swap,
    op_create,
    op_create,
    op_add,
    op_add,
    op_add,
    op_begin,
    op_commit,
    op_commit,
    op_remove,
    op_enable,
    op_move,
    op_resize,
    op_alias_offset,
    op_flag,
    op_flag,
    op_destroy,
    op_arm,
    op_add_ioeventfd,
    op_add_ioeventfd,
    op_remove_ioeventfd,
    op_enable,
    op_coalesced,
    op_register,
    op_continue,
    op_continue,
    op_empty,
    op_move,
    op_store,
    op_dirty_start,
    op_dirty_stop,
    op_dirty_sync,
    op_dirty_take,
    op_dirty_take,
    op_guest_store,
    op_guest_store,
    op_guest_store,
    op_guest_meanwhile,
    op_reap,
};

/* Fewer regions, and more that happens to their pages. */
static operation *const dirty_operations[] = {
    op_create,      op_add,         op_create,      op_add,         op_create,      op_add,
    op_dirty_start, op_dirty_sync,  op_dirty_pass,  op_swap,        op_dirty_pass,  op_dirty_take,
    op_dirty_take,  op_dirty_take,  op_dirty_take,  op_guest_store, op_guest_store, op_guest_store,
    op_guest_store, op_guest_store, op_guest_store, op_store,       op_reap,        op_guest_meanwhile,
    op_dirty_stop,  op_arm,         op_move,        op_enable,      op_remove,      op_flag,
    op_begin,       op_commit,      op_commit,
};

/* What kind of address space it is. */
static void start_tree(struct driver *driver)
{
    static const struct {
        uint64_t unit;
        unsigned units;
    } kinds[] = {
        {RAM_PAGE_SIZE, 24},           {1, 24},
        {RAM_PAGE_SIZE, ORACLE_UNITS}, {RAM_PAGE_SIZE / 4, 24},
        {(uint64_t)1 << 60, 16},       {(uint64_t)1 << 59, ORACLE_UNITS},
    };
    struct oracle_tree *tree = &driver->now;
    unsigned kind = pick(driver, ARRAY_SIZE(kinds));
    tree->unit = kinds[kind].unit;
    tree->units = kinds[kind].units;
    tree->lower_wins = driver->flags & MEMORY_DRIVER_WRONG;
    bool whole = tree->unit > RAM_PAGE_SIZE, windowed = pick(driver, 2);
    bool at_end = windowed && !whole && pick(driver, 2);
    tree->base = at_end ? 0 - tree->units * tree->unit : 0;
    driver->huge = whole || windowed;
    for (unsigned i = 0; i < SIDES; i++)
        driver->sides[i] = (struct side){.root = (int)i, .windowed = windowed};
    narrate(driver, "units of 0x%llx, %u of them from 0x%llx%s", (unsigned long long)tree->unit, tree->units,
            (unsigned long long)tree->base, windowed ? ", through an alias" : "");
}

static void start_block(struct driver *driver)
{
    EXPECT(driver, !ram_block_create("block", BLOCK_PAGES * RAM_PAGE_SIZE, 0, &driver->block, &driver->err));
    for (unsigned i = 0; i < BLOCK_PAGES * RAM_PAGE_SIZE;
         i += i % RAM_PAGE_SIZE < 63 ? 1 : RAM_PAGE_SIZE - 63)
        ((uint8_t *)driver->block->host)[i] = (uint8_t)(i * 7 + i / RAM_PAGE_SIZE + 1);
}

/* The region that a side's space shows. */
static struct memory_region *start_top(struct driver *driver, struct side *side, memory_size size)
{
    struct memory_region *root = &driver->regions[side->root];
    if (!side->windowed)
        return root;
    EXPECT(driver,
           !memory_region_init_container(&side->top, driver->memory, "top", MEMORY_SIZE_MAX, &driver->err));
    EXPECT(driver,
           !memory_region_init_alias(&side->window, driver->memory, "window", root, 0, size, &driver->err));
    EXPECT(driver,
           !memory_region_add_subregion(&side->top, driver->now.base, &side->window, 0, &driver->err));
    return &side->top;
}

static void start_side(struct driver *driver, unsigned number)
{
    struct side *side = &driver->sides[number];
    memory_size size = (memory_size)driver->now.units * driver->now.unit;
    create(driver, side->root, (struct oracle_node){.size = size, .target = ORACLE_NONE});
    oracle_look(&driver->now, side->root, &side->shown);
    struct memory_region *top = start_top(driver, side, size);
    EXPECT(driver, !address_space_create(driver->memory, "space", top, &side->space, &driver->err));
    for (unsigned i = 0; i < RECORDERS; i++) {
        struct recorder *recorder = &side->recorders[i];
        *recorder = (struct recorder){
            .listener = {"recorder", number ? 5 : (int)i * 20, &recorder_ops, NULL, NULL}, driver, number, i};
        EXPECT(driver, !memory_listener_register(&recorder->listener, side->space, &driver->err));
        enlist(side, recorder);
    }
    driver->log.count = 0;
}

/* How KVM keeps dirty bits. */
static void start_dirty_mode(struct driver *driver, struct kvm_listener_config *config)
{
    static const char *const names[] = {"get", "clear", "clear, all set at first", "ring",
                                        "ring with bitmap"};
    struct fake_kvm *kvm = &driver->kvm;
    unsigned mode = pick(driver, 5);
    narrate(driver, "KVM with %u slots, dirty mode %s", kvm->slots_max, names[mode]);
    kvm->manual_protect = mode == 1 || mode == 2;
    kvm->initially_set = config->initially_set = mode == 2;
    kvm->dirty_ring = mode >= 3;
    kvm->ring_with_bitmap = config->ring_with_bitmap = mode == 4;
    kvm->pml = mode >= 3 && pick(driver, 2);
    config->dirty_mode = mode >= 3 ? KVM_DIRTY_RING : mode ? KVM_DIRTY_CLEAR : KVM_DIRTY_GET;
}

static void start_ring(struct driver *driver)
{
    unsigned count = 4u << pick(driver, 4);
    EXPECT(driver, !kvm_listener_add_ring(driver->kvm_listener, fake_kvm_add_ring(&driver->kvm, count), count,
                                          &driver->err));
}

static void start_kvm(struct driver *driver)
{
    driver->dirty = pick(driver, 3) == 2;
    driver->kvm.slots_max = pick(driver, 4) < 3 ? FAKE_KVM_SLOTS_MAX : 1 + pick(driver, 6);
    driver->kvm.meanwhile = guest_meanwhile;
    driver->kvm.opaque = driver;
    struct kvm_listener_config config = {
        .ops = &fake_kvm_ops, .opaque = &driver->kvm, .slots_max = driver->kvm.slots_max};
    /* Where the unit is smaller nearly all RAM would be refused. */
    if (driver->now.unit > 1) {
        start_dirty_mode(driver, &config);
        EXPECT(driver,
               !kvm_listener_create(driver->sides[0].space, &config, &driver->kvm_listener, &driver->err));
        if (driver->kvm.dirty_ring)
            start_ring(driver);
    }
    fake_kvm_copy(&driver->kvm_begun, &driver->kvm);
}

static void start(struct driver *driver)
{
    for (unsigned i = 0; i < ORACLE_NODES; i++)
        driver->now.nodes[i].parent = driver->now.nodes[i].target = ORACLE_NONE;
    start_tree(driver);
    driver->begun = driver->saved = driver->now;
    driver->memory = memory_create();
    EXPECT(driver, driver->memory);
    start_block(driver);
    for (unsigned i = 0; i < SIDES; i++)
        start_side(driver, i);
    start_kvm(driver);
}

static void check(struct driver *driver)
{
    for (unsigned i = 0; i < SIDES; i++)
        check_side(driver, &driver->sides[i]);
    if (driver->kvm_listener)
        check_kvm(driver);
}

static void finish_side(struct driver *driver, struct side *side)
{
    while (side->order_count)
        unregister(driver, side->order[0]);
    address_space_destroy(side->space);
    if (!side->windowed)
        return;
    EXPECT(driver, !memory_region_remove_subregion(&side->window, &driver->err));
    memory_region_destroy(&side->window);
    memory_region_destroy(&side->top);
}

/* Aliases go before what they show: a target is always older, but its number may be higher. */
static void destroy_regions(struct driver *driver)
{
    for (int i = 0; i < ORACLE_NODES; i++) {
        if (driver->now.nodes[i].parent != ORACLE_NONE && driver->now.nodes[i].alive)
            EXPECT(driver, !memory_region_remove_subregion(&driver->regions[i], &driver->err));
        driver->now.nodes[i].parent = ORACLE_NONE;
    }
    for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < ORACLE_NODES; i++) {
            if (!driver->now.nodes[i].alive || needed(&driver->now, i))
                continue;
            memory_region_destroy(&driver->regions[i]);
            driver->now.nodes[i].alive = false;
            again = true;
        }
    }
}

static void finish(struct driver *driver)
{
    disarm(driver);
    while (driver->depth)
        op_commit(driver);
    check(driver);
    dirty_finish(driver);
    kvm_listener_destroy(driver->kvm_listener);
    EXPECT(driver, fake_kvm_slot_count(&driver->kvm) == 0 && !driver->kvm.ioeventfd_count &&
                       !driver->kvm.zone_count && !driver->kvm.broken);
    fake_kvm_free(&driver->kvm);
    fake_kvm_free(&driver->kvm_begun);
    for (unsigned i = 0; i < SIDES; i++)
        finish_side(driver, &driver->sides[i]);
    memory_synchronize(driver->memory);
    destroy_regions(driver);
    memory_destroy(driver->memory);
    ram_block_destroy(driver->block);
}

static void take_step(struct driver *driver, const uint8_t *data, size_t size)
{
    driver->step = data;
    driver->left = size < MEMORY_DRIVER_STEP ? size : MEMORY_DRIVER_STEP;
}

void driver_end_failure(struct driver *driver)
{
    if (!has_failed(driver))
        return;
    dirty_inexact(driver);
    disarm(driver);
}

static void run_step(struct driver *driver)
{
    struct fake_kvm *kvm = &driver->kvm;
    driver->meanwhile = 0;
    driver->settled = driver->refused = false;
    fake_kvm_begin_change(kvm);
    if (driver->dirty)
        dirty_operations[pick(driver, ARRAY_SIZE(dirty_operations))](driver);
    else
        all_operations[pick(driver, ARRAY_SIZE(all_operations))](driver);
    driver_end_failure(driver);
    if (driver->refused)
        kvm->hole_count = 0; /* nobody can know beforehand that what goes comes back */
    fake_kvm_end_change(kvm);
    EXPECT(driver, !kvm->broken && !kvm->stopped);
    if (driver->settled)
        check(driver);
}

void memory_driver_run(const uint8_t *data, size_t size, unsigned flags)
{
    struct driver *driver = calloc(1, sizeof(*driver));
    if (!driver)
        abort();
    driver->flags = flags;
    take_step(driver, data, size);
    start(driver);
    for (size_t at = MEMORY_DRIVER_STEP; at < size; at += MEMORY_DRIVER_STEP) {
        take_step(driver, data + at, size - at);
        run_step(driver);
    }
    finish(driver);
    free(driver);
}
