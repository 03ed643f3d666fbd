/* Samples of a time, and what their distribution looks like. */
#pragma once

#include <stdint.h>

#define SAMPLES_MAX  (1 << 20)
#define SAMPLES_SIZE (SAMPLES_MAX * sizeof(uint32_t))

struct samples {
    uint32_t *values; /* the first SAMPLES_MAX */
    uint64_t stored, count, sum;
};

/* Begins anew, with SAMPLES_SIZE bytes of memory. */
void samples_begin(struct samples *samples, void *memory);

/* Without memory, it goes nowhere. */
void samples_add(struct samples *samples, uint64_t value);

uint64_t samples_mean(const struct samples *samples);

/* The value that `percent` of those stored do not exceed, once they are sorted; 0 without any. */
void samples_sort(struct samples *samples);
uint64_t samples_percentile(const struct samples *samples, unsigned percent);
