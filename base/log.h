/*
 * Messages to the person who runs godwit, on standard error: one line each, with a level. A log is a value
 * that its owner hands down; there is no default one. Each message leaves in one write, so lines of several
 * threads do not mix.
 */
#pragma once

#include <stdbool.h>

enum log_level {
    LOG_ERROR,
    LOG_WARN,
    LOG_INFO,
    LOG_DEBUG,
};

/* Immutable once set up, so any number of threads may share one. */
struct log {
    int fd;               /* where lines go; not owned */
    enum log_level level; /* messages above this level are dropped */
    const char *name;     /* put before each message ("godwit", or "godwit NAME"); not owned */
    bool raw_terminal;    /* fd is a terminal in raw mode: lines must end in CR LF */
};

/*
 * Writes "NAME: LEVEL: message" and a line end. `log` may be NULL: then nothing is written. Any thread;
 * blocks only as write(2) on the log's descriptor does; errno is kept.
 */
void log_write(const struct log *log, enum log_level level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* The same log, which lets messages up to `level` pass at least. */
struct log log_with_level(const struct log *log, enum log_level level);

/* The level called `name` ("error", "warn", "info", "debug") in `*level`, or -EINVAL. */
int log_level_parse(const char *name, enum log_level *level);
