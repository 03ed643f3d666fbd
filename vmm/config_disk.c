#include "vmm/config_disk.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/config_words.h"

static int set_queues(struct config_disk *disk, const char *value, struct error *err)
{
    char *end;
    unsigned long queues = isdigit((unsigned char)*value) ? strtoul(value, &end, 10) : 0;
    if (queues < 1 || queues > CONFIG_DISK_QUEUES_MAX || *end)
        return error_set(err, EINVAL, "queues: '%.80s' is not a number of queues; give 1 to %u", value,
                         CONFIG_DISK_QUEUES_MAX);
    disk->queues = (unsigned)queues;
    return 0;
}

static int set_cache(struct config_disk *disk, const char *value, struct error *err)
{
    static const char *const modes[] = {
        [DISK_CACHE_WRITEBACK] = "writeback",
        [DISK_CACHE_NONE] = "none",
        [DISK_CACHE_UNSAFE] = "unsafe",
    };
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        if (strcmp(value, modes[i]) == 0) {
            disk->cache = (enum disk_cache)i;
            return 0;
        }
    }
    return error_set(err, EINVAL, "cache: '%.80s' is no cache mode; write writeback, none or unsafe", value);
}

/* What the guest shows to people and makes file names of. */
static int set_serial(struct config_disk *disk, const char *value, struct error *err)
{
    if (strlen(value) > CONFIG_DISK_SERIAL_MAX)
        return error_set(err, EINVAL, "serial: '%.80s' is longer than the %u bytes that a disk has for it",
                         value, CONFIG_DISK_SERIAL_MAX);
    for (const char *c = value; *c; c++) {
        if (*c < 0x20 || *c > 0x7E)
            return error_set(err, EINVAL, "serial: '%.80s' has a character that is not printable ASCII",
                             value);
    }
    memcpy(disk->serial, value, strlen(value) + 1);
    return 0;
}

static int set_property(struct config_disk *disk, const char *word, struct error *err)
{
    static const struct {
        const char *name;
        int (*set)(struct config_disk *disk, const char *value, struct error *err);
    } properties[] = {{"queues=", set_queues}, {"cache=", set_cache}, {"serial=", set_serial}};
    if (strcmp(word, "ro") == 0) {
        disk->readonly = true;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(properties); i++) {
        const char *value = config_value_of(word, properties[i].name);
        if (value)
            return properties[i].set(disk, value, err);
    }
    return error_set(
        err, EINVAL,
        "'%.80s' is no property of a disk; write ro, queues=N, cache=MODE or serial=TEXT (a comma "
        "in the path is written twice)",
        word);
}

static int set_path(struct config_disk *disk, const char *path, const char *folder, struct error *err)
{
    if (!*path)
        return error_set(err, EINVAL, "the path is empty; name an image");
    if (!folder || *path == '/')
        disk->path = strdup(path);
    else if (asprintf(&disk->path, "%s/%s", folder, path) < 0)
        disk->path = NULL;
    return disk->path ? 0 : error_set(err, ENOMEM, "not enough memory");
}

int config_disk_parse(struct config_disk *disk, const char *text, const char *folder, struct error *err)
{
    *disk = (struct config_disk){.queues = 1, .cache = DISK_CACHE_WRITEBACK};
    char *word = calloc(1, strlen(text) + 1);
    if (!word)
        return error_set(err, ENOMEM, "not enough memory");
    const char *rest = config_take_word(text, word);
    int result = set_path(disk, word, folder, err);
    while (result == 0 && rest) {
        rest = config_take_word(rest, word);
        result = set_property(disk, word, err);
    }
    free(word);
    if (result < 0)
        config_disk_free(disk);
    return result;
}

void config_disk_free(struct config_disk *disk)
{
    free(disk->path);
    disk->path = NULL;
}
