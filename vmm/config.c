#include "vmm/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/config_file.h"
#include "vmm/config_option.h"

#define SEE_HELP  "see 'godwit run --help'"
#define NAME_SIZE 64 /* holds every option's name */

/* The arguments not yet looked at. */
struct arguments {
    char *const *next;
    char *const *end;
};

static int unknown_option(const char *argument, struct error *err)
{
    if (*argument != '-')
        return error_set(err, EINVAL,
                         "unexpected argument '%.80s'; a kernel is given as --kernel FILE (" SEE_HELP ")",
                         argument);
    char name[NAME_SIZE];
    snprintf(name, sizeof(name), "%.*s", (int)strcspn(argument, "="), argument);
    const struct config_option *nearest = config_option_nearest(name + strspn(name, "-"));
    if (nearest)
        return error_set(err, EINVAL, "unknown option '%s'; did you mean --%s? (" SEE_HELP ")", name,
                         nearest->name);
    return error_set(err, EINVAL, "unknown option '%s'; " SEE_HELP, name);
}

static const struct config_option *find_option(const char *argument)
{
    if (strcmp(argument, "-h") == 0)
        argument = "--help";
    if (strncmp(argument, "--", 2) != 0)
        return NULL;
    return config_option_find(argument + 2, strcspn(argument + 2, "="));
}

/* The value of `option` from the argument behind it. */
static int following_value(struct arguments *arguments, const struct config_option *option,
                           const char **value, struct error *err)
{
    if (arguments->next == arguments->end)
        return error_set(err, EINVAL, "--%s needs an argument: --%s %s", option->name, option->name,
                         option->argument);
    *value = *arguments->next++;
    if (find_option(*value))
        return error_set(err, EINVAL,
                         "--%s needs an argument, but '%.80s' follows; if that is meant, write --%s=%.80s",
                         option->name, *value, option->name, *value);
    return 0;
}

/* Takes one option and its value off the front of `arguments`, which are not empty. */
static int next_option(struct arguments *arguments, const struct config_option **option, const char **value,
                       struct error *err)
{
    const char *argument = *arguments->next++;
    const char *equals = strchr(argument, '=');
    *value = equals ? equals + 1 : "true";
    *option = find_option(argument);
    if (!*option)
        return unknown_option(argument, err);
    if ((*option)->argument)
        return equals ? 0 : following_value(arguments, *option, value, err);
    if (equals && (*option)->kind == CONFIG_COMMAND)
        return error_set(err, EINVAL, "--%s takes no argument", (*option)->name);
    return 0;
}

/* Reads the configuration files that the command line names, and sees whether it asks for help. */
static int take_commands(struct config *config, struct arguments arguments, struct error *err)
{
    while (arguments.next < arguments.end && !config->help) {
        const struct config_option *option;
        const char *value;
        int result = next_option(&arguments, &option, &value, err);
        if (result == 0 && option->kind == CONFIG_COMMAND) {
            if (option->argument)
                result = config_file_load(config, value, err);
            else
                config->help = true;
        }
        if (result < 0)
            return result;
    }
    return 0;
}

static int take_options(struct config *config, struct arguments arguments, struct error *err)
{
    while (arguments.next < arguments.end) {
        const struct config_option *option;
        const char *value;
        int result = next_option(&arguments, &option, &value, err);
        if (result < 0)
            return result;
        if (option->kind == CONFIG_COMMAND)
            continue;
        result = config_option_set(config, option, value, NULL, err);
        if (result < 0)
            return error_prefix(err, result, "--%s", option->name);
    }
    return 0;
}

static int set_presets(struct config *config, struct error *err)
{
    *config = (struct config){.exit_port = -1};
    for (const struct config_option *option = config_options; option->name; option++) {
        int result = option->preset ? config_option_set(config, option, option->preset, NULL, err) : 0;
        if (result < 0)
            return result;
    }
    return 0;
}

/* The guest's name is that of its kernel's file, where that can be a name. */
static int set_default_name(struct config *config, struct error *err)
{
    if (config->name)
        return 0;
    const struct config_option *name = config_option_find("name", strlen("name"));
    const char *slash = config->kernel ? strrchr(config->kernel, '/') : NULL;
    const char *file = slash ? slash + 1 : config->kernel;
    if (file && config_option_set(config, name, file, NULL, NULL) == 0)
        return 0;
    return config_option_set(config, name, "godwit", NULL, err);
}

static int parse(struct config *config, struct arguments arguments, struct error *err)
{
    int result = set_presets(config, err);
    if (result == 0)
        result = take_commands(config, arguments, err);
    if (result < 0 || config->help)
        return result;
    result = take_options(config, arguments, err);
    if (result < 0)
        return result;
    if (!config->kernel && !config->mtree)
        return error_set(err, EINVAL, "no kernel: give one by --kernel FILE or in a configuration file");
    return set_default_name(config, err);
}

/* Control characters that came from a hostile file or argument must not reach a terminal. */
static void make_printable(char *text)
{
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (c[0] == 0xC2 && c[1] >= 0x80 && c[1] < 0xA0)
            c[0] = c[1] = '?';
        else if (*c < 0x20 || *c == 0x7F)
            *c = '?';
    }
}

int config_parse(struct config *config, int argc, char *const argv[], struct error *err)
{
    int result = parse(config, (struct arguments){argv, argv + argc}, err);
    if (result < 0 && err)
        make_printable(err->message);
    return result;
}

void config_free(struct config *config)
{
    char *strings[] = {config->name,   config->kernel,      config->initrd,
                       config->append, config->serial_path, config->dump_dtb};
    for (size_t i = 0; i < ARRAY_SIZE(strings); i++)
        free(strings[i]);
    for (unsigned i = 0; i < config->disk_count; i++)
        config_disk_free(&config->disks[i]);
    for (unsigned i = 0; i < config->net_count; i++)
        config_net_free(&config->nets[i]);
}
