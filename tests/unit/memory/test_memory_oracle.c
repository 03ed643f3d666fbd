#include <criterion/criterion.h>
#include <stdlib.h>

#include "tests/support/memory_driver.h"

#define TREES 1500
#define BYTES 700

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

Test(memory_oracle, random_trees_show_what_a_naive_look_says)
{
    for (uint64_t tree = 1; tree <= TREES; tree++) {
        uint64_t state = tree * 0x9e3779b97f4a7c15;
        uint8_t data[BYTES];
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = (uint8_t)(next_random(&state) >> 32);
        memory_driver_run(data, sizeof(data));
    }
}
