/*
 * Dirty tracking: clients that come, take and go, and stores by devices and by the guest.
 *
 * What a client takes must be among the pages that were stored to since it took them last, and all of those
 * that godwit can know of: those stored to by devices, and those stored to by the guest before the last
 * dirty_sync(). Where KVM begins with all bits set, a page of a slot that began to log may be found once
 * more.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "memory/dirty.h"
#include "memory/ram_block.h"
#include "tests/support/failing_malloc.h"
#include "tests/support/memory_driver_internal.h"

#define WORDS ((BLOCK_PAGES + 63) / 64)

static const page_set all_pages = ((page_set)1 << BLOCK_PAGES) - 1;

unsigned dirty_clients(const struct driver *driver)
{
    unsigned clients = 0;
    for (unsigned i = 0; i < CLIENTS; i++)
        clients |= driver->clients[i].client ? driver->clients[i].bit : 0;
    return clients;
}

bool log_differs(const struct driver *driver)
{
    for (int i = 0; i < ORACLE_NODES; i++) {
        const struct oracle_node *node = &driver->begun.nodes[i];
        if (node->alive && has_block(node->kind) && node->log != dirty_clients(driver))
            return true;
    }
    return false;
}

void dirty_block_comes(struct driver *driver)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *client = &driver->clients[i];
        client->must_known = client->may_known = all_pages;
        client->must_pending = client->may_pending = 0;
    }
}

/* Whether any region shows the block, without which it has no pages to take. */
static bool block_shown(const struct driver *driver)
{
    for (int i = 0; i < ORACLE_NODES; i++)
        if (driver->now.nodes[i].alive && has_block(driver->now.nodes[i].kind))
            return true;
    return false;
}

/* In hexadecimal digits: page 0 is the lowest bit of the last one. */
static struct size_text set_text(page_set pages)
{
    struct size_text text;
    snprintf(text.text, sizeof(text.text), "%llx:%016llx", (unsigned long long)(pages >> 64),
             (unsigned long long)pages);
    return text;
}

static void set_log(struct driver *driver, unsigned clients)
{
    for (int i = 0; i < ORACLE_NODES; i++)
        if (driver->now.nodes[i].alive && has_block(driver->now.nodes[i].kind))
            driver->now.nodes[i].log = clients;
}

static struct client *pick_client(struct driver *driver, bool started)
{
    unsigned first = pick(driver, CLIENTS);
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *client = &driver->clients[(first + i) % CLIENTS];
        if (!client->client == !started)
            return client;
    }
    return NULL;
}

static unsigned free_bit(const struct driver *driver)
{
    unsigned bit = 1;
    while (dirty_clients(driver) & bit)
        bit <<= 1;
    return bit;
}

/*
 * Who logs a region should have become `clients`, but something failed: all changed, or none. Makes the model
 * say which.
 */
static void observe_log(struct driver *driver, unsigned clients)
{
    bool changed = false, kept = false;
    for (int i = 0; i < ORACLE_NODES; i++) {
        struct oracle_node *node = &driver->now.nodes[i];
        if (!node->alive || !has_block(node->kind) || node->log == clients)
            continue;
        unsigned log = driver->regions[i].state.log;
        EXPECT(driver, log == clients || log == node->log);
        changed |= log == clients;
        kept |= log == node->log;
        node->log = log;
    }
    EXPECT(driver, !changed || !kept);
}

void op_dirty_start(struct driver *driver)
{
    struct client *client = pick_client(driver, false);
    enum dirty_first first = pick(driver, 2) ? DIRTY_EVERYTHING : DIRTY_FROM_NOW;
    if (!client)
        return;
    unsigned clients = dirty_clients(driver), bit = free_bit(driver);
    bool differs = log_differs(driver);
    narrate(driver, "start client 0x%x, for which all is %s", bit, first ? "dirty" : "clean");
    if (!driver->depth)
        set_log(driver, clients | bit);
    int result = dirty_start(driver->memory, "client", first, &client->client, &driver->err);
    if (driver->depth) {
        EXPECT(driver, result == -EBUSY || (result == -ENOMEM && failing_malloc_failed()));
        return;
    }
    if (result) {
        narrate(driver, "    fails: %s", driver->err.message);
        EXPECT(driver, has_failed(driver) && (result == -EREMOTEIO || result == -ENOMEM));
        struct oracle_tree attempted = driver->now;
        driver->now = driver->begun;
        if (differs)
            observe_log(driver, clients);
        settle_attempt(driver, differs ? NULL : &attempted);
        return;
    }
    bool shown = first == DIRTY_EVERYTHING && block_shown(driver);
    *client = (struct client){client->client, bit, .may_pending = driver->meanwhile};
    /* What was written before, KVM may tell to a client that has taken it already. */
    if (shown)
        client->must_known = client->may_known = client->may_pending = all_pages;
    settle(driver, 0);
}

static void stop_client(struct driver *driver, struct client *client)
{
    unsigned clients = dirty_clients(driver) & ~client->bit;
    narrate(driver, "stop client 0x%x", client->bit);
    dirty_stop(client->client);
    *client = (struct client){0};
    if (has_failed(driver)) {
        observe_log(driver, clients);
        struct oracle_tree observed = driver->now;
        set_log(driver, clients);
        struct oracle_tree attempted = driver->now;
        driver->now = observed;
        settle_attempt(driver, &attempted);
        return;
    }
    set_log(driver, clients);
    settle(driver, 0);
}

void op_dirty_stop(struct driver *driver)
{
    struct client *client = pick_client(driver, true);
    if (client && !driver->depth)
        stop_client(driver, client);
}

void dirty_finish(struct driver *driver)
{
    for (unsigned i = 0; i < CLIENTS; i++)
        if (driver->clients[i].client)
            stop_client(driver, &driver->clients[i]);
}

void op_dirty_sync(struct driver *driver)
{
    struct client before[CLIENTS];
    memcpy(before, driver->clients, sizeof(before));
    narrate(driver, "sync");
    int result = dirty_sync(driver->memory, &driver->err);
    EXPECT(driver, !result || has_failed(driver));
    if (result)
        dirty_inexact(driver);
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *client = &driver->clients[i];
        client->may_known |= before[i].may_pending;
        if (result)
            continue;
        client->must_known |= before[i].must_pending;
        /* What the guest stored meanwhile may be known or not. */
        client->must_pending = driver->meanwhile & client->must_pending;
        client->may_pending = driver->meanwhile & client->may_pending;
    }
}

/* The pages of a bitmap that begins with page `first`. */
static page_set pages_of(const uint64_t *bitmap, uint64_t first, uint64_t count)
{
    page_set pages = 0;
    for (uint64_t i = 0; i < count; i++)
        pages |= (page_set)(bitmap[i / 64] >> i % 64 & 1) << (first + i);
    return pages;
}

static void check_count(struct driver *driver, const struct client *client)
{
    uint64_t count = dirty_count(client->client, driver->block), least = 0, most = 0;
    for (unsigned i = 0; i < BLOCK_PAGES; i++) {
        least += client->must_known >> i & 1;
        most += (client->may_known | client->may_pending) >> i & 1;
    }
    if (!block_shown(driver))
        return;
    EXPECT(driver, count >= least && count <= most);
    EXPECT(driver, dirty_count(client->client, NULL) == count);
}

static void put_back(struct driver *driver, struct client *client, uint64_t first, uint64_t count,
                     const uint64_t *bitmap)
{
    narrate(driver, "put them back");
    EXPECT(driver, !dirty_put_back(client->client, driver->block, first, count, bitmap, &driver->err));
    page_set pages = pages_of(bitmap, first, count);
    client->must_known |= pages;
    client->may_known |= pages;
}

/* A client takes pages, all that it asks for and can have. */
static void take(struct driver *driver, struct client *client, uint64_t first, uint64_t count, bool back)
{
    uint64_t bitmap[WORDS];
    memset(bitmap, 0xff, sizeof(bitmap));
    narrate(driver, "client 0x%x takes %llu pages from %llu", client->bit, (unsigned long long)count,
            (unsigned long long)first);
    int result = dirty_take(client->client, driver->block, first, count, bitmap, &driver->err);
    EXPECT(driver, !result || has_failed(driver));
    if (result) {
        narrate(driver, "    fails: %s", driver->err.message);
        dirty_inexact(driver);
        return;
    }
    page_set taken = pages_of(bitmap, first, count), asked = ((((page_set)1 << count) - 1) << first);
    narrate(driver, "    has %s, must have %s, may have %s", set_text(taken).text,
            set_text(client->must_known & asked).text,
            set_text((client->may_known | client->may_pending) & asked).text);
    EXPECT(driver, !(client->must_known & asked & ~taken));
    EXPECT(driver, !(taken & ~(client->may_known | client->may_pending)));
    EXPECT(driver, count % 64 == 0 || !(bitmap[(count - 1) / 64] >> count % 64));
    client->must_known &= ~asked;
    client->must_pending &= ~taken;
    client->may_known &= ~asked;
    if (back)
        put_back(driver, client, first, count, bitmap);
}

/* What cannot be asked for is refused, and leaves everything as it was. */
static void take_wrongly(struct driver *driver, struct client *client, unsigned which)
{
    static const struct {
        uint64_t first, count;
    } parts[] = {{1, BLOCK_PAGES - 1}, {0, 63}, {64, 64}, {UINT64_MAX - 63, 64}};
    uint64_t bitmap[WORDS];
    EXPECT(driver, dirty_take(client->client, driver->block, parts[which].first, parts[which].count, bitmap,
                              &driver->err) == -EINVAL);
    if (!block_shown(driver))
        EXPECT(driver, dirty_take(client->client, driver->block, 0, 64, bitmap, &driver->err) == -EINVAL);
}

void op_dirty_take(struct driver *driver)
{
    static const struct {
        uint64_t first, count;
    } parts[] = {{0, BLOCK_PAGES}, {0, 64}, {64, BLOCK_PAGES - 64}, {64, 0}};
    struct client *client = pick_client(driver, true);
    unsigned part = pick(driver, 8);
    bool sync = pick(driver, 2), back = pick(driver, 4) == 3;
    if (!client)
        return;
    if (sync)
        op_dirty_sync(driver);
    check_count(driver, client);
    if (part >= 4)
        take_wrongly(driver, client, part - 4);
    if (block_shown(driver))
        take(driver, client, parts[part % 4].first, parts[part % 4].count, back);
}

/* Somebody has stored to a page: godwit knows it, or only KVM does. */
static void stored(struct driver *driver, uint64_t page, bool known)
{
    for (unsigned i = 0; i < CLIENTS; i++) {
        struct client *client = &driver->clients[i];
        page_set *must = known ? &client->must_known : &client->must_pending;
        page_set *may = known ? &client->may_known : &client->may_pending;
        if (!client->client)
            continue;
        *must |= (page_set)1 << page;
        *may |= (page_set)1 << page;
    }
}

void dirty_inexact(struct driver *driver)
{
    for (unsigned i = 0; i < CLIENTS; i++)
        driver->clients[i].may_known = driver->clients[i].may_pending = all_pages;
}

static uint64_t page_of(const struct driver *driver, const void *host)
{
    return (uint64_t)((const char *)host - (const char *)driver->block->host) / RAM_PAGE_SIZE;
}

/* What a store of `length` bytes at the start of a unit has touched. */
static void stored_from(struct driver *driver, const struct side *side, unsigned unit, uint64_t length)
{
    for (uint64_t at = 0; at < length && unit < driver->begun.units; at += driver->begun.unit, unit++)
        if (oracle_mapped(&driver->begun, &side->shown.answers[unit], true))
            stored(driver, page_of(driver, host_of(driver, &side->shown.answers[unit])), true);
}

/* A unit of the space, mostly one that shows RAM. */
static unsigned pick_unit(struct driver *driver, const struct side *side)
{
    unsigned units = driver->now.units, first = pick(driver, units);
    bool any = pick(driver, 8) == 7;
    for (unsigned i = 0; i < units && !any; i++)
        if (oracle_mapped(&driver->begun, &side->shown.answers[(first + i) % units], true))
            return (first + i) % units;
    return first;
}

/* Whether all that is in `length` bytes from the start of a unit is mapped. */
static bool all_mapped(const struct driver *driver, const struct side *side, unsigned unit, uint64_t length)
{
    for (uint64_t at = 0; at < length; at += driver->begun.unit, unit++)
        if (unit >= driver->begun.units || !oracle_mapped(&driver->begun, &side->shown.answers[unit], true))
            return false;
    return true;
}

static void store_mapped(struct driver *driver, struct side *side, unsigned unit, uint64_t length,
                         uint64_t written)
{
    struct guest_mapping mapping;
    narrate(driver, "map %llu bytes of unit %u of space %d and say that %llu are written",
            (unsigned long long)length, unit, side->root, (unsigned long long)written);
    int result = guest_map(side->space, unit_address(driver, unit), length, true, &mapping);
    EXPECT(driver, result == (all_mapped(driver, side, unit, length) ? 0 : -EFAULT));
    if (result)
        return;
    guest_unmap(&mapping, written);
    stored_from(driver, side, unit, written);
}

static void store_bytes(struct driver *driver, struct side *side, unsigned unit, uint64_t length)
{
    static const char bytes[RAM_PAGE_SIZE + 1] = "stored";
    narrate(driver, "store %llu bytes to unit %u of space %d", (unsigned long long)length, unit, side->root);
    address_space_write(side->space, unit_address(driver, unit), bytes, length);
    stored_from(driver, side, unit, length);
}

void op_store(struct driver *driver)
{
    struct side *side = &driver->sides[pick(driver, SIDES)];
    unsigned how = pick(driver, 4), unit = pick_unit(driver, side);
    if (how == 0) {
        uint64_t length = pick(driver, 2) ? 1 : RAM_PAGE_SIZE + 1;
        store_mapped(driver, side, unit, length, pick(driver, 3) * length / 2);
    }
    if (how == 1)
        store_bytes(driver, side, unit, 1);
    if (how > 1)
        store_bytes(driver, side, unit, RAM_PAGE_SIZE + 1);
}

/* The guest writes a unit of what KVM has. Returns what KVM says. */
static int guest_store(struct driver *driver, unsigned unit, bool with_vcpu, page_set *pages)
{
    uint64_t address = unit_address(driver, unit);
    const struct kvm_userspace_memory_region *slot = fake_kvm_find(&driver->kvm, address);
    int result = with_vcpu ? fake_kvm_write(&driver->kvm, address)
                           : fake_kvm_write_without_vcpu(&driver->kvm, address);
    if (result)
        return result;
    uint64_t host = slot->userspace_addr + (address - slot->guest_phys_addr);
    uint64_t page = page_of(driver, (void *)(uintptr_t)host);
    stored(driver, page, false);
    if (pages)
        *pages |= (page_set)1 << page;
    return 0;
}

void guest_meanwhile(struct fake_kvm *kvm)
{
    struct driver *driver = kvm->opaque;
    if (!driver->meanwhile_stride)
        return;
    driver->meanwhile_unit = (driver->meanwhile_unit + driver->meanwhile_stride) % driver->begun.units;
    guest_store(driver, driver->meanwhile_unit, true, &driver->meanwhile);
}

void op_guest_meanwhile(struct driver *driver)
{
    driver->meanwhile_stride = pick(driver, 8);
    driver->meanwhile_unit = pick(driver, driver->now.units);
    narrate(driver, "during calls of KVM the guest writes every unit that is a multiple of %u behind %u",
            driver->meanwhile_stride, driver->meanwhile_unit);
}

void op_reap(struct driver *driver)
{
    if (!driver->kvm.dirty_ring)
        return;
    narrate(driver, "reap");
    int result = kvm_listener_reap(driver->kvm_listener, &driver->err);
    EXPECT(driver, result >= 0 || has_failed(driver));
    for (unsigned i = 0; i < CLIENTS; i++)
        driver->clients[i].may_known |= driver->clients[i].may_pending;
}

void op_guest_store(struct driver *driver)
{
    unsigned unit = pick_unit(driver, &driver->sides[0]);
    struct fake_kvm *kvm = &driver->kvm;
    bool without = pick(driver, 4) == 3 && (!kvm->dirty_ring || kvm->ring_with_bitmap);
    if (!driver->kvm_listener)
        return;
    bool mapped = oracle_mapped(&driver->begun, &driver->sides[0].shown.answers[unit], true);
    narrate(driver, "the guest writes unit %u%s", unit, without ? ", without a vCPU" : "");
    int result = guest_store(driver, unit, !without, NULL);
    if (result == -EAGAIN) {
        narrate(driver, "    but its ring is full");
        fake_kvm_ops.stop_vcpus(kvm); /* it exits */
        fake_kvm_ops.resume_vcpus(kvm);
        op_reap(driver);
        result = guest_store(driver, unit, true, NULL);
        EXPECT(driver, result != -EAGAIN || has_failed(driver));
    }
    EXPECT(driver, (result == 0) == mapped || result == -EAGAIN);
}

/* What a migration does in each of its passes, while the guest goes on writing the same page. */
void op_dirty_pass(struct driver *driver)
{
    struct client *client = pick_client(driver, true);
    const uint8_t *unit = driver->step;
    size_t left = driver->left;
    unsigned fails = pick(driver, 8);
    if (!client || !block_shown(driver))
        return;
    for (int i = 0; i < 3; i++) {
        driver->step = unit;
        driver->left = left;
        op_guest_store(driver);
        if (i == 1 && fails && driver->kvm_listener)
            driver_arm_kvm(driver, fails);
        op_dirty_sync(driver);
        take(driver, client, 0, BLOCK_PAGES, false);
        driver_end_failure(driver);
    }
}
