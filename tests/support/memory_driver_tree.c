/* Changes of the tree. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>

#include "memory/ram_block.h"
#include "tests/support/failing_malloc.h"
#include "tests/support/memory_driver_internal.h"

#define UNIT_MAX 10 /* of a region's size, but for those that are huge */

static const char *name_of(const struct driver *driver, int index)
{
    return driver->names[index];
}

static const char *kind_name(enum memory_region_kind kind)
{
    static const char *const names[] = {
        [MEMORY_REGION_CONTAINER] = "container",
        [MEMORY_REGION_RAM] = "ram",
        [MEMORY_REGION_ROM] = "rom",
        [MEMORY_REGION_ROM_DEVICE] = "rom-device",
        [MEMORY_REGION_MMIO] = "mmio",
        [MEMORY_REGION_ALIAS] = "alias",
        [MEMORY_REGION_RESERVATION] = "reservation",
    };
    return names[kind];
}

static bool is_loose(const struct oracle_node *node)
{
    return node->parent == ORACLE_NONE;
}

static bool is_alias(const struct oracle_node *node)
{
    return node->kind == MEMORY_REGION_ALIAS;
}

static bool is_ram(const struct oracle_node *node)
{
    return node->kind == MEMORY_REGION_RAM && node->parent != ORACLE_NONE;
}

/* Mostly a node that can be put somewhere. */
static int pick_loose(struct driver *driver)
{
    int node = pick_suitable(driver, is_loose);
    return node < SIDES ? pick_suitable(driver, is_loose) : node;
}

/* Mostly a container. */
static int pick_container(struct driver *driver)
{
    int node = pick_node(driver);
    return driver->now.nodes[node].kind == MEMORY_REGION_CONTAINER || pick(driver, 3) == 2 ? node : 0;
}

static memory_size pick_size(struct driver *driver)
{
    const memory_size huge[] = {MEMORY_SIZE_MAX, MEMORY_SIZE_MAX / 2, MEMORY_SIZE_MAX - driver->now.unit};
    unsigned choice = pick(driver, UNIT_MAX + 3);
    if (choice >= UNIT_MAX && driver->huge)
        return huge[choice - UNIT_MAX];
    return (memory_size)(1 + choice % UNIT_MAX) * driver->now.unit;
}

static int init_region(struct driver *driver, int index, const struct oracle_node *node)
{
    struct memory_region *region = &driver->regions[index];
    struct memory *memory = driver->memory;
    const char *name = name_of(driver, index);
    struct error *err = &driver->err;
    void *opaque = (void *)(uintptr_t)index;
    switch (node->kind) {
    case MEMORY_REGION_RAM:
        return memory_region_init_ram(region, memory, name, driver->block, node->block_offset, node->size,
                                      err);
    case MEMORY_REGION_ROM:
        return memory_region_init_rom(region, memory, name, driver->block, node->block_offset, node->size,
                                      err);
    case MEMORY_REGION_ROM_DEVICE:
        return memory_region_init_rom_device(region, memory, name, &driver_device_ops, opaque, driver->block,
                                             node->block_offset, node->size, err);
    case MEMORY_REGION_MMIO:
        return memory_region_init_mmio(region, memory, name, &driver_device_ops, opaque, node->size, err);
    case MEMORY_REGION_ALIAS:
        return memory_region_init_alias(region, memory, name, &driver->regions[node->target],
                                        node->alias_offset, node->size, err);
    case MEMORY_REGION_RESERVATION:
        return memory_region_init_reservation(region, memory, name, node->size, err);
    default:
        return memory_region_init_container(region, memory, name, node->size, err);
    }
}

bool has_block(enum memory_region_kind kind)
{
    return kind == MEMORY_REGION_RAM || kind == MEMORY_REGION_ROM || kind == MEMORY_REGION_ROM_DEVICE;
}

static void narrate_create(const struct driver *driver, int index, const struct oracle_node *node)
{
    char what[96] = "";
    if (node->kind == MEMORY_REGION_ALIAS)
        snprintf(what, sizeof(what), " of %s from 0x%llx", name_of(driver, node->target),
                 (unsigned long long)node->alias_offset);
    else if (has_block(node->kind))
        snprintf(what, sizeof(what), " (block from 0x%llx)", (unsigned long long)node->block_offset);
    narrate(driver, "create %s%s, size %s", name_of(driver, index), what, size_text(node->size).text);
}

void create(struct driver *driver, int index, struct oracle_node node)
{
    node.enabled = true;
    node.romd = node.kind == MEMORY_REGION_ROM_DEVICE;
    node.parent = ORACLE_NONE;
    snprintf(driver->names[index], NAME_SIZE, "%s%d", index < SIDES ? "root" : kind_name(node.kind), index);
    narrate_create(driver, index, &node);
    int result = init_region(driver, index, &node);
    EXPECT(driver, result == 0 || (result == -ENOMEM && failing_malloc_failed()));
    node.alive = result == 0;
    bool first = true;
    for (int i = 0; i < ORACLE_NODES; i++)
        first &= !driver->now.nodes[i].alive || !has_block(driver->now.nodes[i].kind);
    if (node.alive && has_block(node.kind)) {
        node.log = dirty_clients(driver);
        if (first)
            dirty_block_comes(driver);
    }
    driver->now.nodes[index] = driver->begun.nodes[index] = driver->saved.nodes[index] = node;
}

void op_create(struct driver *driver)
{
    int index = pick_dead(driver);
    struct oracle_node node = {.kind = pick(driver, 7), .size = pick_size(driver), .target = ORACLE_NONE};
    if (driver->dirty && pick(driver, 2) == 0)
        node.kind = MEMORY_REGION_RAM;
    if (index == ORACLE_NONE)
        return;
    if (node.kind == MEMORY_REGION_ALIAS) {
        node.target = pick_node(driver);
        node.alias_offset = pick(driver, 4) * driver->now.unit;
    }
    if (has_block(node.kind)) {
        if (driver->now.unit > RAM_PAGE_SIZE)
            return;
        node.size = (memory_size)(1 + pick(driver, UNIT_MAX)) * RAM_PAGE_SIZE;
        /* At the start of the block, across the end of a word of its bitmaps, or at its end. */
        static const unsigned places[] = {0, 1, 2, 4, 8, 56, 60, 64, 65, BLOCK_PAGES - UNIT_MAX};
        node.block_offset = places[pick(driver, 10)] * RAM_PAGE_SIZE;
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
    narrate(driver, "add %s to %s at 0x%llx, priority %d", name_of(driver, child), name_of(driver, container),
            (unsigned long long)place, priority);
    made(driver, predicted,
         memory_region_add_subregion(&driver->regions[container], place, &driver->regions[child], priority,
                                     &driver->err));
}

void op_add(struct driver *driver)
{
    static const int priorities[] = {0, 1, -1, 0, 1, 2, -1, 0, INT_MAX, INT_MIN};
    int container = pick_container(driver), child = pick_loose(driver);
    uint64_t place = pick_place(driver);
    add(driver, container, place, child, priorities[pick(driver, 10)]);
}

/* Fills a container with a row of small regions, so that it has many. */
void op_crowd(struct driver *driver)
{
    static const enum memory_region_kind kinds[] = {MEMORY_REGION_MMIO, MEMORY_REGION_RAM};
    int container = pick_container(driver);
    unsigned count = pick(driver, 12), stride = 1 + pick(driver, 2);
    struct oracle_node node = {.kind = kinds[pick(driver, 2)], .target = ORACLE_NONE};
    uint64_t first = pick_place(driver);
    if (has_block(node.kind) && driver->now.unit > RAM_PAGE_SIZE)
        node.kind = MEMORY_REGION_MMIO;
    for (unsigned i = 0; i < count; i++) {
        int index = pick_dead(driver);
        if (index == ORACLE_NONE)
            return;
        node.size = has_block(node.kind) ? RAM_PAGE_SIZE : (memory_size)driver->now.unit;
        node.block_offset = has_block(node.kind) ? (i * stride) * RAM_PAGE_SIZE : 0;
        create(driver, index, node);
        if (driver->now.nodes[index].alive)
            add(driver, container, first + i * stride * driver->now.unit, index, (int)(i % 3));
    }
}

/* Flag 0 is read-only, 1 unmergeable, 2 ROMD mode; others mean nothing. */
static void set_flag(struct driver *driver, int index, unsigned flag, bool value)
{
    static const char *const names[] = {"read-only", "unmergeable", "ROMD mode"};
    struct oracle_node *node = &driver->now.nodes[index];
    struct memory_region *region = &driver->regions[index];
    if (flag < 3)
        narrate(driver, "turn %s of %s %s", names[flag], name_of(driver, index), value ? "on" : "off");
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

void op_flag(struct driver *driver)
{
    int index = pick_node(driver);
    unsigned flag = pick(driver, 3);
    set_flag(driver, index, flag, pick(driver, 2));
}

/* Lets a new alias go on where another ends, so that what they show meets. */
void op_continue(struct driver *driver)
{
    int index = pick_dead(driver), other = pick_suitable(driver, is_alias);
    struct oracle_node node = driver->now.nodes[other];
    memory_size end = node.address + node.size, shown = node.alias_offset + node.size;
    if (index == ORACLE_NONE || node.kind != MEMORY_REGION_ALIAS || node.parent == ORACLE_NONE ||
        end >= MEMORY_SIZE_MAX || shown >= MEMORY_SIZE_MAX)
        return;
    int container = node.parent;
    node.alias_offset = (uint64_t)shown;
    node.readonly = node.unmergeable = false;
    create(driver, index, node);
    if (!driver->now.nodes[index].alive)
        return;
    set_flag(driver, index, pick(driver, 6), true);
    add(driver, container, (uint64_t)end, index, node.priority);
}

void op_remove(struct driver *driver)
{
    int index = pick_node(driver);
    int *parent = &driver->now.nodes[index].parent, predicted = *parent == ORACLE_NONE ? -EINVAL : 0;
    *parent = ORACLE_NONE;
    narrate(driver, "remove %s", name_of(driver, index));
    made(driver, predicted, memory_region_remove_subregion(&driver->regions[index], &driver->err));
}

void op_empty(struct driver *driver)
{
    int index = pick_node(driver);
    for (int i = 0; i < ORACLE_NODES; i++)
        if (driver->now.nodes[i].parent == index)
            driver->now.nodes[i].parent = ORACLE_NONE;
    narrate(driver, "empty %s", name_of(driver, index));
    made(driver, 0, memory_region_remove_all_subregions(&driver->regions[index], &driver->err));
}

void op_enable(struct driver *driver)
{
    int index = pick_node(driver);
    bool enabled = pick(driver, 2);
    driver->now.nodes[index].enabled = enabled;
    narrate(driver, "%s %s", enabled ? "enable" : "disable", name_of(driver, index));
    made(driver, 0, memory_region_set_enabled(&driver->regions[index], enabled, &driver->err));
}

static void move(struct driver *driver, int index, uint64_t place)
{
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
    narrate(driver, "move %s to 0x%llx", name_of(driver, index), (unsigned long long)place);
    made(driver, predicted, memory_region_set_address(&driver->regions[index], place, &driver->err));
}

void op_move(struct driver *driver)
{
    int index = pick_node(driver);
    move(driver, index, pick_place(driver));
}

/* Lets two regions change places in one transaction. */
void op_swap(struct driver *driver)
{
    int one = pick_suitable(driver, is_ram), other = pick_suitable(driver, is_ram);
    uint64_t place = driver->now.nodes[one].address;
    op_begin(driver);
    move(driver, one, driver->now.nodes[other].address);
    move(driver, other, place);
    op_commit(driver);
}

static int predict_size(const struct driver *driver, const struct oracle_node *node, memory_size size)
{
    if (size == 0)
        return -EINVAL;
    if (has_block(node->kind) && (size % RAM_PAGE_SIZE || node->block_offset + size > driver->block->size))
        return -EINVAL;
    if (node->parent != ORACLE_NONE && node->address + size > MEMORY_SIZE_MAX)
        return -EOVERFLOW;
    return 0;
}

void op_resize(struct driver *driver)
{
    int index = pick_node(driver);
    memory_size size = pick_size(driver);
    if (pick(driver, 16) == 15)
        size = 0;
    struct oracle_node *node = &driver->now.nodes[index];
    int predicted = predict_size(driver, node, size);
    if (!predicted)
        node->size = size;
    narrate(driver, "resize %s to %s", name_of(driver, index), size_text(size).text);
    made(driver, predicted, memory_region_set_size(&driver->regions[index], size, &driver->err));
}

void op_alias_offset(struct driver *driver)
{
    int index = pick_suitable(driver, is_alias);
    uint64_t place = pick_place(driver);
    struct oracle_node *node = &driver->now.nodes[index];
    int predicted = node->kind == MEMORY_REGION_ALIAS ? 0 : -EINVAL;
    if (!predicted)
        node->alias_offset = place;
    narrate(driver, "let %s show from 0x%llx on", name_of(driver, index), (unsigned long long)place);
    made(driver, predicted, memory_region_set_alias_offset(&driver->regions[index], place, &driver->err));
}

bool needed(const struct oracle_tree *tree, int index)
{
    if (tree->nodes[index].parent != ORACLE_NONE)
        return true;
    for (int i = 0; i < ORACLE_NODES; i++)
        if (tree->nodes[i].alive && (tree->nodes[i].parent == index || tree->nodes[i].target == index))
            return true;
    return false;
}

void op_destroy(struct driver *driver)
{
    int index = pick_node(driver);
    if (index < SIDES || needed(&driver->now, index) || needed(&driver->begun, index))
        return;
    narrate(driver, "destroy %s", name_of(driver, index));
    memory_region_destroy(&driver->regions[index]);
    driver->now.nodes[index].alive = driver->begun.nodes[index].alive = false;
    driver->saved.nodes[index].alive = false;
}
