/*
 * Guest RAM: one piece of host memory that RAM and ROM regions show to the guest.
 *
 * A block starts as zeroes and takes host memory only where it is touched, in huge pages where the host gives
 * them by itself (transparent huge pages): they make guests faster, and their I/O. A shared block is a memfd,
 * for other processes to map too; hosts rarely have huge pages for those. A block is immutable
 * after its creation but for its contents, which guest, devices and godwit change at will: whoever reads
 * guest memory copies before checking. All regions that show a block are of one machine; whoever changes its
 * contents other than by memory/address_space.h says so by dirty_mark().
 */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "memory/dirty.h"

struct error;
struct memory;
struct memory_region;

#define RAM_PAGE_SIZE 4096 /* the granularity of everything that concerns guest RAM */

enum ram_block_flags {
    RAM_BLOCK_HUGE_PAGES = 1, /* 2 MiB pages from the host's pool; the size must be a multiple of that */
    RAM_BLOCK_SHARED = 2,
};

/* One client's bitmap of the pages of a block, in two halves: memory/dirty_block.h. */
struct dirty_bitmap {
    uint64_t *gathered; /* NULL: there is none yet; once there it stays, as does the rest */
    _Atomic uint64_t *marked;
    atomic_uchar *groups;
};

struct ram_block {
    const char *name; /* borrowed */
    void *host;       /* start of the mapping */
    uint64_t size;
    int fd; /* the memfd of a shared block; otherwise -1 */

    struct memory *memory;          /* private from here on: that of its regions; NULL: it has none */
    struct ram_block *next, **link; /* another block of `memory` */
    struct memory_region *regions;
    atomic_uint clients;                            /* mask of those that track it */
    struct dirty_bitmap bitmaps[DIRTY_CLIENTS_MAX]; /* by client */
};

/*
 * Maps `size` bytes (a multiple of RAM_PAGE_SIZE, not 0: -EINVAL). -ENOMEM where the host cannot give them,
 * or has too few huge pages, with a message that says what to do.
 */
int ram_block_create(const char *name, uint64_t size, unsigned flags, struct ram_block **block,
                     struct error *err);

/* Unmaps and frees it. The regions that showed it must have been destroyed. NULL is allowed. */
void ram_block_destroy(struct ram_block *block);
