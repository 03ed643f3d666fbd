/*
 * Machines on a real KVM, within one process: what each does must not depend on the others.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "devices/chardev.h"
#include "vmm/config.h"
#include "vmm/machine.h"

#define MACHINES 2
#define ROUNDS   5

struct run {
    const char *guest;
    int output; /* a pipe's end */
    struct machine_end end;
    struct error failure;
};

static int run_machine(struct run *run, struct event_loop *loop, struct chardev *console, struct error *err)
{
    char *argv[] = {"--kernel", (char *)run->guest, "--memory", "16M", "--exit-port", "0xf4", NULL};
    struct config config;
    int result = config_parse(&config, 6, argv, err);
    struct machine_config machine_config = {.config = &config, .loop = loop, .console = console};
    struct machine *machine = NULL;
    if (result == 0)
        result = machine_create(&machine_config, &machine, err);
    if (result == 0)
        result = machine_run(machine, &run->end, err);
    if (result == 0)
        machine_flush(machine, -1);
    machine_destroy(machine);
    config_free(&config);
    return result;
}

static void *run_thread(void *opaque)
{
    struct run *run = opaque;
    struct error err;
    struct event_loop *loop = NULL;
    struct chardev *console = NULL;
    int result = event_loop_create(&loop, &err);
    struct chardev_config config = {.loop = loop};
    if (result == 0)
        result = chardev_create_stdio(&config, -1, run->output, &console, &err);
    if (result == 0)
        result = run_machine(run, loop, console, &err);
    if (result < 0)
        run->failure = err;
    chardev_destroy(console);
    event_loop_destroy(loop);
    close(run->output);
    return NULL;
}

static void read_all(int fd, char *text, size_t size)
{
    size_t length = 0;
    for (ssize_t got; length < size - 1 && (got = read(fd, text + length, size - 1 - length)) > 0;)
        length += (size_t)got;
    text[length] = 0;
    close(fd);
}

Test(machine, two_live_in_one_process)
{
    static const char *const guests[MACHINES] = {GUEST_FOLDER "/hello", GUEST_FOLDER "/hello.flat"};
    static const char *const expected[MACHINES] = {"hello: entered by elf64", "hello: entered by flat"};
    for (int round = 0; round < ROUNDS; round++) {
        struct run runs[MACHINES];
        pthread_t threads[MACHINES];
        int outputs[MACHINES];
        for (int i = 0; i < MACHINES; i++) {
            int ends[2];
            cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
            runs[i] = (struct run){.guest = guests[i], .output = ends[1]};
            outputs[i] = ends[0];
            cr_assert_eq(pthread_create(&threads[i], NULL, run_thread, &runs[i]), 0);
        }
        for (int i = 0; i < MACHINES; i++) {
            char text[256];
            read_all(outputs[i], text, sizeof(text));
            pthread_join(threads[i], NULL);
            cr_assert_str_empty(runs[i].failure.message, "%s", runs[i].failure.message);
            cr_assert_eq(runs[i].end.outcome, MACHINE_EXIT_PORT);
            cr_assert_eq(runs[i].end.status, 0);
            cr_assert_eq(strncmp(text, expected[i], strlen(expected[i])), 0, "guest %d printed: %s", i, text);
        }
    }
}
