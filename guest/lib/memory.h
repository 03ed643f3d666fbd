/* Free guest RAM. */
#pragma once

#include <stdint.h>

/*
 * Returns `size` bytes of RAM below 4 GiB, page-aligned, behind the image, clear of the device tree and the
 * initrd. Each call returns the same place. Ends the guest if there is not so much. Without a tree, RAM ends
 * at 64 MiB.
 */
void *memory_free(uint64_t size);
