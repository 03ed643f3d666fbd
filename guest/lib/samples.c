#include "guest/lib/samples.h"

void samples_begin(struct samples *samples, void *memory)
{
    *samples = (struct samples){.values = memory};
}

void samples_add(struct samples *samples, uint64_t value)
{
    if (!samples->values)
        return;
    if (samples->stored < SAMPLES_MAX)
        samples->values[samples->stored++] = value < UINT32_MAX ? value : UINT32_MAX;
    samples->count++;
    samples->sum += value;
}

uint64_t samples_mean(const struct samples *samples)
{
    return samples->count ? samples->sum / samples->count : 0;
}

/* Lets the value at `root` of a heap sink to where it belongs. */
static void sink(uint32_t *values, uint64_t root, uint64_t count)
{
    uint32_t value = values[root];
    uint64_t child;

    while ((child = 2 * root + 1) < count) {
        if (child + 1 < count && values[child + 1] > values[child])
            child++;
        if (values[child] <= value)
            break;
        values[root] = values[child];
        root = child;
    }
    values[root] = value;
}

void samples_sort(struct samples *samples)
{
    uint32_t *values = samples->values;

    for (uint64_t i = samples->stored / 2; i-- > 0;)
        sink(values, i, samples->stored);
    for (uint64_t left = samples->stored; left > 1;) {
        uint32_t most = values[0];
        values[0] = values[--left];
        values[left] = most;
        sink(values, 0, left);
    }
}

uint64_t samples_percentile(const struct samples *samples, unsigned percent)
{
    return samples->stored ? samples->values[(samples->stored - 1) * percent / 100] : 0;
}
