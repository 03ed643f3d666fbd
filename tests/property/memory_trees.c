/*
 * Random trees: the memory core under tests/support/memory_driver.h, a tree for each seed, on all processors.
 * Where one fails, the shortest series of operations that fails too is told in words. Exit status: 0 if all
 * trees hold, 1 if one fails, 2 for a wrong command line.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/macros.h"
#include "tests/property/shrink.h"
#include "tests/support/memory_driver.h"

#define STEPS          120
#define BYTES          (STEPS * MEMORY_DRIVER_STEP)
#define WORKERS_MAX    64
#define SECONDS_A_TREE 60 /* after which it hangs */

/* What the workers share. */
struct shared {
    _Atomic uint64_t next;                 /* seed that nobody has taken */
    _Atomic uint64_t current[WORKERS_MAX]; /* the tree that each is at */
    _Atomic uint64_t done;
};

struct trees {
    uint64_t first, end;
    unsigned flags, workers;
    bool progress;
    struct shared *shared;
    pid_t pids[WORKERS_MAX];
    const char *program;
};

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void make_tree(uint64_t seed, uint8_t data[BYTES])
{
    uint64_t state = (seed + 1) * 0x9e3779b97f4a7c15;
    for (size_t i = 0; i < BYTES; i++)
        data[i] = (uint8_t)(next_random(&state) >> 32);
}

static _Noreturn void work(const struct trees *trees, unsigned worker)
{
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_PDEATHSIG, SIGKILL); /* nobody is left to hear of what it finds */
    struct shared *shared = trees->shared;
    for (uint64_t seed; (seed = atomic_fetch_add(&shared->next, 1)) < trees->end;) {
        uint8_t data[BYTES];
        atomic_store(&shared->current[worker], seed);
        make_tree(seed, data);
        alarm(SECONDS_A_TREE);
        memory_driver_run(data, sizeof(data), trees->flags);
        atomic_fetch_add(&shared->done, 1);
    }
    alarm(0);
    exit(0); /* not _exit(): sanitizers report at exit */
}

static void show_progress(const struct trees *trees)
{
    if (trees->progress)
        fprintf(stderr, "\r%llu of %llu trees", (unsigned long long)atomic_load(&trees->shared->done),
                (unsigned long long)(trees->end - trees->first));
}

static void end_progress(const struct trees *trees)
{
    if (trees->progress)
        fputs("\r\033[K", stderr);
}

static bool start_workers(struct trees *trees)
{
    fflush(NULL);
    for (unsigned i = 0; i < trees->workers; i++) {
        trees->pids[i] = fork();
        if (trees->pids[i] == 0)
            work(trees, i);
        if (trees->pids[i] < 0) {
            fprintf(stderr, "memory-trees: cannot start a process: %s\n", strerror(errno));
            return false;
        }
    }
    return true;
}

/* Waits for any worker to end, and shows how far all are meanwhile. Returns its number; -1: there is none. */
static int wait_worker(const struct trees *trees, int *status)
{
    pid_t ended;
    while ((ended = waitpid(-1, status, trees->progress ? WNOHANG : 0)) == 0) {
        show_progress(trees);
        nanosleep(&(struct timespec){.tv_nsec = 200000000}, NULL);
    }
    for (unsigned i = 0; i < trees->workers; i++)
        if (trees->pids[i] == ended)
            return (int)i;
    return -1;
}

/* Waits for all workers. Returns the number of one that failed, or -1. */
static int wait_workers(const struct trees *trees)
{
    int failed = -1, status;
    for (int worker; (worker = wait_worker(trees, &status)) >= 0;) {
        if (WIFEXITED(status) && !WEXITSTATUS(status))
            continue;
        atomic_store(&trees->shared->next, trees->end); /* the others end with the trees they are at */
        failed = worker;
    }
    end_progress(trees);
    return failed;
}

static void run_tree(const uint8_t *data, size_t size, void *opaque)
{
    const struct trees *trees = opaque;
    memory_driver_run(data, size, trees->flags);
}

static void tell_tree(const uint8_t *data, size_t size, void *opaque)
{
    const struct trees *trees = opaque;
    memory_driver_run(data, size, trees->flags | MEMORY_DRIVER_NARRATE);
}

static void shrink_progress(size_t size, void *opaque)
{
    const struct trees *trees = opaque;
    if (trees->progress)
        fprintf(stderr, "\rmaking it smaller: %zu operations left \033[K", size / MEMORY_DRIVER_STEP);
}

/* Runs one tree with all that it says, and the command that does so again. */
static void tell(struct trees *trees, const uint8_t *data, size_t size)
{
    struct shrink shrink = {tell_tree, trees, MEMORY_DRIVER_STEP, SECONDS_A_TREE, NULL};
    fprintf(stderr, "%zu operations:\n", (size - 1) / MEMORY_DRIVER_STEP);
    fflush(NULL);
    shrink_fails(&shrink, data, size, true);
    fprintf(stderr, "again with: %s%s --tree ", trees->program,
            trees->flags & MEMORY_DRIVER_WRONG ? " --wrong" : "");
    for (size_t i = 0; i < size; i++)
        fprintf(stderr, "%02x", data[i]);
    fputc('\n', stderr);
}

static void tell_minimal(struct trees *trees, uint64_t seed)
{
    uint8_t data[BYTES];
    make_tree(seed, data);
    struct shrink shrink = {run_tree, trees, MEMORY_DRIVER_STEP, SECONDS_A_TREE, shrink_progress};
    fprintf(stderr, "memory-trees: tree %llu FAILED\n", (unsigned long long)seed);
    fflush(NULL);
    if (!shrink_fails(&shrink, data, BYTES, false)) {
        fprintf(stderr, "memory-trees: it does not fail alone; memory of the trees before it may matter\n");
        return;
    }
    size_t size = shrink_input(&shrink, data, BYTES);
    end_progress(trees);
    tell(trees, data, size);
}

static int run_all(struct trees *trees)
{
    atomic_store(&trees->shared->next, trees->first);
    if (!start_workers(trees))
        return 1;
    int failed = wait_workers(trees);
    printf("%llu trees\n", (unsigned long long)atomic_load(&trees->shared->done));
    if (failed < 0)
        return 0;
    tell_minimal(trees, atomic_load(&trees->shared->current[failed]));
    return 1;
}

static int usage(void)
{
    fputs("usage: memory-trees [--trees NUMBER] [--first SEED] [--wrong] [--tree BYTES]\n"
          "  --trees NUMBER  how many random trees\n"
          "  --first SEED    the first one's; each has the next\n"
          "  --wrong         expect something wrong: must fail\n"
          "  --tree BYTES    only the one that these hexadecimal digits stand for, told as it goes\n",
          stderr);
    return 2;
}

/* The bytes that `hex` stands for, as many as the tree can have; 0: none, or what is no hexadecimal digit. */
static size_t parse_hex(const char *hex, uint8_t data[BYTES])
{
    size_t length = strlen(hex);
    if (length % 2 || length / 2 > BYTES || strspn(hex, "0123456789abcdefABCDEF") != length)
        return 0;
    for (size_t i = 0; i < length / 2; i++) {
        const char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
        data[i] = (uint8_t)strtoul(digits, NULL, 16);
    }
    return length / 2;
}

/* Runs the tree that `hex` stands for. */
static int run_one(struct trees *trees, const char *hex)
{
    uint8_t data[BYTES];
    size_t size = parse_hex(hex, data);
    struct shrink shrink = {tell_tree, trees, MEMORY_DRIVER_STEP, SECONDS_A_TREE, NULL};
    return size ? shrink_fails(&shrink, data, size, true) : usage();
}

struct arguments {
    struct trees trees;
    uint64_t count;
    const char *hex; /* the only tree; NULL: random ones */
};

static bool parse(int argc, char *argv[], struct arguments *arguments)
{
    static const struct option options[] = {
        {"trees", required_argument, NULL, 'n'},
        {"first", required_argument, NULL, 'f'},
        {"wrong", no_argument, NULL, 'w'},
        {"tree", required_argument, NULL, 't'},
        {NULL, 0, NULL, 0},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) >= 0;) {
        if (option == 'n')
            arguments->count = strtoull(optarg, NULL, 0);
        else if (option == 'f')
            arguments->trees.first = strtoull(optarg, NULL, 0);
        else if (option == 'w')
            arguments->trees.flags |= MEMORY_DRIVER_WRONG;
        else if (option == 't')
            arguments->hex = optarg;
        else
            return false;
    }
    return optind == argc && arguments->count;
}

int main(int argc, char *argv[])
{
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    struct arguments arguments = {
        .trees = {.workers = processors > 0 ? (unsigned)smaller((size_t)processors, WORKERS_MAX) : 1,
                  .progress = isatty(STDERR_FILENO),
                  .program = argv[0]},
        .count = MEMORY_TREES,
    };
    struct trees *trees = &arguments.trees;
    if (!parse(argc, argv, &arguments))
        return usage();
    if (arguments.hex)
        return run_one(trees, arguments.hex);
    trees->end = trees->first + arguments.count;
    trees->shared =
        mmap(NULL, sizeof(*trees->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return trees->shared == MAP_FAILED ? 1 : run_all(trees);
}
