#include "tests/fuzz/fuzz_virtqueue.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_virtqueue(data, size, true);
    return 0;
}
