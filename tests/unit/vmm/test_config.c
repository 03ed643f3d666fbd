/* The command line of `godwit run`: what each option sets, and what is said about wrong ones. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/config.h"
#include "vmm/config_option.h"

#define ARGUMENTS_MAX 20

/* Parses the arguments up to NULL. */
static int parse(struct config *config, struct error *err, ...)
{
    char *argv[ARGUMENTS_MAX];
    int argc = 0;
    va_list args;
    va_start(args, err);
    for (char *argument; (argument = va_arg(args, char *));)
        argv[argc++] = argument;
    va_end(args);
    return config_parse(config, argc, argv, err);
}

#define PARSE(config, ...)                                                                                   \
    do {                                                                                                     \
        struct error err_ = {""};                                                                            \
        int result_ = parse(config, &err_, __VA_ARGS__, NULL);                                               \
        cr_assert_eq(result_, 0, "%s", err_.message);                                                        \
    } while (0)

/* Expects the arguments to be refused with a message of one line that has `wanted` in it. */
#define REFUSED(wanted, ...)                                                                                 \
    do {                                                                                                     \
        struct config config_;                                                                               \
        struct error err_ = {""};                                                                            \
        cr_expect_eq(parse(&config_, &err_, __VA_ARGS__, NULL), -EINVAL);                                    \
        cr_expect(strstr(err_.message, wanted), "'%s' is not in: %s", wanted, err_.message);                 \
        cr_expect_null(strchr(err_.message, '\n'));                                                          \
        config_free(&config_);                                                                               \
    } while (0)

Test(config, defaults)
{
    struct config config;
    PARSE(&config, "--kernel", "/boot/vmlinuz");
    cr_expect_str_eq(config.name, "vmlinuz");
    cr_expect_str_eq(config.kernel, "/boot/vmlinuz");
    cr_expect_null(config.initrd);
    cr_expect_str_eq(config.append, "");
    cr_expect_eq(config.memory, 256u << 20);
    cr_expect_eq(config.cpus, 1);
    cr_expect_eq(config.serial, SERIAL_STDIO);
    cr_expect_null(config.serial_path);
    cr_expect_eq(config.exit_port, -1);
    cr_expect_not(config.no_acpi || config.huge_pages || config.test_device || config.mtree || config.help);
    cr_expect_null(config.dump_dtb);
    cr_expect_eq(config.disk_count, 0);
    cr_expect_eq(config.net_count, 0);
    cr_expect_eq(config.io_threads, 0);
    cr_expect_eq(config.transport, TRANSPORT_AUTO);
    cr_expect_eq(config.log, LOG_WARN);
    config_free(&config);
}

Test(config, every_option)
{
    struct config config;
    PARSE(&config, "--kernel=k", "--initrd=i", "--append=console=ttyS0 quiet", "--memory=3G", "--cpus=255",
          "--serial=file:out.log", "--exit-port=0xf4", "--no-acpi", "--huge-pages", "--dump-dtb=d", "--mtree",
          "--name=n", "--log=debug", "--test-device", "--disk=image", "--io-threads=64", "--transport=pci");
    cr_expect_str_eq(config.kernel, "k");
    cr_expect_str_eq(config.initrd, "i");
    cr_expect_str_eq(config.append, "console=ttyS0 quiet");
    cr_expect_eq(config.memory, 3221225472u);
    cr_expect_eq(config.cpus, 255);
    cr_expect_eq(config.serial, SERIAL_FILE);
    cr_expect_str_eq(config.serial_path, "out.log");
    cr_expect_eq(config.exit_port, 244);
    cr_expect(config.no_acpi && config.huge_pages && config.test_device && config.mtree);
    cr_expect_str_eq(config.dump_dtb, "d");
    cr_expect_str_eq(config.name, "n");
    cr_expect_eq(config.log, LOG_DEBUG);
    cr_expect_eq(config.disk_count, 1);
    cr_expect_eq(config.io_threads, 64);
    cr_expect_eq(config.transport, TRANSPORT_PCI);
    config_free(&config);
}

Test(config, disk_alone)
{
    struct config config;
    PARSE(&config, "--kernel=k", "--disk", "/dev/sdx");
    cr_assert_eq(config.disk_count, 1);
    cr_expect_str_eq(config.disks[0].path, "/dev/sdx");
    cr_expect_not(config.disks[0].readonly);
    cr_expect_eq(config.disks[0].queues, 1);
    cr_expect_eq(config.disks[0].cache, DISK_CACHE_WRITEBACK);
    cr_expect_str_eq(config.disks[0].serial, "");
    config_free(&config);
}

Test(config, disk_with_all)
{
    struct config config;
    PARSE(&config, "--kernel=k", "--disk", "a=b,ro,queues=16,cache=none,serial=12345678901234567890",
          "--disk", "b,cache=unsafe,cache=writeback,serial=");
    cr_assert_eq(config.disk_count, 2);
    cr_expect_str_eq(config.disks[0].path, "a=b");
    cr_expect(config.disks[0].readonly);
    cr_expect_eq(config.disks[0].queues, 16);
    cr_expect_eq(config.disks[0].cache, DISK_CACHE_NONE);
    cr_expect_str_eq(config.disks[0].serial, "12345678901234567890");
    cr_expect_str_eq(config.disks[1].path, "b");
    cr_expect_eq(config.disks[1].cache, DISK_CACHE_WRITEBACK);
    cr_expect_str_eq(config.disks[1].serial, "");
    config_free(&config);
}

/* Two commas are one that does not separate. */
Test(config, disk_with_commas)
{
    static const struct {
        const char *text, *path, *serial;
    } disks[] = {
        {"a,,b", "a,b", ""},       {",,", ",", ""},       {",,,,", ",,", ""},
        {"a,,,ro", "a,", ""},      {"a,,ro", "a,ro", ""}, {"a,serial=x,,y", "a", "x,y"},
        {"a,serial=,,", "a", ","}, {"ro", "ro", ""},      {"a,ro,serial=,,,ro", "a", ","},
    };
    for (size_t i = 0; i < sizeof(disks) / sizeof(*disks); i++) {
        struct config config;
        PARSE(&config, "--kernel=k", "--disk", (char *)disks[i].text);
        cr_expect_str_eq(config.disks[0].path, disks[i].path, "%s", disks[i].text);
        cr_expect_str_eq(config.disks[0].serial, disks[i].serial, "%s", disks[i].text);
        config_free(&config);
    }
}

Test(config, disks_refused)
{
    REFUSED("--disk: the path is empty; name an image", "--disk", "");
    REFUSED("--disk: the path is empty; name an image", "--disk", ",ro");
    for (const char *const *text = (const char *const[]){"a,", "a,ro,", "a,rw", "a,queue=1", "a,,,",
                                                         "a,ro=true", "a,cache", "a,RO", NULL};
         *text; text++)
        REFUSED("is no property of a disk; write ro, queues=N, cache=MODE or serial=TEXT", "--disk", *text);
    for (const char *const *text = (const char *const[]){"", "0", "17", "-1", "1x", "0x1", " 1", "4294967297",
                                                         "18446744073709551617", NULL};
         *text; text++) {
        char disk[64];
        snprintf(disk, sizeof(disk), "a,queues=%s", *text);
        REFUSED("is not a number of queues; give 1 to 16", "--disk", disk);
    }
    REFUSED("--disk: cache: 'write' is no cache mode; write writeback, none or unsafe", "--disk",
            "a,cache=write");
    REFUSED("--disk: cache: '' is no cache mode", "--disk", "a,cache=");
    REFUSED("--disk: serial: '123456789012345678901' is longer than the 20 bytes", "--disk",
            "a,serial=123456789012345678901");
    REFUSED("not printable ASCII", "--disk", "a,serial=a\nb");
    REFUSED("not printable ASCII", "--disk", "a,serial=\xC3\xA4");
}

Test(config, as_many_disks_as_there_is_room_for)
{
    char *argv[CONFIG_DISKS_MAX + 2];
    struct config config;
    struct error err;
    argv[0] = "--kernel=k";
    for (unsigned i = 1; i < ARRAY_SIZE(argv); i++)
        argv[i] = "--disk=a";
    cr_assert_eq(config_parse(&config, CONFIG_DISKS_MAX + 1, argv, &err), 0, "%s", err.message);
    cr_expect_eq(config.disk_count, CONFIG_DISKS_MAX);
    cr_expect_str_eq(config.disks[CONFIG_DISKS_MAX - 1].path, "a");
    config_free(&config);
    cr_expect_eq(config_parse(&config, CONFIG_DISKS_MAX + 2, argv, &err), -EINVAL);
    cr_expect(strstr(err.message, "--disk: 'a' is one more than the 31 disks that a machine can have"), "%s",
              err.message);
    config_free(&config);
}

Test(config, transports)
{
    struct config config;
    PARSE(&config, "--kernel=k", "--transport", "mmio");
    cr_expect_eq(config.transport, TRANSPORT_MMIO);
    config_free(&config);
    PARSE(&config, "--kernel=k", "--transport=mmio", "--transport=auto");
    cr_expect_eq(config.transport, TRANSPORT_AUTO);
    config_free(&config);
    for (const char *const *text = (const char *const[]){"", "PCI", "pci,mmio", "usb", NULL}; *text; text++)
        REFUSED("is no transport; write auto|pci|mmio", "--transport", *text);
}

Test(config, io_threads_refused)
{
    for (const char *const *text = (const char *const[]){"65", "-1", "", "two", "1.5", NULL}; *text; text++)
        REFUSED("is not a number of threads; give 0 to 64", "--io-threads", *text);
}

Test(config, value_follows_or_is_attached)
{
    struct config config;
    PARSE(&config, "--kernel", "k", "--append", "", "--cpus", "2", "--serial=unix:/run/s=1", "--initrd", "-");
    cr_expect_str_eq(config.append, "");
    cr_expect_eq(config.cpus, 2);
    cr_expect_eq(config.serial, SERIAL_UNIX);
    cr_expect_str_eq(config.serial_path, "/run/s=1");
    cr_expect_str_eq(config.initrd, "-");
    config_free(&config);
}

Test(config, last_one_wins)
{
    struct config config;
    PARSE(&config, "--kernel=a", "--kernel=b", "--cpus=2", "--cpus=3", "--no-acpi", "--no-acpi=false",
          "--serial=file:x", "--serial=none", "--name=a", "--name=b");
    cr_expect_str_eq(config.kernel, "b");
    cr_expect_eq(config.cpus, 3);
    cr_expect_not(config.no_acpi);
    cr_expect_eq(config.serial, SERIAL_NONE);
    cr_expect_null(config.serial_path);
    cr_expect_str_eq(config.name, "b");
    config_free(&config);
}

Test(config, sizes)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } sizes[] = {
        {"2097152", 2097152},  {"2M", 2097152},          {"2m", 2097152},
        {"2048K", 2097152},    {"0x200000", 2097152},    {"1G", 1073741824},
        {"2T", 2199023255552}, {"2097156K", 2147487744}, {"2199023255552", 2199023255552},
    };
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        struct config config;
        PARSE(&config, "--kernel=k", "--memory", sizes[i].text);
        cr_expect_eq(config.memory, sizes[i].bytes, "%s", sizes[i].text);
        config_free(&config);
    }
}

Test(config, memory_refused)
{
    REFUSED("--memory: 0 is too little; the least is 2M", "--memory", "0");
    REFUSED("--memory: 1 is too little", "--memory", "1");
    REFUSED("--memory: 512 is too little; the least is 2M (for mebibytes, write 512M)", "--memory", "512");
    REFUSED("--memory: 2044K is too little", "--memory", "2044K");
    REFUSED("--memory: 3T is too much; the most is 2T", "--memory", "3T");
    REFUSED("--memory: 2199023259648 is too much", "--memory", "2199023259648");
    REFUSED("too much", "--memory", "18446744073709551616");
    REFUSED("too much", "--memory", "16777216T");
    REFUSED("too much", "--memory", "99999999999999999999999999G");
    REFUSED("--memory: 5000000 is not a whole number of pages of 4096 bytes; try 4880K", "--memory",
            "5000000");
    REFUSED("not a whole number of pages", "--memory", "2049K");
    for (const char *const *text = (const char *const[]){"12Q", "-5", "-1M", "", "M", "1.5G", "12MB", "12 M",
                                                         " 12M", "+12M", "0x", NULL};
         *text; text++)
        REFUSED("is not a size; write bytes, or a number with K, M, G or T, as in 512M", "--memory", *text);
}

Test(config, cpus_refused)
{
    for (const char *const *text = (const char *const[]){"0", "256", "5000", "-1", "", "two", "1.5", "2K",
                                                         "18446744073709551617", NULL};
         *text; text++)
        REFUSED("is not a number of CPUs; give 1 to 255", "--cpus", *text);
}

Test(config, exit_port)
{
    static const struct {
        const char *text;
        int port;
    } ports[] = {{"0", 0}, {"65535", 65535}, {"0xFFFF", 65535}, {"0xf4", 244}, {"010", 10}};
    for (size_t i = 0; i < sizeof(ports) / sizeof(*ports); i++) {
        struct config config;
        PARSE(&config, "--kernel=k", "--exit-port", ports[i].text);
        cr_expect_eq(config.exit_port, ports[i].port);
        config_free(&config);
    }
    for (const char *const *text = (const char *const[]){"65536", "0x10000", "-1", "", "x", "0xg", NULL};
         *text; text++)
        REFUSED("is not a port; give 0 to 0xFFFF, as in 0xF4", "--exit-port", *text);
}

Test(config, other_values_refused)
{
    REFUSED("--serial: 'stdout' is no serial port; write stdio|file:PATH|unix:PATH|none", "--serial",
            "stdout");
    REFUSED("--serial: 'file' is no serial port", "--serial", "file");
    REFUSED("--serial: 'stdio:' is no serial port", "--serial", "stdio:");
    REFUSED("--serial: the path is empty", "--serial", "unix:");
    REFUSED("--log: 'loud' is no log level; write error|warn|info|debug", "--log", "loud");
    REFUSED("--kernel: the path is empty", "--kernel", "");
    REFUSED("--name: the name is empty", "--name", "");
    REFUSED("--name: 'a?b' has a control character in it", "--name", "a\nb");
    REFUSED("--no-acpi: 'yes' is neither true nor false", "--no-acpi=yes");
}

Test(config, unknown_options_refused)
{
    REFUSED("unknown option '--memroy'; did you mean --memory?", "--memroy", "1G");
    REFUSED("unknown option '--mem'; did you mean --memory?", "--mem=1G");
    REFUSED("unknown option '-kernel'; did you mean --kernel?", "-kernel", "x");
    REFUSED("unknown option '--exitport'; did you mean --exit-port?", "--exitport", "1");
    REFUSED("unknown option '--frobnicate'; see 'godwit run --help'", "--frobnicate");
    REFUSED("unknown option '-m'; see 'godwit run --help'", "-m", "512");
    REFUSED("unknown option '--'", "--");
    REFUSED("unexpected argument 'vmlinuz'; a kernel is given as --kernel FILE", "vmlinuz");
    REFUSED("unexpected argument ''", "");
    REFUSED("unknown option '--a?[31mb?c'", "--a\33[31mb\nc");
}

Test(config, missing_arguments_refused)
{
    for (const struct config_option *option = config_options; option->name; option++) {
        char argument[64];
        snprintf(argument, sizeof(argument), "--%s", option->name);
        if (option->argument)
            REFUSED("needs an argument", argument);
    }
    REFUSED("--initrd needs an argument, but '--memory' follows", "--initrd", "--memory", "1G");
    REFUSED("--initrd needs an argument, but '--memory=1G' follows", "--initrd", "--memory=1G");
    REFUSED("--help takes no argument", "--help=me");
}

Test(config, kernel_is_needed)
{
    REFUSED("no kernel: give one by --kernel FILE or in a configuration file", "--cpus", "1");
    REFUSED("no kernel", "--dump-dtb", "file");
    struct config config;
    PARSE(&config, "--mtree");
    cr_expect_null(config.kernel);
    cr_expect_str_eq(config.name, "godwit");
    config_free(&config);
}

Test(config, no_arguments)
{
    struct config config;
    struct error err;
    cr_expect_eq(config_parse(&config, 0, (char *[]){NULL}, &err), -EINVAL);
    config_free(&config);
    cr_expect_eq(config_parse(&config, 0, (char *[]){NULL}, NULL), -EINVAL);
    config_free(&config);
}

Test(config, name_from_kernel)
{
    struct config config;
    PARSE(&config, "--kernel", "a/b/");
    cr_expect_str_eq(config.name, "godwit", "a folder's name ends in nothing");
    config_free(&config);
    PARSE(&config, "--kernel", "a/b\n");
    cr_expect_str_eq(config.name, "godwit");
    config_free(&config);
    PARSE(&config, "--kernel", "bzImage");
    cr_expect_str_eq(config.name, "bzImage");
    config_free(&config);
}

Test(config, help)
{
    struct config config;
    PARSE(&config, "--memory", "nonsense", "--help", "--unknown");
    cr_expect(config.help);
    config_free(&config);
    PARSE(&config, "-h");
    cr_expect(config.help);
    config_free(&config);
    PARSE(&config, "--kernel=k", "--append=--help");
    cr_expect_not(config.help);
    cr_expect_str_eq(config.append, "--help");
    config_free(&config);
}

/* The values that help texts show as defaults are those that hold. */
Test(config, presets_are_valid)
{
    struct config config;
    PARSE(&config, "--kernel=k");
    for (const struct config_option *option = config_options; option->name; option++) {
        struct error err = {""};
        if (option->preset)
            cr_expect_eq(config_option_set(&config, option, option->preset, NULL, &err), 0, "%s",
                         err.message);
        cr_expect(option->help && *option->help);
    }
    config_free(&config);
}
