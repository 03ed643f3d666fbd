/*
 * What a person asked for: one machine, as the command line and the JSON configuration file describe it.
 *
 * Options and keys are rows of one table (vmm/config.c), so each option is a key of the same name, and the
 * help text, the parser of either form and the checks follow from the row. The command line wins over the
 * file.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"

struct error;

#define CONFIG_CPUS_MAX   255
#define CONFIG_MEMORY_MAX ((uint64_t)2 << 40)

enum serial_kind {
    SERIAL_STDIO,
    SERIAL_FILE,
    SERIAL_UNIX,
    SERIAL_NONE,
};

/* Strings are owned; NULL where not given. */
struct config {
    char *name;
    char *kernel;
    char *initrd;
    char *append;    /* kernel command line */
    uint64_t memory; /* bytes */
    unsigned cpus;
    enum serial_kind serial;
    char *serial_path;
    int exit_port; /* -1: none */
    bool no_acpi;
    bool huge_pages;
    bool test_device; /* the MMIO scratch device that godwit's own tests use */
    char *dump_dtb;   /* write the device tree here and end */
    bool mtree;       /* print the region tree and the flat views and end */
    enum log_level log;
};

/*
 * Fills `config` from the arguments after "run": defaults, then --config FILE, then the other options in
 * order. Returns 0; -EINVAL for a command line that is wrong; -EBADMSG for a configuration file that is;
 * another -errno for a file that cannot be read. The message names the option, or the file, line and key.
 * Free with config_free() in every case.
 */
int config_parse(struct config *config, int argc, char *const argv[], struct error *err);

void config_free(struct config *config);
