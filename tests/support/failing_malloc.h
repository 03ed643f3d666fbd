/*
 * Lets one allocation, or mapping of memory, fail. A program that uses this is linked with
 * the options of the CMake library failing-malloc: then the allocations of all code that is linked into it,
 * but for those of libraries, come here first. Not for programs in which several threads allocate.
 */
#pragma once

#include <stdbool.h>

/* Lets the allocation with this number, from now on and counted from 1, fail. 0: none. */
void failing_malloc_arm(unsigned number);

/* Whether one is still to fail, and whether one has failed. */
bool failing_malloc_armed(void);
bool failing_malloc_failed(void);
