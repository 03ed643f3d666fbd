#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "devices/virtio/block_internal.h"

#define HEADER_SIZE sizeof(struct virtio_blk_outhdr)
#define STATUS_SIZE sizeof(uint8_t)
#define RANGE_SIZE  sizeof(struct virtio_blk_discard_write_zeroes)

/* Not a status: the answer comes later. */
#define UNDER_WAY   0xFF

static void disk_is_done(struct disk_request *io, int result);

/* ---- Life ---- */

static struct block_request *get(struct block_queue *queue)
{
    struct block_request *request = queue->free_requests;
    if (request) {
        queue->free_requests = request->next_free;
        return request;
    }
    request = calloc(1, sizeof(*request));
    if (!request)
        return NULL;
    request->queue = queue;
    request->io.done = disk_is_done;
    request->next = queue->requests;
    queue->requests = request;
    return request;
}

static void put(struct block_request *request)
{
    request->chain = NULL;
    request->next_free = request->queue->free_requests;
    request->queue->free_requests = request;
}

static void answer(struct block_queue *queue, struct virtqueue_chain *chain, uint8_t status)
{
    virtqueue_write(chain, chain->in_bytes - STATUS_SIZE, &status, STATUS_SIZE);
    virtqueue_push(queue->ring, chain, chain->in_bytes);
    event_loop_defer(queue->loop, &queue->interrupt);
}

/* ---- Steps on the disk ---- */

static void submit(struct block_request *request, enum disk_operation operation, uint64_t offset,
                   uint64_t length)
{
    struct block_queue *queue = request->queue;
    request->io.operation = operation;
    request->io.offset = offset;
    request->io.length = length;
    queue->under_way++;
    disk_submit(queue->block->disk, queue->loop, &request->io);
}

/* VIRTIO 1.2, section 5.2.6.2: what is written must be stable when it is answered. */
static bool writes_through(const struct virtio_block *block)
{
    const struct virtio_device *device = &block->device;
    if (!virtio_has_feature(device, VIRTIO_BLK_F_FLUSH))
        return true;
    return virtio_has_feature(device, VIRTIO_BLK_F_CONFIG_WCE) && !block->writeback;
}

static uint8_t next_step(struct block_request *request)
{
    if (request->range < request->range_count) {
        const struct virtio_blk_discard_write_zeroes *range = &request->ranges[request->range++];
        request->io.unmap = range->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP;
        submit(request, request->io.operation, range->sector * DISK_SECTOR_SIZE,
               (uint64_t)range->num_sectors * DISK_SECTOR_SIZE);
        return UNDER_WAY;
    }
    if (request->flush) {
        request->flush = false;
        submit(request, DISK_FLUSH, 0, 0);
        return UNDER_WAY;
    }
    return VIRTIO_BLK_S_OK;
}

static void finish(struct block_request *request, uint8_t status)
{
    if (status == UNDER_WAY)
        return;
    answer(request->queue, request->chain, status);
    put(request);
}

static void say_stopped(struct block_queue *queue)
{
    queue->ring = NULL;
    queue->stopping = false;
    virtio_queue_stopped(&queue->block->device, queue->index);
}

static void disk_is_done(struct disk_request *io, int result)
{
    struct block_request *request = container_of(io, struct block_request, io);
    struct block_queue *queue = request->queue;
    queue->under_way--;
    if (!queue->stopping) {
        finish(request, result ? VIRTIO_BLK_S_IOERR : next_step(request));
        return;
    }
    virtqueue_drop(queue->ring, request->chain);
    put(request);
    if (queue->under_way == 0)
        say_stopped(queue);
}

/* ---- Reads and writes ---- */

static bool reserve(struct block_request *request, unsigned count)
{
    if (count <= request->iov_capacity)
        return true;
    struct iovec *iov = realloc(request->iov, count * sizeof(*iov));
    if (!iov)
        return false;
    request->iov = iov;
    request->iov_capacity = count;
    return true;
}

/* Makes `bytes` bytes, from `skip` on, the data; there are that many. */
static bool set_data(struct block_request *request, const struct iovec *iov, size_t skip, size_t bytes)
{
    unsigned count = 0;
    size_t left;
    while (skip && skip >= iov->iov_len)
        skip -= iov++->iov_len;
    for (left = skip + bytes; left && left >= iov[count].iov_len; count++)
        left -= iov[count].iov_len;
    request->io.iov = iov;
    request->io.iov_count = count;
    if (!left && !skip)
        return true;
    if (!reserve(request, count + 1))
        return false;
    for (count = 0; bytes; count++, skip = 0) {
        size_t size = smaller(iov[count].iov_len - skip, bytes);
        request->iov[count] = (struct iovec){(char *)iov[count].iov_base + skip, size};
        bytes -= size;
    }
    request->io.iov = request->iov;
    request->io.iov_count = count;
    return true;
}

static uint8_t begin_transfer(struct block_request *request, bool is_read, uint64_t sector)
{
    const struct virtqueue_chain *chain = request->chain;
    size_t bytes = is_read ? chain->in_bytes - STATUS_SIZE : chain->out_bytes - HEADER_SIZE;
    size_t beside = is_read ? chain->out_bytes - HEADER_SIZE : chain->in_bytes - STATUS_SIZE;
    uint64_t offset;
    if (beside || bytes % DISK_SECTOR_SIZE || __builtin_mul_overflow(sector, DISK_SECTOR_SIZE, &offset) ||
        !set_data(request, is_read ? chain->in : chain->out, is_read ? 0 : HEADER_SIZE, bytes))
        return VIRTIO_BLK_S_IOERR;
    request->flush = !is_read && writes_through(request->queue->block);
    submit(request, is_read ? DISK_READ : DISK_WRITE, offset, bytes);
    return UNDER_WAY;
}

/* ---- Discards and zeroes ---- */

/* Reads the ranges once. VIRTIO 1.2, section 5.2.6.2: flags that are not known, and for discards the one that
 * is, make the request an unsupported one. */
static uint8_t take_ranges(struct block_request *request, uint32_t known_flags, uint32_t sectors_max)
{
    uint8_t status = VIRTIO_BLK_S_OK;
    size_t bytes = request->chain->out_bytes - HEADER_SIZE;
    if (!bytes || bytes % RANGE_SIZE || bytes > sizeof(request->ranges))
        return VIRTIO_BLK_S_IOERR;
    virtqueue_read(request->chain, HEADER_SIZE, request->ranges, bytes);
    request->range_count = (unsigned)(bytes / RANGE_SIZE);
    for (unsigned i = 0; i < request->range_count; i++) {
        struct virtio_blk_discard_write_zeroes *range = &request->ranges[i];
        range->sector = le64toh(range->sector);
        range->num_sectors = le32toh(range->num_sectors);
        range->flags = le32toh(range->flags);
        if (range->flags & ~known_flags)
            return VIRTIO_BLK_S_UNSUPP;
        if (range->num_sectors > sectors_max || range->sector > UINT64_MAX / DISK_SECTOR_SIZE)
            status = VIRTIO_BLK_S_IOERR;
    }
    return status;
}

static uint8_t begin_ranges(struct block_request *request, unsigned feature)
{
    const struct virtio_block *block = request->queue->block;
    bool discards = feature == VIRTIO_BLK_F_DISCARD;
    if (!virtio_has_feature(&block->device, feature))
        return VIRTIO_BLK_S_UNSUPP;
    uint8_t status = take_ranges(request, discards ? 0 : VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
                                 discards ? DISCARD_SECTORS_MAX : ZEROES_SECTORS_MAX);
    if (status != VIRTIO_BLK_S_OK)
        return status;
    request->io.operation = discards ? DISK_DISCARD : DISK_WRITE_ZEROES;
    request->flush = writes_through(block);
    return next_step(request);
}

/* ---- All ---- */

static uint8_t begin_flush(struct block_request *request)
{
    request->flush = true;
    return next_step(request);
}

static uint8_t give_serial(struct block_request *request)
{
    struct virtqueue_chain *chain = request->chain;
    size_t room = chain->in_bytes - STATUS_SIZE;
    virtqueue_write(chain, 0, request->queue->block->serial, smaller(room, VIRTIO_BLOCK_SERIAL_MAX));
    return VIRTIO_BLK_S_OK;
}

static uint8_t begin(struct block_request *request)
{
    struct virtio_blk_outhdr header;
    if (virtqueue_read(request->chain, 0, &header, HEADER_SIZE) != HEADER_SIZE)
        return VIRTIO_BLK_S_IOERR;
    request->range = request->range_count = 0;
    request->flush = false;
    switch (le32toh(header.type)) {
    case VIRTIO_BLK_T_IN:
        return begin_transfer(request, true, le64toh(header.sector));
    case VIRTIO_BLK_T_OUT:
        return begin_transfer(request, false, le64toh(header.sector));
    case VIRTIO_BLK_T_FLUSH:
        return begin_flush(request);
    case VIRTIO_BLK_T_GET_ID:
        return give_serial(request);
    case VIRTIO_BLK_T_DISCARD:
        return begin_ranges(request, VIRTIO_BLK_F_DISCARD);
    case VIRTIO_BLK_T_WRITE_ZEROES:
        return begin_ranges(request, VIRTIO_BLK_F_WRITE_ZEROES);
    default:
        return VIRTIO_BLK_S_UNSUPP;
    }
}

void block_request_begin(struct block_queue *queue, struct virtqueue_chain *chain)
{
    if (chain->in_bytes < STATUS_SIZE) {
        virtqueue_push(queue->ring, chain, 0);
        event_loop_defer(queue->loop, &queue->interrupt);
        return;
    }
    struct block_request *request = get(queue);
    if (!request) {
        answer(queue, chain, VIRTIO_BLK_S_IOERR);
        return;
    }
    request->chain = chain;
    finish(request, begin(request));
}

void block_requests_stop(struct block_queue *queue)
{
    event_loop_forget(queue->loop, &queue->interrupt);
    queue->stopping = true;
    for (struct block_request *request = queue->requests; request; request = request->next) {
        if (request->chain)
            disk_cancel(&request->io);
    }
    if (queue->under_way == 0)
        say_stopped(queue);
}

void block_requests_free(struct block_queue *queue)
{
    for (struct block_request *request; (request = queue->requests);) {
        queue->requests = request->next;
        free(request->iov);
        free(request);
    }
}
