/* The memory core under random operations, compared with a naive oracle after each of them. */
#include <stddef.h>
#include <stdint.h>

#include "tests/support/memory_driver.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    memory_driver_run(data, size, 0);
    return 0;
}
