#include "devices/test_mmio.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/region.h"

struct scratch {
    struct memory_region region;
    pthread_mutex_t lock;
    uint8_t data[TEST_MMIO_REGION_SIZE];
};

struct test_mmio {
    struct scratch a, b;
};

static uint64_t region_read(void *opaque, uint64_t offset, unsigned size)
{
    struct scratch *scratch = opaque;
    uint64_t value = 0;
    pthread_mutex_lock(&scratch->lock);
    memcpy(&value, scratch->data + offset, size);
    pthread_mutex_unlock(&scratch->lock);
    return value;
}

static void region_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct scratch *scratch = opaque;
    pthread_mutex_lock(&scratch->lock);
    memcpy(scratch->data + offset, &value, size);
    pthread_mutex_unlock(&scratch->lock);
}

static int init_scratch(struct scratch *scratch, struct memory *memory, const char *name,
                        const struct memory_region_ops *ops, struct error *err)
{
    int result =
        memory_region_init_mmio(&scratch->region, memory, name, ops, scratch, TEST_MMIO_REGION_SIZE, err);
    if (!result)
        pthread_mutex_init(&scratch->lock, NULL);
    return result;
}

static void destroy_scratch(struct scratch *scratch)
{
    memory_region_destroy(&scratch->region);
    pthread_mutex_destroy(&scratch->lock);
}

int test_mmio_create(struct memory *memory, struct test_mmio **out, struct error *err)
{
    static const struct memory_region_ops words = {
        .read = region_read,
        .write = region_write,
        .valid = {.min = 1, .max = 8, .unaligned = true},
        .impl = {.min = 4, .max = 4},
    };
    static const struct memory_region_ops bytes = {
        .read = region_read,
        .write = region_write,
        .valid = {.min = 1, .max = 8, .unaligned = true},
        .impl = {.min = 1, .max = 1},
    };
    struct test_mmio *test = calloc(1, sizeof(*test));
    if (!test)
        return error_set(err, ENOMEM, "not enough memory for the test device");
    int result = init_scratch(&test->a, memory, "test-mmio-a", &words, err);
    if (!result) {
        result = init_scratch(&test->b, memory, "test-mmio-b", &bytes, err);
        if (result)
            destroy_scratch(&test->a);
    }
    if (result) {
        free(test);
        return result;
    }
    *out = test;
    return 0;
}

struct memory_region *test_mmio_region_a(struct test_mmio *test)
{
    return &test->a.region;
}

struct memory_region *test_mmio_region_b(struct test_mmio *test)
{
    return &test->b.region;
}

void test_mmio_destroy(struct test_mmio *test)
{
    if (!test)
        return;
    destroy_scratch(&test->a);
    destroy_scratch(&test->b);
    free(test);
}
