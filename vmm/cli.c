#include "vmm/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/macros.h"
#include "vmm/config_option.h"
#include "vmm/exit_status.h"
#include "vmm/host.h"
#include "vmm/print_wrapped.h"
#include "vmm/run.h"
#include "vmm/suggest.h"

static const struct command {
    const char *name;
    const char *help;
    int (*main)(int argc, char *const argv[]);
} commands[] = {
    {"run", "start a guest and stay with it until it ends", run_main},
    {"host", "report what this host's KVM can do", host_main},
};

const struct log cli_log = {.fd = STDERR_FILENO, .level = LOG_ERROR, .name = "godwit"};

static void print_version(FILE *out)
{
    fputs("godwit " GODWIT_VERSION "\n", out);
}

void cli_usage(FILE *out)
{
    fputs("Usage: godwit COMMAND [OPTION]…\n"
          "\n"
          "A small virtual machine monitor on Linux KVM.\n"
          "\n"
          "Commands:\n",
          out);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(out, "  %-6s  %s\n", commands[i].name, commands[i].help);
    fputs("\n"
          "Options:\n"
          "  --help     print this help; 'godwit COMMAND --help' describes a command\n"
          "  --version  print the version\n"
          "\n"
          "Examples:\n"
          "  godwit run --kernel vmlinuz --initrd initrd.img --append console=ttyS0 --memory 512M\n"
          "  godwit run --config machine.json\n"
          "  godwit host --json\n",
          out);
}

/* The column in which help texts begin, and the last one. */
#define HELP_COLUMN 26
#define HELP_WIDTH  80

static void print_option(FILE *out, const struct config_option *option)
{
    int width = fprintf(out, "  --%s%s%s", option->name, option->argument ? " " : "",
                        option->argument ? option->argument : "");
    if (width > HELP_COLUMN - 2)
        fprintf(out, "\n%*s", HELP_COLUMN, "");
    else
        fprintf(out, "%*s", HELP_COLUMN - width, "");
    print_wrapped(out, option->help, HELP_COLUMN, HELP_WIDTH);
    if (option->preset && *option->preset)
        fprintf(out, " [%s]", option->preset);
    fputc('\n', out);
}

void run_usage(FILE *out)
{
    fputs("Usage: godwit run --kernel FILE [OPTION]…\n"
          "\n"
          "Starts a guest and stays with it until it ends. Each option but --config and\n"
          "--help is also a key of the JSON configuration file.\n"
          "\n"
          "Options [and what holds without them]:\n",
          out);
    for (const struct config_option *option = config_options; option->name; option++)
        print_option(out, option);
    fputs("\n"
          "On the terminal: Ctrl-A x ends godwit, Ctrl-A h lists the other keys.\n"
          "\n"
          "Exit status: 0 the guest powered off; 1 an error of the host or of a file;\n"
          "2 a wrong command line; 3 the guest crashed; 128+N ended by signal N; what the\n"
          "guest wrote to the exit port.\n"
          "\n"
          "Examples:\n"
          "  godwit run --kernel vmlinuz --initrd initrd.img --append console=ttyS0\n"
          "  godwit run --config machine.json --memory 2G --cpus 2\n"
          "  godwit run --kernel build/guest/hello --exit-port 0xF4 --memory 4M\n",
          out);
}

int cli_end_output(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return EXIT_STATUS_OK;
    log_write(&cli_log, LOG_ERROR, "cannot write to standard output: %s", strerrordesc_np(errno));
    return EXIT_STATUS_FAILED;
}

int cli_print(void (*usage)(FILE *out))
{
    usage(stdout);
    return cli_end_output();
}

static int unknown_command(const char *word)
{
    struct suggestion suggestion = {.word = word};
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        suggestion_consider(&suggestion, commands[i].name);
    const char *kind = *word == '-' ? "option" : "command";
    if (suggestion.nearest)
        log_write(&cli_log, LOG_ERROR, "unknown %s '%.80s'; did you mean 'godwit %s'? (see 'godwit --help')",
                  kind, word, suggestion.nearest);
    else
        log_write(&cli_log, LOG_ERROR, "unknown %s '%.80s'; see 'godwit --help'", kind, word);
    return EXIT_STATUS_USAGE;
}

/*
 * Takes the place of standard descriptors that were closed, lest what is opened next becomes one of them. As
 * before, nothing can be read from them and each write fails.
 */
static void hold_closed_descriptors(void)
{
    int fd;
    do
        fd = open("/dev/null", O_RDONLY);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int cli_main(int argc, char *argv[])
{
    hold_closed_descriptors();
    if (argc < 2) {
        cli_usage(stderr);
        return EXIT_STATUS_USAGE;
    }
    const char *word = argv[1];
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(word, commands[i].name) == 0)
            return commands[i].main(argc - 1, argv + 1);
    }
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0)
        return cli_print(cli_usage);
    if (strcmp(word, "--version") == 0 || strcmp(word, "-V") == 0)
        return cli_print(print_version);
    return unknown_command(word);
}
