#include "devices/virtio/block.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <linux/virtio_ids.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/block_internal.h"

#define BIT(number) ((uint64_t)1 << (number))

#define QUEUE_SIZE  256
/* A chain has a header and a status beside its data. */
#define SEGMENTS    (QUEUE_SIZE - 2)

/* Chains taken at a time: a driver that is never out of them must not keep the loop from everything else. */
#define TAKE_MAX    (2 * QUEUE_SIZE)

static struct virtio_block *block_of(struct virtio_device *device)
{
    return container_of(device, struct virtio_block, device);
}

/* ---- Configuration space: VIRTIO 1.2, section 5.2.4 ---- */

static void read_config(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
    struct virtio_block *block = block_of(device);
    struct virtio_blk_config config = block->config;
    config.wce = block->writeback;
    memcpy(data, (const char *)&config + offset, size);
}

/* Nothing but the cache's mode can be written. */
static void write_config(struct virtio_device *device, uint32_t offset, const void *data, uint32_t size)
{
    uint32_t place = offsetof(struct virtio_blk_config, wce) - offset;
    if (place < size && virtio_has_feature(device, VIRTIO_BLK_F_CONFIG_WCE))
        block_of(device)->writeback = ((const uint8_t *)data)[place] != 0;
}

static void set_config(struct virtio_block *block, unsigned queue_count)
{
    const struct disk_geometry *geometry = disk_geometry(block->disk);
    uint32_t physical_blocks = geometry->physical_size / geometry->block_size;
    block->config = (struct virtio_blk_config){
        .capacity = htole64(geometry->sectors),
        .seg_max = htole32(SEGMENTS),
        .blk_size = htole32(geometry->block_size),
        .physical_block_exp = (uint8_t)__builtin_ctz(physical_blocks),
        .min_io_size = htole16((uint16_t)physical_blocks),
        .opt_io_size = htole32(geometry->optimal_size / geometry->block_size),
        .num_queues = htole16((uint16_t)queue_count),
        .max_discard_sectors = htole32(DISCARD_SECTORS_MAX),
        .max_discard_seg = htole32(RANGES_MAX),
        .discard_sector_alignment = htole32(geometry->discard_granularity / DISK_SECTOR_SIZE),
        .max_write_zeroes_sectors = htole32(ZEROES_SECTORS_MAX),
        .max_write_zeroes_seg = htole32(RANGES_MAX),
        .write_zeroes_may_unmap = geometry->discards,
    };
}

static uint64_t features(const struct disk_geometry *geometry, unsigned queue_count)
{
    uint64_t offered = BIT(VIRTIO_BLK_F_SEG_MAX) | BIT(VIRTIO_BLK_F_BLK_SIZE) | BIT(VIRTIO_BLK_F_TOPOLOGY) |
                       BIT(VIRTIO_BLK_F_FLUSH) | BIT(VIRTIO_BLK_F_CONFIG_WCE);
    if (queue_count > 1)
        offered |= BIT(VIRTIO_BLK_F_MQ);
    if (geometry->readonly)
        return offered | BIT(VIRTIO_BLK_F_RO);
    if (geometry->discards)
        offered |= BIT(VIRTIO_BLK_F_DISCARD);
    return offered | BIT(VIRTIO_BLK_F_WRITE_ZEROES);
}

/* ---- Queues ---- */

static void reset(struct virtio_device *device)
{
    block_of(device)->writeback = true;
}

static void start_queue(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    block_of(device)->queues[index].ring = ring;
}

static void kicked(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    struct block_queue *queue = &block_of(device)->queues[index];
    struct virtqueue_chain *chain;
    struct error err;
    unsigned taken = 0;
    int result;
    do {
        virtqueue_set_kicks(ring, false);
        while (taken < TAKE_MAX && (result = virtqueue_pop(ring, &chain, &err)) == 1) {
            block_request_begin(queue, chain);
            taken++;
        }
        if (taken == TAKE_MAX) {
            virtio_queue_kick(device, index);
            return;
        }
    } while (result == 0 && virtio_queue_drained(device, index));
    if (result < 0)
        virtio_queue_broke(device, index, &err);
}

static void stop_queue(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    block_requests_stop(&block_of(device)->queues[index]);
}

static void interrupt(struct event_task *task)
{
    struct block_queue *queue = container_of(task, struct block_queue, interrupt);
    virtio_queue_interrupt(&queue->block->device, queue->index);
}

/* ---- Creation ---- */

int virtio_block_create(const struct virtio_block_config *config, struct virtio_block **out,
                        struct error *err)
{
    static const struct virtio_device_ops ops = {
        .name = "virtio-blk",
        .id = VIRTIO_ID_BLOCK,
        .read_config = read_config,
        .write_config = write_config,
        .reset = reset,
        .start_queue = start_queue,
        .kicked = kicked,
        .stop_queue = stop_queue,
    };
    struct virtio_block *block = calloc(1, sizeof(*block));
    if (!block)
        return error_set(err, ENOMEM, "not enough memory for a block device");
    block->disk = config->disk;
    block->writeback = true;
    if (config->serial)
        memcpy(block->serial, config->serial, strnlen(config->serial, sizeof(block->serial)));
    set_config(block, config->queue_count);
    block->device.offered = features(disk_geometry(block->disk), config->queue_count);
    block->device.config_size = offsetof(struct virtio_blk_config, max_secure_erase_sectors);
    for (unsigned i = 0; i < config->queue_count; i++)
        block->queues[i] = (struct block_queue){
            .block = block, .index = i, .loop = config->loops[i], .interrupt.run = interrupt};
    struct virtio_device_config device = {
        .ops = &ops,
        .log = config->log,
        .space = config->space,
        .queue_count = config->queue_count,
        .queue_size_max = QUEUE_SIZE,
        .loops = config->loops,
    };
    int result = virtio_device_init(&block->device, &device, err);
    if (result < 0) {
        free(block);
        return result;
    }
    *out = block;
    return 0;
}

struct virtio_device *virtio_block_device(struct virtio_block *block)
{
    return &block->device;
}

void virtio_block_destroy(struct virtio_block *block)
{
    if (!block)
        return;
    virtio_device_destroy(&block->device);
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        block_requests_free(&block->queues[i]);
    free(block);
}
