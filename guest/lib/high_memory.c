#include "guest/lib/high_memory.h"

#include "guest/lib/exit.h"

#define GIB        ((uint64_t)1 << 30)
#define FIRST      4 /* GiB */
#define ENTRIES    512
#define PAGE_FLAGS 7 /* present, writable, user */
#define PAGE_LARGE 0x80
#define LARGE_PAGE ((uint64_t)2 << 20)

extern uint64_t pdpt[];
static uint64_t directories[HIGH_MEMORY_MAX / GIB][ENTRIES] __attribute__((aligned(4096)));

/* User mode may write page tables. Entries that were not present need no invalidation. */
void high_memory_map(uint64_t size)
{
    if (size > HIGH_MEMORY_MAX)
        guest_panic("too much RAM");
    for (uint64_t i = 0; i * GIB < size; i++) {
        for (uint64_t entry = 0; entry < ENTRIES; entry++)
            directories[i][entry] = ((FIRST + i) * GIB + entry * LARGE_PAGE) | PAGE_FLAGS | PAGE_LARGE;
        *(volatile uint64_t *)&pdpt[FIRST + i] = (uint64_t)directories[i] | PAGE_FLAGS;
    }
}
