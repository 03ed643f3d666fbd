#include "devices/i8042.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/region.h"

#define COMMAND_PULSE_RESET 0xFE

struct i8042 {
    struct memory_region region;
    struct shutdown_handler shutdown;
};

static uint64_t region_read(void *opaque, uint64_t offset, unsigned size)
{
    return UINT64_MAX;
}

static void region_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct i8042 *i8042 = opaque;
    if (value == COMMAND_PULSE_RESET)
        i8042->shutdown.request(i8042->shutdown.opaque, SHUTDOWN_RESET, 0);
}

int i8042_create(const struct shutdown_handler *shutdown, struct memory *memory, struct i8042 **out,
                 struct error *err)
{
    static const struct memory_region_ops ops = {
        .read = region_read,
        .write = region_write,
        .valid = {.min = 1, .max = 1},
        .impl = {.min = 1, .max = 1},
    };
    struct i8042 *i8042 = calloc(1, sizeof(*i8042));
    if (!i8042)
        return error_set(err, ENOMEM, "not enough memory for the i8042 reset line");
    i8042->shutdown = *shutdown;
    int result = memory_region_init_mmio(&i8042->region, memory, "i8042-reset", &ops, i8042, 1, err);
    if (result) {
        free(i8042);
        return result;
    }
    *out = i8042;
    return 0;
}

struct memory_region *i8042_region(struct i8042 *i8042)
{
    return &i8042->region;
}

void i8042_destroy(struct i8042 *i8042)
{
    if (!i8042)
        return;
    memory_region_destroy(&i8042->region);
    free(i8042);
}
