/* Ioeventfds, coalesced zones and listeners. */
#include <errno.h>
#include <stdio.h>

#include "memory/kvm_listener.h"
#include "tests/support/failing_malloc.h"
#include "tests/support/memory_driver_internal.h"

static bool traps(const struct oracle_node *node)
{
    return node->kind == MEMORY_REGION_MMIO || node->kind == MEMORY_REGION_ROM_DEVICE ||
           node->kind == MEMORY_REGION_RESERVATION;
}

static bool has_ioeventfds(const struct oracle_node *node)
{
    return node->ioeventfd_count;
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

static void narrate_ioeventfd(const struct driver *driver, const char *verb, int index,
                              const struct oracle_ioeventfd *what)
{
    char match[32] = "";
    if (what->match)
        snprintf(match, sizeof(match), " for value %llu", (unsigned long long)what->data);
    narrate(driver, "%s ioeventfd at 0x%llx of %s, length %u, fd %d%s", verb, (unsigned long long)what->place,
            driver->names[index], what->length, what->fd, match);
}

void op_add_ioeventfd(struct driver *driver)
{
    static const unsigned lengths[] = {0, 1, 2, 4, 8};
    int index = pick_suitable(driver, traps);
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
    narrate_ioeventfd(driver, "add", index, &new);
    made(driver, predicted,
         memory_region_add_ioeventfd(&driver->regions[index], new.place, new.length, new.match, new.data,
                                     new.fd, &driver->err));
}

void op_remove_ioeventfd(struct driver *driver)
{
    int index = pick_suitable(driver, has_ioeventfds);
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
    narrate_ioeventfd(driver, "remove", index, &old);
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

void op_coalesced(struct driver *driver)
{
    int index = pick_suitable(driver, traps);
    struct oracle_zone new = {.place = pick(driver, 3) * driver->now.unit, .size = 1 + pick(driver, 8)};
    bool clear = pick(driver, 4) == 0;
    struct oracle_node *node = &driver->now.nodes[index];
    struct memory_region *region = &driver->regions[index];
    if (clear) {
        node->zone_count = 0;
        narrate(driver, "clear zones of %s", driver->names[index]);
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
    narrate(driver, "add zone at 0x%llx of %s, %llu bytes", (unsigned long long)new.place,
            driver->names[index], (unsigned long long)new.size);
    made(driver, predicted,
         memory_region_add_coalesced(region, new.place, (uint64_t) new.size, &driver->err));
}

void enlist(struct side *side, struct recorder *recorder)
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

void unregister(struct driver *driver, struct recorder *recorder)
{
    struct side *side = &driver->sides[recorder->side];
    static const struct oracle_view nothing = {0};
    narrate(driver, "unregister listener %u of space %u", recorder->number, recorder->side);
    delist(side, recorder);
    driver->failed = true; /* nothing is to fail any more */
    memory_listener_unregister(&recorder->listener);
    log_expect(driver, recorder, PREPARE);
    log_expect_steps(driver, recorder->side, &side->shown, &nothing, &recorder, 1);
    log_expect(driver, recorder, COMMIT);
    log_check(driver);
    driver->failed = false;
}

static void register_again(struct driver *driver, struct recorder *recorder)
{
    struct side *side = &driver->sides[recorder->side];
    static const struct oracle_view nothing = {0};
    narrate(driver, "register listener %u of space %u", recorder->number, recorder->side);
    driver->registering = true;
    int result = memory_listener_register(&recorder->listener, side->space, &driver->err);
    driver->registering = false;
    bool no_memory = failing_malloc_failed() && result == -ENOMEM;
    EXPECT(driver, no_memory || result == (driver->failed ? -EREMOTEIO : 0));
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

void op_register(struct driver *driver)
{
    struct recorder *recorder = &driver->sides[pick(driver, SIDES)].recorders[pick(driver, RECORDERS)];
    if (recorder->listener.space)
        unregister(driver, recorder);
    else
        register_again(driver, recorder);
}
