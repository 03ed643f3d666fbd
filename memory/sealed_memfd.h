/*
 * Memory that other processes may map and write, but not resize: so nobody who has it mapped can be made to
 * fault on it.
 */
#pragma once

#include <stdint.h>

/* A memfd of `size` bytes with MFD_* `flags`, or -errno. Any thread. */
int sealed_memfd_create(const char *name, uint64_t size, unsigned flags);
