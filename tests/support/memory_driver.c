#include "tests/support/memory_driver.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "memory/kvm_listener.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "tests/support/memory_driver_internal.h"

#define BLOCK_PAGES 24
#define UNIT_MAX    10 /* of a region's size */

/* A number below `limit`; 0 when the data is used up. */
static unsigned pick(struct driver *driver, unsigned limit)
{
    if (!driver->left)
        return 0;
    driver->left--;
    return *driver->data++ % limit;
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

static const struct memory_region_ops ops = {.read = read_byte, .write = write_nothing};

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

/* There is always one: the roots live. */
static int pick_node(struct driver *driver)
{
    return pick_index(driver, true);
}

/* Mostly a node that can be put somewhere. */
static int pick_loose(struct driver *driver)
{
    int node = pick_node(driver);
    bool any = pick(driver, 8) == 0;
    for (int i = 0; i < ORACLE_NODES && !any; i++) {
        int other = (node + i) % ORACLE_NODES;
        if (driver->now.nodes[other].alive && driver->now.nodes[other].parent == ORACLE_NONE &&
            other >= SIDES)
            return other;
    }
    return node;
}

/* Mostly a container. */
static int pick_container(struct driver *driver)
{
    int node = pick_node(driver);
    return driver->now.nodes[node].kind == MEMORY_REGION_CONTAINER || pick(driver, 3) == 0 ? node : 0;
}

/* Mostly few places, so that regions meet. */
static uint64_t pick_place(struct driver *driver)
{
    unsigned choice = pick(driver, 4 * driver->now.units);
    unsigned place = choice < driver->now.units ? choice : 4 * (choice % 3) + choice % 2;
    return place * driver->now.unit;
}

static memory_size pick_size(struct driver *driver)
{
    return (memory_size)(1 + pick(driver, UNIT_MAX)) * driver->now.unit;
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
    for (unsigned i = 0; i < SIDES; i++) {
        if (changed[i])
            log_expect_commit(driver, i);
        driver->sides[i].shown = new[i];
    }
    driver->begun = driver->now;
}

static void settle_failure(struct driver *driver, int result)
{
    if (driver->failed)
        log_expect_failure(driver);
    else
        driver->expected.count = driver->log.count = 0; /* KVM refused, at a point that is its own business */
    EXPECT(driver, result == -EREMOTEIO || result == -EEXIST || result == -ENOSPC);
    EXPECT(driver, fake_kvm_equal(&driver->kvm, &driver->kvm_begun));
    driver->now = driver->begun;
}

/* A transaction has ended with `result`. */
static void settle(struct driver *driver, int result)
{
    struct oracle_view new[SIDES];
    bool changed[SIDES];
    for (unsigned i = 0; i < SIDES; i++) {
        oracle_look(&driver->now, driver->sides[i].root, &new[i]);
        changed[i] = !oracle_view_equal(&driver->sides[i].shown, &new[i]);
    }
    expect_all(driver, new, changed);
    bool kvm_failed =
        driver->kvm.fail_at && driver->kvm.calls >= driver->kvm.fail_at && !driver->kvm.failed_move;
    bool collide = driver->kvm_listener && changed[0] && ioeventfds_collide(&new[0]);
    /* One slot may map several ranges, so it is not sure that too many ranges are too many slots. */
    bool too_many = result == -ENOSPC && slots_short(driver, &new[0]);
    EXPECT(driver, (result != 0) == (driver->failed || kvm_failed || collide || too_many));
    if (result)
        settle_failure(driver, result);
    else
        settle_success(driver, new, changed);
    log_check(driver);
    if (driver->kvm.slots_max == FAKE_KVM_SLOTS_MAX)
        check_kept(driver, &driver->kvm_begun);
    driver->failed = false;
    driver->fail_at = driver->kvm.fail_at = 0;
    driver->kvm.failed_move = false;
    fake_kvm_copy(&driver->kvm_begun, &driver->kvm);
    driver->settled = true;
}

/* A call that changes the tree has returned; the model has changed if that was predicted (0). */
static void made(struct driver *driver, int predicted, int result)
{
    EXPECT(driver, !predicted || result == predicted);
    if (!predicted && !driver->depth)
        settle(driver, result);
    else
        EXPECT(driver, predicted || !result);
}

static void op_begin(struct driver *driver)
{
    if (driver->depth == 3)
        return;
    memory_transaction_begin(driver->memory);
    driver->depth++;
}

static void op_commit(struct driver *driver)
{
    if (!driver->depth)
        return;
    int result = memory_transaction_commit(driver->memory, &driver->err);
    if (--driver->depth == 0)
        settle(driver, result);
    else
        EXPECT(driver, !result);
}

static int init_region(struct driver *driver, int index, const struct oracle_node *node)
{
    struct memory_region *region = &driver->regions[index];
    void *opaque = (void *)(uintptr_t)index;
    switch (node->kind) {
    case MEMORY_REGION_RAM:
        return memory_region_init_ram(region, driver->memory, "ram", driver->block, node->block_offset,
                                      node->size, &driver->err);
    case MEMORY_REGION_ROM:
        return memory_region_init_rom(region, driver->memory, "rom", driver->block, node->block_offset,
                                      node->size, &driver->err);
    case MEMORY_REGION_ROM_DEVICE:
        return memory_region_init_rom_device(region, driver->memory, "rom-device", &ops, opaque,
                                             driver->block, node->block_offset, node->size, &driver->err);
    case MEMORY_REGION_MMIO:
        return memory_region_init_mmio(region, driver->memory, "mmio", &ops, opaque, node->size,
                                       &driver->err);
    case MEMORY_REGION_ALIAS:
        return memory_region_init_alias(region, driver->memory, "alias", &driver->regions[node->target],
                                        node->alias_offset, node->size, &driver->err);
    case MEMORY_REGION_RESERVATION:
        return memory_region_init_reservation(region, driver->memory, "reservation", node->size,
                                              &driver->err);
    default:
        return memory_region_init_container(region, driver->memory, "container", node->size, &driver->err);
    }
}

static bool has_block(enum memory_region_kind kind)
{
    return kind == MEMORY_REGION_RAM || kind == MEMORY_REGION_ROM || kind == MEMORY_REGION_ROM_DEVICE;
}

static void create(struct driver *driver, int index, struct oracle_node node)
{
    node.alive = node.enabled = true;
    node.romd = node.kind == MEMORY_REGION_ROM_DEVICE;
    node.parent = ORACLE_NONE;
    EXPECT(driver, init_region(driver, index, &node) == 0);
    driver->now.nodes[index] = driver->begun.nodes[index] = node;
}

static void op_create(struct driver *driver)
{
    int index = pick_index(driver, false);
    struct oracle_node node = {.kind = pick(driver, 7), .size = pick_size(driver), .target = ORACLE_NONE};
    if (index == ORACLE_NONE)
        return;
    if (node.kind == MEMORY_REGION_ALIAS) {
        node.target = pick_node(driver);
        node.alias_offset = pick(driver, 4) * driver->now.unit;
        node.size = (memory_size)(1 + pick(driver, 4)) * driver->now.unit;
    }
    if (has_block(node.kind)) {
        if (driver->now.unit > RAM_PAGE_SIZE)
            return;
        node.size = (node.size / driver->now.unit) * RAM_PAGE_SIZE;
        node.block_offset = pick(driver, BLOCK_PAGES - UNIT_MAX) * RAM_PAGE_SIZE;
    }
    create(driver, index, node);
}

static void add(struct driver *driver, int container, uint64_t place, int child, int priority)
{
    struct oracle_node *node = &driver->now.nodes[child];
    bool too_far = place + node->size > MEMORY_SIZE_MAX;
    int predicted = 0;
    if (driver->now.nodes[container].kind == MEMORY_REGION_ALIAS || node->parent != ORACLE_NONE ||
        (!too_far && oracle_shows(&driver->now, child, container)))
        predicted = -EINVAL;
    else if (too_far)
        predicted = -EOVERFLOW;
    if (!predicted) {
        node->parent = container;
        node->address = place;
        node->priority = priority;
        node->order = ++driver->now.order;
    }
    made(driver, predicted,
         memory_region_add_subregion(&driver->regions[container], place, &driver->regions[child], priority,
                                     &driver->err));
}

static void op_add(struct driver *driver)
{
    int container = pick_container(driver), child = pick_loose(driver);
    uint64_t place = pick_place(driver);
    add(driver, container, place, child, (int)pick(driver, 4) - 1);
}

/* Flag 0 is read-only, 1 unmergeable, 2 ROMD mode; others mean nothing. */
static void set_flag(struct driver *driver, int index, unsigned flag, bool value)
{
    struct oracle_node *node = &driver->now.nodes[index];
    struct memory_region *region = &driver->regions[index];
    if (flag == 0) {
        node->readonly = value;
        made(driver, 0, memory_region_set_readonly(region, value, &driver->err));
    } else if (flag == 1) {
        node->unmergeable = value;
        made(driver, 0, memory_region_set_unmergeable(region, value, &driver->err));
    } else if (flag == 2) {
        int predicted = node->kind == MEMORY_REGION_ROM_DEVICE ? 0 : -EINVAL;
        node->romd = predicted ? node->romd : value;
        made(driver, predicted, memory_region_set_romd(region, value, &driver->err));
    }
}

static void op_flag(struct driver *driver)
{
    int index = pick_node(driver);
    unsigned flag = pick(driver, 3);
    set_flag(driver, index, flag, pick(driver, 2));
}

/* Lets a new alias go on where another ends, so that what they show meets. */
static void op_continue(struct driver *driver)
{
    int index = pick_index(driver, false), other = pick_node(driver);
    struct oracle_node node = driver->now.nodes[other];
    uint64_t end = node.address + (uint64_t)node.size;
    if (index == ORACLE_NONE || node.kind != MEMORY_REGION_ALIAS || node.parent == ORACLE_NONE ||
        end < node.address)
        return;
    int container = node.parent;
    node.alias_offset += (uint64_t)node.size;
    node.readonly = node.unmergeable = false;
    create(driver, index, node);
    set_flag(driver, index, pick(driver, 6), true);
    add(driver, container, end, index, node.priority);
}

static void op_remove(struct driver *driver)
{
    int index = pick_node(driver);
    int *parent = &driver->now.nodes[index].parent, predicted = *parent == ORACLE_NONE ? -EINVAL : 0;
    *parent = ORACLE_NONE;
    made(driver, predicted, memory_region_remove_subregion(&driver->regions[index], &driver->err));
}

static void op_enable(struct driver *driver)
{
    int index = pick_node(driver);
    bool enabled = pick(driver, 2);
    driver->now.nodes[index].enabled = enabled;
    made(driver, 0, memory_region_set_enabled(&driver->regions[index], enabled, &driver->err));
}

static void op_move(struct driver *driver)
{
    int index = pick_node(driver);
    uint64_t place = pick_place(driver);
    struct oracle_node *node = &driver->now.nodes[index];
    int predicted = 0;
    if (node->parent == ORACLE_NONE)
        predicted = -EINVAL;
    else if (place + node->size > MEMORY_SIZE_MAX)
        predicted = -EOVERFLOW;
    if (!predicted) {
        node->address = place;
        node->order = ++driver->now.order;
    }
    made(driver, predicted, memory_region_set_address(&driver->regions[index], place, &driver->err));
}

static void op_resize(struct driver *driver)
{
    int index = pick_node(driver);
    memory_size size = pick_size(driver);
    struct oracle_node *node = &driver->now.nodes[index];
    int predicted = 0;
    if (has_block(node->kind) && size % RAM_PAGE_SIZE)
        predicted = -EINVAL;
    else if (node->parent != ORACLE_NONE && node->address + size > MEMORY_SIZE_MAX)
        predicted = -EOVERFLOW;
    if (!predicted)
        node->size = size;
    made(driver, predicted, memory_region_set_size(&driver->regions[index], size, &driver->err));
}

static void op_alias_offset(struct driver *driver)
{
    int index = pick_node(driver);
    uint64_t place = pick_place(driver);
    struct oracle_node *node = &driver->now.nodes[index];
    int predicted = node->kind == MEMORY_REGION_ALIAS ? 0 : -EINVAL;
    if (!predicted)
        node->alias_offset = place;
    made(driver, predicted, memory_region_set_alias_offset(&driver->regions[index], place, &driver->err));
}

static bool traps(const struct oracle_node *node)
{
    return node->kind == MEMORY_REGION_MMIO || node->kind == MEMORY_REGION_ROM_DEVICE ||
           node->kind == MEMORY_REGION_RESERVATION;
}

static bool before(const struct oracle_ioeventfd *a, const struct oracle_ioeventfd *b)
{
    uint64_t left[] = {a->place, a->length, a->match, a->data, (uint64_t)a->fd};
    uint64_t right[] = {b->place, b->length, b->match, b->data, (uint64_t)b->fd};
    unsigned i = 0;
    while (i < 4 && left[i] == right[i])
        i++;
    return left[i] < right[i];
}

/* Where in the node's list an ioeventfd is, or ORACLE_NONE. */
static int find_ioeventfd(const struct oracle_node *node, const struct oracle_ioeventfd *wanted)
{
    for (unsigned i = 0; i < node->ioeventfd_count; i++)
        if (oracle_ioeventfd_equal(&node->ioeventfds[i], wanted))
            return (int)i;
    return ORACLE_NONE;
}

static void insert_ioeventfd(struct oracle_node *node, const struct oracle_ioeventfd *new)
{
    unsigned at = node->ioeventfd_count++;
    for (; at > 0 && before(new, &node->ioeventfds[at - 1]); at--)
        node->ioeventfds[at] = node->ioeventfds[at - 1];
    node->ioeventfds[at] = *new;
}

static void op_add_ioeventfd(struct driver *driver)
{
    static const unsigned lengths[] = {0, 1, 2, 4, 8};
    int index = pick_node(driver);
    struct oracle_ioeventfd new = {.place = pick(driver, 3) * driver->now.unit + pick(driver, 3),
                                   .length = lengths[pick(driver, 5)],
                                   .match = pick(driver, 2),
                                   .fd = 3 + (int)pick(driver, 3)};
    new.data = new.match ? pick(driver, 2) : 0;
    if (driver->now.nodes[index].ioeventfd_count == ORACLE_IOEVENTFDS)
        return;
    struct oracle_node *node = &driver->now.nodes[index];
    int predicted = 0;
    if (!traps(node) || (!new.length &&new.match) ||
        (memory_size) new.place + (new.length ? new.length : 1) > node->size)
        predicted = -EINVAL;
    else if (find_ioeventfd(node, &new) != ORACLE_NONE)
        predicted = -EEXIST;
    if (!predicted)
        insert_ioeventfd(node, &new);
    made(driver, predicted,
         memory_region_add_ioeventfd(&driver->regions[index], new.place, new.length, new.match, new.data,
                                     new.fd, &driver->err));
}

static void op_remove_ioeventfd(struct driver *driver)
{
    int index = pick_node(driver);
    unsigned at = pick(driver, ORACLE_IOEVENTFDS), wrong = pick(driver, 4);
    if (at >= driver->now.nodes[index].ioeventfd_count)
        return;
    struct oracle_node *node = &driver->now.nodes[index];
    struct oracle_ioeventfd old = node->ioeventfds[at];
    old.fd += wrong == 0;
    int found = find_ioeventfd(node, &old), predicted = found == ORACLE_NONE ? -ENOENT : 0;
    for (unsigned i = (unsigned)found; !predicted && i + 1 < node->ioeventfd_count; i++)
        node->ioeventfds[i] = node->ioeventfds[i + 1];
    node->ioeventfd_count -= !predicted;
    made(driver, predicted,
         memory_region_remove_ioeventfd(&driver->regions[index], old.place, old.length, old.match, old.data,
                                        old.fd, &driver->err));
}

static bool zones_overlap(const struct oracle_node *node, const struct oracle_zone *new)
{
    for (unsigned i = 0; i < node->zone_count; i++)
        if (new->place < node->zones[i].place + node->zones[i].size &&
            node->zones[i].place < new->place + new->size)
            return true;
    return false;
}

static void insert_zone(struct oracle_node *node, const struct oracle_zone *new)
{
    unsigned at = node->zone_count++;
    for (; at > 0 && new->place < node->zones[at - 1].place; at--)
        node->zones[at] = node->zones[at - 1];
    node->zones[at] = *new;
}

static void op_coalesced(struct driver *driver)
{
    int index = pick_node(driver);
    struct oracle_zone new = {.place = pick(driver, 3) * driver->now.unit, .size = 1 + pick(driver, 8)};
    bool clear = pick(driver, 4) == 0;
    struct oracle_node *node = &driver->now.nodes[index];
    struct memory_region *region = &driver->regions[index];
    if (clear) {
        node->zone_count = 0;
        made(driver, 0, memory_region_clear_coalesced(region, &driver->err));
        return;
    }
    int predicted = 0;
    if (!traps(node) || new.place + new.size > node->size)
        predicted = -EINVAL;
    else if (zones_overlap(node, &new))
        predicted = -EEXIST;
    else if (node->zone_count == ORACLE_ZONES)
        return;
    if (!predicted)
        insert_zone(node, &new);
    made(driver, predicted,
         memory_region_add_coalesced(region, new.place, (uint64_t) new.size, &driver->err));
}

/* Whether a failing transaction, or another region, still needs this one. */
static bool needed(const struct oracle_tree *tree, int index)
{
    if (tree->nodes[index].parent != ORACLE_NONE)
        return true;
    for (int i = 0; i < ORACLE_NODES; i++)
        if (tree->nodes[i].alive && (tree->nodes[i].parent == index || tree->nodes[i].target == index))
            return true;
    return false;
}

static void op_destroy(struct driver *driver)
{
    int index = pick_node(driver);
    if (index < SIDES || needed(&driver->now, index) || needed(&driver->begun, index))
        return;
    memory_region_destroy(&driver->regions[index]);
    driver->now.nodes[index].alive = driver->begun.nodes[index].alive = false;
}

static void enlist(struct side *side, struct recorder *recorder)
{
    unsigned at = side->order_count++;
    for (; at > 0 && side->order[at - 1]->listener.priority > recorder->listener.priority; at--)
        side->order[at] = side->order[at - 1];
    side->order[at] = recorder;
}

static void delist(struct side *side, const struct recorder *recorder)
{
    unsigned at = 0;
    while (side->order[at] != recorder)
        at++;
    for (side->order_count--; at < side->order_count; at++)
        side->order[at] = side->order[at + 1];
}

static void unregister(struct driver *driver, struct recorder *recorder)
{
    struct side *side = &driver->sides[recorder->side];
    static const struct oracle_view nothing = {0};
    delist(side, recorder);
    driver->failed = true; /* nothing is to fail any more */
    memory_listener_unregister(&recorder->listener);
    log_expect(driver, recorder, PREPARE);
    log_expect_steps(driver, recorder->side, &side->shown, &nothing, &recorder, 1);
    log_expect(driver, recorder, COMMIT);
    log_check(driver);
    driver->failed = false;
}

static void op_register(struct driver *driver)
{
    struct recorder *recorder = &driver->sides[pick(driver, SIDES)].recorders[pick(driver, RECORDERS)];
    struct side *side = &driver->sides[recorder->side];
    static const struct oracle_view nothing = {0};
    if (recorder->listener.space) {
        unregister(driver, recorder);
        return;
    }
    int result = memory_listener_register(&recorder->listener, side->space, &driver->err);
    EXPECT(driver, result == (driver->failed ? -EREMOTEIO : 0));
    log_expect(driver, recorder, PREPARE);
    log_expect_steps(driver, recorder->side, &nothing, &side->shown, &recorder, 1);
    if (result) {
        log_expect_failure(driver);
    } else {
        log_expect(driver, recorder, COMMIT);
        enlist(side, recorder);
    }
    log_check(driver);
    driver->failed = false;
    driver->fail_at = 0;
}

/* Lets a call of the next commit fail: only one, because what takes it back must not. */
static void op_arm(struct driver *driver)
{
    driver->fail_at = driver->kvm.fail_at = 0;
    if (pick(driver, 2))
        driver->fail_at = 1 + pick(driver, 24);
    else if (driver->kvm_listener)
        driver->kvm.fail_at = driver->kvm.calls + 1 + pick(driver, 8);
    driver->kvm.fail_with = -EREMOTEIO;
}

static void (*const operations[])(struct driver *) = {
    op_begin,         op_commit,        op_commit,
    op_create,        op_create,        op_create,
    op_add,           op_add,           op_add,
    op_remove,        op_enable,        op_move,
    op_resize,        op_alias_offset,  op_flag,
    op_flag,          op_destroy,       op_arm,
    op_add_ioeventfd, op_add_ioeventfd, op_remove_ioeventfd,
    op_enable,        op_coalesced,     op_register,
    op_continue,      op_continue,
};

static void start(struct driver *driver)
{
    static const uint64_t units[] = {1, RAM_PAGE_SIZE, RAM_PAGE_SIZE, (uint64_t)1 << 60};
    struct oracle_tree *tree = &driver->now;
    tree->unit = units[pick(driver, 4)];
    tree->units = tree->unit > RAM_PAGE_SIZE ? 16 : ORACLE_UNITS;
    driver->begun = *tree;
    driver->memory = memory_create();
    EXPECT(driver, driver->memory && !ram_block_create("block", BLOCK_PAGES * RAM_PAGE_SIZE, 0,
                                                       &driver->block, &driver->err));
    for (unsigned i = 0; i < BLOCK_PAGES * RAM_PAGE_SIZE;
         i += i % RAM_PAGE_SIZE < 63 ? 1 : RAM_PAGE_SIZE - 63)
        ((uint8_t *)driver->block->host)[i] = (uint8_t)(i * 7 + i / RAM_PAGE_SIZE + 1);
    for (unsigned i = 0; i < SIDES; i++) {
        struct side *side = &driver->sides[i];
        side->root = (int)i;
        create(driver, side->root,
               (struct oracle_node){.size = (memory_size)tree->units * tree->unit, .target = ORACLE_NONE});
        EXPECT(driver, !address_space_create(driver->memory, "space", &driver->regions[i], &side->space,
                                             &driver->err));
        oracle_look(tree, side->root, &side->shown);
        for (unsigned j = 0; j < RECORDERS; j++) {
            struct recorder *recorder = &side->recorders[j];
            *recorder = (struct recorder){
                .listener = {"recorder", i ? 5 : (int)j * 20, &recorder_ops, NULL, NULL}, driver, i, j};
            EXPECT(driver, !memory_listener_register(&recorder->listener, side->space, &driver->err));
            enlist(side, recorder);
        }
    }
    driver->log.count = 0;
    driver->kvm.slots_max = pick(driver, 4) ? FAKE_KVM_SLOTS_MAX : 1 + pick(driver, 3);
    struct kvm_listener_config config = {
        .ops = &fake_kvm_ops, .opaque = &driver->kvm, .slots_max = driver->kvm.slots_max};
    if (tree->unit == RAM_PAGE_SIZE)
        EXPECT(driver,
               !kvm_listener_create(driver->sides[0].space, &config, &driver->kvm_listener, &driver->err));
    fake_kvm_copy(&driver->kvm_begun, &driver->kvm);
}

static void check(struct driver *driver)
{
    for (unsigned i = 0; i < SIDES; i++)
        check_side(driver, &driver->sides[i]);
    if (driver->kvm_listener)
        check_kvm(driver);
}

static void finish(struct driver *driver)
{
    driver->fail_at = driver->kvm.fail_at = 0;
    while (driver->depth)
        op_commit(driver);
    check(driver);
    kvm_listener_destroy(driver->kvm_listener);
    EXPECT(driver, fake_kvm_slot_count(&driver->kvm) == 0 && !driver->kvm.ioeventfd_count &&
                       !driver->kvm.zone_count && !driver->kvm.broken);
    fake_kvm_free(&driver->kvm);
    fake_kvm_free(&driver->kvm_begun);
    for (unsigned i = 0; i < SIDES; i++) {
        while (driver->sides[i].order_count)
            unregister(driver, driver->sides[i].order[0]);
        address_space_destroy(driver->sides[i].space);
    }
    memory_synchronize(driver->memory);
    for (int i = 0; i < ORACLE_NODES; i++)
        if (driver->now.nodes[i].parent != ORACLE_NONE && driver->now.nodes[i].alive)
            EXPECT(driver, !memory_region_remove_subregion(&driver->regions[i], &driver->err));
    /* Aliases go before what they show: a target is always older, but its number may be higher. */
    for (bool again = true; again;) {
        again = false;
        for (int i = 0; i < ORACLE_NODES; i++) {
            driver->now.nodes[i].parent = ORACLE_NONE;
            if (!driver->now.nodes[i].alive || needed(&driver->now, i))
                continue;
            memory_region_destroy(&driver->regions[i]);
            driver->now.nodes[i].alive = false;
            again = true;
        }
    }
    memory_destroy(driver->memory);
    ram_block_destroy(driver->block);
}

void memory_driver_run(const uint8_t *data, size_t size)
{
    struct driver *driver = calloc(1, sizeof(*driver));
    if (!driver)
        abort();
    driver->data = data;
    driver->left = size;
    start(driver);
    while (driver->left) {
        operations[pick(driver, sizeof(operations) / sizeof(operations[0]))](driver);
        if (driver->settled)
            check(driver);
        driver->settled = false;
    }
    finish(driver);
    free(driver);
}
