/*
 * What a person asked for: one machine, as the command line and the JSON configuration file describe it.
 *
 * Options and keys are rows of one table (vmm/config_option.c), so each option is a key of the same name, and
 * the help text, the parser of either form and the checks follow from the row. The command line wins over the
 * file.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/log.h"
#include "vmm/config_disk.h"
#include "vmm/config_net.h"
#include "vmm/dirty_log.h"

struct error;

#define CONFIG_CPUS_MAX       255
#define CONFIG_DISKS_MAX      31 /* devices on a PCI bus; over MMIO there is room for fewer */
#define CONFIG_NETS_MAX       31
#define CONFIG_IO_THREADS_MAX 64
#define CONFIG_MEMORY_MIN     ((uint64_t)2 << 20) /* kernels are loaded at 1 MiB */
#define CONFIG_MEMORY_MAX     ((uint64_t)2 << 40)

enum serial_kind {
    SERIAL_STDIO,
    SERIAL_FILE,
    SERIAL_UNIX,
    SERIAL_NONE,
};

/* How a guest reaches virtio devices. */
enum config_transport {
    TRANSPORT_AUTO, /* PCI for a bzImage, as distributions ship them; MMIO for any other kernel */
    TRANSPORT_PCI,
    TRANSPORT_MMIO,
};

/* Strings are owned; NULL where not given. */
struct config {
    char *name;   /* never NULL: by default the kernel's file name, or "godwit" */
    char *kernel; /* NULL only with `mtree` */
    char *initrd;
    char *append;    /* kernel command line; never NULL */
    uint64_t memory; /* bytes: whole pages, CONFIG_MEMORY_MIN to CONFIG_MEMORY_MAX */
    unsigned cpus;   /* 1 to CONFIG_CPUS_MAX */
    enum serial_kind serial;
    char *serial_path; /* with SERIAL_FILE and SERIAL_UNIX */
    int exit_port;     /* 0 to 0xFFFF; -1: none */
    struct config_disk disks[CONFIG_DISKS_MAX];
    unsigned disk_count;
    struct config_net nets[CONFIG_NETS_MAX];
    unsigned net_count;
    enum config_transport transport;
    unsigned io_threads; /* up to CONFIG_IO_THREADS_MAX; 0: the machine's loop does their work */
    bool no_acpi;
    bool no_reboot; /* a guest that resets ends godwit */
    bool huge_pages;
    bool test_device; /* the MMIO scratch device that godwit's own tests use */
    char *dump_dtb;   /* write the device tree here and end */
    bool mtree;       /* print the region tree and the flat views and end */
    enum dirty_log_choice dirty_log;
    bool trace_memory; /* report every call of the memory listeners */
    bool trace_exits;  /* report at the end how often, and why, the guest left for user space */
    enum log_level log;
    bool help; /* --help was given: print run_usage() and end; the rest is not to be used */
};

/* Whether the machine is to be described, not run: what it stands on may be in use elsewhere. */
static inline bool config_looks_only(const struct config *config)
{
    return config->mtree || config->dump_dtb;
}

/*
 * Fills `config` from the arguments after "run": defaults, then each --config FILE, then the other options in
 * order; the last one wins. Returns 0; -EINVAL for a command line that is wrong; -EBADMSG for a configuration
 * file that is; another -errno for a file that cannot be read, or -ENOMEM. The message is one printable line
 * that names the option, or the file, line and key. Free with config_free() in every case. Any thread; blocks
 * for the file.
 */
int config_parse(struct config *config, int argc, char *const argv[], struct error *err);

/* Frees the strings. `config` may be filled again by config_parse(). */
void config_free(struct config *config);
