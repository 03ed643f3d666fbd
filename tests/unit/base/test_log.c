#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

/* What a log at level INFO writes for one message. */
static void written(enum log_level level, bool raw, const char *text, char *out, size_t size)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    struct log log = {.fd = ends[1], .level = LOG_INFO, .name = "godwit", .raw_terminal = raw};
    log_write(&log, level, "%s", text);
    close(ends[1]);
    ssize_t length = read(ends[0], out, size - 1);
    cr_assert_geq(length, 0);
    out[length] = 0;
    close(ends[0]);
}

Test(log, names_program_and_level)
{
    char line[64];
    written(LOG_WARN, false, "careful", line, sizeof(line));
    cr_assert_str_eq(line, "godwit: warn: careful\n");
}

Test(log, drops_what_is_above_its_level)
{
    char line[64];
    written(LOG_DEBUG, false, "detail", line, sizeof(line));
    cr_assert_str_eq(line, "");
}

Test(log, returns_the_carriage_of_a_raw_terminal)
{
    char line[64];
    written(LOG_INFO, true, "booting", line, sizeof(line));
    cr_assert_str_eq(line, "godwit: info: booting\r\n");
}

Test(log, cuts_long_lines_but_ends_them)
{
    char text[8192], line[8192];
    memset(text, 'y', sizeof(text) - 1);
    text[sizeof(text) - 1] = 0;
    written(LOG_ERROR, true, text, line, sizeof(line));
    size_t length = strlen(line);
    cr_assert_lt(length, 4096);
    cr_assert_str_eq(line + length - 3, "y\r\n");
}

Test(log, keeps_errno_and_survives_a_closed_descriptor)
{
    struct log log = {.fd = -1, .level = LOG_DEBUG, .name = "godwit"};
    errno = ENOSPC;
    log_write(&log, LOG_ERROR, "nobody listens");
    cr_assert_eq(errno, ENOSPC);
    log_write(NULL, LOG_ERROR, "nobody at all");
}

Test(log, parses_levels)
{
    enum log_level level = LOG_ERROR;
    cr_assert_eq(log_level_parse("debug", &level), 0);
    cr_assert_eq(level, LOG_DEBUG);
    cr_assert_eq(log_level_parse("Debug", &level), -EINVAL);
    cr_assert_eq(log_level_parse("", &level), -EINVAL);
}
