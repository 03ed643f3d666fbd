/*
 * The table of what can be configured, and the one way to set a value.
 *
 * The command line and the configuration file both bring a value as text, and config_option_set() checks and
 * stores it: the two forms cannot come to differ in what they accept.
 */
#pragma once

#include <stddef.h>

struct config;
struct error;

enum config_kind {
    CONFIG_FLAG, /* "true" or "false"; a JSON boolean; on the command line the name alone means true */
    CONFIG_TEXT, /* a JSON string */
    CONFIG_LIST, /* several texts: a JSON string or an array of strings; each adds to what was given before */
    CONFIG_NUMBER,  /* a JSON integer, or a string such as "512M" or "0xF4" */
    CONFIG_COMMAND, /* --config and --help: on the command line alone */
};

struct config_option {
    const char *name;     /* without the dashes; also the key */
    const char *argument; /* what help texts call the value; NULL: takes none */
    const char *preset;   /* the value without the option; NULL: nothing */
    const char *help;
    enum config_kind kind;
    int (*set)(struct config *config, const struct config_option *option, const char *text,
               const char *folder, struct error *err);
    size_t offset; /* of the member that `set` writes */
};

/* The table, in the order of help texts; ends with a row without a name. */
extern const struct config_option config_options[];

/* The option called by the first `length` bytes of `name`, or NULL. */
const struct config_option *config_option_find(const char *name, size_t length);

/* The option whose name is nearest to the mistyped `name`, or NULL when none is near. */
const struct config_option *config_option_nearest(const char *name);

/*
 * Checks `text` and stores it. A relative path in it is taken relative to `folder`; NULL is the current
 * directory. Returns 0, -EINVAL with a message that does not yet say where the value was given, or -ENOMEM.
 * Not for CONFIG_COMMAND.
 */
int config_option_set(struct config *config, const struct config_option *option, const char *text,
                      const char *folder, struct error *err);
