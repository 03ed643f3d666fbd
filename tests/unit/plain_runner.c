/*
 * Runs Criterion tests without Criterion's runner, for ThreadSanitizer builds: that runner maps memory where
 * ThreadSanitizer allows none. It stands in for libcriterion: each test runs in a child process, as there;
 * what a test file may use of Criterion is what this file defines, and anything else fails to link.
 */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* The linker's bounds of the section in which Test() leaves a pointer to each test, and TestSuite() to each
 * suite. */
extern struct criterion_test *__start_cr_tst[], *__stop_cr_tst[];
extern struct criterion_suite *__start_cr_sts[] __attribute__((weak)), *__stop_cr_sts[] __attribute__((weak));

struct criterion_options criterion_options;

void criterion_send_assert(struct criterion_assert_stats *stats)
{
    fprintf(stderr, "%s:%u: %s\n", stats->file, stats->line, stats->message);
}

void criterion_abort_test(void)
{
    _exit(1);
}

void criterion_continue_test(void)
{
    _exit(1);
}

void cri_asserts_passed_incr(void)
{
}

char *cr_translate_assert_msg(int index, ...)
{
    return strdup("assertion failed");
}

int cr_asprintf(char **text, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vasprintf(text, format, args);
    va_end(args);
    return length;
}

void cr_asprintf_free(char *text)
{
    free(text);
}

void criterion_internal_test_setup(void)
{
}

void criterion_internal_test_main(void (*function)(void))
{
    function();
}

void criterion_internal_test_teardown(void)
{
}

static void call(void (*function)(void))
{
    if (function)
        function();
}

static const struct criterion_suite *suite_of(const struct criterion_test *test)
{
    for (struct criterion_suite **suite = __start_cr_sts; suite < __stop_cr_sts; suite++) {
        if (strcmp((*suite)->name, test->category) == 0)
            return *suite;
    }
    return NULL;
}

static void run_in_child(const struct criterion_test *test)
{
    const struct criterion_suite *suite = suite_of(test);
    if (suite)
        call(suite->data->init);
    call(test->data->init);
    test->test();
    call(test->data->fini);
    if (suite)
        call(suite->data->fini);
    exit(0); /* not _exit(): ThreadSanitizer reports at exit */
}

static bool run(const struct criterion_test *test)
{
    if (test->data->kind_ != CR_TEST_NORMAL) {
        fprintf(stderr, "%s: a parameterized test cannot run here\n", test->data->identifier_);
        return false;
    }
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        run_in_child(test);
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        return false;
    if (test->data->signal)
        return WIFSIGNALED(status) && WTERMSIG(status) == test->data->signal;
    return WIFEXITED(status) && WEXITSTATUS(status) == test->data->exit_code;
}

int main(void)
{
    int tested = 0, failed = 0;
    for (struct criterion_test **test = __start_cr_tst; test < __stop_cr_tst; test++) {
        if (!*test || (*test)->data->disabled)
            continue;
        tested++;
        if (!run(*test)) {
            failed++;
            fprintf(stderr, "FAILED %s\n", (*test)->data->identifier_);
        }
    }
    printf("Tested: %d | Passing: %d | Failing: %d\n", tested, tested - failed, failed);
    return failed || !tested;
}
