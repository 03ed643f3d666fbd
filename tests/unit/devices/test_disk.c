#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/event_loop.h"
#include "base/macros.h"
#include "devices/block/disk.h"
#include "tests/unit/devices/disk_file.h"

#define SIZE (1 << 20)

struct single {
    struct disk_request request;
    bool done;
    int result;
};

static void note(struct disk_request *request, int result)
{
    struct single *single = container_of(request, struct single, request);
    cr_assert(!single->done);
    single->done = true;
    single->result = result;
}

static bool is_done(void *opaque)
{
    struct single *single = opaque;
    return single->done;
}

struct bench {
    struct disk_file file;
    struct disk *disk;
    struct event_loop *loop;
};

static void setup(struct bench *bench, enum disk_cache cache, bool readonly)
{
    disk_file_create(&bench->file, SIZE);
    bench->disk = disk_file_open(&bench->file, cache, readonly);
    cr_assert_eq(event_loop_create(&bench->loop, NULL), 0);
}

static void teardown(struct bench *bench)
{
    event_loop_destroy(bench->loop);
    disk_close(bench->disk);
    disk_file_destroy(&bench->file);
}

static int carry_out(struct bench *bench, struct disk_request request)
{
    struct single single = {.request = request};
    single.request.done = note;
    disk_submit(bench->disk, bench->loop, &single.request);
    cr_assert(!single.done);
    event_loop_wait(bench->loop, is_done, &single);
    return single.result;
}

static int move(struct bench *bench, enum disk_operation operation, uint64_t offset, void *data, size_t size)
{
    return carry_out(bench, (struct disk_request){
                                .operation = operation,
                                .offset = offset,
                                .length = size,
                                .iov = &(struct iovec){data, size},
                                .iov_count = 1,
                            });
}

static int span(struct bench *bench, enum disk_operation operation, uint64_t offset, uint64_t size)
{
    return carry_out(bench, (struct disk_request){.operation = operation, .offset = offset, .length = size});
}

Test(disk, takes_whole_blocks_within_it_only)
{
    struct bench bench;
    char data[1024] = "";
    setup(&bench, DISK_CACHE_WRITEBACK, false);
    cr_assert_eq(disk_geometry(bench.disk)->sectors, SIZE / 512);
    cr_assert_eq(disk_geometry(bench.disk)->block_size, 512);
    cr_assert_eq(disk_geometry(bench.disk)->physical_size, 4096);
    static const struct {
        uint64_t offset, size;
        int result;
    } cases[] = {
        {0, 512, 0},
        {SIZE - 512, 512, 0},
        {SIZE - 512, 1024, -EINVAL},
        {SIZE, 512, -EINVAL},
        {SIZE, 0, 0},
        {SIZE + 512, 0, -EINVAL},
        {UINT64_MAX - 511, 512, -EINVAL},
        {UINT64_MAX - 511, 1024, -EINVAL},
        {1, 512, -EINVAL},
        {0, 511, -EINVAL},
        {512, 0, 0},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        for (enum disk_operation operation = DISK_READ; operation <= DISK_WRITE; operation++)
            cr_assert_eq(move(&bench, operation, cases[i].offset, data, cases[i].size), cases[i].result);
        cr_assert_eq(span(&bench, DISK_DISCARD, cases[i].offset, cases[i].size), cases[i].result);
        cr_assert_eq(span(&bench, DISK_WRITE_ZEROES, cases[i].offset, cases[i].size), cases[i].result);
    }
    cr_assert_eq(span(&bench, DISK_WRITE_ZEROES, 0, UINT64_MAX), -EINVAL);
    struct disk_request uneven = {
        .operation = DISK_READ, .length = 512, .iov = &(struct iovec){data, 1024}, .iov_count = 1};
    cr_assert_eq(carry_out(&bench, uneven), -EINVAL);
    teardown(&bench);
}

Test(disk, is_not_written_when_read_only)
{
    struct bench bench;
    char data[512] = "";
    setup(&bench, DISK_CACHE_WRITEBACK, true);
    cr_assert_eq(move(&bench, DISK_READ, 0, data, sizeof(data)), 0);
    cr_assert_eq(move(&bench, DISK_WRITE, 0, data, sizeof(data)), -EROFS);
    cr_assert_eq(span(&bench, DISK_DISCARD, 0, 512), -EROFS);
    cr_assert_eq(span(&bench, DISK_WRITE_ZEROES, 0, 512), -EROFS);
    cr_assert_eq(span(&bench, DISK_FLUSH, 0, 0), 0);
    cr_assert(disk_geometry(bench.disk)->readonly && !disk_geometry(bench.disk)->discards);
    teardown(&bench);
}

static void moves_many_pieces(enum disk_cache cache)
{
    static const unsigned count = 2 * IOV_MAX - 1;
    struct bench bench;
    setup(&bench, cache, false);
    uint32_t block = disk_geometry(bench.disk)->block_size, pieces = count * 512 / block;
    char *data = aligned_alloc(4096, SIZE);
    struct iovec *iov = calloc(pieces, sizeof(*iov));
    for (unsigned i = 0; i < pieces; i++) {
        iov[i] = (struct iovec){data + (size_t)(pieces - 1 - i) * block, block};
        memset(iov[i].iov_base, (int)(i % 251), block);
    }
    struct disk_request request = {
        .operation = DISK_WRITE, .length = (uint64_t)pieces * block, .iov = iov, .iov_count = pieces};
    cr_assert_eq(carry_out(&bench, request), 0);
    memset(data, 0xFF, SIZE);
    request.operation = DISK_READ;
    cr_assert_eq(carry_out(&bench, request), 0);
    for (unsigned i = 0; i < pieces; i++) {
        char byte;
        cr_assert_eq(((uint8_t *)iov[i].iov_base)[block - 1], i % 251);
        cr_assert_eq(pread(bench.file.fd, &byte, 1, (off_t)i * block), 1);
        cr_assert_eq((uint8_t)byte, i % 251);
    }
    free(iov);
    free(data);
    teardown(&bench);
}

Test(disk, takes_more_pieces_than_one_system_call)
{
    moves_many_pieces(DISK_CACHE_WRITEBACK);
    moves_many_pieces(DISK_CACHE_NONE);
}

Test(disk, fails_what_was_truncated_away)
{
    static const enum disk_cache caches[] = {DISK_CACHE_WRITEBACK, DISK_CACHE_NONE};
    for (unsigned i = 0; i < ARRAY_SIZE(caches); i++) {
        struct bench bench;
        setup(&bench, caches[i], false);
        char *data = aligned_alloc(4096, 65536);
        cr_assert_eq(ftruncate(bench.file.fd, 32768), 0);
        cr_assert_eq(move(&bench, DISK_READ, 0, data, 32768), 0);
        cr_assert_eq(move(&bench, DISK_READ, 0, data, 65536), -EIO);
        cr_assert_eq(move(&bench, DISK_READ, 65536, data, 4096), -EIO);
        cr_assert_eq(ftruncate(bench.file.fd, 32768 + 100), 0);
        cr_assert_eq(move(&bench, DISK_READ, 28672, data, 8192), -EIO);
        cr_assert_eq(move(&bench, DISK_WRITE, 65536, data, 4096), 0);
        cr_assert_eq(move(&bench, DISK_READ, 0, data, 65536), 0);
        free(data);
        teardown(&bench);
    }
}

/* A file system that is full looks alike, but needs one. */
Test(disk, passes_on_that_there_is_no_room)
{
    struct bench bench;
    static char data[65536];
    setup(&bench, DISK_CACHE_WRITEBACK, false);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit limit = {.rlim_cur = 131072, .rlim_max = RLIM_INFINITY};
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(move(&bench, DISK_WRITE, 65536, data, sizeof(data)), 0);
    cr_assert_eq(move(&bench, DISK_WRITE, 131072 - 512, data, sizeof(data)), -ENOSPC);
    cr_assert_eq(move(&bench, DISK_WRITE, 262144, data, sizeof(data)), -ENOSPC);
    cr_assert_eq(move(&bench, DISK_READ, 262144, data, sizeof(data)), 0);
    teardown(&bench);
}

/* A memfd is a file of a tmpfs, which has holes and no ranges of zeroes. */
Test(disk, writes_zeroes_by_itself_where_the_file_system_cannot)
{
    struct bench bench = {.file.fd = memfd_create("disk", MFD_CLOEXEC)};
    char *data = malloc(3 * MIB), *zeroes = calloc(1, 3 * MIB);
    snprintf(bench.file.path, sizeof(bench.file.path), "/proc/self/fd/%d", bench.file.fd);
    cr_assert_eq(ftruncate(bench.file.fd, 4 * MIB), 0);
    cr_assert_eq(event_loop_create(&bench.loop, NULL), 0);
    bench.disk = disk_file_open(&bench.file, DISK_CACHE_WRITEBACK, false);
    memset(data, 1, 3 * MIB);
    for (unsigned unmap = 0; unmap < 2; unmap++) {
        struct disk_request request = {
            .operation = DISK_WRITE_ZEROES, .offset = 1024, .length = 3 * MIB - 2048, .unmap = unmap};
        cr_assert_eq(move(&bench, DISK_WRITE, 0, data, 3 * MIB), 0);
        cr_assert_eq(carry_out(&bench, request), 0);
        cr_assert_eq(move(&bench, DISK_READ, 0, data, 3 * MIB), 0);
        cr_assert_eq(memcmp(data + 1024, zeroes, 3 * MIB - 2048), 0);
        cr_assert(data[1023] == 1 && data[3 * MIB - 1024] == 1);
        memset(data, 1, 3 * MIB);
    }
    event_loop_destroy(bench.loop);
    disk_close(bench.disk);
    disk_file_destroy(&bench.file);
    free(zeroes);
    free(data);
}

Test(disk, answers_whether_cancelled_or_not)
{
    struct bench bench;
    struct single singles[64];
    char *data = aligned_alloc(4096, SIZE);
    setup(&bench, DISK_CACHE_NONE, false);
    for (unsigned i = 0; i < ARRAY_SIZE(singles); i++) {
        singles[i] = (struct single){
            .request = {.operation = i % 2 ? DISK_READ : DISK_FLUSH,
                        .length = i % 2 ? SIZE : 0,
                        .iov = &(struct iovec){data, SIZE},
                        .iov_count = 1,
                        .done = note},
        };
        disk_submit(bench.disk, bench.loop, &singles[i].request);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(singles); i++)
        disk_cancel(&singles[i].request);
    for (unsigned i = 0; i < ARRAY_SIZE(singles); i++) {
        event_loop_wait(bench.loop, is_done, &singles[i]);
        cr_assert(singles[i].result == 0 || singles[i].result == -ECANCELED);
    }
    free(data);
    teardown(&bench);
}
