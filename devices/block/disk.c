#include "devices/block/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>

#include "base/macros.h"
#include "devices/block/disk_internal.h"
#include "memory/guest_copy.h"

#define BOUNCE_SIZE      ((size_t)64 << 10)
#define BOUNCE_ALIGNMENT 4096
/* Of one system call, which moves less than 2 GiB. */
#define PIECE_MAX        ((size_t)1 << 30)

static void finish(struct disk_request *request, int result)
{
    free(request->bounce);
    request->bounce = NULL;
    request->done(request, result);
}

/* The few that a guest's disk can tell apart. */
static int as_disk_error(int result)
{
    switch (result) {
    case -EDQUOT:
    case -EFBIG:
        return -ENOSPC;
    case 0:
    case -ENOSPC:
    case -ECANCELED:
        return result;
    default:
        return -EIO;
    }
}

static struct io_uring_sqe *next_entry(struct disk_request *request,
                                       void (*done)(struct event_request *io, int result))
{
    request->io.done = done;
    return event_loop_request(request->loop, &request->io);
}

/* Whether the kernel asks for the same again. */
static bool is_transient(const struct disk_request *request, int result)
{
    return (result == -EAGAIN || result == -EINTR) && !request->cancelled;
}

/* ---- What ends at once, and still not before disk_submit() returns ---- */

static void noted(struct event_request *io, int result)
{
    struct disk_request *request = container_of(io, struct disk_request, io);
    finish(request, request->result);
}

static void finish_later(struct disk_request *request, int result)
{
    request->result = result;
    io_uring_prep_nop(next_entry(request, noted));
}

/* ---- Reads and writes, resumed for as long as they move something ---- */

enum walk {
    WALK_PAST,
    WALK_COPY_FROM, /* the bounce buffer into the memory of the request */
    WALK_COPY_TO,
};

static void walk(struct disk_cursor *cursor, size_t size, enum walk what, char *bounce)
{
    while (size) {
        struct iovec piece = cursor->piece;
        if (!piece.iov_len) {
            piece = *cursor->iov++;
            cursor->count--;
        }
        size_t part = smaller(piece.iov_len, size);
        if (what == WALK_COPY_FROM)
            guest_copy_to(piece.iov_base, bounce, part);
        else if (what == WALK_COPY_TO)
            guest_copy_from(bounce, piece.iov_base, part);
        cursor->piece = (struct iovec){(char *)piece.iov_base + part, piece.iov_len - part};
        if (bounce)
            bounce += part;
        size -= part;
    }
}

static void transferred(struct event_request *io, int result);

/* A single piece of memory is the cheaper call. */
static void issue_piece(struct disk_request *request, void *memory, size_t size)
{
    int fd = request->disk->fd;
    uint64_t offset = request->offset + request->moved;
    unsigned count = (unsigned)smaller(size, PIECE_MAX);
    struct io_uring_sqe *entry = next_entry(request, transferred);
    if (request->operation == DISK_READ)
        io_uring_prep_read(entry, fd, memory, count, offset);
    else
        io_uring_prep_write(entry, fd, memory, count, offset);
}

static void issue_bounced(struct disk_request *request)
{
    size_t size = smaller(request->length - request->moved, BOUNCE_SIZE);
    struct disk_cursor cursor = request->cursor;
    if (request->operation == DISK_WRITE)
        walk(&cursor, size, WALK_COPY_TO, request->bounce);
    issue_piece(request, request->bounce, size);
}

static void issue_transfer(struct disk_request *request)
{
    struct disk_cursor *cursor = &request->cursor;
    while (!cursor->piece.iov_len && !cursor->iov->iov_len) {
        cursor->iov++;
        cursor->count--;
    }
    if (request->bounce) {
        issue_bounced(request);
    } else if (cursor->piece.iov_len) {
        issue_piece(request, cursor->piece.iov_base, cursor->piece.iov_len);
    } else if (cursor->count == 1) {
        issue_piece(request, cursor->iov->iov_base, cursor->iov->iov_len);
    } else {
        int fd = request->disk->fd;
        uint64_t offset = request->offset + request->moved;
        unsigned count = (unsigned)smaller(cursor->count, IOV_MAX);
        struct io_uring_sqe *entry = next_entry(request, transferred);
        if (request->operation == DISK_READ)
            io_uring_prep_readv(entry, fd, cursor->iov, count, offset);
        else
            io_uring_prep_writev(entry, fd, cursor->iov, count, offset);
    }
}

/* Goes on behind what was moved. Nothing moved means that the file ends here: it has been truncated. */
static void transferred(struct event_request *io, int result)
{
    struct disk_request *request = container_of(io, struct disk_request, io);
    if (result <= 0 && !is_transient(request, result)) {
        finish(request, result ? as_disk_error(result) : -EIO);
        return;
    }
    if (result > 0) {
        bool scatter = request->bounce && request->operation == DISK_READ;
        walk(&request->cursor, (size_t)result, scatter ? WALK_COPY_FROM : WALK_PAST, request->bounce);
        request->moved += (size_t)result;
    }
    if (request->moved == request->length)
        finish(request, 0);
    else if (request->cancelled)
        finish(request, -ECANCELED);
    else
        issue_transfer(request);
}

static bool is_aligned(const struct disk *disk, const struct disk_request *request)
{
    for (unsigned i = 0; i < request->iov_count; i++) {
        const struct iovec *piece = &request->iov[i];
        if ((uintptr_t)piece->iov_base % disk->buffer_alignment || piece->iov_len % disk->geometry.block_size)
            return false;
    }
    return true;
}

static void start_transfer(struct disk_request *request)
{
    request->cursor = (struct disk_cursor){.iov = request->iov, .count = request->iov_count};
    if (request->disk->direct && !is_aligned(request->disk, request)) {
        request->bounce = aligned_alloc(BOUNCE_ALIGNMENT, BOUNCE_SIZE);
        if (!request->bounce) {
            finish_later(request, -EIO);
            return;
        }
    }
    issue_transfer(request);
}

/* ---- Holes and zeroes ---- */

static void issue_zeroing(struct disk_request *request);

static void zeroes_written(struct event_request *io, int result)
{
    struct disk_request *request = container_of(io, struct disk_request, io);
    if (result <= 0 && !is_transient(request, result)) {
        finish(request, result ? as_disk_error(result) : -EIO);
        return;
    }
    if (result > 0)
        request->moved += (size_t)result;
    if (request->moved == request->length)
        finish(request, 0);
    else if (request->cancelled)
        finish(request, -ECANCELED);
    else
        issue_zeroing(request);
}

static void allocated(struct event_request *io, int result)
{
    struct disk_request *request = container_of(io, struct disk_request, io);
    if (is_transient(request, result)) {
        issue_zeroing(request);
        return;
    }
    if (result != -EOPNOTSUPP) {
        finish(request, as_disk_error(result));
        return;
    }
    if (request->mode & FALLOC_FL_PUNCH_HOLE)
        request->disk->no_holes = true;
    else
        request->disk->no_zero_ranges = true;
    issue_zeroing(request);
}

/* The best way that is left; 0: none. */
static int choose_mode(const struct disk_request *request)
{
    const struct disk *disk = request->disk;
    bool hole = request->operation == DISK_DISCARD || request->unmap;
    if (hole && !disk->no_holes)
        return FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (request->operation == DISK_WRITE_ZEROES && !disk->no_zero_ranges)
        return FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
    return 0;
}

static void issue_zeroing(struct disk_request *request)
{
    struct disk *disk = request->disk;
    uint64_t offset = request->offset + request->moved, size = request->length - request->moved;
    request->mode = choose_mode(request);
    if (request->mode)
        io_uring_prep_fallocate(next_entry(request, allocated), disk->fd, request->mode, (off_t)offset,
                                (off_t)size);
    else if (request->operation == DISK_DISCARD)
        finish_later(request, 0);
    else
        io_uring_prep_write(next_entry(request, zeroes_written), disk->fd, disk->zeroes,
                            (unsigned)smaller(size, ZEROES_SIZE), offset);
}

/* ---- Flushes ---- */

static void issue_flush(struct disk_request *request);

static void flushed(struct event_request *io, int result)
{
    struct disk_request *request = container_of(io, struct disk_request, io);
    if (is_transient(request, result))
        issue_flush(request);
    else
        finish(request, as_disk_error(result));
}

static void issue_flush(struct disk_request *request)
{
    io_uring_prep_fsync(next_entry(request, flushed), request->disk->fd, IORING_FSYNC_DATASYNC);
}

/* ---- All ---- */

static uint64_t iovec_bytes(const struct disk_request *request)
{
    uint64_t bytes = 0;
    for (unsigned i = 0; i < request->iov_count; i++)
        bytes += request->iov[i].iov_len;
    return bytes;
}

static int check(const struct disk *disk, const struct disk_request *request)
{
    bool reads = request->operation == DISK_READ;
    if (request->operation == DISK_FLUSH)
        return 0;
    if (request->offset > disk->size || request->length > disk->size - request->offset)
        return -EINVAL;
    if ((request->offset | request->length) % disk->geometry.block_size)
        return -EINVAL;
    if ((reads || request->operation == DISK_WRITE) && iovec_bytes(request) != request->length)
        return -EINVAL;
    return reads || !disk->geometry.readonly ? 0 : -EROFS;
}

void disk_submit(struct disk *disk, struct event_loop *loop, struct disk_request *request)
{
    bool flush = request->operation == DISK_FLUSH;
    int result = check(disk, request);
    request->disk = disk;
    request->loop = loop;
    request->moved = 0;
    request->bounce = NULL;
    request->cancelled = false;
    if (result < 0 || (flush ? disk->ignores_flushes : request->length == 0))
        finish_later(request, result);
    else if (flush)
        issue_flush(request);
    else if (request->operation == DISK_READ || request->operation == DISK_WRITE)
        start_transfer(request);
    else
        issue_zeroing(request);
}

void disk_cancel(struct disk_request *request)
{
    request->cancelled = true;
    event_loop_cancel(request->loop, &request->io);
}
