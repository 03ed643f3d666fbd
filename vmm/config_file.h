/*
 * The JSON configuration file: one object whose keys are the options of the command line.
 *
 * Foreign input: it may be of any size and contain anything. Each refusal names the file and the line.
 * Specification: RFC 8259; keys may not occur twice.
 */
#pragma once

#include <stddef.h>

struct config;
struct error;

/*
 * Reads the file `path` and sets in `config` what it says; relative paths in it start from the file's folder.
 * Returns 0, -EBADMSG for a file that is wrong, another -errno for one that cannot be read. Options before
 * the wrong one are set then. Any thread; blocks for the file.
 */
int config_file_load(struct config *config, const char *path, struct error *err);

/* As config_file_load(), with the `size` bytes of `text` as the content of the file `path`. */
int config_file_parse(struct config *config, const char *path, const char *text, size_t size,
                      struct error *err);
