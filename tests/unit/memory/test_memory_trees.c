/* What finds faults of the memory core is held to finding them: tests/property. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/property/shrink.h"

#define STEP 4
#define TEXT 65536

/* Runs a command. Returns its exit status, and all that it says in `text`. */
static int run(const char *command, char text[TEXT])
{
    FILE *output = popen(command, "r");
    cr_assert_not_null(output);
    size_t length = fread(text, 1, TEXT - 1, output);
    text[length] = 0;
    int status = pclose(output);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

Test(memory_trees, right_ones_hold)
{
    char text[TEXT];
    cr_assert_eq(run(MEMORY_TREES_PROGRAM " --trees 20 --first 1000000 2>&1", text), 0);
    cr_assert_str_eq(text, "20 trees\n");
}

/* An oracle that has the lower priority win is found wrong, and told by few operations. */
Test(memory_trees, a_wrong_answer_is_told_by_a_minimal_tree)
{
    char text[TEXT];
    cr_assert_eq(run(MEMORY_TREES_PROGRAM " --wrong --trees 1000 2>&1", text), 1);
    const char *count = strstr(text, " operations:\n");
    cr_assert_not_null(count, "%s", text);
    while (count > text && count[-1] != '\n')
        count--;
    cr_assert_leq(atoi(count), 5, "%s", text);
    cr_assert_not_null(strstr(text, ", priority "));
    cr_assert_not_null(strstr(text, "not true: "));
    cr_assert_not_null(strstr(text, "flat view:"));
    cr_assert_not_null(strstr(text, "calls heard:"));
    char *again = strstr(text, "again with: "), command[4096], same[TEXT];
    cr_assert_not_null(again);
    again += strlen("again with: ");
    again[strcspn(again, "\n")] = 0;
    snprintf(command, sizeof(command), "%s 2>&1", again);
    cr_assert_eq(run(command, same), 1);
    cr_assert_not_null(strstr(same, "not true: "));
    *strstr(command, " --wrong") = 0;
    snprintf(command + strlen(command), 2048, " %s 2>&1", strstr(again, "--tree"));
    cr_assert_eq(run(command, same), 0, "without what is wrong it holds: %s", same);
}

Test(memory_trees, wrong_arguments)
{
    char text[TEXT];
    cr_assert_eq(run(MEMORY_TREES_PROGRAM " --tree 0x 2>&1", text), 2);
    cr_assert_eq(run(MEMORY_TREES_PROGRAM " --tree 123 2>&1", text), 2);
    cr_assert_eq(run(MEMORY_TREES_PROGRAM " more 2>&1", text), 2);
}

/* Fails where a step begins with 7 and a later one with at least 9, in the way that is asked for. */
static void fail_at_seven_and_nine(const uint8_t *data, size_t size, void *opaque)
{
    const char *how = opaque;
    bool seven = false, nine = false;
    for (size_t i = STEP; i < size; i += STEP) {
        nine |= seven && data[i] >= 9;
        seven |= data[i] == 7;
    }
    if (!nine)
        return;
    if (strcmp(how, "abort") == 0)
        abort();
    while (strcmp(how, "hang") == 0)
        pause();
    exit(1);
}

static void assert_shrinks(const char *how, size_t steps)
{
    uint8_t data[64 * STEP];
    static const uint8_t minimal[] = {0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0};
    size_t size = steps * STEP;
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(i % STEP ? 1 + i : 1 + i % 3);
    data[2 * STEP] = 7;
    data[(steps - 1) * STEP] = 200;
    struct shrink shrink = {fail_at_seven_and_nine, (void *)how, STEP, 1, NULL};
    cr_assert(shrink_fails(&shrink, data, size, false));
    size = shrink_input(&shrink, data, size);
    cr_assert_eq(size, sizeof(minimal));
    cr_assert_eq(memcmp(data, minimal, size), 0);
    cr_assert_not(shrink_fails(&shrink, data, size - STEP, false));
}

Test(memory_trees, shrinks_to_what_matters)
{
    assert_shrinks("exit", 64);
}

Test(memory_trees, shrinks_what_crashes)
{
    assert_shrinks("abort", 40);
}

Test(memory_trees, what_hangs_fails)
{
    uint8_t data[] = {0, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0};
    struct shrink shrink = {fail_at_seven_and_nine, (void *)"hang", STEP, 1, NULL};
    cr_assert(shrink_fails(&shrink, data, sizeof(data), false));
}
