#include "tests/property/shrink.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

/* Ends with the input's verdict. */
static _Noreturn void run_child(const struct shrink *shrink, const uint8_t *data, size_t size, bool loud)
{
    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    int null = loud ? -1 : open("/dev/null", O_WRONLY | O_CLOEXEC);
    if (null >= 0) {
        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
    }
    alarm(shrink->time_limit);
    shrink->run(data, size, shrink->opaque);
    exit(0); /* not _exit(): sanitizers report at exit */
}

bool shrink_fails(const struct shrink *shrink, const uint8_t *data, size_t size, bool loud)
{
    pid_t child = fork();
    if (child == 0)
        run_child(shrink, data, size, loud);
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return false;
    return !WIFEXITED(status) || WEXITSTATUS(status);
}

/* An input and one that is tried in its place. */
struct attempt {
    const struct shrink *shrink;
    uint8_t *data, *candidate;
    size_t size;
};

/* Keeps the candidate if it fails too. */
static bool try_candidate(struct attempt *attempt, size_t size)
{
    if (!shrink_fails(attempt->shrink, attempt->candidate, size, false))
        return false;
    memcpy(attempt->data, attempt->candidate, size);
    attempt->size = size;
    if (attempt->shrink->progress)
        attempt->shrink->progress(size, attempt->shrink->opaque);
    return true;
}

/* Leaves out runs of `length` bytes, the last first. Returns whether any could be. */
static bool drop_runs(struct attempt *attempt, size_t length)
{
    size_t first = attempt->shrink->step;
    bool any = false;
    for (size_t end = attempt->size; end > first; end = end > length ? end - length : 0) {
        size_t start = end > first + length ? end - length : first;
        memcpy(attempt->candidate, attempt->data, start);
        memcpy(attempt->candidate + start, attempt->data + end, attempt->size - end);
        any |= try_candidate(attempt, start + attempt->size - end);
    }
    return any;
}

static bool drop(struct attempt *attempt)
{
    size_t step = attempt->shrink->step, length = step;
    bool any = false;
    while (length * 2 < attempt->size)
        length *= 2;
    for (; length >= step; length /= 2)
        while (drop_runs(attempt, length))
            any = true;
    return any;
}

/* Leaves out two steps at once, as a beginning with its end. */
static bool drop_pair(struct attempt *attempt)
{
    size_t step = attempt->shrink->step;
    for (size_t i = step; i < attempt->size; i += step) {
        for (size_t j = i + step; j + step <= attempt->size; j += step) {
            memcpy(attempt->candidate, attempt->data, i);
            memcpy(attempt->candidate + i, attempt->data + i + step, j - i - step);
            memcpy(attempt->candidate + j - step, attempt->data + j + step, attempt->size - j - step);
            if (try_candidate(attempt, attempt->size - 2 * step))
                return true;
        }
    }
    return false;
}

/* Makes bytes zero, or else less. */
static bool lower(struct attempt *attempt)
{
    bool any = false;
    for (size_t i = 0; i < attempt->size; i++) {
        const uint8_t old = attempt->data[i], lesser[] = {0, old / 2, (uint8_t)(old - 1)};
        bool done = old == 0;
        for (size_t j = 0; j < sizeof(lesser) && !done; j++) {
            memcpy(attempt->candidate, attempt->data, attempt->size);
            attempt->candidate[i] = lesser[j];
            done = lesser[j] < old && try_candidate(attempt, attempt->size);
        }
        any |= attempt->data[i] < old;
    }
    return any;
}

size_t shrink_input(const struct shrink *shrink, uint8_t *data, size_t size)
{
    struct attempt attempt = {shrink, data, malloc(size), size};
    if (!attempt.candidate)
        return size;
    drop(&attempt);
    for (int round = 0; round < 20 && (lower(&attempt) || drop_pair(&attempt)); round++)
        drop(&attempt);
    free(attempt.candidate);
    return attempt.size;
}
