/*
 * `godwit host`, on whatever host this is: the keys of its JSON object and its exit statuses are there for
 * programs, with KVM and without.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/macros.h"
#include "vmm/exit_status.h"
#include "vmm/host.h"
#include "vmm/kvm_caps.h"

/* Runs the command with one argument; what it prints is in `text`. */
static int run(const char *argument, char *text, size_t size)
{
    char *const argv[] = {(char[]){"host"}, (char *)argument, NULL};
    FILE *file = tmpfile();
    int before = dup(STDOUT_FILENO);
    cr_assert(file && before >= 0);
    fflush(stdout);
    dup2(fileno(file), STDOUT_FILENO);
    int status = host_main(argument ? 2 : 1, argv);
    fflush(stdout);
    dup2(before, STDOUT_FILENO);
    close(before);
    rewind(file);
    text[fread(text, 1, size - 1, file)] = '\0';
    fclose(file);
    return status;
}

static json_t *run_json(int *status)
{
    static char text[1 << 16];
    json_error_t error;
    *status = run("--json", text, sizeof(text));
    json_t *report = json_loads(text, 0, &error);
    cr_assert(report, "%s in %s", error.text, text);
    return report;
}

Test(host, json_has_the_documented_keys)
{
    const char *const numbers[] = {"vcpus", "vcpus-recommended", "memory-slots", "interrupt-routes",
                                   "address-bits"};
    const char *const log_flags[] = {"get", "manual-protect", "initially-all-set", "ring-with-bitmap"};
    int status;
    json_t *report = run_json(&status);
    json_t *limits = json_object_get(report, "limits"), *dirty_log = json_object_get(report, "dirty-log");
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        cr_assert(json_is_integer(json_object_get(limits, numbers[i])), "%s", numbers[i]);
    for (size_t i = 0; i < ARRAY_SIZE(log_flags); i++)
        cr_assert(json_is_boolean(json_object_get(dirty_log, log_flags[i])), "%s", log_flags[i]);
    cr_assert(json_is_integer(json_object_get(dirty_log, "ring-entries")));
    json_t *modes = json_object_get(dirty_log, "modes"), *preset = json_object_get(dirty_log, "default");
    bool has_kvm = json_is_true(json_object_get(dirty_log, "get"));
    cr_assert_eq(json_array_size(modes) > 0, has_kvm);
    cr_assert_eq(json_is_string(preset), has_kvm);
    cr_assert(json_is_boolean(json_object_get(limits, "ioeventfd-any-length")));
    cr_assert(json_is_boolean(json_object_get(limits, "tsc-control")));
    const char *kind = json_string_value(json_object_get(report, "kind"));
    cr_assert(kind && (strcmp(kind, "hardware") == 0) == host_kvm_is_hardware());
    json_decref(report);
}

Test(host, exit_status_tells_whether_kvm_is_usable)
{
    static char text[1 << 16];
    int status;
    json_t *report = run_json(&status);
    bool usable = json_is_true(json_object_get(report, "usable"));
    cr_assert_eq(status, usable ? EXIT_STATUS_OK : EXIT_STATUS_FAILED);
    cr_assert_eq(run(NULL, text, sizeof(text)), status);
    cr_assert_eq(json_object_get(report, "error") != NULL, !usable);
    json_decref(report);
}

Test(host, json_lists_every_capability)
{
    int status;
    json_t *report = run_json(&status);
    json_t *all = json_object_get(report, "capabilities");
    for (size_t i = 0; i < kvm_capability_count; i++) {
        json_t *one = json_object_get(all, kvm_capabilities[i].name);
        cr_assert(json_is_integer(json_object_get(one, "value")));
        cr_assert_eq(json_is_true(json_object_get(one, "required")), kvm_capabilities[i].required);
        cr_assert(json_is_string(json_object_get(one, "purpose")));
    }
    cr_assert_eq(json_object_size(all), kvm_capability_count);
    json_decref(report);
}

Test(host, help_and_wrong_options)
{
    char text[4096];
    cr_assert_eq(run("--help", text, sizeof(text)), EXIT_STATUS_OK);
    cr_assert(strstr(text, "godwit host --json"));
    cr_assert_eq(run("--jsn", text, sizeof(text)), EXIT_STATUS_USAGE);
    cr_assert_eq(text[0], '\0');
}
