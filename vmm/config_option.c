#include "vmm/config_option.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/ram_block.h"
#include "vmm/config.h"
#include "vmm/suggest.h"

static void *member(struct config *config, const struct config_option *option)
{
    return (char *)config + option->offset;
}

/* Replaces the string at `where` by `text`, which is from malloc or NULL. */
static int replace(char **where, char *text, struct error *err)
{
    if (!text)
        return error_set(err, ENOMEM, "not enough memory");
    free(*where);
    *where = text;
    return 0;
}

static int replace_path(char **where, const char *path, const char *folder, struct error *err)
{
    if (!*path)
        return error_set(err, EINVAL, "the path is empty; name a file");
    char *full;
    if (!folder || *path == '/')
        full = strdup(path);
    else if (asprintf(&full, "%s/%s", folder, path) < 0)
        full = NULL;
    return replace(where, full, err);
}

static int set_text(struct config *config, const struct config_option *option, const char *text,
                    const char *folder, struct error *err)
{
    return replace(member(config, option), strdup(text), err);
}

static int set_path(struct config *config, const struct config_option *option, const char *text,
                    const char *folder, struct error *err)
{
    return replace_path(member(config, option), text, folder, err);
}

static int set_name(struct config *config, const struct config_option *option, const char *text,
                    const char *folder, struct error *err)
{
    if (!*text)
        return error_set(err, EINVAL, "the name is empty; give at least one character");
    for (const char *c = text; *c; c++) {
        if (iscntrl((unsigned char)*c))
            return error_set(err, EINVAL, "'%.80s' has a control character in it; leave it out", text);
    }
    return set_text(config, option, text, folder, err);
}

static int set_flag(struct config *config, const struct config_option *option, const char *text,
                    const char *folder, struct error *err)
{
    bool *flag = member(config, option);
    if (strcmp(text, "true") != 0 && strcmp(text, "false") != 0)
        return error_set(err, EINVAL, "'%.80s' is neither true nor false; this is a switch", text);
    *flag = strcmp(text, "true") == 0;
    return 0;
}

/*
 * Reads digits, decimal or after 0x hexadecimal; `*rest` is what follows them. A number that does not fit
 * becomes UINT64_MAX, which no range here includes.
 */
static int parse_digits(const char *text, uint64_t *value, const char **rest)
{
    if (!isdigit((unsigned char)*text))
        return -EINVAL;
    bool hexadecimal = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    char *end;
    *value = strtoull(text, &end, hexadecimal ? 16 : 10);
    *rest = end;
    return 0;
}

static int parse_number(const char *text, uint64_t low, uint64_t high, uint64_t *value)
{
    const char *rest;
    int result = parse_digits(text, value, &rest);
    return result < 0 || *rest || *value < low || *value > high ? -EINVAL : 0;
}

/* As parse_digits(), with an optional K, M, G or T behind the digits. */
static int parse_size(const char *text, uint64_t *size)
{
    static const char suffixes[] = "KMGT";
    const char *rest;
    if (parse_digits(text, size, &rest) < 0)
        return -EINVAL;
    if (!*rest)
        return 0;
    const char *suffix = strchr(suffixes, toupper((unsigned char)*rest));
    if (!suffix || rest[1])
        return -EINVAL;
    uint64_t unit = UINT64_C(1) << (10 * (suffix - suffixes + 1));
    if (__builtin_mul_overflow(*size, unit, size))
        *size = UINT64_MAX;
    return 0;
}

static int set_memory(struct config *config, const struct config_option *option, const char *text,
                      const char *folder, struct error *err)
{
    uint64_t size;
    if (parse_size(text, &size) < 0)
        return error_set(err, EINVAL,
                         "'%.80s' is not a size; write bytes, or a number with K, M, G or T, as in 512M",
                         text);
    if (size < CONFIG_MEMORY_MIN)
        return error_set(err, EINVAL,
                         "%.80s is too little; the least is %" PRIu64 "M (for mebibytes, write 512M)", text,
                         CONFIG_MEMORY_MIN >> 20);
    if (size > CONFIG_MEMORY_MAX)
        return error_set(err, EINVAL, "%.80s is too much; the most is %" PRIu64 "T", text,
                         CONFIG_MEMORY_MAX >> 40);
    if (size % RAM_PAGE_SIZE)
        return error_set(err, EINVAL, "%.80s is not a whole number of pages of %u bytes; try %" PRIu64 "K",
                         text, RAM_PAGE_SIZE, align_down(size, RAM_PAGE_SIZE) >> 10);
    *(uint64_t *)member(config, option) = size;
    return 0;
}

static int set_cpus(struct config *config, const struct config_option *option, const char *text,
                    const char *folder, struct error *err)
{
    uint64_t cpus;
    if (parse_number(text, 1, CONFIG_CPUS_MAX, &cpus) < 0)
        return error_set(err, EINVAL, "'%.80s' is not a number of CPUs; give 1 to %u", text, CONFIG_CPUS_MAX);
    *(unsigned *)member(config, option) = (unsigned)cpus;
    return 0;
}

static int add_disk(struct config *config, const struct config_option *option, const char *text,
                    const char *folder, struct error *err)
{
    if (config->disk_count == CONFIG_DISKS_MAX)
        return error_set(err, EINVAL, "'%.80s' is one more than the %u disks that a machine can have", text,
                         CONFIG_DISKS_MAX);
    int result = config_disk_parse(&config->disks[config->disk_count], text, folder, err);
    if (result == 0)
        config->disk_count++;
    return result;
}

static int add_net(struct config *config, const struct config_option *option, const char *text,
                   const char *folder, struct error *err)
{
    if (config->net_count == CONFIG_NETS_MAX)
        return error_set(err, EINVAL, "'%.80s' is one more than the %u network cards that a machine can have",
                         text, CONFIG_NETS_MAX);
    struct config_net *net = &config->nets[config->net_count];
    int result = config_net_parse(net, text, folder, err);
    if (result < 0)
        return result;
    config->net_count++;
    for (unsigned i = 0; i + 1 < config->net_count && result == 0; i++)
        result = config_net_compare(net, &config->nets[i], err);
    return result;
}

static int set_transport(struct config *config, const struct config_option *option, const char *text,
                         const char *folder, struct error *err)
{
    static const char *const names[] = {
        [TRANSPORT_AUTO] = "auto",
        [TRANSPORT_PCI] = "pci",
        [TRANSPORT_MMIO] = "mmio",
    };
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *(enum config_transport *)member(config, option) = (enum config_transport)i;
            return 0;
        }
    }
    return error_set(err, EINVAL, "'%.80s' is no transport; write %s", text, option->argument);
}

static int set_io_threads(struct config *config, const struct config_option *option, const char *text,
                          const char *folder, struct error *err)
{
    uint64_t threads;
    if (parse_number(text, 0, CONFIG_IO_THREADS_MAX, &threads) < 0)
        return error_set(err, EINVAL, "'%.80s' is not a number of threads; give 0 to %u", text,
                         CONFIG_IO_THREADS_MAX);
    *(unsigned *)member(config, option) = (unsigned)threads;
    return 0;
}

static int set_port(struct config *config, const struct config_option *option, const char *text,
                    const char *folder, struct error *err)
{
    uint64_t port;
    if (parse_number(text, 0, UINT16_MAX, &port) < 0)
        return error_set(err, EINVAL, "'%.80s' is not a port; give 0 to 0xFFFF, as in 0xF4", text);
    *(int *)member(config, option) = (int)port;
    return 0;
}

static int set_serial(struct config *config, const struct config_option *option, const char *text,
                      const char *folder, struct error *err)
{
    static const struct {
        const char *word; /* with a colon at its end when a path follows */
        enum serial_kind kind;
    } forms[] = {
        {"stdio", SERIAL_STDIO},
        {"none", SERIAL_NONE},
        {"file:", SERIAL_FILE},
        {"unix:", SERIAL_UNIX},
    };
    for (size_t i = 0; i < ARRAY_SIZE(forms); i++) {
        size_t length = strlen(forms[i].word);
        bool has_path = forms[i].word[length - 1] == ':';
        if (strncmp(text, forms[i].word, length) != 0 || (!has_path && text[length]))
            continue;
        config->serial = forms[i].kind;
        if (has_path)
            return replace_path(&config->serial_path, text + length, folder, err);
        free(config->serial_path);
        config->serial_path = NULL;
        return 0;
    }
    return error_set(err, EINVAL, "'%.80s' is no serial port; write %s", text, option->argument);
}

static int set_dirty_log(struct config *config, const struct config_option *option, const char *text,
                         const char *folder, struct error *err)
{
    if (dirty_log_parse(text, member(config, option)) < 0)
        return error_set(err, EINVAL, "'%.80s' is no way to log dirty pages; write %s", text,
                         option->argument);
    return 0;
}

static int set_trace(struct config *config, const struct config_option *option, const char *text,
                     const char *folder, struct error *err)
{
    for (const char *name = text, *end; name; name = *end ? end + 1 : NULL) {
        end = strchrnul(name, ',');
        size_t length = (size_t)(end - name);
        if (length == strlen("memory") && memcmp(name, "memory", length) == 0)
            config->trace_memory = true;
        else if (length == strlen("exits") && memcmp(name, "exits", length) == 0)
            config->trace_exits = true;
        else
            return error_set(err, EINVAL,
                             "'%.*s' cannot be traced; write names separated by commas, of: memory exits",
                             (int)smaller(length, 80), name);
    }
    return 0;
}

static int set_log(struct config *config, const struct config_option *option, const char *text,
                   const char *folder, struct error *err)
{
    if (log_level_parse(text, member(config, option)) < 0)
        return error_set(err, EINVAL, "'%.80s' is no log level; write %s", text, option->argument);
    return 0;
}

#define TEXT(setter, field)   .kind = CONFIG_TEXT, .set = setter, .offset = offsetof(struct config, field)
#define NUMBER(setter, field) .kind = CONFIG_NUMBER, .set = setter, .offset = offsetof(struct config, field)
#define FLAG(field)           .kind = CONFIG_FLAG, .set = set_flag, .offset = offsetof(struct config, field)

const struct config_option config_options[] = {
    {"kernel", "FILE", NULL,
     "what the guest runs: a bzImage, an ELF (vmlinux, PVH, multiboot) or a flat binary",
     TEXT(set_path, kernel)},
    {"initrd", "FILE", NULL, "the initial RAM disk that the kernel is given", TEXT(set_path, initrd)},
    {"append", "TEXT", "", "the kernel's command line", TEXT(set_text, append)},
    {"memory", "SIZE", "256M", "RAM: bytes, or a number with K, M, G or T (powers of 1024)",
     NUMBER(set_memory, memory)},
    {"cpus", "N", "1", "the number of CPUs", NUMBER(set_cpus, cpus)},
    {"serial", "stdio|file:PATH|unix:PATH|none", "stdio",
     "where the serial port leads: standard input and output, a file that it writes, a socket that it listens on, "
     "or nowhere",
     TEXT(set_serial, serial)},
    {"disk", "PATH[,ro][,queues=N][,cache=MODE][,serial=TEXT]", NULL,
     "a virtio disk on a raw image or a block device; may be given several times; MODE is writeback (which holds "
     "without it), none (past the host's page cache) or unsafe (flushes are ignored)",
     .kind = CONFIG_LIST, .set = add_disk},
    {"net", "tap=NAME|fd=N|passt=PATH[,mac=MAC][,mtu=N][,queues=N]", NULL,
     "a virtio network card; may be given several times; it leads to a tap interface, which is made where it is not "
     "there, to one of which godwit was given the descriptor (or several, as in fd=3:4), or to the socket of passt, "
     "which needs no privilege",
     .kind = CONFIG_LIST, .set = add_net},
    {"transport", "auto|pci|mmio", "auto",
     "how the guest reaches virtio devices: on a PCI bus or over MMIO; auto is pci for a bzImage and mmio for any "
     "other kernel",
     TEXT(set_transport, transport)},
    {"io-threads", "N", "0",
     "how many threads serve disks and networks; with 0, that of the machine does it beside its other work",
     NUMBER(set_io_threads, io_threads)},
    {"exit-port", "PORT", NULL,
     "end godwit when the guest writes to this port, the low byte being the exit status",
     NUMBER(set_port, exit_port)},
    {"no-acpi", NULL, NULL, "describe the machine by an MP table in place of ACPI tables", FLAG(no_acpi)},
    {"no-reboot", NULL, NULL, "end when the guest resets, in place of booting it again", FLAG(no_reboot)},
    {"huge-pages", NULL, NULL, "back the guest's RAM by huge pages, which the host must have reserved",
     FLAG(huge_pages)},
    {"name", "NAME", NULL, "the guest's name in messages; without it, the kernel's file name",
     TEXT(set_name, name)},
    {"dump-dtb", "FILE", NULL, "write the machine's device tree to a file and end", TEXT(set_path, dump_dtb)},
    {"mtree", NULL, NULL, "print the memory regions and the flat views and end", FLAG(mtree)},
    {"test-device", NULL, NULL, "add the scratch device that godwit's own tests use", FLAG(test_device)},
    {"dirty-log", "auto|get|clear|ring", "auto",
     "how KVM logs which pages the guest writes; 'godwit host' tells what this host has",
     TEXT(set_dirty_log, dirty_log)},
    {"trace", "NAMES", NULL,
     "report what happens on standard error; NAMES, separated by commas: memory (the calls of memory listeners), "
     "exits (how often the guest left for user space, at the end)",
     TEXT(set_trace, trace_memory)},
    {"log", "error|warn|info|debug", "warn", "which messages to print on standard error", TEXT(set_log, log)},
    {"config", "FILE", NULL,
     "read options from a JSON file first; may be given several times, later files winning",
     .kind = CONFIG_COMMAND},
    {"help", NULL, NULL, "print this help", .kind = CONFIG_COMMAND},
    {0},
};

const struct config_option *config_option_find(const char *name, size_t length)
{
    for (const struct config_option *option = config_options; option->name; option++) {
        if (strlen(option->name) == length && memcmp(option->name, name, length) == 0)
            return option;
    }
    return NULL;
}

const struct config_option *config_option_nearest(const char *name)
{
    struct suggestion suggestion = {.word = name};
    for (const struct config_option *option = config_options; option->name; option++)
        suggestion_consider(&suggestion, option->name);
    return suggestion.nearest ? config_option_find(suggestion.nearest, strlen(suggestion.nearest)) : NULL;
}

int config_option_set(struct config *config, const struct config_option *option, const char *text,
                      const char *folder, struct error *err)
{
    return option->set(config, option, text, folder, err);
}
