#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* Puts `text` behind what is there, cut to fit. */
static void append(struct error *err, const char *text)
{
    size_t used = strlen(err->message);
    size_t room = sizeof(err->message) - 1 - used;
    size_t length = strnlen(text, room);
    memcpy(err->message + used, text, length);
    err->message[used + length] = 0;
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
        append(err, ": ");
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
        append(err, ": ");
        append(err, inner.message);
    }
    return result;
}
