#include "memory/region.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "memory/dirty_block.h"
#include "memory/internal.h"
#include "memory/memory.h"
#include "memory/ram_block.h"

/* Fills in what all kinds have. The region has no `memory`, and so does not count as one, until it succeeds.
 */
static int init(struct memory_region *region, struct memory *memory, const char *name,
                enum memory_region_kind kind, memory_size size, struct error *err)
{
    *region = (struct memory_region){.name = name, .kind = kind};
    if (size == 0 || size > MEMORY_SIZE_MAX)
        return error_set(err, EINVAL, "region %s: its size must be from 1 byte to 2^64", name);
    region->memory = memory;
    region->state.enabled = true;
    region->state.size = size;
    return 0;
}

/* Makes an initialised region one that never was. Returns `result`. */
static int fail(struct memory_region *region, int result)
{
    *region = (struct memory_region){0};
    return result;
}

static int set_block(struct memory_region *region, struct ram_block *block, uint64_t offset,
                     struct error *err)
{
    memory_size size = region->state.size;
    if (offset % RAM_PAGE_SIZE || size % RAM_PAGE_SIZE)
        return fail(region, error_set(err, EINVAL,
                                      "region %s: its size and its place in RAM block %s must be multiples "
                                      "of %d",
                                      region->name, block->name, RAM_PAGE_SIZE));
    if (offset > block->size || size > block->size - offset)
        return fail(region, error_set(err, EINVAL, "region %s passes the end of RAM block %s", region->name,
                                      block->name));
    region->block = block;
    region->block_offset = offset;
    pthread_mutex_lock(&region->memory->lock);
    int result = dirty_block_add_region(block, region, err);
    pthread_mutex_unlock(&region->memory->lock);
    return result ? fail(region, result) : 0;
}

static bool sizes_valid(const struct memory_access_sizes *sizes)
{
    unsigned min = sizes->min ? sizes->min : 1, max = sizes->max ? sizes->max : 8;
    return max <= 8 && min <= max && !(min & (min - 1)) && !(max & (max - 1));
}

static int set_ops(struct memory_region *region, const struct memory_region_ops *ops, void *opaque,
                   struct error *err)
{
    if (!sizes_valid(&ops->valid) || !sizes_valid(&ops->impl))
        return fail(region,
                    error_set(err, EINVAL, "region %s: access sizes must be 1, 2, 4 or 8, the least first",
                              region->name));
    region->ops = ops;
    region->opaque = opaque;
    return 0;
}

int memory_region_init_container(struct memory_region *region, struct memory *memory, const char *name,
                                 memory_size size, struct error *err)
{
    return init(region, memory, name, MEMORY_REGION_CONTAINER, size, err);
}

int memory_region_init_ram(struct memory_region *region, struct memory *memory, const char *name,
                           struct ram_block *block, uint64_t block_offset, memory_size size,
                           struct error *err)
{
    int result = init(region, memory, name, MEMORY_REGION_RAM, size, err);
    return result ? result : set_block(region, block, block_offset, err);
}

int memory_region_init_rom(struct memory_region *region, struct memory *memory, const char *name,
                           struct ram_block *block, uint64_t block_offset, memory_size size,
                           struct error *err)
{
    int result = init(region, memory, name, MEMORY_REGION_ROM, size, err);
    return result ? result : set_block(region, block, block_offset, err);
}

int memory_region_init_rom_device(struct memory_region *region, struct memory *memory, const char *name,
                                  const struct memory_region_ops *ops, void *opaque, struct ram_block *block,
                                  uint64_t block_offset, memory_size size, struct error *err)
{
    int result = init(region, memory, name, MEMORY_REGION_ROM_DEVICE, size, err);
    if (!result)
        result = set_ops(region, ops, opaque, err);
    if (!result)
        result = set_block(region, block, block_offset, err);
    region->state.romd_mode = !result;
    return result;
}

int memory_region_init_mmio(struct memory_region *region, struct memory *memory, const char *name,
                            const struct memory_region_ops *ops, void *opaque, memory_size size,
                            struct error *err)
{
    int result = init(region, memory, name, MEMORY_REGION_MMIO, size, err);
    return result ? result : set_ops(region, ops, opaque, err);
}

int memory_region_init_alias(struct memory_region *region, struct memory *memory, const char *name,
                             struct memory_region *target, uint64_t offset, memory_size size,
                             struct error *err)
{
    if (target == region || target->memory != memory) {
        *region = (struct memory_region){0};
        return error_set(err, EINVAL, "alias %s: its target must be another region of the same machine",
                         name);
    }
    int result = init(region, memory, name, MEMORY_REGION_ALIAS, size, err);
    if (result)
        return result;
    region->state.alias_offset = offset;
    region->alias_target = target;
    pthread_mutex_lock(&memory->lock);
    region->next_alias = target->aliases;
    region->alias_link = &target->aliases;
    if (region->next_alias)
        region->next_alias->alias_link = &region->next_alias;
    target->aliases = region;
    memory_region_attach(region);
    pthread_mutex_unlock(&memory->lock);
    return 0;
}

int memory_region_init_reservation(struct memory_region *region, struct memory *memory, const char *name,
                                   memory_size size, struct error *err)
{
    return init(region, memory, name, MEMORY_REGION_RESERVATION, size, err);
}

void memory_region_destroy(struct memory_region *region)
{
    struct memory *memory = region->memory;
    if (!memory)
        return;
    pthread_mutex_lock(&memory->lock);
    assert(!region->state.container && !region->subregions && !region->aliases && !region->spaces);
    memory_undo_drop(region);
    memory_region_detach(region);
    if (region->alias_target) {
        *region->alias_link = region->next_alias;
        if (region->next_alias)
            region->next_alias->alias_link = region->alias_link;
    }
    if (region->block)
        dirty_block_remove_region(region);
    memory_offloads_put(region->state.offloads);
    *region = (struct memory_region){0};
    pthread_mutex_unlock(&memory->lock);
}

static int end_change(struct memory_region *region, struct error *err)
{
    return memory_transaction_commit(region->memory, err);
}

/* Ends a change that turned out to be none. Returns `result`. */
static int cancel_change(struct memory_region *region, int result)
{
    memory_transaction_commit(region->memory, NULL);
    return result;
}

static void touch_all(struct memory_region *region)
{
    memory_region_touch(region, memory_region_span(region));
}

/* As touch_all(), for a change of something that matters only while the region is enabled. */
static void touch_enabled(struct memory_region *region)
{
    if (region->state.enabled)
        touch_all(region);
}

/* Whether the way up from `from`, by containers and by aliases of them, leads to `region`: then `region`
 * shows what `from` shows. */
static bool shown_by(struct memory_region *from, const struct memory_region *region, uint64_t search)
{
    for (; from && from->visited != search; from = from->state.container) {
        from->visited = search;
        if (from == region)
            return true;
        for (struct memory_region *alias = from->aliases; alias; alias = alias->next_alias)
            if (shown_by(alias, region, search))
                return true;
    }
    return false;
}

static int check_add(struct memory_region *container, uint64_t offset, struct memory_region *child,
                     struct error *err)
{
    struct memory *memory = container->memory;
    if (child->memory != memory || container->kind == MEMORY_REGION_ALIAS)
        return error_set(err, EINVAL, "region %s cannot be put into %s, %s", child->name, container->name,
                         child->memory != memory ? "which is another machine's" : "which is an alias");
    if (child->state.container)
        return error_set(err, EINVAL, "region %s cannot be put into %s: it is in %s (show it by an alias)",
                         child->name, container->name, child->state.container->name);
    if (offset + child->state.size > MEMORY_SIZE_MAX)
        return error_set(err, EOVERFLOW, "region %s would pass the end of the address space in %s",
                         child->name, container->name);
    bool can_show = child->subregions || child->alias_target || child == container;
    if (can_show && shown_by(container, child, ++memory->search))
        return error_set(err, EINVAL, "region %s cannot be put into %s, which it shows itself", child->name,
                         container->name);
    return 0;
}

int memory_region_add_subregion(struct memory_region *container, uint64_t offset, struct memory_region *child,
                                int priority, struct error *err)
{
    int result = memory_region_begin_change(child, err);
    if (result)
        return result;
    result = check_add(container, offset, child, err);
    if (result)
        return cancel_change(child, result);
    memory_region_detach(child);
    child->state.container = container;
    child->state.address = offset;
    child->state.priority = priority;
    child->state.order = ++container->memory->order;
    memory_region_attach(child);
    touch_enabled(child);
    return end_change(child, err);
}

static int no_container(const struct memory_region *region, struct error *err)
{
    return error_set(err, EINVAL, "region %s is in no container", region->name);
}

int memory_region_remove_subregion(struct memory_region *child, struct error *err)
{
    int result = memory_region_begin_change(child, err);
    if (result)
        return result;
    if (!child->state.container)
        return cancel_change(child, no_container(child, err));
    touch_enabled(child);
    memory_region_detach(child);
    child->state.container = NULL;
    memory_region_attach(child);
    return end_change(child, err);
}

/* Keeps the states of all subregions, so that removing them cannot fail on the way. */
static int keep_subregions(struct memory_region *container, struct error *err)
{
    int result = 0;
    for (struct memory_region *child = container->subregions; child && !result; child = child->next) {
        result = memory_region_begin_change(child, err);
        if (!result)
            memory_transaction_commit(container->memory, NULL);
    }
    return result;
}

int memory_region_remove_all_subregions(struct memory_region *container, struct error *err)
{
    memory_transaction_begin(container->memory);
    int result = keep_subregions(container, err);
    while (!result && container->subregions)
        result = memory_region_remove_subregion(container->subregions, err);
    int committed = memory_transaction_commit(container->memory, result ? NULL : err);
    return result ? result : committed;
}

int memory_region_set_enabled(struct memory_region *region, bool enabled, struct error *err)
{
    int result = memory_region_begin_change(region, err);
    if (result)
        return result;
    if (region->state.enabled != enabled)
        touch_all(region);
    region->state.enabled = enabled;
    extent_set_active(&region->extent, enabled);
    return end_change(region, err);
}

int memory_region_set_address(struct memory_region *region, uint64_t address, struct error *err)
{
    int result = memory_region_begin_change(region, err);
    if (result)
        return result;
    if (!region->state.container)
        return cancel_change(region, no_container(region, err));
    if (address + region->state.size > MEMORY_SIZE_MAX)
        return cancel_change(region, error_set(err, EOVERFLOW,
                                               "region %s would pass the end of the address space in %s",
                                               region->name, region->state.container->name));
    touch_enabled(region);
    memory_region_detach(region);
    region->state.address = address;
    region->state.order = ++region->memory->order;
    memory_region_attach(region);
    touch_enabled(region);
    return end_change(region, err);
}

static int check_size(const struct memory_region *region, memory_size size, struct error *err)
{
    if (size == 0 || size > MEMORY_SIZE_MAX)
        return error_set(err, EINVAL, "region %s: its size must be from 1 byte to 2^64", region->name);
    if (region->block && (size % RAM_PAGE_SIZE || size > region->block->size - region->block_offset))
        return error_set(err, EINVAL,
                         "region %s: its size must be a multiple of %d and end within RAM block %s",
                         region->name, RAM_PAGE_SIZE, region->block->name);
    if (region->state.container && region->state.address + size > MEMORY_SIZE_MAX)
        return error_set(err, EOVERFLOW, "region %s would pass the end of the address space in %s",
                         region->name, region->state.container->name);
    return 0;
}

int memory_region_set_size(struct memory_region *region, memory_size size, struct error *err)
{
    int result = memory_region_begin_change(region, err);
    if (result)
        return result;
    result = check_size(region, size, err);
    if (result)
        return cancel_change(region, result);
    if (region->state.size != size) {
        touch_enabled(region);
        memory_region_detach(region);
        region->state.size = size;
        memory_region_attach(region);
        touch_enabled(region);
    }
    return end_change(region, err);
}

int memory_region_set_alias_offset(struct memory_region *alias, uint64_t offset, struct error *err)
{
    int result = memory_region_begin_change(alias, err);
    if (result)
        return result;
    if (alias->kind != MEMORY_REGION_ALIAS)
        return cancel_change(alias, error_set(err, EINVAL, "region %s is no alias", alias->name));
    if (alias->state.alias_offset != offset)
        touch_enabled(alias);
    memory_region_detach(alias);
    alias->state.alias_offset = offset;
    memory_region_attach(alias);
    return end_change(alias, err);
}

/* Sets an attribute of `region`, where `flag` points into its state. */
static int set_flag(struct memory_region *region, bool *flag, bool value, struct error *err)
{
    int result = memory_region_begin_change(region, err);
    if (result)
        return result;
    if (*flag != value)
        touch_enabled(region);
    *flag = value;
    return end_change(region, err);
}

int memory_region_set_readonly(struct memory_region *region, bool readonly, struct error *err)
{
    return set_flag(region, &region->state.readonly, readonly, err);
}

int memory_region_set_unmergeable(struct memory_region *region, bool unmergeable, struct error *err)
{
    return set_flag(region, &region->state.unmergeable, unmergeable, err);
}

int memory_region_set_log(struct memory_region *region, unsigned clients, struct error *err)
{
    int result = memory_region_begin_change(region, err);
    if (result)
        return result;
    if (region->state.log != clients)
        touch_enabled(region);
    region->state.log = clients;
    return end_change(region, err);
}

int memory_region_set_romd(struct memory_region *region, bool romd_mode, struct error *err)
{
    if (region->kind != MEMORY_REGION_ROM_DEVICE)
        return error_set(err, EINVAL, "region %s is no ROM device", region->name);
    return set_flag(region, &region->state.romd_mode, romd_mode, err);
}
