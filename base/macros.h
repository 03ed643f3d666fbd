/*
 * The few macros that every floor needs and the C library lacks.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/* The structure of `type` whose member `member` `pointer` points to. */
#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

#define ARRAY_SIZE(array)                   (sizeof(array) / sizeof((array)[0]))

#define KIB                                 ((uint64_t)1 << 10)
#define MIB                                 ((uint64_t)1 << 20)
#define GIB                                 ((uint64_t)1 << 30)

/* Rounds `value` up to a multiple of `alignment`, a power of two. The caller makes sure that it does not
 * wrap. */
static inline uint64_t align_up(uint64_t value, uint64_t alignment)
{
    return (value + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t align_down(uint64_t value, uint64_t alignment)
{
    return value & ~(alignment - 1);
}

static inline size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

static inline size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}
