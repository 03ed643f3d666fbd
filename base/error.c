#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Puts ": " and `text` behind what is there, cut to fit. */
static void append(struct error *err, const char *text)
{
    strncat(err->message, ": ", sizeof(err->message) - 1 - strlen(err->message));
    strncat(err->message, text, sizeof(err->message) - 1 - strlen(err->message));
}

int error_set(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->message, sizeof(err->message), format, args);
        va_end(args);
    }
    return -code;
}

int error_set_errno(struct error *err, int code, const char *format, ...)
{
    if (err) {
        va_list args;
        va_start(args, format);
        vsnprintf(err->message, sizeof(err->message), format, args);
        va_end(args);
        append(err, strerrordesc_np(code));
    }
    return -code;
}

int error_prefix(struct error *err, int result, const char *format, ...)
{
    if (err) {
        struct error inner = *err;
        va_list args;
        va_start(args, format);
        vsnprintf(err->message, sizeof(err->message), format, args);
        va_end(args);
        append(err, inner.message);
    }
    return result;
}
