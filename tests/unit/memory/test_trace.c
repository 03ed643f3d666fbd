#include <fcntl.h>
#include <unistd.h>

#include "base/log.h"
#include "memory/dirty.h"
#include "memory/trace.h"
#include "tests/unit/memory/recorder.h"

static struct fixture f;
static int ends[2];
static struct log sink;
static struct memory_trace *trace;
static char lines[2 * TEXT_SIZE];

static void start(void)
{
    fixture_start(&f);
    cr_assert_eq(pipe2(ends, O_NONBLOCK), 0);
    sink = (struct log){.fd = ends[1], .level = LOG_INFO, .name = "g"};
}

static void end(void)
{
    memory_trace_destroy(trace);
    fixture_end(&f);
    close(ends[0]);
    close(ends[1]);
}

TestSuite(trace, .init = start, .fini = end);

/* What has been written since the last time, without what all lines begin with. */
static const char *traced(void)
{
    static const char prefix[] = "g: info: space: ";
    char raw[sizeof(lines)];
    ssize_t length = read(ends[0], raw, sizeof(raw) - 1);
    raw[length > 0 ? length : 0] = 0;
    lines[0] = 0;
    for (char *line = strtok(raw, "\n"); line; line = strtok(NULL, "\n")) {
        cr_assert_eq(strncmp(line, prefix, strlen(prefix)), 0, "%s", line);
        strcat(strcat(lines, line + strlen(prefix)), "\n");
    }
    return lines;
}

static void begin(void)
{
    cr_assert_eq(memory_trace_create(f.space, &sink, &trace, &f.err), 0);
}

static void forget_lines(void)
{
    traced();
}

#define assert_traced(text) cr_assert_str_eq(traced(), text)

Test(trace, begins_with_what_the_space_shows)
{
    struct memory_region *device = mmio(&f, "device", 0x100);
    cr_assert_eq(memory_region_add_ioeventfd(device, 0x10, 4, true, 0xab, 7, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(device, 0x20, 8, NULL), 0);
    add(&f.root, 0, rom(&f, "bios", PAGE), 0);
    add(&f.root, 0x2000, device, 0);
    begin();
    assert_traced("prepare 0000000000000000-ffffffffffffffff\n"
                  "range_add 0000000000000000-0000000000000fff (rom): bios @0000000000000000\n"
                  "range_add 0000000000002000-00000000000020ff (mmio): device @0000000000000000\n"
                  "coalesced_add 0000000000002020-0000000000002027: device\n"
                  "ioeventfd_add 0000000000002010 length 4 value 0xab fd 7: device\n"
                  "apply\n"
                  "commit\n");
}

Test(trace, every_call_of_a_change)
{
    struct memory_region *device = mmio(&f, "device", 0x100), *window;
    cr_assert_eq(memory_region_add_ioeventfd(device, 0x10, 0, false, 0, 7, NULL), 0);
    cr_assert_eq(memory_region_add_coalesced(device, 0x20, 8, NULL), 0);
    window = alias(&f, "window", device, 0x8, 0x80);
    add(&f.root, 0x1000, window, 0);
    begin();
    forget_lines();
    cr_assert_eq(memory_region_set_address(window, 0x1100, NULL), 0);
    const char *text = traced();
    const char *prepared = strchr(text, '\n');
    cr_assert_eq(strncmp(text, "prepare 0000000000001", 21), 0);
    cr_assert_str_eq(prepared,
                     "\n"
                     "coalesced_del 0000000000001018-000000000000101f: device\n"
                     "range_del 0000000000001000-000000000000107f (mmio): device @0000000000000008\n"
                     "range_add 0000000000001100-000000000000117f (mmio): device @0000000000000008\n"
                     "coalesced_add 0000000000001118-000000000000111f: device\n"
                     "ioeventfd_del 0000000000001008 fd 7: device\n"
                     "ioeventfd_add 0000000000001108 fd 7: device\n"
                     "apply\n"
                     "commit\n");
}

/* What a listener fails is in the trace, whichever way its step goes, and so is what is taken back. */
Test(trace, hears_first_and_what_is_undone)
{
    struct record record = {0};
    struct recorder recorder;
    struct memory_region *old = mmio(&f, "old", 1), *new = mmio(&f, "new", 1);
    add(&f.root, 0, old, 0);
    listen_to(f.space, &recorder, "a", 0, &record);
    begin();
    forget_lines();
    recorder.fail = "prepare";
    cr_assert_eq(memory_region_add_subregion(&f.root, 0x1000, new, 0, NULL), -EIO);
    cr_assert_not_null(strstr(traced(), "\nabort\n"));
    recorder.fail = "-0 old";
    cr_assert_eq(memory_region_remove_subregion(old, NULL), -EIO);
    cr_assert_str_eq(strchr(traced(), '\n'),
                     "\nrange_del 0000000000000000-0000000000000000 (mmio): old @0000000000000000\n"
                     "undo range_add 0000000000000000-0000000000000000 (mmio): old @0000000000000000\n"
                     "abort\n");
    recorder.fail = "apply";
    cr_assert_eq(memory_region_add_subregion(&f.root, 0x1000, new, 0, NULL), -EIO);
    cr_assert_str_eq(strchr(traced(), '\n'),
                     "\nrange_add 0000000000001000-0000000000001000 (mmio): new @0000000000000000\n"
                     "apply\n"
                     "undo revert\n"
                     "undo range_del 0000000000001000-0000000000001000 (mmio): new @0000000000000000\n"
                     "abort\n");
    recorder.fail = NULL;
    memory_listener_unregister(&recorder.listener);
}

Test(trace, who_logs)
{
    struct dirty_client *client;
    add(&f.root, 0x1000, ram(&f, "ram", PAGE), 0);
    begin();
    forget_lines();
    cr_assert_eq(dirty_start(f.memory, "client", DIRTY_EVERYTHING, &client, NULL), 0);
    cr_assert_str_eq(
        strchr(traced(), '\n'),
        "\nrange_nop 0000000000001000-0000000000001fff (ram, log 0x1): ram @0000000000000000\n"
        "log_start from 0x0 to 0x1: 0000000000001000-0000000000001fff (ram, log 0x1): ram @0000000000000000\n"
        "apply\n"
        "commit\n");
    dirty_stop(client);
    cr_assert_str_eq(strchr(traced(), '\n'),
                     "\nrange_nop 0000000000001000-0000000000001fff (ram): ram @0000000000000000\n"
                     "log_stop from 0x1 to 0x0: 0000000000001000-0000000000001fff (ram): ram "
                     "@0000000000000000\n"
                     "apply\n"
                     "commit\n");
}

Test(trace, ends_silently)
{
    add(&f.root, 0, ram(&f, "ram", PAGE), 0);
    begin();
    forget_lines();
    memory_trace_destroy(trace);
    trace = NULL;
    assert_traced("");
    memory_trace_destroy(NULL);
}
