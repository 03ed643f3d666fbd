#include <errno.h>
#include <string.h>

#include "base/macros.h"
#include "tests/support/memory_driver_internal.h"

static struct recorder *from_listener(struct memory_listener *listener)
{
    return container_of(listener, struct recorder, listener);
}

static void append(struct driver *driver, struct log *log, const struct recorder *recorder, enum stage stage,
                   const uint64_t item[ITEM])
{
    EXPECT(driver, log->count < LOG_MAX);
    struct entry *entry = &log->entries[log->count++];
    *entry = (struct entry){recorder->side, recorder->number, stage, {0}};
    if (item)
        memcpy(entry->item, item, sizeof(entry->item));
}

/* Whether both have the same ioeventfds and zones between `from` and `to`. */
static bool items_equal(const struct flat_view *a, const struct flat_view *b, struct memory_window window)
{
    struct flat_cursor left = flat_cursor_begin(a, &window, 1), right = flat_cursor_begin(b, &window, 1);
    struct flat_ioeventfd x, y;
    while (flat_cursor_next_ioeventfd(&left, &x)) {
        if (!flat_cursor_next_ioeventfd(&right, &y) || x.address != y.address || x.length != y.length ||
            x.match != y.match || x.data != y.data || x.fd != y.fd)
            return false;
    }
    if (flat_cursor_next_ioeventfd(&right, &y))
        return false;
    left = flat_cursor_begin(a, &window, 1);
    right = flat_cursor_begin(b, &window, 1);
    struct flat_zone p, q;
    while (flat_cursor_next_zone(&left, &p))
        if (!flat_cursor_next_zone(&right, &q) || p.address != q.address || p.size != q.size)
            return false;
    return !flat_cursor_next_zone(&right, &q);
}

/* Whether both show the same between two windows, in ranges that do not reach into either. */
static bool gap_equal(const struct flat_view *a, const struct flat_view *b, struct memory_window gap)
{
    const struct flat_range *left = flat_view_from(a, gap.start), *right = flat_view_from(b, gap.start);
    while (left && left->start < gap.end) {
        if (!right || !flat_range_equal(left, right) || left->log != right->log || left->start < gap.start ||
            flat_range_end(left) > gap.end)
            return false;
        left = flat_view_next(a, left);
        right = flat_view_next(b, right);
    }
    return (!right || right->start >= gap.end) && items_equal(a, b, gap);
}

/* Outside of the windows of a change its views must agree. */
static void check_windows(struct driver *driver, struct side *side, const struct memory_change *change)
{
    memory_size end = 0;
    EXPECT(driver, change->window_count > 0 && change->window_count <= WINDOWS_MAX);
    memcpy(side->windows, change->windows, change->window_count * sizeof(side->windows[0]));
    side->window_count = change->window_count;
    for (size_t i = 0; i <= change->window_count; i++) {
        bool last = i == change->window_count;
        memory_size start = last ? MEMORY_SIZE_MAX : change->windows[i].start;
        EXPECT(driver, start > end || ((i == 0 || last) && start == end));
        if (start > end)
            EXPECT(driver, gap_equal(change->old_view, change->new_view,
                                     (struct memory_window){(uint64_t)end, start}));
        if (last)
            break;
        end = change->windows[i].end;
        EXPECT(driver, end > start && end <= MEMORY_SIZE_MAX);
    }
}

/* Notes a call, and fails it if it is to fail; not one that takes another back. */
static int heard(struct memory_listener *listener, const struct memory_change *change, enum stage stage,
                 const uint64_t item[ITEM], struct error *err)
{
    struct recorder *self = from_listener(listener);
    struct driver *driver = self->driver;
    append(driver, &driver->log, self, stage, item);
    EXPECT(driver, change->old_view != change->new_view);
    if (stage == PREPARE)
        check_windows(driver, &driver->sides[self->side], change);
    EXPECT(driver, memory_region_set_enabled(&driver->regions[0], false, NULL) == -EBUSY);
    struct flat_view *published = flat_view_get(change->space);
    bool back = (driver->registering ? change->old_view : change->new_view) == published;
    bool final = stage == COMMIT || stage == ABORT || stage == RANGE_NOP || back;
    flat_view_put(published);
    if (final || driver->failed || driver->log.count != driver->fail_at)
        return 0;
    driver->failed = true;
    return error_set(err, EREMOTEIO, "injected");
}

static int prepare(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return heard(listener, change, PREPARE, NULL, err);
}

static int heard_zone(struct memory_listener *listener, const struct memory_change *change, enum stage stage,
                      const struct flat_zone *zone, struct error *err)
{
    uint64_t item[ITEM] = {zone->address, (uint64_t)zone->size, (uint64_t)(zone->size >> 64)};
    return heard(listener, change, stage, item, err);
}

static int zone_del(struct memory_listener *listener, const struct memory_change *change,
                    const struct flat_zone *zone, struct error *err)
{
    return heard_zone(listener, change, ZONE_DEL, zone, err);
}

static int zone_add(struct memory_listener *listener, const struct memory_change *change,
                    const struct flat_zone *zone, struct error *err)
{
    return heard_zone(listener, change, ZONE_ADD, zone, err);
}

static uint64_t attributes(bool readonly, bool unmergeable, bool romd, unsigned log)
{
    return readonly | unmergeable << 1 | romd << 2 | (uint64_t)log << 8;
}

static int heard_range(struct memory_listener *listener, const struct memory_change *change, enum stage stage,
                       const struct flat_range *range, unsigned old_log, struct error *err)
{
    uint64_t item[ITEM] = {
        driver_node(from_listener(listener)->driver, range->region),
        range->offset_in_region,
        range->start,
        (uint64_t)range->size,
        (uint64_t)(range->size >> 64),
        attributes(range->readonly, range->unmergeable, range->romd_mode, range->log),
        old_log,
    };
    return heard(listener, change, stage, item, err);
}

static int range_del(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, struct error *err)
{
    return heard_range(listener, change, RANGE_DEL, range, 0, err);
}

static int range_add(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, struct error *err)
{
    return heard_range(listener, change, RANGE_ADD, range, 0, err);
}

static void range_nop(struct memory_listener *listener, const struct memory_change *change,
                      const struct flat_range *range)
{
    heard_range(listener, change, RANGE_NOP, range, 0, NULL);
}

static int log_start(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, unsigned old, struct error *err)
{
    return heard_range(listener, change, LOG_START, range, old, err);
}

static int log_stop(struct memory_listener *listener, const struct memory_change *change,
                    const struct flat_range *range, unsigned old, struct error *err)
{
    return heard_range(listener, change, LOG_STOP, range, old, err);
}

static int heard_ioeventfd(struct memory_listener *listener, const struct memory_change *change,
                           enum stage stage, const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    uint64_t item[ITEM] = {ioeventfd->address, ioeventfd->length, ioeventfd->match, ioeventfd->data,
                           (uint64_t)ioeventfd->fd};
    return heard(listener, change, stage, item, err);
}

static int ioeventfd_del(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return heard_ioeventfd(listener, change, IOEVENTFD_DEL, ioeventfd, err);
}

static int ioeventfd_add(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return heard_ioeventfd(listener, change, IOEVENTFD_ADD, ioeventfd, err);
}

static int apply(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return heard(listener, change, APPLY, NULL, err);
}

static int revert(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return heard(listener, change, REVERT, NULL, err);
}

static void commit(struct memory_listener *listener, const struct memory_change *change)
{
    heard(listener, change, COMMIT, NULL, NULL);
}

static void abort_change(struct memory_listener *listener, const struct memory_change *change)
{
    heard(listener, change, ABORT, NULL, NULL);
}

const struct memory_listener_ops recorder_ops = {
    .prepare = prepare,
    .coalesced_del = zone_del,
    .range_del = range_del,
    .range_nop = range_nop,
    .log_start = log_start,
    .log_stop = log_stop,
    .range_add = range_add,
    .coalesced_add = zone_add,
    .ioeventfd_del = ioeventfd_del,
    .ioeventfd_add = ioeventfd_add,
    .apply = apply,
    .revert = revert,
    .commit = commit,
    .abort = abort_change,
};

void log_expect(struct driver *driver, const struct recorder *recorder, enum stage stage)
{
    append(driver, &driver->expected, recorder, stage, NULL);
}

/* Those whom a step goes to. */
struct audience {
    struct driver *driver;
    struct recorder *const *recorders;
    unsigned count;
};

static void expect_item(const struct audience *audience, enum stage stage, bool falling,
                        const uint64_t item[ITEM])
{
    for (unsigned i = 0; i < audience->count; i++) {
        unsigned at = falling ? audience->count - 1 - i : i;
        append(audience->driver, &audience->driver->expected, audience->recorders[at], stage, item);
    }
}

static const struct oracle_range *find_range(const struct oracle_view *view, const struct oracle_range *range)
{
    for (unsigned i = 0; i < view->range_count; i++)
        if (oracle_range_equal(&view->ranges[i], range))
            return &view->ranges[i];
    return NULL;
}

static void expect_range(const struct audience *audience, enum stage stage, const struct oracle_range *range,
                         unsigned old_log)
{
    const struct oracle_answer *first = &range->first;
    uint64_t item[ITEM] = {
        (uint64_t)first->node,
        first->offset,
        range->start,
        (uint64_t)range->size,
        (uint64_t)(range->size >> 64),
        attributes(first->readonly, first->unmergeable, first->romd, first->log),
        old_log,
    };
    expect_item(audience, stage, stage == RANGE_DEL || stage == LOG_STOP, item);
}

static void expect_ranges(const struct audience *audience, const struct oracle_view *of,
                          const struct oracle_view *without, enum stage stage)
{
    for (unsigned i = 0; i < of->range_count; i++)
        if (!find_range(without, &of->ranges[i]))
            expect_range(audience, stage, &of->ranges[i], 0);
}

static bool in_window(const struct side *side, const struct oracle_range *range)
{
    for (size_t i = 0; i < side->window_count; i++)
        if (range->start >= side->windows[i].start && range->start < side->windows[i].end)
            return true;
    return false;
}

/* What is the same in both views, where the windows are that the listeners have been told. */
static void expect_same(const struct audience *audience, const struct side *side,
                        const struct oracle_view *old_view, const struct oracle_view *new_view)
{
    for (unsigned i = 0; i < new_view->range_count; i++) {
        const struct oracle_range *new = &new_view->ranges[i], *old = find_range(old_view, new);
        if (!old || !in_window(side, new))
            continue;
        unsigned old_log = old->first.log, new_log = new->first.log;
        expect_range(audience, RANGE_NOP, new, 0);
        if (new_log & ~old_log)
            expect_range(audience, LOG_START, new, old_log);
        else if (old_log & ~new_log)
            expect_range(audience, LOG_STOP, new, old_log);
    }
}

static bool zone_equal(const struct oracle_zone *a, const struct oracle_zone *b)
{
    return a->place == b->place && a->size == b->size;
}

static bool has_zone(const struct oracle_view *view, const struct oracle_zone *zone)
{
    for (unsigned i = 0; i < view->zone_count; i++)
        if (zone_equal(&view->zones[i], zone))
            return true;
    return false;
}

static void expect_zones(const struct audience *audience, const struct oracle_view *of,
                         const struct oracle_view *without, enum stage stage)
{
    for (unsigned i = 0; i < of->zone_count; i++) {
        const struct oracle_zone *zone = &of->zones[i];
        uint64_t item[ITEM] = {zone->place, (uint64_t)zone->size, (uint64_t)(zone->size >> 64)};
        if (!has_zone(without, zone))
            expect_item(audience, stage, stage == ZONE_DEL, item);
    }
}

static bool has_ioeventfd(const struct oracle_view *view, const struct oracle_ioeventfd *ioeventfd)
{
    for (unsigned i = 0; i < view->ioeventfd_count; i++)
        if (oracle_ioeventfd_equal(&view->ioeventfds[i], ioeventfd))
            return true;
    return false;
}

static void expect_ioeventfds(const struct audience *audience, const struct oracle_view *of,
                              const struct oracle_view *without, enum stage stage)
{
    for (unsigned i = 0; i < of->ioeventfd_count; i++) {
        const struct oracle_ioeventfd *found = &of->ioeventfds[i];
        uint64_t item[ITEM] = {found->place, found->length, found->match, found->data, (uint64_t)found->fd};
        if (!has_ioeventfd(without, found))
            expect_item(audience, stage, stage == IOEVENTFD_DEL, item);
    }
}

void log_expect_prepare(struct driver *driver, unsigned side)
{
    for (unsigned i = 0; i < driver->sides[side].order_count; i++)
        log_expect(driver, driver->sides[side].order[i], PREPARE);
}

void log_expect_steps(struct driver *driver, unsigned side, const struct oracle_view *old,
                      const struct oracle_view *new, struct recorder *const *recorders, unsigned count)
{
    const struct audience audience = {driver, recorders, count};
    expect_zones(&audience, old, new, ZONE_DEL);
    expect_ranges(&audience, old, new, RANGE_DEL);
    expect_same(&audience, &driver->sides[side], old, new);
    expect_ranges(&audience, new, old, RANGE_ADD);
    expect_zones(&audience, new, old, ZONE_ADD);
    expect_ioeventfds(&audience, old, new, IOEVENTFD_DEL);
    expect_ioeventfds(&audience, new, old, IOEVENTFD_ADD);
    expect_item(&audience, APPLY, false, NULL);
}

void log_expect_commit(struct driver *driver, unsigned side)
{
    for (unsigned i = 0; i < driver->sides[side].order_count; i++)
        log_expect(driver, driver->sides[side].order[i], COMMIT);
}

static enum stage opposite(enum stage stage)
{
    switch (stage) {
    case ZONE_DEL:
        return ZONE_ADD;
    case ZONE_ADD:
        return ZONE_DEL;
    case RANGE_DEL:
        return RANGE_ADD;
    case RANGE_ADD:
        return RANGE_DEL;
    case LOG_START:
        return LOG_STOP;
    case LOG_STOP:
        return LOG_START;
    case IOEVENTFD_DEL:
        return IOEVENTFD_ADD;
    case IOEVENTFD_ADD:
        return IOEVENTFD_DEL;
    case APPLY:
        return REVERT;
    default:
        return stage;
    }
}

/*
 * How many calls were made before something failed that is no recorder's call: as many as give, with what
 * takes them back, all that was heard.
 */
static unsigned calls_made(const struct driver *driver)
{
    const struct log *log = &driver->expected;
    unsigned made = 0, taken_back = 0;
    while (made < log->count && made + taken_back < driver->log.count) {
        taken_back += log->entries[made].stage != RANGE_NOP;
        made++;
    }
    return made;
}

/* The call that takes this one back. */
static struct entry turned(struct entry entry)
{
    bool logs = entry.stage == LOG_START || entry.stage == LOG_STOP;
    entry.stage = opposite((enum stage)entry.stage);
    if (logs) {
        uint64_t old = entry.item[6], flags = entry.item[5] & 0xff;
        entry.item[6] = entry.item[5] >> 8;
        entry.item[5] = flags | old << 8;
    }
    return entry;
}

void log_expect_failure(struct driver *driver)
{
    struct log *log = &driver->expected;
    unsigned heard = driver->failed ? driver->fail_at : calls_made(driver), done = heard - driver->failed;
    log->count = heard;
    for (unsigned i = done; i-- > 0;) {
        struct entry entry = log->entries[i];
        EXPECT(driver, log->count < LOG_MAX);
        if (entry.stage != PREPARE && entry.stage != RANGE_NOP)
            log->entries[log->count++] = turned(entry);
    }
    for (unsigned i = done; i-- > 0;) {
        struct entry entry = log->entries[i];
        EXPECT(driver, log->count < LOG_MAX);
        if (entry.stage != PREPARE)
            continue;
        entry.stage = ABORT;
        log->entries[log->count++] = entry;
    }
}

bool log_heard(const struct driver *driver, enum stage stage)
{
    for (unsigned i = 0; i < driver->log.count; i++)
        if (driver->log.entries[i].stage == stage)
            return true;
    return false;
}

void log_check(struct driver *driver)
{
    EXPECT(driver, driver->log.count == driver->expected.count);
    EXPECT(driver, memcmp(driver->log.entries, driver->expected.entries,
                          driver->log.count * sizeof(struct entry)) == 0);
    driver->log.count = 0;
    driver->expected.count = 0;
}

bool oracle_view_equal(const struct oracle_view *a, const struct oracle_view *b)
{
    if (a->range_count != b->range_count || a->zone_count != b->zone_count ||
        a->ioeventfd_count != b->ioeventfd_count)
        return false;
    for (unsigned i = 0; i < a->range_count; i++)
        if (!oracle_range_equal(&a->ranges[i], &b->ranges[i]) ||
            a->ranges[i].first.log != b->ranges[i].first.log)
            return false;
    for (unsigned i = 0; i < a->zone_count; i++)
        if (!zone_equal(&a->zones[i], &b->zones[i]))
            return false;
    for (unsigned i = 0; i < a->ioeventfd_count; i++)
        if (!oracle_ioeventfd_equal(&a->ioeventfds[i], &b->ioeventfds[i]))
            return false;
    return true;
}
