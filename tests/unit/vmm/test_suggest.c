/* Which word was meant: what people type by mistake finds the right one, and other words find none. */
#include <criterion/criterion.h>
#include <stddef.h>
#include <string.h>

#include "base/macros.h"
#include "vmm/suggest.h"

static const char *const words[] = {"kernel", "memory", "exit-port", "no-acpi",
                                    "name",   "run",    "host",      "help"};

static const char *nearest(const char *word)
{
    struct suggestion suggestion = {.word = word};
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        suggestion_consider(&suggestion, words[i]);
    return suggestion.nearest;
}

Test(suggest, mistakes)
{
    static const char *const pairs[][2] = {
        {"kernal", "kernel"},  {"kernl", "kernel"},        {"kerneel", "kernel"}, {"kenrel", "kernel"},
        {"mem", "memory"},     {"memroy", "memory"},       {"exit", "exit-port"}, {"exitport", "exit-port"},
        {"noacpi", "no-acpi"}, {"exit_port", "exit-port"}, {"rnu", "run"},        {"urn", "run"},
        {"hsot", "host"},      {"names", "name"},          {"name", "name"},      {"Help", "help"},
    };
    for (size_t i = 0; i < ARRAY_SIZE(pairs); i++)
        cr_expect_str_eq(nearest(pairs[i][0]), pairs[i][1], "%s", pairs[i][0]);
}

Test(suggest, other_words)
{
    static const char *const others[] = {"", "m", "x", "zz", "smp", "drive", "accelerator", "memorandums"};
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        cr_expect_null(nearest(others[i]), "%s", others[i]);
}

Test(suggest, long_words)
{
    char word[1000];
    memset(word, 'k', sizeof(word));
    word[sizeof(word) - 1] = 0;
    cr_expect_null(nearest(word));
    struct suggestion suggestion = {.word = "kernel"};
    suggestion_consider(&suggestion, word);
    cr_expect_null(suggestion.nearest);
}
