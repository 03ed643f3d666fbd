#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/macros.h"

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_write(const struct log *log, enum log_level level, const char *format, ...)
{
    if (!log || level > log->level)
        return;
    int saved_errno = errno;
    char line[2048];
    const size_t room = sizeof(line) - 2; /* for the line end */
    size_t length = (size_t)snprintf(line, room, "%s: %s: ", log->name, level_names[level]);
    if (length >= room)
        length = room - 1;
    va_list args;
    va_start(args, format);
    length += (size_t)vsnprintf(line + length, room - length, format, args);
    va_end(args);
    if (length >= room)
        length = room - 1;
    if (log->raw_terminal)
        line[length++] = '\r';
    line[length++] = '\n';
    /* A log that cannot be written has nowhere to report that. */
    ssize_t written = write(log->fd, line, length);
    (void)written;
    errno = saved_errno;
}

struct log log_with_level(const struct log *log, enum log_level level)
{
    struct log other = *log;
    if (other.level < level)
        other.level = level;
    return other;
}

int log_level_parse(const char *name, enum log_level *level)
{
    for (size_t i = 0; i < ARRAY_SIZE(level_names); i++) {
        if (strcmp(name, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    }
    return -EINVAL;
}
