/*
 * Errors that a person reads.
 *
 * A function that can fail returns 0 or -errno. Where somebody will want to know more than the number it also
 * takes a `struct error *` and fills it with one line that names the thing, the cause and the remedy. The
 * number is for the program, the line is for the person; nothing is printed on the way up.
 */
#pragma once

#define ERROR_MESSAGE_SIZE 1024

struct error {
    char message[ERROR_MESSAGE_SIZE];
};

/*
 * Writes the message, cut to fit, into `err` (which may be NULL: then nobody wants it) and returns -`code`,
 * so that a failing function can end in `return error_set(err, EINVAL, "…")`. `code` is a positive errno. Any
 * thread.
 */
int error_set(struct error *err, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/*
 * As error_set(), with ": " and the system's text for `code` behind the message: for failed system calls.
 * Call it before anything changes errno, as in `return error_set_errno(err, errno, "cannot open %s", path)`.
 */
int error_set_errno(struct error *err, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/*
 * Puts "PREFIX: " before the message that is already in `err`: how a caller says what it was doing. Returns
 * `result` unchanged.
 */
int error_prefix(struct error *err, int result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
