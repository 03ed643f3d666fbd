/*
 * A listener that writes down what it hears, as text, and can be told to fail.
 */
#pragma once

#include <stdarg.h>

#include "memory/listener.h"
#include "tests/unit/memory/fixture.h"

/* What several recorders heard, in order: "NAME:CALL ITEM; " for each call. */
struct record {
    char text[TEXT_SIZE];
    size_t length;
};

struct recorder {
    struct memory_listener listener;
    struct record *record;
    const char *fail; /* the call that fails, as it is written down without the name; NULL: none */
};

static inline struct recorder *to_recorder(struct memory_listener *listener)
{
    return container_of(listener, struct recorder, listener);
}

static inline __attribute__((format(printf, 3, 4))) int heard(struct memory_listener *listener,
                                                              struct error *err, const char *format, ...)
{
    struct recorder *self = to_recorder(listener);
    struct record *record = self->record;
    char call[256];
    va_list args;
    va_start(args, format);
    vsnprintf(call, sizeof(call), format, args);
    va_end(args);
    record->length += (size_t)snprintf(record->text + record->length, TEXT_SIZE - record->length, "%s:%s; ",
                                       listener->name, call);
    cr_assert_lt(record->length, TEXT_SIZE);
    if (self->fail && strcmp(self->fail, call) == 0)
        return error_set(err, EIO, "%s does not want %s", listener->name, call);
    return 0;
}

static inline int hear_prepare(struct memory_listener *listener, const struct memory_change *change,
                               struct error *err)
{
    return heard(listener, err, "prepare");
}

static inline int hear_coalesced_del(struct memory_listener *listener, const struct memory_change *change,
                                     const struct flat_zone *zone, struct error *err)
{
    return heard(listener, err, "-zone %llx+%llx", (unsigned long long)zone->address,
                 (unsigned long long)zone->size);
}

static inline int hear_coalesced_add(struct memory_listener *listener, const struct memory_change *change,
                                     const struct flat_zone *zone, struct error *err)
{
    return heard(listener, err, "+zone %llx+%llx", (unsigned long long)zone->address,
                 (unsigned long long)zone->size);
}

static inline int hear_range_del(struct memory_listener *listener, const struct memory_change *change,
                                 const struct flat_range *range, struct error *err)
{
    return heard(listener, err, "-%llx %s", (unsigned long long)range->start, range->region->name);
}

static inline int hear_range_add(struct memory_listener *listener, const struct memory_change *change,
                                 const struct flat_range *range, struct error *err)
{
    return heard(listener, err, "+%llx %s", (unsigned long long)range->start, range->region->name);
}

static inline void hear_range_nop(struct memory_listener *listener, const struct memory_change *change,
                                  const struct flat_range *range)
{
    heard(listener, NULL, "=%llx %s", (unsigned long long)range->start, range->region->name);
}

static inline int hear_log_start(struct memory_listener *listener, const struct memory_change *change,
                                 const struct flat_range *range, unsigned old, struct error *err)
{
    return heard(listener, err, "log %llx %s %x>%x", (unsigned long long)range->start, range->region->name,
                 old, range->log);
}

static inline int hear_log_stop(struct memory_listener *listener, const struct memory_change *change,
                                const struct flat_range *range, unsigned old, struct error *err)
{
    return heard(listener, err, "unlog %llx %s %x>%x", (unsigned long long)range->start, range->region->name,
                 old, range->log);
}

static inline int hear_ioeventfd_del(struct memory_listener *listener, const struct memory_change *change,
                                     const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return heard(listener, err, "-fd%d %llx", ioeventfd->fd, (unsigned long long)ioeventfd->address);
}

static inline int hear_ioeventfd_add(struct memory_listener *listener, const struct memory_change *change,
                                     const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return heard(listener, err, "+fd%d %llx", ioeventfd->fd, (unsigned long long)ioeventfd->address);
}

static inline int hear_apply(struct memory_listener *listener, const struct memory_change *change,
                             struct error *err)
{
    return heard(listener, err, "apply");
}

static inline int hear_revert(struct memory_listener *listener, const struct memory_change *change,
                              struct error *err)
{
    return heard(listener, err, "revert");
}

static inline void hear_commit(struct memory_listener *listener, const struct memory_change *change)
{
    heard(listener, NULL, "commit");
}

static inline void hear_abort(struct memory_listener *listener, const struct memory_change *change)
{
    heard(listener, NULL, "abort");
}

static const struct memory_listener_ops recorder_ops = {
    .prepare = hear_prepare,
    .coalesced_del = hear_coalesced_del,
    .range_del = hear_range_del,
    .range_add = hear_range_add,
    .coalesced_add = hear_coalesced_add,
    .ioeventfd_del = hear_ioeventfd_del,
    .ioeventfd_add = hear_ioeventfd_add,
    .apply = hear_apply,
    .revert = hear_revert,
    .commit = hear_commit,
    .abort = hear_abort,
};

/* For the tests of who logs: also of what stays. */
static const struct memory_listener_ops log_recorder_ops = {
    .prepare = hear_prepare,
    .range_del = hear_range_del,
    .range_nop = hear_range_nop,
    .log_start = hear_log_start,
    .log_stop = hear_log_stop,
    .range_add = hear_range_add,
    .apply = hear_apply,
    .revert = hear_revert,
    .commit = hear_commit,
    .abort = hear_abort,
};

static inline void listen_by(const struct memory_listener_ops *ops, struct address_space *space,
                             struct recorder *recorder, const char *name, int priority, struct record *record)
{
    *recorder = (struct recorder){
        .listener = {.name = name, .priority = priority, .ops = ops},
        .record = record,
    };
    cr_assert_eq(memory_listener_register(&recorder->listener, space, NULL), 0);
}

static inline void listen_to(struct address_space *space, struct recorder *recorder, const char *name,
                             int priority, struct record *record)
{
    listen_by(&recorder_ops, space, recorder, name, priority, record);
}

static inline void listen_to_logs(struct address_space *space, struct recorder *recorder, const char *name,
                                  int priority, struct record *record)
{
    listen_by(&log_recorder_ops, space, recorder, name, priority, record);
}

static inline void forget(struct record *record)
{
    record->text[0] = 0;
    record->length = 0;
}

#define assert_heard(record, wanted)                                                                         \
    do {                                                                                                     \
        cr_assert_str_eq((record)->text, (wanted));                                                          \
        forget(record);                                                                                      \
    } while (0)
