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
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
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

static int open_shared(struct ram_block *block, unsigned flags)
{
    if (!(flags & RAM_BLOCK_SHARED))
        return 0;
    unsigned huge = flags & RAM_BLOCK_HUGE_PAGES ? MFD_HUGETLB | MFD_HUGE_2MB : 0;
    int fd = sealed_memfd_create(block->name, block->size, huge);
    if (fd < 0)
        return fd;
    block->fd = fd;
    return 0;
}

static void close_shared(struct ram_block *block)
{
    if (block->fd >= 0)
        close(block->fd);
}

/* Reserves addresses of which the first is that of a huge page, so that the kernel can use huge pages here
 * and in the guest alike. */
static int reserve(struct ram_block *block)
{
    uint64_t size;
    if (__builtin_add_overflow(block->size, HUGE_PAGE_SIZE, &size))
        return -ENOMEM;
    char *start = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return -errno;
    char *host = (char *)align_up((uintptr_t)start, HUGE_PAGE_SIZE);
    char *end = start + size;
    if (host > start)
        munmap(start, (size_t)(host - start));
    munmap(host + block->size, (size_t)(end - host - block->size));
    block->host = host;
    return 0;
}

/* Huge pages of the pool are reserved at once, because there may be too few of them; others come when they
 * are touched. */
static int map(struct ram_block *block, unsigned flags)
{
    int result = reserve(block);
    if (result < 0)
        return result;
    int how = MAP_FIXED | (flags & RAM_BLOCK_SHARED ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS);
    how |= flags & RAM_BLOCK_HUGE_PAGES ? MAP_HUGETLB | MAP_HUGE_2MB : MAP_NORESERVE;
    if (mmap(block->host, block->size, PROT_READ | PROT_WRITE, how, block->fd, 0) == MAP_FAILED) {
        result = -errno;
        munmap(block->host, block->size);
        return result;
    }
    madvise(block->host, block->size, MADV_DONTDUMP);
    madvise(block->host, block->size, MADV_HUGEPAGE);
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
    *block = (struct ram_block){.name = name, .size = size, .fd = -1};
    result = open_shared(block, flags);
    if (result == 0)
        result = map(block, flags);
    if (result) {
        explain(name, size, flags, result, err);
        close_shared(block);
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
    close_shared(block);
    free(block);
}
