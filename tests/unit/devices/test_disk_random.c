/*
 * Random requests of all kinds by several loops at the same time, each on a slice of the image of its own,
 * against a copy of what the slice must hold.
 */
#include <string.h>

#include "base/event_loop.h"
#include "base/io_thread.h"
#include "base/macros.h"
#include "devices/block/disk.h"
#include "tests/unit/devices/disk_file.h"

#define LOOPS       3
#define SLOTS       16 /* requests under way on each loop; each has a part of the slice */
#define SLOT_SIZE   (128 * 1024)
#define SLICE_SIZE  (SLOTS * SLOT_SIZE)
#define PIECES_MAX  40
#define ROUNDS      40 /* requests of each slot */
#define MEMORY_SIZE (SLOT_SIZE + PIECES_MAX * 16)

struct slice;

struct slot {
    struct disk_request request;
    struct slice *slice;
    unsigned index, rounds;
    struct iovec pieces[PIECES_MAX];
    char *memory;
};

struct slice {
    struct disk *disk;
    struct io_thread *thread;
    struct event_loop *loop;
    uint64_t start;
    uint64_t random;
    unsigned ended;
    struct slot slots[SLOTS];
    char *shadow;
};

static uint32_t draw(struct slice *slice, uint32_t limit)
{
    slice->random ^= slice->random << 13;
    slice->random ^= slice->random >> 7;
    slice->random ^= slice->random << 17;
    return (uint32_t)(slice->random >> 32) % limit;
}

/* Cuts the request's memory into pieces with gaps between them, so that most are aligned to nothing. */
static void cut(struct slot *slot)
{
    struct disk_request *request = &slot->request;
    struct slice *slice = slot->slice;
    bool even = draw(slice, 2);
    size_t place = even ? 0 : draw(slice, 16), left = request->length;
    unsigned count = 0;
    while (left) {
        size_t size = count == PIECES_MAX - 1 || !draw(slice, 4) ? left : draw(slice, (uint32_t)left + 1);
        if (even && count < PIECES_MAX - 1)
            size = smaller(left, align_up(size, 512));
        slot->pieces[count++] = (struct iovec){slot->memory + place, size};
        place += size + (even ? 0 : draw(slice, 16));
        left -= size;
    }
    request->iov = slot->pieces;
    request->iov_count = count;
}

static char *shadow_of(struct slot *slot)
{
    return slot->slice->shadow + (slot->request.offset - slot->slice->start);
}

static void fill_to_write(struct slot *slot)
{
    char *shadow = shadow_of(slot);
    for (unsigned i = 0; i < slot->request.iov_count; i++) {
        const struct iovec *piece = &slot->pieces[i];
        memset(piece->iov_base, (int)draw(slot->slice, 256), piece->iov_len);
        if (piece->iov_len)
            *(uint8_t *)piece->iov_base = (uint8_t)slot->rounds;
        memcpy(shadow, piece->iov_base, piece->iov_len);
        shadow += piece->iov_len;
    }
}

static void check_read(struct slot *slot)
{
    const char *shadow = shadow_of(slot);
    for (unsigned i = 0; i < slot->request.iov_count; i++) {
        const struct iovec *piece = &slot->pieces[i];
        cr_assert_eq(memcmp(piece->iov_base, shadow, piece->iov_len), 0);
        shadow += piece->iov_len;
    }
}

static void next(struct slot *slot);

static void done(struct disk_request *request, int result)
{
    struct slot *slot = container_of(request, struct slot, request);
    cr_assert_eq(result, 0, "%d for operation %u", result, request->operation);
    if (request->operation == DISK_READ)
        check_read(slot);
    if (++slot->rounds < ROUNDS)
        next(slot);
    else
        slot->slice->ended++;
}

static void next(struct slot *slot)
{
    struct slice *slice = slot->slice;
    static const enum disk_operation operations[] = {
        DISK_READ, DISK_READ, DISK_WRITE, DISK_WRITE, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_WRITE_ZEROES,
    };
    uint32_t block = disk_geometry(slice->disk)->block_size, blocks = SLOT_SIZE / block;
    uint32_t first = draw(slice, blocks), count = draw(slice, blocks - first + 1);
    struct disk_request *request = &slot->request;
    *request = (struct disk_request){
        .operation = operations[draw(slice, ARRAY_SIZE(operations))],
        .offset = slice->start + (uint64_t)slot->index * SLOT_SIZE + (uint64_t)first * block,
        .length = (uint64_t)count * block,
        .unmap = draw(slice, 2),
        .done = done,
    };
    if (request->operation == DISK_READ || request->operation == DISK_WRITE)
        cut(slot);
    if (request->operation == DISK_WRITE)
        fill_to_write(slot);
    if (request->operation == DISK_WRITE_ZEROES ||
        (request->operation == DISK_DISCARD && disk_geometry(slice->disk)->discards))
        memset(shadow_of(slot), 0, request->length);
    disk_submit(slice->disk, slice->loop, request);
}

static void begin(void *opaque)
{
    struct slice *slice = opaque;
    for (unsigned i = 0; i < SLOTS; i++)
        next(&slice->slots[i]);
}

static bool has_ended(void *opaque)
{
    struct slice *slice = opaque;
    return slice->ended == SLOTS;
}

static void slice_create(struct slice *slice, struct disk *disk, unsigned index)
{
    *slice = (struct slice){
        .disk = disk, .start = (uint64_t)index * SLICE_SIZE, .random = 0x9E3779B97F4A7C15u + index};
    slice->shadow = calloc(1, SLICE_SIZE);
    cr_assert_eq(io_thread_create("slice", &slice->thread, NULL), 0);
    slice->loop = io_thread_loop(slice->thread);
    for (unsigned i = 0; i < SLOTS; i++) {
        slice->slots[i].slice = slice;
        slice->slots[i].index = i;
        slice->slots[i].memory = aligned_alloc(4096, align_up(MEMORY_SIZE, 4096));
        cr_assert(slice->slots[i].memory);
    }
}

static void slice_destroy(struct slice *slice)
{
    io_thread_destroy(slice->thread);
    for (unsigned i = 0; i < SLOTS; i++)
        free(slice->slots[i].memory);
    free(slice->shadow);
}

static void check_file(const struct disk_file *file, const struct slice *slice)
{
    char *found = malloc(SLICE_SIZE);
    cr_assert_eq(pread(file->fd, found, SLICE_SIZE, (off_t)slice->start), SLICE_SIZE);
    cr_assert_eq(memcmp(found, slice->shadow, SLICE_SIZE), 0);
    free(found);
}

static void run(enum disk_cache cache)
{
    struct slice *slices = calloc(LOOPS, sizeof(*slices));
    struct disk_file file;
    disk_file_create(&file, (uint64_t)LOOPS * SLICE_SIZE);
    struct disk *disk = disk_file_open(&file, cache, false);
    for (unsigned i = 0; i < LOOPS; i++) {
        slice_create(&slices[i], disk, i);
        event_loop_call(slices[i].loop, begin, &slices[i]);
    }
    for (unsigned i = 0; i < LOOPS; i++)
        event_loop_wait(slices[i].loop, has_ended, &slices[i]);
    for (unsigned i = 0; i < LOOPS; i++) {
        check_file(&file, &slices[i]);
        slice_destroy(&slices[i]);
    }
    free(slices);
    disk_close(disk);
    disk_file_destroy(&file);
}

Test(disk_random, writeback)
{
    run(DISK_CACHE_WRITEBACK);
}

Test(disk_random, none)
{
    run(DISK_CACHE_NONE);
}

Test(disk_random, unsafe)
{
    run(DISK_CACHE_UNSAFE);
}
