#include "vmm/config_file.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/config.h"
#include "vmm/config_option.h"

#define FILE_SIZE_MAX ((size_t)1 << 20)

/*
 * The line on which the `index`-th key of the outermost object begins. The text has passed the parser, so it
 * is well-formed. Keys are counted, not compared: the parser keeps their order, and escapes need no decoding.
 */
static unsigned key_line(const char *text, size_t size, size_t index)
{
    unsigned line = 1, depth = 0;
    bool key_next = false;
    for (const char *c = text; c < text + size; c++) {
        if (*c == '\n') {
            line++;
        } else if (*c == '{' || *c == '[') {
            depth++;
            key_next = depth == 1;
        } else if (*c == '}' || *c == ']') {
            depth--;
        } else if (*c == ',') {
            key_next = depth == 1;
        } else if (*c == '"') {
            if (key_next && index-- == 0)
                break;
            key_next = false;
            while (*++c != '"')
                c += *c == '\\';
        }
    }
    return line;
}

static const char *type_name(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "a whole number";
    case JSON_REAL:
        return "a number with a fraction or exponent";
    case JSON_TRUE:
    case JSON_FALSE:
        return "true or false";
    default:
        return "null";
    }
}

static int wrong_type(const struct config_option *option, const json_t *value, struct error *err)
{
    static const char *const wanted[] = {
        [CONFIG_FLAG] = "true or false",
        [CONFIG_TEXT] = "a string",
        [CONFIG_LIST] = "a string or an array of strings",
        [CONFIG_NUMBER] = "a whole number or a string",
    };
    return error_set(err, EINVAL, "is %s, but must be %s", type_name(value), wanted[option->kind]);
}

static int set_list(struct config *config, const struct config_option *option, const json_t *array,
                    const char *folder, struct error *err)
{
    int result = 0;
    for (size_t i = 0; i < json_array_size(array) && result == 0; i++) {
        const json_t *element = json_array_get(array, i);
        const char *text = json_string_value(element);
        result =
            text ? config_option_set(config, option, text, folder, err)
                 : error_set(err, EINVAL, "has %s in its array, but must have strings", type_name(element));
    }
    return result;
}

/* Sets `option` from a JSON value of a type that suits it. */
static int set_value(struct config *config, const struct config_option *option, const json_t *value,
                     const char *folder, struct error *err)
{
    char number[32];
    const char *text;
    if (option->kind == CONFIG_LIST && json_is_array(value))
        return set_list(config, option, value, folder, err);
    if (option->kind == CONFIG_FLAG && json_is_boolean(value)) {
        text = json_is_true(value) ? "true" : "false";
    } else if (option->kind == CONFIG_NUMBER && json_is_integer(value)) {
        snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
        text = number;
    } else if (option->kind != CONFIG_FLAG && json_is_string(value)) {
        text = json_string_value(value);
    } else {
        return wrong_type(option, value, err);
    }
    return config_option_set(config, option, text, folder, err);
}

static int unknown_key(const char *key, struct error *err)
{
    const struct config_option *nearest = config_option_nearest(key);
    if (nearest && nearest->kind != CONFIG_COMMAND)
        return error_set(err, EINVAL, "unknown key \"%.80s\"; did you mean \"%s\"?", key, nearest->name);
    return error_set(err, EINVAL, "unknown key \"%.80s\"; keys are the options of 'godwit run --help'", key);
}

static int set_key(struct config *config, const char *key, const json_t *value, const char *folder,
                   struct error *err)
{
    const struct config_option *option = config_option_find(key, strlen(key));
    if (!option)
        return unknown_key(key, err);
    if (option->kind == CONFIG_COMMAND)
        return error_set(err, EINVAL, "\"%s\" can only be given on the command line; remove it", key);
    return error_prefix(err, set_value(config, option, value, folder, err), "\"%s\"", key);
}

/* Sets every key of `object`; `*index` is then the number of those that were right. */
static int set_keys(struct config *config, json_t *object, const char *folder, size_t *index,
                    struct error *err)
{
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        int result = set_key(config, key, value, folder, err);
        if (result < 0)
            return result;
        ++*index;
    }
    return 0;
}

/* The folder of `path`, from malloc, or NULL in `*folder` when that is the current one. */
static int folder_of(const char *path, char **folder)
{
    const char *slash = strrchr(path, '/');
    *folder = slash ? strndup(path, (size_t)(slash - path)) : NULL;
    return slash && !*folder ? -ENOMEM : 0;
}

static int apply(struct config *config, const char *path, const char *text, size_t size, json_t *root,
                 struct error *err)
{
    if (!json_is_object(root))
        return error_set(err, EBADMSG, "%s:1: the file is %s, but must be an object of options", path,
                         type_name(root));
    char *folder;
    if (folder_of(path, &folder) < 0)
        return error_set(err, ENOMEM, "not enough memory");
    size_t index = 0;
    int result = set_keys(config, root, folder, &index, err);
    free(folder);
    if (result == -EINVAL)
        return error_prefix(err, -EBADMSG, "%s:%u", path, key_line(text, size, index));
    return result;
}

static int syntax_error(const char *path, const json_error_t *error, struct error *err)
{
    switch (json_error_code(error)) {
    case json_error_out_of_memory:
        return error_set(err, ENOMEM, "not enough memory");
    case json_error_null_character:
    case json_error_null_byte_in_key:
        return error_set(err, EBADMSG, "%s:%d:%d: \\u0000 has no place in a string; remove it", path,
                         error->line, error->column);
    default:
        return error_set(err, EBADMSG, "%s:%d:%d: invalid JSON: %s", path, error->line, error->column,
                         error->text);
    }
}

static bool is_blank(const char *text, size_t size)
{
    while (size > 0 && (*text == ' ' || *text == '\t' || *text == '\r' || *text == '\n')) {
        text++;
        size--;
    }
    return size == 0;
}

int config_file_parse(struct config *config, const char *path, const char *text, size_t size,
                      struct error *err)
{
    if (is_blank(text, size))
        return error_set(err, EBADMSG, "%s:1: the file is empty; write an object of options, or {} for none",
                         path);
    json_error_t error;
    json_t *root = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &error);
    if (!root)
        return syntax_error(path, &error, err);
    int result = apply(config, path, text, size, root, err);
    json_decref(root);
    return result;
}

/* Reads up to `room` bytes until the file's end; returns how many, or -errno. */
static ssize_t read_all(int fd, char *buffer, size_t room)
{
    size_t size = 0;
    while (size < room) {
        ssize_t got = read(fd, buffer + size, room - size);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -errno;
        if (got == 0)
            break;
        size += (size_t)got;
    }
    return (ssize_t)size;
}

static int load(struct config *config, const char *path, int fd, char *buffer, struct error *err)
{
    ssize_t size = read_all(fd, buffer, FILE_SIZE_MAX + 1);
    if (size < 0)
        return error_set_errno(err, (int)-size, "cannot read the configuration file '%s'", path);
    if ((size_t)size > FILE_SIZE_MAX)
        return error_set(err, EBADMSG, "%s: larger than %zu MiB: not a configuration file", path,
                         FILE_SIZE_MAX >> 20);
    return config_file_parse(config, path, buffer, (size_t)size, err);
}

int config_file_load(struct config *config, const char *path, struct error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot open the configuration file '%s'", path);
    char *buffer = malloc(FILE_SIZE_MAX + 1);
    int result = buffer ? load(config, path, fd, buffer, err) : error_set(err, ENOMEM, "not enough memory");
    free(buffer);
    close(fd);
    return result;
}
