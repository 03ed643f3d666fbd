#include "memory/trace.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/macros.h"
#include "memory/describe.h"
#include "memory/internal.h"
#include "memory/listener.h"

#define WINDOWS_SHOWN 4

enum direction {
    RISING,
    FALLING,
};

struct tracer {
    struct memory_listener listener;
    enum direction writes; /* the calls that come here before all other listeners */
    struct memory_trace *trace;
};

struct memory_trace {
    const struct log *log; /* NULL: writes nothing any more */
    struct tracer rising, falling;
    const struct flat_view *new_view; /* of the change under way */
};

/*
 * Writes about a call that goes in `direction` if it is not taken back. What is taken back is what came here
 * as the opposite call.
 */
static void write_call(struct memory_listener *listener, const struct memory_change *change,
                       enum direction direction, const char *call, const char *what)
{
    struct tracer *self = container_of(listener, struct tracer, listener);
    bool undo = change->old_view == self->trace->new_view;
    if ((direction == self->writes) != undo)
        log_write(self->trace->log, LOG_INFO, "%s: %s%s%s%s", change->space->name, undo ? "undo " : "", call,
                  *what ? " " : "", what);
}

static void write_range(struct memory_listener *listener, const struct memory_change *change,
                        enum direction direction, const char *call, const struct flat_range *range)
{
    char text[DESCRIPTION_SIZE];
    describe_range(text, sizeof(text), range);
    write_call(listener, change, direction, call, text);
}

static void write_log(struct memory_listener *listener, const struct memory_change *change,
                      enum direction direction, const char *call, const struct flat_range *range,
                      unsigned old)
{
    char text[DESCRIPTION_SIZE];
    int length = snprintf(text, sizeof(text), "from 0x%x to 0x%x: ", old, range->log);
    describe_range(text + length, sizeof(text) - (size_t)length, range);
    write_call(listener, change, direction, call, text);
}

static void write_zone(struct memory_listener *listener, const struct memory_change *change,
                       enum direction direction, const char *call, const struct flat_zone *zone)
{
    char extent[40], text[DESCRIPTION_SIZE];
    describe_extent(extent, sizeof(extent), zone->address, zone->size);
    snprintf(text, sizeof(text), "%s: %s", extent, zone->region->name);
    write_call(listener, change, direction, call, text);
}

static void write_ioeventfd(struct memory_listener *listener, const struct memory_change *change,
                            enum direction direction, const char *call,
                            const struct flat_ioeventfd *ioeventfd)
{
    char what[DESCRIPTION_SIZE / 2], text[DESCRIPTION_SIZE];
    describe_ioeventfd(what, sizeof(what), ioeventfd);
    snprintf(text, sizeof(text), "%s: %s", what, ioeventfd->region->name);
    write_call(listener, change, direction, call, text);
}

static int prepare(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct tracer *self = container_of(listener, struct tracer, listener);
    self->trace->new_view = change->new_view;
    char text[DESCRIPTION_SIZE] = "";
    size_t length = 0, shown = smaller(change->window_count, WINDOWS_SHOWN);
    for (size_t i = 0; i < shown; i++) {
        const struct memory_window *window = &change->windows[i];
        length += (size_t)snprintf(text + length, sizeof(text) - length, "%s", i ? ", " : "");
        describe_extent(text + length, sizeof(text) - length, window->start, window->end - window->start);
        length += strlen(text + length);
    }
    if (shown < change->window_count)
        snprintf(text + length, sizeof(text) - length, " and %zu more", change->window_count - shown);
    write_call(listener, change, RISING, "prepare", text);
    return 0;
}

static int coalesced_del(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err)
{
    write_zone(listener, change, FALLING, "coalesced_del", zone);
    return 0;
}

static int range_del(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, struct error *err)
{
    write_range(listener, change, FALLING, "range_del", range);
    return 0;
}

static void range_nop(struct memory_listener *listener, const struct memory_change *change,
                      const struct flat_range *range)
{
    write_range(listener, change, RISING, "range_nop", range);
}

static int log_start(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, unsigned old, struct error *err)
{
    write_log(listener, change, RISING, "log_start", range, old);
    return 0;
}

static int log_stop(struct memory_listener *listener, const struct memory_change *change,
                    const struct flat_range *range, unsigned old, struct error *err)
{
    write_log(listener, change, FALLING, "log_stop", range, old);
    return 0;
}

static int range_add(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, struct error *err)
{
    write_range(listener, change, RISING, "range_add", range);
    return 0;
}

static int coalesced_add(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err)
{
    write_zone(listener, change, RISING, "coalesced_add", zone);
    return 0;
}

static int ioeventfd_del(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    write_ioeventfd(listener, change, FALLING, "ioeventfd_del", ioeventfd);
    return 0;
}

static int ioeventfd_add(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    write_ioeventfd(listener, change, RISING, "ioeventfd_add", ioeventfd);
    return 0;
}

static int apply(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    write_call(listener, change, RISING, "apply", "");
    return 0;
}

/* Only ever taken back, by whom it comes from: what was applied by rising priority. */
static int revert(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    write_call(listener, change, FALLING, "revert", "");
    return 0;
}

static void commit(struct memory_listener *listener, const struct memory_change *change)
{
    write_call(listener, change, RISING, "commit", "");
}

/* Goes to who had prepared, with the change as it was. */
static void abort_change(struct memory_listener *listener, const struct memory_change *change)
{
    write_call(listener, change, RISING, "abort", "");
}

static const struct memory_listener_ops tracer_ops = {
    .prepare = prepare,
    .coalesced_del = coalesced_del,
    .range_del = range_del,
    .range_nop = range_nop,
    .log_start = log_start,
    .log_stop = log_stop,
    .range_add = range_add,
    .coalesced_add = coalesced_add,
    .ioeventfd_del = ioeventfd_del,
    .ioeventfd_add = ioeventfd_add,
    .apply = apply,
    .revert = revert,
    .commit = commit,
    .abort = abort_change,
};

static int start(struct memory_trace *trace, struct tracer *tracer, enum direction writes,
                 struct address_space *space, struct error *err)
{
    *tracer = (struct tracer){
        .listener = {.name = "trace", .priority = writes == RISING ? INT_MIN : INT_MAX, .ops = &tracer_ops},
        .writes = writes,
        .trace = trace,
    };
    return memory_listener_register(&tracer->listener, space, err);
}

int memory_trace_create(struct address_space *space, const struct log *log, struct memory_trace **out,
                        struct error *err)
{
    struct memory_trace *trace = calloc(1, sizeof(*trace));
    if (!trace)
        return error_set(err, ENOMEM, "address space %s: not enough memory for a trace", space->name);
    trace->log = log;
    int result = start(trace, &trace->falling, FALLING, space, err);
    if (!result)
        result = start(trace, &trace->rising, RISING, space, err);
    if (result)
        memory_trace_destroy(trace);
    else
        *out = trace;
    return result;
}

void memory_trace_destroy(struct memory_trace *trace)
{
    if (!trace)
        return;
    trace->log = NULL;
    memory_listener_unregister(&trace->rising.listener);
    memory_listener_unregister(&trace->falling.listener);
    free(trace);
}
