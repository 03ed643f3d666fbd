/* What the driver says: as it goes on, and when something is wrong. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "memory/mtree.h"
#include "tests/support/failing_malloc.h"
#include "tests/support/memory_driver.h"
#include "tests/support/memory_driver_internal.h"

void narrate(const struct driver *driver, const char *format, ...)
{
    if (!(driver->flags & MEMORY_DRIVER_NARRATE))
        return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

struct size_text size_text(memory_size size)
{
    struct size_text text = {"2^64"};
    if (size < MEMORY_SIZE_MAX)
        snprintf(text.text, sizeof(text.text), "0x%llx", (unsigned long long)size);
    return text;
}

static const char *stage_name(uint64_t stage)
{
    static const char *const names[] = {
        [PREPARE] = "prepare",
        [ZONE_DEL] = "coalesced_del",
        [ZONE_ADD] = "coalesced_add",
        [RANGE_DEL] = "range_del",
        [RANGE_ADD] = "range_add",
        [RANGE_NOP] = "range_nop",
        [LOG_START] = "log_start",
        [LOG_STOP] = "log_stop",
        [IOEVENTFD_DEL] = "ioeventfd_del",
        [IOEVENTFD_ADD] = "ioeventfd_add",
        [APPLY] = "apply",
        [REVERT] = "revert",
        [COMMIT] = "commit",
        [ABORT] = "abort",
    };
    return names[stage];
}

static memory_size wide(const uint64_t item[2])
{
    return item[0] | (memory_size)item[1] << 64;
}

static void print_attributes(uint64_t attributes)
{
    fprintf(stderr, "%s%s%s", attributes & 1 ? ", read-only" : "", attributes & 2 ? ", unmergeable" : "",
            attributes & 4 ? ", ROMD mode" : "");
    if (attributes >> 8)
        fprintf(stderr, ", logged by 0x%llx", (unsigned long long)(attributes >> 8));
}

static void print_item(const struct driver *driver, const struct entry *entry)
{
    const uint64_t *item = entry->item;
    switch (entry->stage) {
    case RANGE_DEL:
    case RANGE_ADD:
    case RANGE_NOP:
    case LOG_START:
    case LOG_STOP:
        fprintf(stderr, " 0x%llx, size %s: %s from 0x%llx", (unsigned long long)item[2],
                size_text(wide(&item[3])).text, driver->names[item[0]], (unsigned long long)item[1]);
        print_attributes(item[5]);
        if (entry->stage == LOG_START || entry->stage == LOG_STOP)
            fprintf(stderr, " (before: 0x%llx)", (unsigned long long)item[6]);
        break;
    case ZONE_DEL:
    case ZONE_ADD:
        fprintf(stderr, " 0x%llx, size %s", (unsigned long long)item[0], size_text(wide(&item[1])).text);
        break;
    case IOEVENTFD_DEL:
    case IOEVENTFD_ADD:
        fprintf(stderr, " 0x%llx, length %llu, match %llu, value %llu, fd %llu", (unsigned long long)item[0],
                (unsigned long long)item[1], (unsigned long long)item[2], (unsigned long long)item[3],
                (unsigned long long)item[4]);
        break;
    }
}

void print_log(const struct driver *driver, const char *title, const struct log *log)
{
    fprintf(stderr, "%s\n", title);
    for (unsigned i = 0; i < log->count; i++) {
        const struct entry *entry = &log->entries[i];
        fprintf(stderr, "  space %llu, listener %llu: %s", (unsigned long long)entry->side,
                (unsigned long long)entry->recorder, stage_name(entry->stage));
        print_item(driver, entry);
        fputc('\n', stderr);
    }
}

static void print_wanted(const struct driver *driver)
{
    for (int i = 0; i < SIDES; i++) {
        fprintf(stderr, "what space %d should show after the last good commit:\n", i);
        const struct oracle_view *view = &driver->sides[i].shown;
        for (unsigned j = 0; j < view->range_count; j++) {
            const struct oracle_range *range = &view->ranges[j];
            const struct oracle_answer *first = &range->first;
            fprintf(stderr, "  0x%llx, size %s: %s from 0x%llx", (unsigned long long)range->start,
                    size_text(range->size).text, driver->names[first->node],
                    (unsigned long long)first->offset);
            print_attributes(first->readonly | first->unmergeable << 1 | first->romd << 2 |
                             (uint64_t)first->log << 8);
            fputc('\n', stderr);
        }
    }
}

void driver_fail(struct driver *driver, const char *file, int line, const char *what)
{
    failing_malloc_arm(0);
    fprintf(stderr, "%s:%d: not true: %s\n(the last error: %s; KVM: %s)\n", file, line, what,
            driver->err.message, driver->kvm.rule);
    if (driver->flags & MEMORY_DRIVER_NARRATE) {
        mtree_print(driver->memory, stderr);
        print_wanted(driver);
        print_log(driver, "calls heard:", &driver->log);
        print_log(driver, "calls expected:", &driver->expected);
    }
    abort();
}
