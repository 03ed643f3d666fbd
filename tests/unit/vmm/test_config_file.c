/* The configuration file: what its keys set, and that each refusal names the file and the right line. */
#include <criterion/criterion.h>
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/config.h"
#include "vmm/config_file.h"
#include "vmm/config_option.h"

static int parse_bytes(struct config *config, const char *text, size_t size, struct error *err)
{
    cr_assert_eq(config_parse(config, 1, (char *[]){"--kernel=k"}, err), 0);
    /* An exact copy, so that a sanitizer sees any read past the end. */
    char *copy = malloc(size ? size : 1);
    memcpy(copy, text, size);
    int result = config_file_parse(config, "dir/vm.json", copy, size, err);
    free(copy);
    return result;
}

static void accepted(struct config *config, const char *text)
{
    struct error err = {""};
    cr_assert_eq(parse_bytes(config, text, strlen(text), &err), 0, "%s", err.message);
}

static void refused_bytes(const char *wanted, const char *text, size_t size)
{
    struct config config;
    struct error err = {""};
    cr_expect_eq(parse_bytes(&config, text, size, &err), -EBADMSG, "accepted: %s", text);
    cr_expect(strstr(err.message, wanted), "'%s' is not in: %s", wanted, err.message);
    config_free(&config);
}

static void refused(const char *wanted, const char *text)
{
    refused_bytes(wanted, text, strlen(text));
}

Test(config_file, every_key)
{
    struct config config;
    accepted(&config, "{\"kernel\": \"k\", \"initrd\": \"/abs/i\", \"append\": \"a b\", \"memory\": \"1G\","
                      " \"cpus\": 4, \"serial\": \"unix:s\", \"exit-port\": 244, \"no-acpi\": true,"
                      " \"huge-pages\": true, \"dump-dtb\": \"d\", \"mtree\": true, \"name\": \"n\","
                      " \"log\": \"info\", \"test-device\": true, \"disk\": \"i,ro\","
                      " \"io-threads\": 3, \"transport\": \"mmio\"}\n");
    cr_expect_str_eq(config.kernel, "dir/k");
    cr_expect_str_eq(config.initrd, "/abs/i");
    cr_expect_str_eq(config.append, "a b");
    cr_expect_eq(config.memory, 1u << 30);
    cr_expect_eq(config.cpus, 4);
    cr_expect_eq(config.serial, SERIAL_UNIX);
    cr_expect_str_eq(config.serial_path, "dir/s");
    cr_expect_eq(config.exit_port, 244);
    cr_expect(config.no_acpi && config.huge_pages && config.mtree && config.test_device);
    cr_expect_str_eq(config.dump_dtb, "dir/d");
    cr_expect_str_eq(config.name, "n");
    cr_expect_eq(config.log, LOG_INFO);
    cr_assert_eq(config.disk_count, 1);
    cr_expect_str_eq(config.disks[0].path, "dir/i");
    cr_expect_eq(config.io_threads, 3);
    cr_expect_eq(config.transport, TRANSPORT_MMIO);
    config_free(&config);
}

Test(config_file, several_disks)
{
    struct config config;
    accepted(&config, "{\"disk\": [\"a\", \"/b,ro\"]}");
    cr_assert_eq(config.disk_count, 2);
    cr_expect_str_eq(config.disks[0].path, "dir/a");
    cr_expect_str_eq(config.disks[1].path, "/b");
    cr_expect(config.disks[1].readonly);
    config_free(&config);
    accepted(&config, "{\"disk\": []}");
    cr_expect_eq(config.disk_count, 0);
    config_free(&config);
    refused("dir/vm.json:2: \"disk\": has a whole number in its array, but must have strings",
            "{\"cpus\": 2,\n\"disk\": [\"a\",\n 3]}");
    refused("dir/vm.json:1: \"disk\": has an array in its array", "{\"disk\": [[\"a\"]]}");
    refused("dir/vm.json:1: \"disk\": is an object, but must be a string or an array of strings",
            "{\"disk\": {\"path\": \"a\"}}");
    refused("dir/vm.json:1: \"disk\": 'rw' is no property of a disk", "{\"disk\": [\"a\", \"b,rw\"]}");
    refused("dir/vm.json:3: \"cpus\": ", "{\"disk\": [\"a\", \"b\",\n \"c\"],\n\"cpus\": 0}");
}

/* Each row of the table is a key, but those of the command line alone, which are refused by name. */
Test(config_file, keys_are_the_options)
{
    for (const struct config_option *option = config_options; option->name; option++) {
        char text[128], wanted[128];
        snprintf(text, sizeof(text), "{\"%s\": null}", option->name);
        snprintf(wanted, sizeof(wanted),
                 option->kind == CONFIG_COMMAND
                     ? "dir/vm.json:1: \"%s\" can only be given on the command line"
                     : "dir/vm.json:1: \"%s\": is null, but must be",
                 option->name);
        refused(wanted, text);
    }
}

Test(config_file, numbers_and_strings)
{
    struct config config;
    accepted(&config, "{\"memory\": 4194304, \"cpus\": \"2\", \"exit-port\": \"0xF4\", \"no-acpi\": false}");
    cr_expect_eq(config.memory, 4194304);
    cr_expect_eq(config.cpus, 2);
    cr_expect_eq(config.exit_port, 0xF4);
    cr_expect_not(config.no_acpi);
    config_free(&config);
    accepted(&config, "{}");
    config_free(&config);
}

Test(config_file, wrong_values)
{
    refused("dir/vm.json:2: \"memory\": '12Q' is not a size", "{\n\"memory\": \"12Q\"}");
    refused("dir/vm.json:1: \"memory\": 0 is too little", "{\"memory\": 0}");
    refused("\"memory\": '-4096' is not a size", "{\"memory\": -4096}");
    refused("\"memory\": 9223372036854775807 is too much", "{\"memory\": 9223372036854775807}");
    refused("\"cpus\": '5000' is not a number of CPUs", "{\"cpus\": 5000}");
    refused("\"exit-port\": '65536' is not a port", "{\"exit-port\": 65536}");
    refused("\"serial\": the path is empty", "{\"serial\": \"file:\"}");
    refused("\"kernel\": the path is empty", "{\"kernel\": \"\"}");
}

Test(config_file, wrong_types)
{
    refused("dir/vm.json:1: \"memory\": is an array, but must be a whole number or a string",
            "{\"memory\": [1]}");
    refused("\"memory\": is a number with a fraction or exponent", "{\"memory\": 1e9}");
    refused("\"cpus\": is true or false", "{\"cpus\": true}");
    refused("\"kernel\": is an object, but must be a string", "{\"kernel\": {\"a\": 1}}");
    refused("\"kernel\": is a whole number", "{\"kernel\": 1}");
    refused("\"no-acpi\": is a string, but must be true or false", "{\"no-acpi\": \"true\"}");
    refused("\"no-acpi\": is a whole number", "{\"no-acpi\": 1}");
    refused("dir/vm.json:1: the file is an array, but must be an object", "[{\"memory\": 1}]");
}

Test(config_file, unknown_keys)
{
    refused("dir/vm.json:3: unknown key \"memroy\"; did you mean \"memory\"?",
            "{\n\"cpus\": 1,\n\"memroy\": 1}");
    refused("dir/vm.json:1: unknown key \"huge_pages\"; did you mean \"huge-pages\"?",
            "{\"huge_pages\": true}");
    refused("unknown key \"zzz\"; keys are the options", "{\"zzz\": 1}");
    refused("unknown key \"\"", "{\"\": 1}");
    refused("unknown key \"--memory\"; did you mean \"memory\"?", "{\"--memory\": 1}");
    refused("dir/vm.json:2: unknown key \"Memory\"; did you mean \"memory\"?", "{\r\n\"Memory\": 1\r\n}");
}

/* Lines are counted past whatever JSON may hold: escaped quotes, brackets in strings, nesting, escaped keys.
 */
Test(config_file, line_of_a_key)
{
    refused("dir/vm.json:4: unknown key \"x\"",
            "{\n \"append\": \"a \\\"{,[\\\\\",\n \"name\": \"]}\",\n \"x\": 1\n}");
    refused("dir/vm.json:2: \"kernel\": is an array",
            "{\n \"kernel\": [\n {\"x\": [1, \"y\"]},\n 2],\n \"z\": 1}");
    refused("dir/vm.json:5: \"cpus\"", "{\n\n \"append\": \"x\",\n\n \"cpus\"\n:\n0\n}");
    refused("dir/vm.json:3: \"cpus\"",
            "{\"append\": \"\",\n\"name\": \"\\u0022,\\u0022\",\n\"\\u0063pus\": 0}");
}

Test(config_file, broken_json)
{
    refused("dir/vm.json:1: the file is empty", "");
    refused("dir/vm.json:1: the file is empty", " \t\r\n\n");
    refused("dir/vm.json:1: the file is a string, but must be an object", "\"kernel\"");
    refused("dir/vm.json:2:", "{\n\"memory\": }");
    refused("dir/vm.json:3:", "{\"memory\": \"1G\",\n\"cpus\": 1,\n}");
    refused("dir/vm.json:2:", "{\"memory\": \"1G\"}\nx");
    refused("invalid JSON", "{\"memory\": \"1G");
    refused("invalid JSON", "{'memory': 1}");
    refused("invalid JSON", "{\"memory\": 1e400}");
    refused("invalid JSON: too big integer", "{\"memory\": 99999999999999999999}");
    refused("invalid JSON: unable to decode byte 0xff", "{\"name\": \"\xFF\"}");
    refused("\\u0000 has no place in a string", "{\"name\": \"a\\u0000b\"}");
    refused("\\u0000 has no place in a string", "{\"na\\u0000me\": \"a\"}");
    refused_bytes("invalid JSON", "{\"name\": \"a\0b\"}", 15);
    refused_bytes("invalid JSON", "\0\0\0\0", 4);
    refused("dir/vm.json:3:", "{\n\"cpus\": 1,\n\"cpus\": 2}");
}

Test(config_file, deep_nesting)
{
    enum {
        DEPTH = 100000
    };
    char *text = malloc(DEPTH + 1);
    memset(text, '[', DEPTH);
    text[DEPTH] = 0;
    refused("invalid JSON: maximum parsing depth reached", text);
    free(text);
}

/* A folder of its own for each test, and the files in it. */
static char folder[] = "/tmp/godwit-config-XXXXXX";

static void enter_folder(void)
{
    cr_assert(mkdtemp(folder) && chdir(folder) == 0 && mkdir("sub", 0755) == 0);
}

static void leave_folder(void)
{
    unlink("vm.json");
    unlink("sub/vm.json");
    rmdir("sub");
    rmdir(folder);
}

static void write_file(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    cr_assert(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

TestSuite(config_file_disk, .init = enter_folder, .fini = leave_folder);

Test(config_file_disk, command_line_wins)
{
    write_file("vm.json", "{\"kernel\": \"k\", \"cpus\": 4, \"memory\": \"1G\", \"no-acpi\": true}");
    write_file("sub/vm.json", "{\"initrd\": \"i\", \"memory\": \"2G\"}");
    struct config config;
    struct error err = {""};
    char *argv[] = {"--cpus=2", "--config", "vm.json", "--no-acpi=false", "--config=sub/vm.json"};
    cr_assert_eq(config_parse(&config, 5, argv, &err), 0, "%s", err.message);
    cr_expect_str_eq(config.kernel, "k", "beside the file is the current folder");
    cr_expect_str_eq(config.initrd, "sub/i", "relative to the file");
    cr_expect_eq(config.cpus, 2);
    cr_expect_eq(config.memory, 2u << 30, "the later file wins");
    cr_expect_not(config.no_acpi);
    config_free(&config);
}

static void refused_file(int result, const char *wanted, char *path)
{
    struct config config;
    struct error err = {""};
    cr_expect_eq(config_parse(&config, 2, (char *[]){"--config", path}, &err), result);
    cr_expect(strstr(err.message, wanted), "'%s' is not in: %s", wanted, err.message);
    config_free(&config);
}

Test(config_file_disk, unreadable)
{
    refused_file(-ENOENT, "cannot open the configuration file 'none.json': No such file or directory",
                 "none.json");
    refused_file(-ENOENT, "cannot open the configuration file ''", "");
    refused_file(-EISDIR, "cannot read the configuration file 'sub': Is a directory", "sub");
    refused_file(-EBADMSG, "/dev/zero: larger than 1 MiB: not a configuration file", "/dev/zero");
    refused_file(-EBADMSG, "/dev/null:1: the file is empty", "/dev/null");
}

Test(config_file_disk, error_says_where)
{
    write_file("sub/vm.json", "{\n  \"kernel\": \"k\",\n  \"cpus\": 0\n}\n");
    refused_file(-EBADMSG, "sub/vm.json:3: \"cpus\": '0' is not a number of CPUs; give 1 to 255",
                 "sub/vm.json");
}

/* What a hostile file says must not steer the terminal. */
Test(config_file_disk, error_is_printable)
{
    write_file("vm.json", "{\"a\\nb\\u001b[0m\\u009b\\u00e9\": 0}");
    refused_file(-EBADMSG, "vm.json:1: unknown key \"a?b?[0m??\xC3\xA9\"", "vm.json");
    write_file("vm.json", "{\"name\": \"\n\33[0m");
    refused_file(-EBADMSG, "vm.json:1:10: invalid JSON: unexpected newline", "vm.json");
}

/* What configs/ shows people works; the files it names need not be there yet. */
Test(config_file, examples)
{
    glob_t found;
    cr_assert_eq(glob(SOURCE_FOLDER "/configs/*.json", 0, NULL, &found), 0);
    for (size_t i = 0; i < found.gl_pathc; i++) {
        struct config config;
        struct error err = {""};
        char *argv[] = {"--config", found.gl_pathv[i]};
        cr_expect_eq(config_parse(&config, 2, argv, &err), 0, "%s", err.message);
        config_free(&config);
    }
    globfree(&found);
}
