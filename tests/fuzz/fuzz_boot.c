/* A kernel file of any format. */
#include "boot_machine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    load_kernel(data, size);
    return 0;
}
