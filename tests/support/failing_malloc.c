#include "tests/support/failing_malloc.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_reallocarray(void *old, size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__real_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_reallocarray(void *old, size_t count, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);
void *__wrap_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset);

/* What stands in for malloc() has no context to be given. */
static unsigned left; /* allocations to the one that fails, with it; 0: none will */
static bool failed;

void failing_malloc_arm(unsigned number)
{
    left = number;
    failed = false;
}

bool failing_malloc_armed(void)
{
    return left != 0;
}

bool failing_malloc_failed(void)
{
    return failed;
}

static bool fails(void)
{
    if (!left || --left)
        return false;
    failed = true;
    return true;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}

void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}

void *__wrap_realloc(void *old, size_t size)
{
    return fails() ? NULL : __real_realloc(old, size);
}

void *__wrap_reallocarray(void *old, size_t count, size_t size)
{
    return fails() ? NULL : __real_reallocarray(old, count, size);
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return fails() ? NULL : __real_aligned_alloc(alignment, size);
}

/* What mmap() is where file offsets have 64 bits. */
void *__wrap_mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
    if (!fails())
        return __real_mmap64(address, length, protection, flags, fd, offset);
    errno = ENOMEM;
    return MAP_FAILED;
}
