/* RAM above 4 GiB, which a guest does not see at first. */
#pragma once

#include <stdint.h>

#define HIGH_MEMORY_MAX ((uint64_t)32 << 30)

/* Maps `size` bytes from 4 GiB on one to one, rounded up to 1 GiB. Ends the guest if it is too much. */
void high_memory_map(uint64_t size);
