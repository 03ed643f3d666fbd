/*
 * The terminal that godwit was started from: raw mode while the guest has it, escape keys, and its old
 * settings on every way out.
 *
 * The settings are restored by terminal_destroy(), or else, however godwit ended (a crash, SIGKILL), by a
 * guardian: a small child process that does nothing but wait for that, and goes with godwit. Keys reach the
 * guest through terminal_filter(), which acts on those behind Ctrl-A.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct error;
struct terminal;

enum terminal_command {
    TERMINAL_QUIT,         /* Ctrl-A x */
    TERMINAL_POWER_BUTTON, /* Ctrl-A p */
};

struct terminal_config {
    int fd; /* the terminal, usually 0; borrowed */
    /* A command was typed. Called from terminal_filter(). */
    void (*command)(void *opaque, enum terminal_command command);
    void *opaque;
};

/*
 * Puts the terminal into raw mode. *out is NULL, which all functions below take, where `fd` is not a
 * terminal: then nothing is changed and no key is special. Forks the guardian: before godwit has a second
 * thread. -errno with a message; the terminal is as it was then.
 */
int terminal_create(const struct terminal_config *config, struct terminal **out, struct error *err);

/*
 * A chardev_filter (devices/chardev.h; `opaque` is the terminal): takes the escape keys out of `count` typed
 * bytes, acts on them, and returns how many bytes are left for the guest. One thread at a time.
 */
size_t terminal_filter(void *opaque, uint8_t *data, size_t count);

/* Restores the terminal and ends the guardian. NULL is allowed. */
void terminal_destroy(struct terminal *terminal);
