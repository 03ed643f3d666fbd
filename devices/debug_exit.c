#include "devices/debug_exit.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/region.h"

struct debug_exit {
    struct memory_region region;
    struct shutdown_handler shutdown;
};

static uint64_t region_read(void *opaque, uint64_t offset, unsigned size)
{
    return UINT64_MAX;
}

static void region_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct debug_exit *debug_exit = opaque;
    debug_exit->shutdown.request(debug_exit->shutdown.opaque, SHUTDOWN_EXIT, (uint8_t)value);
}

int debug_exit_create(const struct shutdown_handler *shutdown, struct memory *memory, struct debug_exit **out,
                      struct error *err)
{
    static const struct memory_region_ops ops = {
        .read = region_read,
        .write = region_write,
        .valid = {.min = 1, .max = 1},
        .impl = {.min = 1, .max = 1},
    };
    struct debug_exit *debug_exit = calloc(1, sizeof(*debug_exit));
    if (!debug_exit)
        return error_set(err, ENOMEM, "not enough memory for the exit port");
    debug_exit->shutdown = *shutdown;
    int result = memory_region_init_mmio(&debug_exit->region, memory, "exit-port", &ops, debug_exit, 1, err);
    if (result) {
        free(debug_exit);
        return result;
    }
    *out = debug_exit;
    return 0;
}

struct memory_region *debug_exit_region(struct debug_exit *debug_exit)
{
    return &debug_exit->region;
}

void debug_exit_destroy(struct debug_exit *debug_exit)
{
    if (!debug_exit)
        return;
    memory_region_destroy(&debug_exit->region);
    free(debug_exit);
}
