/*
 * time-output: how long programs take from exec to what they print.
 *
 *   time-output [--rounds N] [--until TEXT] [--smaps PATH] -- COMMAND... [-- COMMAND...]...
 *
 * In each round it starts every COMMAND once, in turn, so that what disturbs the host disturbs all alike, and
 * prints a line "INDEX NANOSECONDS": from just before the process was made until a read of its standard
 * output returned its first byte, or the byte that completed TEXT. Then, with --smaps, it copies
 * /proc/PID/smaps to PATH.INDEX; and kills the process. Standard input is empty; standard error is ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COMMANDS_MAX 16
#define WAIT_MAX_MS  120000
#define TEXT_MAX     256

extern char **environ;

struct options {
    int rounds;
    const char *until, *smaps;
    char **commands[COMMANDS_MAX];
    int count;
};

struct run {
    pid_t pid;
    int output;
    int64_t began;
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "time-output: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void run_start(struct run *run, char **command)
{
    posix_spawn_file_actions_t actions;
    int pipe[2];
    if (pipe2(pipe, O_CLOEXEC) != 0)
        die("pipe");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, pipe[1], 1);
    run->began = now();
    errno = posix_spawnp(&run->pid, command[0], &actions, NULL, command, environ);
    if (errno != 0)
        die(command[0]);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe[1]);
    run->output = pipe[0];
}

/* Reads what there is behind the `kept` bytes of `text`; returns how many there are now. */
static size_t read_more(const struct run *run, char *text, size_t kept, const char *command)
{
    struct pollfd ready = {.fd = run->output, .events = POLLIN};
    errno = ETIMEDOUT;
    if (poll(&ready, 1, WAIT_MAX_MS) != 1)
        die(command);
    ssize_t count = read(run->output, text + kept, TEXT_MAX - kept);
    errno = EPIPE;
    if (count <= 0)
        die(command); /* ended without printing it */
    return kept + count;
}

/* Waits for the first byte, or for `until`; returns the time since the start. */
static int64_t run_wait(const struct run *run, const char *until, const char *command)
{
    char text[TEXT_MAX];
    size_t keep = until ? strlen(until) - 1 : 0, kept = 0;
    for (;;) {
        kept = read_more(run, text, kept, command);
        int64_t time = now() - run->began;
        if (!until || memmem(text, kept, until, keep + 1))
            return time;
        if (kept > keep) {
            memmove(text, text + kept - keep, keep);
            kept = keep;
        }
    }
}

static void copy_smaps(pid_t pid, const char *prefix, int index)
{
    char path[4096], block[65536];
    snprintf(path, sizeof path, "/proc/%d/smaps", pid);
    FILE *from = fopen(path, "r");
    if (!from)
        die(path);
    snprintf(path, sizeof path, "%s.%d", prefix, index);
    FILE *to = fopen(path, "w");
    if (!to)
        die(path);
    for (size_t count; (count = fread(block, 1, sizeof block, from)) > 0;)
        fwrite(block, 1, count, to);
    fclose(from);
    if (fclose(to) != 0)
        die(path);
}

static void measure(const struct options *options, int index)
{
    char **command = options->commands[index];
    struct run run;
    run_start(&run, command);
    int64_t time = run_wait(&run, options->until, command[0]);
    if (options->smaps)
        copy_smaps(run.pid, options->smaps, index);
    kill(run.pid, SIGKILL);
    waitpid(run.pid, NULL, 0);
    close(run.output);
    printf("%d %lld\n", index, (long long)time);
    fflush(stdout);
}

static _Noreturn void usage(void)
{
    fputs("usage: time-output [--rounds N] [--until TEXT] [--smaps PATH] -- COMMAND... [-- COMMAND...]...\n",
          stderr);
    exit(2);
}

static void parse(struct options *options, int argc, char **argv)
{
    int i = 1;
    *options = (struct options){.rounds = 1};
    for (; i + 1 < argc && strcmp(argv[i], "--") != 0; i += 2) {
        if (strcmp(argv[i], "--rounds") == 0)
            options->rounds = atoi(argv[i + 1]);
        else if (strcmp(argv[i], "--until") == 0)
            options->until = argv[i + 1];
        else if (strcmp(argv[i], "--smaps") == 0)
            options->smaps = argv[i + 1];
        else
            usage();
    }
    for (; i < argc; i++) {
        if (strcmp(argv[i], "--") != 0)
            continue;
        if (i + 1 == argc || options->count == COMMANDS_MAX)
            usage();
        argv[i] = NULL; /* ends the command before */
        options->commands[options->count++] = &argv[i + 1];
    }
    if (options->count == 0 ||
        (options->until && (!*options->until || strlen(options->until) > TEXT_MAX / 2)))
        usage();
}

int main(int argc, char **argv)
{
    struct options options;
    parse(&options, argc, argv);
    for (int round = 0; round < options.rounds; round++)
        for (int index = 0; index < options.count; index++)
            measure(&options, index);
    return 0;
}
