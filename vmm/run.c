#include "vmm/run.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "devices/chardev.h"
#include "vmm/backends.h"
#include "vmm/cli.h"
#include "vmm/config.h"
#include "vmm/end_signals.h"
#include "vmm/exit_status.h"
#include "vmm/machine.h"
#include "vmm/terminal.h"

struct run {
    struct config config;
    struct log log;
    struct event_loop *loop;
    struct end_signals *signals;
    int console_failed_fd; /* an eventfd */
    struct event_source *signal_source, *console_failed_source;
    struct terminal *terminal;
    struct chardev *console;
    struct backends backends;
    struct machine *machine;
};

static void signal_arrived(void *opaque, unsigned events)
{
    struct run *run = opaque;
    eventfd_t number;
    if (eventfd_read(end_signals_fd(run->signals), &number) == 0)
        machine_end(run->machine, MACHINE_SIGNALLED, (int)number);
}

static int watch_signals(struct run *run, struct error *err)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a file that may not grow is an error of the write */
    int result = end_signals_create(&run->signals, err);
    return result < 0 ? result
                      : event_loop_add(run->loop, end_signals_fd(run->signals), POLLIN, signal_arrived, run,
                                       &run->signal_source);
}

/* On any thread, with locks of the serial port held: so the machine is ended from the event loop. */
static void console_failed(void *opaque, const char *message)
{
    struct run *run = opaque;
    log_write(&run->log, LOG_ERROR, "%s", message);
    ssize_t written = write(run->console_failed_fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)written;
}

static void end_for_console(void *opaque, unsigned events)
{
    struct run *run = opaque;
    event_loop_modify(run->loop, run->console_failed_source, 0);
    machine_end(run->machine, MACHINE_FAILED, 0);
}

static int watch_console(struct run *run, struct error *err)
{
    run->console_failed_fd = eventfd(0, EFD_CLOEXEC);
    if (run->console_failed_fd < 0)
        return error_set_errno(err, errno, "cannot create an eventfd");
    return event_loop_add(run->loop, run->console_failed_fd, POLLIN, end_for_console, run,
                          &run->console_failed_source);
}

static void terminal_commands(void *opaque, enum terminal_command command)
{
    struct run *run = opaque;
    if (command == TERMINAL_QUIT)
        machine_end(run->machine, MACHINE_QUIT, 0);
    else
        machine_press_power_button(run->machine);
}

static int create_stdio(struct run *run, struct chardev_config *config, struct error *err)
{
    struct terminal_config terminal = {.fd = STDIN_FILENO, .command = terminal_commands, .opaque = run};
    int result = terminal_create(&terminal, &run->terminal, err);
    if (result < 0)
        return result;
    if (run->terminal) {
        config->filter = terminal_filter;
        config->filter_opaque = run->terminal;
        run->log.raw_terminal = isatty(run->log.fd);
    }
    return chardev_create_stdio(config, STDIN_FILENO, STDOUT_FILENO, &run->console, err);
}

static int create_console(struct run *run, struct error *err)
{
    struct chardev_config config = {
        .loop = run->loop, .log = &run->log, .failed = console_failed, .opaque = run};
    switch (config_looks_only(&run->config) ? SERIAL_NONE : run->config.serial) {
    case SERIAL_STDIO:
        return create_stdio(run, &config, err);
    case SERIAL_FILE:
        return chardev_create_file(&config, run->config.serial_path, &run->console, err);
    case SERIAL_UNIX:
        return chardev_create_unix(&config, run->config.serial_path, &run->console, err);
    default:
        return chardev_create_none(&config, &run->console, err);
    }
}

static int create_machine(struct run *run, struct error *err)
{
    const struct machine_config config = {
        .config = &run->config,
        .log = &run->log,
        .loop = run->loop,
        .console = run->console,
        .backends = &run->backends,
    };
    return machine_create(&config, &run->machine, err);
}

static int build(struct run *run, struct error *err)
{
    int result = event_loop_create(&run->loop, err);
    if (result == 0)
        result = watch_signals(run, err);
    if (result == 0)
        result = watch_console(run, err);
    if (result == 0)
        result = create_console(run, err);
    if (result == 0)
        result = end_signals_start(run->signals, &run->log, err);
    if (result == 0)
        result = backends_open(&run->backends, &run->config, run->loop, &run->log, err);
    return result < 0 ? result : create_machine(run, err);
}

static void restore_terminal(struct run *run)
{
    terminal_destroy(run->terminal);
    run->terminal = NULL;
    run->log.raw_terminal = false;
}

static void take_down(struct run *run)
{
    if (run->signals)
        end_signals_ending(run->signals);
    machine_destroy(run->machine);
    backends_close(&run->backends);
    chardev_destroy(run->console);
    restore_terminal(run);
    event_loop_destroy(run->loop);
    end_signals_destroy(run->signals);
    if (run->console_failed_fd >= 0)
        close(run->console_failed_fd);
}

/* What is asked for beside running: prints or writes it, and returns 0 or -errno with a message. */
static int look(struct run *run, struct error *err)
{
    if (run->config.mtree) {
        machine_print_memory(run->machine, stdout);
        if (fflush(stdout) != 0)
            return error_set_errno(err, errno, "cannot write to standard output");
    }
    return run->config.dump_dtb ? machine_write_device_tree(run->machine, run->config.dump_dtb, err) : 0;
}

static int exit_status(struct run *run, const struct machine_end *end)
{
    switch (end->outcome) {
    case MACHINE_POWERED_OFF:
        log_write(&run->log, LOG_INFO, "the guest powered off");
        return 0;
    case MACHINE_RESET:
        log_write(&run->log, LOG_INFO, "the guest reset the machine");
        return 0;
    case MACHINE_EXIT_PORT:
        return end->status;
    case MACHINE_CRASHED:
        machine_report_crash(run->machine, stderr);
        return EXIT_STATUS_GUEST_CRASH;
    case MACHINE_SIGNALLED:
        return EXIT_STATUS_SIGNAL + end->status;
    case MACHINE_QUIT:
        return 0;
    default:
        return EXIT_STATUS_FAILED;
    }
}

static bool output_matters(const struct machine_end *end)
{
    return end->outcome != MACHINE_SIGNALLED && end->outcome != MACHINE_QUIT;
}

/* What a machine has in it is not reset but made anew: then nothing can be forgotten. */
static int reboot(struct run *run, struct error *err)
{
    log_write(&run->log, LOG_INFO, "the guest reset the machine; it boots again");
    machine_destroy(run->machine);
    run->machine = NULL;
    return create_machine(run, err);
}

static int run_machine(struct run *run, int *status, struct error *err)
{
    struct machine_end end;
    bool again;
    do {
        int result = machine_run(run->machine, &end, err);
        if (result < 0)
            return result;
        if (output_matters(&end))
            machine_flush(run->machine, end_signals_fd(run->signals));
        again = end.outcome == MACHINE_RESET && !run->config.no_reboot;
        if (again && (result = reboot(run, err)) < 0)
            return result;
    } while (again);
    restore_terminal(run);
    *status = exit_status(run, &end);
    return 0;
}

static int run_config(struct run *run)
{
    struct error err;
    int status = 0;
    int result = build(run, &err);
    if (result == 0)
        result = config_looks_only(&run->config) ? look(run, &err) : run_machine(run, &status, &err);
    take_down(run);
    if (result == 0)
        return status;
    log_write(&run->log, LOG_ERROR, "%s", err.message);
    return EXIT_STATUS_FAILED;
}

/* Each queue of a device takes two descriptors, and shells give 1024 at first. What is refused later says so.
 */
static void allow_many_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
}

int run_main(int argc, char *const argv[])
{
    struct run run = {
        .log = {.fd = STDERR_FILENO, .level = LOG_WARN, .name = "godwit"},
        .console_failed_fd = -1,
    };
    struct error err;
    int status;
    allow_many_descriptors();
    int result = config_parse(&run.config, argc - 1, argv + 1, &err);
    if (result < 0) {
        log_write(&run.log, LOG_ERROR, "%s", err.message);
        status = result == -EINVAL ? EXIT_STATUS_USAGE : EXIT_STATUS_FAILED;
    } else if (run.config.help) {
        status = cli_print(run_usage);
    } else {
        run.log.level = run.config.log;
        status = run_config(&run);
    }
    config_free(&run.config);
    return status;
}
