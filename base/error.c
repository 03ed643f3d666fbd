#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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
        int length = vsnprintf(err->message, sizeof(err->message), format, args);
        va_end(args);
        if (length >= 0 && (size_t)length < sizeof(err->message))
            snprintf(err->message + length, sizeof(err->message) - (size_t)length, ": %s",
                     strerrordesc_np(code));
    }
    return -code;
}

int error_prefix(struct error *err, int result, const char *format, ...)
{
    if (err) {
        struct error inner = *err;
        va_list args;
        va_start(args, format);
        int length = vsnprintf(err->message, sizeof(err->message), format, args);
        va_end(args);
        if (length >= 0 && (size_t)length < sizeof(err->message))
            snprintf(err->message + length, sizeof(err->message) - (size_t)length, ": %s", inner.message);
    }
    return result;
}
