#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tests/unit/memory/fixture.h"

Test(ram_block, is_memory_of_zeroes_in_huge_pages_where_they_can_be)
{
    struct ram_block *block;
    struct error err;
    cr_assert_eq(ram_block_create("ram", 16 * PAGE, 0, &block, &err), 0);
    cr_assert_eq(block->size, 16 * PAGE);
    cr_assert_eq((uintptr_t)block->host % (2 * MIB), 0);
    char *host = block->host;
    for (unsigned i = 0; i < 16 * PAGE; i++)
        cr_assert_eq(host[i], 0);
    memset(host, 1, block->size);
    ram_block_destroy(block);
}

Test(ram_block, can_be_shared)
{
    struct ram_block *block;
    struct error err;
    cr_assert_eq(ram_block_create("ram", 16 * PAGE, RAM_BLOCK_SHARED, &block, &err), 0);
    char *host = block->host;
    char *other = mmap(NULL, block->size, PROT_READ | PROT_WRITE, MAP_SHARED, block->fd, 0);
    cr_assert_neq(other, MAP_FAILED);
    host[PAGE] = 7;
    cr_assert_eq(other[PAGE], 7);
    munmap(other, block->size);
    ram_block_destroy(block);
}

Test(ram_block, cannot_be_resized_or_inherited)
{
    struct ram_block *block;
    struct error err;
    cr_assert_eq(ram_block_create("ram", PAGE, RAM_BLOCK_SHARED, &block, &err), 0);
    cr_assert_lt(ftruncate(block->fd, 0), 0);
    cr_assert_lt(ftruncate(block->fd, 2 * PAGE), 0);
    cr_assert(fcntl(block->fd, F_GETFD) & FD_CLOEXEC);
    ram_block_destroy(block);
}

static uint64_t resident_bytes(void)
{
    unsigned long long size, resident;
    FILE *file = fopen("/proc/self/statm", "r");
    cr_assert_eq(fscanf(file, "%llu %llu", &size, &resident), 2);
    fclose(file);
    return resident * PAGE;
}

Test(ram_block, a_tebibyte_takes_no_memory)
{
    static const unsigned flags[] = {0, RAM_BLOCK_SHARED};
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        struct ram_block *block;
        struct error err;
        uint64_t size = 1024 * GIB, before = resident_bytes();
        cr_assert_eq(ram_block_create("ram", size, flags[i], &block, &err), 0, "%s", err.message);
        ((char *)block->host)[size - 1] = 1;
        cr_assert_lt(resident_bytes(), before + 16 * MIB);
        ram_block_destroy(block);
    }
}

Test(ram_block, bad_sizes_are_refused)
{
    static const uint64_t bad[] = {
        0, 1, PAGE - 1, PAGE + 1, UINT64_MAX, UINT64_MAX - PAGE + 1, (uint64_t)1 << 63};
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct ram_block *block;
        struct error err = {""};
        cr_assert_eq(ram_block_create("ram", bad[i], 0, &block, &err), -EINVAL);
        cr_assert_not_null(strstr(err.message, "RAM block ram"));
    }
}

Test(ram_block, more_than_the_host_can_map_is_refused)
{
    struct ram_block *block;
    struct error err = {""};
    int files = open("/proc/self/fd", O_RDONLY);
    cr_assert_lt(ram_block_create("ram", (uint64_t)1 << 62, 0, &block, &err), 0);
    cr_assert_not_null(strstr(err.message, "ask for less"));
    int next = open("/proc/self/fd", O_RDONLY);
    cr_assert_eq(next, files + 1, "no descriptor is left");
    close(next);
    close(files);
}

Test(ram_block, huge_pages_are_there_or_asked_for)
{
    struct ram_block *block;
    struct error err = {""};
    cr_assert_eq(ram_block_create("ram", 2 * MIB + PAGE, RAM_BLOCK_HUGE_PAGES, &block, &err), -EINVAL);
    cr_assert_not_null(strstr(err.message, "2 MiB"));
    static const unsigned flags[] = {RAM_BLOCK_HUGE_PAGES, RAM_BLOCK_HUGE_PAGES | RAM_BLOCK_SHARED};
    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        int result = ram_block_create("ram", 64 * 1024 * GIB, flags[i], &block, &err);
        cr_assert_eq(result, -ENOMEM, "no host has that many");
        cr_assert_not_null(strstr(err.message, "nr_hugepages"));
    }
}

Test(ram_block, null_may_be_destroyed)
{
    ram_block_destroy(NULL);
}
