#include "memory/listener.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/internal.h"
#include "memory/memory.h"

/* The calls that can be taken back, in pairs: the one that takes back CALL is CALL ^ 1. */
enum call {
    COALESCED_DEL,
    COALESCED_ADD,
    RANGE_DEL,
    RANGE_ADD,
    LOG_START,
    LOG_STOP,
    IOEVENTFD_DEL,
    IOEVENTFD_ADD,
    APPLY,
    REVERT,
    RANGE_NOP, /* which nothing has to take back */
};

/* The same range in the new and in the old view. */
struct same_range {
    const struct flat_range *range, *old;
};

union item {
    const struct flat_range *range;
    struct same_range same;
    struct flat_zone zone;
    struct flat_ioeventfd ioeventfd;
};

struct listener_call {
    struct memory_listener *listener;
    enum call call;
    union item item;
    const struct memory_change *change;
};

static int invoke_log(const struct listener_call *call, struct error *err)
{
    const struct memory_listener_ops *ops = call->listener->ops;
    int (*log)(struct memory_listener *, const struct memory_change *, const struct flat_range *, unsigned,
               struct error *) = call->call == LOG_START ? ops->log_start : ops->log_stop;
    const struct same_range *same = &call->item.same;
    return log ? log(call->listener, call->change, same->range, same->old->log, err) : 0;
}

static int invoke(const struct listener_call *call, struct error *err)
{
    struct memory_listener *listener = call->listener;
    const struct memory_listener_ops *ops = listener->ops;
    const struct memory_change *change = call->change;
    const union item *item = &call->item;
    switch (call->call) {
    case COALESCED_DEL:
        return ops->coalesced_del ? ops->coalesced_del(listener, change, &item->zone, err) : 0;
    case COALESCED_ADD:
        return ops->coalesced_add ? ops->coalesced_add(listener, change, &item->zone, err) : 0;
    case RANGE_DEL:
        return ops->range_del ? ops->range_del(listener, change, item->range, err) : 0;
    case RANGE_ADD:
        return ops->range_add ? ops->range_add(listener, change, item->range, err) : 0;
    case RANGE_NOP:
        if (ops->range_nop)
            ops->range_nop(listener, change, item->same.range);
        return 0;
    case LOG_START:
    case LOG_STOP:
        return invoke_log(call, err);
    case IOEVENTFD_DEL:
        return ops->ioeventfd_del ? ops->ioeventfd_del(listener, change, &item->ioeventfd, err) : 0;
    case IOEVENTFD_ADD:
        return ops->ioeventfd_add ? ops->ioeventfd_add(listener, change, &item->ioeventfd, err) : 0;
    case APPLY:
        return ops->apply ? ops->apply(listener, change, err) : 0;
    case REVERT:
        return ops->revert ? ops->revert(listener, change, err) : 0;
    }
    return 0;
}

/* A change that is being played to some listeners. */
struct play {
    const struct memory_change *change;
    struct memory_listener *listeners;
    bool final; /* nothing will be taken back: failures count for nothing */
    struct error *err;
};

/* Calls one listener and notes that it can be taken back. */
static int call_listener(const struct play *play, struct memory_listener *listener, enum call call,
                         const union item *item)
{
    const struct memory_change *change = play->change;
    struct listener_call made = {listener, call, *item, change};
    if (play->final || call == RANGE_NOP) {
        invoke(&made, NULL);
        return 0;
    }
    struct memory *memory = change->space->memory;
    if (!memory_reserve(&memory->calls, &memory->call_capacity, memory->call_count + 1, sizeof(made)))
        return error_set(play->err, ENOMEM, "address space %s: not enough memory for a commit",
                         change->space->name);
    int result = invoke(&made, play->err);
    if (!result)
        memory->calls[memory->call_count++] = made;
    return result;
}

/* One kind of thing that a view has and that listeners hear of. */
struct item_kind {
    unsigned bit; /* in memory_change.unchanged */
    enum call del, add;
    bool (*next)(struct flat_cursor *, union item *);
    int (*compare)(const union item *, const union item *); /* 0: the same */
};

static bool next_range(struct flat_cursor *cursor, union item *item)
{
    return flat_cursor_next_range(cursor, &item->range);
}

static int compare_ranges(const union item *a, const union item *b)
{
    if (a->range->start != b->range->start)
        return a->range->start < b->range->start ? -1 : 1;
    return flat_range_equal(a->range, b->range) ? 0 : -1;
}

static bool next_zone(struct flat_cursor *cursor, union item *item)
{
    return flat_cursor_next_zone(cursor, &item->zone);
}

static int compare_zones(const union item *a, const union item *b)
{
    if (a->zone.address != b->zone.address)
        return a->zone.address < b->zone.address ? -1 : 1;
    return a->zone.size < b->zone.size ? -1 : a->zone.size > b->zone.size;
}

static bool next_ioeventfd(struct flat_cursor *cursor, union item *item)
{
    return flat_cursor_next_ioeventfd(cursor, &item->ioeventfd);
}

static int compare_ioeventfds(const union item *left, const union item *right)
{
    const struct flat_ioeventfd *a = &left->ioeventfd, *b = &right->ioeventfd;
    if (a->address != b->address)
        return a->address < b->address ? -1 : 1;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    if (a->match != b->match)
        return a->match < b->match ? -1 : 1;
    if (a->data != b->data)
        return a->data < b->data ? -1 : 1;
    return a->fd < b->fd ? -1 : a->fd > b->fd;
}

static const struct item_kind ranges = {1, RANGE_DEL, RANGE_ADD, next_range, compare_ranges};
static const struct item_kind zones = {2, COALESCED_DEL, COALESCED_ADD, next_zone, compare_zones};
static const struct item_kind ioeventfds = {4, IOEVENTFD_DEL, IOEVENTFD_ADD, next_ioeventfd,
                                            compare_ioeventfds};

/* A walk through what two views have of one kind: at each step the lesser of both, or the same of both. */
struct difference {
    const struct item_kind *kind;
    struct flat_cursor old_cursor, new_cursor;
    union item old, new;
    bool has_old, has_new;
};

static struct difference difference_begin(const struct item_kind *kind, const struct memory_change *change)
{
    const struct flat_cursor cursor = {.windows = change->windows, .window_count = change->window_count};
    struct difference difference = {.kind = kind, .old_cursor = cursor, .new_cursor = cursor};
    difference.old_cursor.view = change->old_view;
    difference.old_cursor.range = change->old_first;
    difference.new_cursor.view = change->new_view;
    difference.new_cursor.range = change->new_first;
    difference.has_old = kind->next(&difference.old_cursor, &difference.old);
    difference.has_new = kind->next(&difference.new_cursor, &difference.new);
    return difference;
}

/* An item of the old view, one of the new view, or the same of both. */
struct difference_step {
    bool in_old, in_new;
    union item old, new;
};

static bool difference_next(struct difference *difference, struct difference_step *step)
{
    const struct item_kind *kind = difference->kind;
    if (!difference->has_old && !difference->has_new)
        return false;
    int order = !difference->has_new   ? -1
                : !difference->has_old ? 1
                                       : kind->compare(&difference->old, &difference->new);
    *step = (struct difference_step){order <= 0, order >= 0, difference->old, difference->new};
    if (step->in_old)
        difference->has_old = kind->next(&difference->old_cursor, &difference->old);
    if (step->in_new)
        difference->has_new = kind->next(&difference->new_cursor, &difference->new);
    return true;
}

void memory_change_begin(struct memory_change *change, struct address_space *space,
                         const struct flat_view *old_view, const struct flat_view *new_view,
                         const struct memory_window *windows, size_t count)
{
    *change = (struct memory_change){
        .space = space,
        .old_view = old_view,
        .new_view = new_view,
        .windows = windows,
        .window_count = count,
        .old_first = flat_view_from(old_view, windows->start),
        .new_first = flat_view_from(new_view, windows->start),
    };
}

/* Whether anything of a kind differs. Notes if it does not. */
static bool differs(const struct item_kind *kind, struct memory_change *change)
{
    struct difference difference = difference_begin(kind, change);
    for (struct difference_step step; difference_next(&difference, &step);)
        if (!step.in_old || !step.in_new || (kind == &ranges && step.old.range->log != step.new.range->log))
            return true;
    change->unchanged |= kind->bit;
    return false;
}

bool memory_change_visible(struct memory_change *change)
{
    return differs(&ranges, change) || differs(&zones, change) || differs(&ioeventfds, change);
}

/* Calls listeners in rising order, from `listener` to the last one. */
static int call_rising(const struct play *play, struct memory_listener *listener, enum call call,
                       const union item *item)
{
    int result = 0;
    for (; listener && !result; listener = listener->next)
        result = call_listener(play, listener, call, item);
    return result;
}

/* Calls listeners in falling order, from the last one to `listener`. */
static int call_falling(const struct play *play, struct memory_listener *listener, enum call call,
                        const union item *item)
{
    if (!listener)
        return 0;
    int result = call_falling(play, listener->next, call, item);
    return result ? result : call_listener(play, listener, call, item);
}

/* Whether any listener hears of a kind. */
static bool heard(const struct play *play, const struct item_kind *kind)
{
    bool any = false;
    for (const struct memory_listener *listener = play->listeners; listener; listener = listener->next) {
        const struct memory_listener_ops *ops = listener->ops;
        if (kind == &ranges)
            any |= ops->range_del || ops->range_add;
        else if (kind == &zones)
            any |= ops->coalesced_del || ops->coalesced_add;
        else
            any |= ops->ioeventfd_del || ops->ioeventfd_add;
    }
    return any;
}

/* Whether any listener hears of ranges that stay. */
static bool same_heard(const struct play *play)
{
    bool any = false;
    for (const struct memory_listener *listener = play->listeners; listener; listener = listener->next)
        any |= listener->ops->range_nop || listener->ops->log_start || listener->ops->log_stop;
    return any;
}

/* Makes the `wanted` calls, deletions or additions, for what differs in one kind. */
static int play_kind(const struct play *play, const struct item_kind *kind, enum call wanted)
{
    if ((play->change->unchanged & kind->bit) || !heard(play, kind))
        return 0;
    struct difference difference = difference_begin(kind, play->change);
    int result = 0;
    for (struct difference_step step; !result && difference_next(&difference, &step);) {
        if (step.in_old && step.in_new)
            continue;
        if (wanted == kind->del && step.in_old)
            result = call_falling(play, play->listeners, wanted, &step.old);
        else if (wanted == kind->add && step.in_new)
            result = call_rising(play, play->listeners, wanted, &step.new);
    }
    return result;
}

static int play_same_range(const struct play *play, const struct same_range *same)
{
    const union item item = {.same = *same};
    unsigned old = same->old->log, new = same->range->log;
    call_rising(play, play->listeners, RANGE_NOP, &item);
    if (new & ~old)
        return call_rising(play, play->listeners, LOG_START, &item);
    return old & ~new ? call_falling(play, play->listeners, LOG_STOP, &item) : 0;
}

/* Tells of the ranges that both views have. */
static int play_same(const struct play *play)
{
    if (!same_heard(play))
        return 0;
    struct difference difference = difference_begin(&ranges, play->change);
    int result = 0;
    for (struct difference_step step; !result && difference_next(&difference, &step);)
        if (step.in_old && step.in_new)
            result = play_same_range(play, &(struct same_range){step.new.range, step.old.range});
    return result;
}

static int play_all(const struct play *play)
{
    int result = play_kind(play, &zones, COALESCED_DEL);
    if (!result)
        result = play_kind(play, &ranges, RANGE_DEL);
    if (!result)
        result = play_same(play);
    if (!result)
        result = play_kind(play, &ranges, RANGE_ADD);
    if (!result)
        result = play_kind(play, &zones, COALESCED_ADD);
    if (!result)
        result = play_kind(play, &ioeventfds, IOEVENTFD_DEL);
    if (!result)
        result = play_kind(play, &ioeventfds, IOEVENTFD_ADD);
    if (!result)
        result = call_rising(play, play->listeners, APPLY, &(union item){0});
    return result;
}

static int prepare(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return listener->ops->prepare ? listener->ops->prepare(listener, change, err) : 0;
}

static void finish(struct memory_listener *listener, const struct memory_change *change)
{
    if (listener->ops->commit)
        listener->ops->commit(listener, change);
}

static void give_up(struct memory_listener *listener, const struct memory_change *change)
{
    if (listener->ops->abort)
        listener->ops->abort(listener, change);
}

int listeners_prepare(struct address_space *space, struct error *err)
{
    int result = 0;
    for (struct memory_listener *listener = space->listeners; listener && !result;
         listener = listener->next) {
        result = prepare(listener, &space->change, err);
        if (!result)
            space->prepared = listener;
    }
    return result;
}

int listeners_apply(struct address_space *space, struct error *err)
{
    struct play play = {.change = &space->change, .listeners = space->listeners, .err = err};
    return play_all(&play);
}

void listeners_commit(struct address_space *space)
{
    for (struct memory_listener *listener = space->listeners; listener; listener = listener->next)
        finish(listener, &space->change);
}

/* Takes one call back. Where that fails the listener is out of step, which is all that can be said. */
static void take_back(const struct listener_call *made, struct error *err)
{
    struct memory_change turned = *made->change;
    turned.old_view = made->change->new_view;
    turned.new_view = made->change->old_view;
    struct listener_call back = {made->listener, made->call ^ 1, made->item, &turned};
    if (made->call == LOG_START || made->call == LOG_STOP)
        back.item.same = (struct same_range){made->item.same.old, made->item.same.range};
    struct error why = {0};
    if (invoke(&back, &why))
        error_prefix(err, 0, "%s could not go back (%s) after", made->listener->name, why.message);
}

void listeners_undo(struct memory *memory, struct error *err)
{
    while (memory->call_count)
        take_back(&memory->calls[--memory->call_count], err);
}

static void abort_falling(struct memory_listener *listener, const struct memory_listener *last,
                          const struct memory_change *change)
{
    if (listener != last)
        abort_falling(listener->next, last, change);
    give_up(listener, change);
}

void listeners_abort(struct address_space *space)
{
    if (space->prepared)
        abort_falling(space->listeners, space->prepared, &space->change);
}

static void link_listener(struct memory_listener *listener)
{
    struct memory_listener **link = &listener->space->listeners;
    while (*link && (*link)->priority <= listener->priority)
        link = &(*link)->next;
    listener->next = *link;
    *link = listener;
}

static void unlink_listener(struct memory_listener *listener)
{
    struct memory_listener **link = &listener->space->listeners;
    while (*link != listener)
        link = &(*link)->next;
    *link = listener->next;
    listener->next = NULL;
}

static const struct memory_window everything = {0, MEMORY_SIZE_MAX};

static int replay(struct memory_listener *listener, struct error *err)
{
    struct address_space *space = listener->space;
    struct memory_change change;
    memory_change_begin(&change, space, &flat_view_empty, space->view, &everything, 1);
    int result = prepare(listener, &change, err);
    if (result)
        return result;
    result = play_all(&(struct play){.change = &change, .listeners = listener, .err = err});
    if (result) {
        listeners_undo(space->memory, err);
        give_up(listener, &change);
        return result;
    }
    space->memory->call_count = 0;
    finish(listener, &change);
    return 0;
}

int memory_listener_register(struct memory_listener *listener, struct address_space *space, struct error *err)
{
    struct memory *memory = space->memory;
    pthread_mutex_lock(&memory->lock);
    int result;
    if (memory->committing) {
        result = error_set(err, EBUSY, "listener %s cannot be registered by a listener", listener->name);
    } else {
        memory->committing = true;
        listener->space = space;
        listener->next = NULL;
        result = replay(listener, err);
        if (result)
            listener->space = NULL;
        else
            link_listener(listener);
        memory->committing = false;
    }
    pthread_mutex_unlock(&memory->lock);
    return result;
}

void memory_listener_unregister(struct memory_listener *listener)
{
    struct address_space *space = listener->space;
    if (!space)
        return;
    struct memory *memory = space->memory;
    pthread_mutex_lock(&memory->lock);
    assert(!memory->committing);
    memory->committing = true;
    unlink_listener(listener);
    struct memory_change change;
    memory_change_begin(&change, space, space->view, &flat_view_empty, &everything, 1);
    prepare(listener, &change, NULL);
    play_all(&(struct play){.change = &change, .listeners = listener, .final = true});
    finish(listener, &change);
    listener->space = NULL;
    memory->committing = false;
    pthread_mutex_unlock(&memory->lock);
}
