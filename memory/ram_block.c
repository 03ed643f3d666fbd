#include "memory/ram_block.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/dirty_block.h"
#include "memory/sealed_memfd.h"

#define HUGE_PAGE_SIZE (2 * MIB)

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

static int check_size(const char *name, uint64_t size, unsigned flags, struct error *err)
{
    if (size == 0 || size % RAM_PAGE_SIZE || size > INT64_MAX)
        return error_set(err, EINVAL, "RAM block %s: its size must be a multiple of %d, and not 0", name,
                         RAM_PAGE_SIZE);
    if ((flags & RAM_BLOCK_HUGE_PAGES) && size % HUGE_PAGE_SIZE)
        return error_set(err, EINVAL, "RAM block %s: with huge pages its size must be a multiple of 2 MiB",
                         name);
    return 0;
}

/* Huge pages are reserved at once, because there may be too few of them; others when they are touched. */
static int map(struct ram_block *block, unsigned flags)
{
    int reserve = flags & RAM_BLOCK_HUGE_PAGES ? 0 : MAP_NORESERVE;
    block->host = mmap(NULL, block->size, PROT_READ | PROT_WRITE, MAP_SHARED | reserve, block->fd, 0);
    if (block->host == MAP_FAILED)
        return -errno;
    madvise(block->host, block->size, MADV_DONTDUMP);
    return 0;
}

static int explain(const char *name, uint64_t size, unsigned flags, int result, struct error *err)
{
    unsigned long long amount = size;
    if (flags & RAM_BLOCK_HUGE_PAGES)
        return error_set_errno(err, -result,
                               "RAM block %s: the host cannot give %llu huge pages (raise "
                               "/proc/sys/vm/nr_hugepages, or do without them)",
                               name, amount / HUGE_PAGE_SIZE);
    return error_set_errno(
        err, -result,
        "RAM block %s: the host cannot give %llu bytes (ask for less, or see ulimit -v and "
        "/proc/sys/vm/overcommit_memory)",
        name, amount);
}

int ram_block_create(const char *name, uint64_t size, unsigned flags, struct ram_block **out,
                     struct error *err)
{
    int result = check_size(name, size, flags, err);
    if (result)
        return result;
    struct ram_block *block = malloc(sizeof(*block));
    if (!block)
        return error_set(err, ENOMEM, "RAM block %s: not enough memory", name);
    *block = (struct ram_block){.name = name, .size = size};
    unsigned huge = flags & RAM_BLOCK_HUGE_PAGES ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
    block->fd = sealed_memfd_create(name, size, huge);
    if (block->fd < 0) {
        result = explain(name, size, flags, block->fd, err);
        free(block);
        return result;
    }
    result = map(block, flags);
    if (result) {
        explain(name, size, flags, result, err);
        close(block->fd);
        free(block);
        return result;
    }
    *out = block;
    return 0;
}

void ram_block_destroy(struct ram_block *block)
{
    if (!block)
        return;
    assert(!block->memory);
    dirty_block_free(block);
    munmap(block->host, block->size);
    close(block->fd);
    free(block);
}
