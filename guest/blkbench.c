/*
 * blkbench: how fast the first virtio disk is. Keeps as many requests under way as it is told, polling from
 * user mode, and prints how many were answered, in what time, and how long they took.
 */
#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/memory.h"
#include "guest/lib/samples.h"
#include "guest/lib/tsc.h"
#include "guest/lib/virtio.h"

#define VECTOR_DISK   0x40
#define ID_BLOCK      2
#define FEATURE_FLUSH (1 << 9) /* without it every write is flushed */
#define SECTOR        512
#define DEPTH_MAX     64
#define DATA_MAX      (32 << 20) /* of all requests together */
#define READ          0
#define WRITE         1
#define OK            0
#define UNANSWERED    0xff

struct request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status;
    uint64_t start;
};

struct bench {
    struct virtio_device device;
    struct virtqueue queue;
    bool random, writes, by_interrupt;
    uint32_t block, depth;
    uint64_t blocks; /* of the disk */
    uint64_t next, seed;
    uint8_t *data;
    struct request requests[DEPTH_MAX];
    struct samples samples;
};

static struct bench bench;

static void end_interrupt(struct interrupt_frame *frame)
{
    virtio_acknowledge(&bench.device);
    lapic_end_of_interrupt();
}

static uint64_t next_block(void)
{
    if (!bench.random)
        return bench.next++ % bench.blocks;
    bench.seed = bench.seed * 6364136223846793005 + 1442695040888963407;
    return (bench.seed >> 33) % bench.blocks;
}

static void start(uint16_t slot)
{
    struct request *request = &bench.requests[slot];
    const struct virtqueue_buffer chain[] = {
        {&request->header, sizeof(request->header), false},
        {bench.data + (uint64_t)slot * bench.block, bench.block, !bench.writes},
        {&request->status, 1, true},
    };

    request->header.type = bench.writes ? WRITE : READ;
    request->header.sector = next_block() * (bench.block / SECTOR);
    request->status = UNANSWERED;
    request->start = tsc_read();
    if (!virtqueue_add(&bench.queue, chain, 3, slot))
        guest_panic("no room in the queue");
}

/* Takes what has been answered, and starts as much again if `more`. Returns how many. */
static unsigned take(bool more)
{
    unsigned count = 0;
    uint32_t written;
    uint16_t slot;

    while (virtqueue_take(&bench.queue, &slot, &written)) {
        if (bench.requests[slot].status != OK)
            guest_panic("a request failed");
        samples_add(&bench.samples, tsc_read() - bench.requests[slot].start);
        if (more)
            start(slot);
        count++;
    }
    virtqueue_kick(&bench.queue);
    if (!count && bench.by_interrupt && !virtqueue_set_interrupts(&bench.queue, true))
        interrupt_wait();
    return count;
}

/* Returns how many were answered within `ticks`. */
static uint64_t run(uint64_t ticks)
{
    uint64_t begin = tsc_read(), done = 0;

    while (tsc_read() - begin < ticks)
        done += take(true);
    return done;
}

static void measure(uint64_t milliseconds)
{
    uint64_t hz = tsc_hz(), begin, ticks, done, kicks;

    for (unsigned slot = 0; slot < bench.depth; slot++)
        start(slot);
    virtqueue_kick(&bench.queue);
    run(hz / 1000 * milliseconds / 10);
    samples_begin(&bench.samples, bench.data + (uint64_t)bench.depth * bench.block);
    kicks = bench.queue.kicks;
    begin = tsc_read();
    done = run(hz / 1000 * milliseconds);
    ticks = tsc_read() - begin;
    kicks = bench.queue.kicks - kicks;
    for (unsigned left = bench.depth; left;)
        left -= take(false);
    print("blkbench: operations %lu ns %lu kicks %lu mean %lu", done, ticks * 1000 / (hz / 1000000), kicks,
          samples_mean(&bench.samples) * 1000 / (hz / 1000000));
    samples_sort(&bench.samples);
    for (unsigned i = 0; i < 3; i++) {
        static const unsigned percentiles[] = {50, 90, 99};
        print(" p%u %lu", percentiles[i],
              samples_percentile(&bench.samples, percentiles[i]) * 1000 / (hz / 1000000));
    }
    print("\n");
}

static bool set_up(void)
{
    struct virtio_device *device = &bench.device;
    uint64_t sectors;

    if (!virtio_find(ID_BLOCK, 0, device))
        return false;
    if (bench.by_interrupt) {
        pic_mask();
        lapic_enable();
        interrupt_set(VECTOR_DISK, end_interrupt);
        virtio_interrupt(device, VECTOR_DISK);
    }
    if (!virtio_negotiate(device, VIRTIO_F_VERSION_1 | FEATURE_FLUSH | virtio_ring_features()) ||
        !virtio_queue_setup(device, 0, VIRTQUEUE_SIZE_MAX, &bench.queue))
        return false;
    sectors = virtio_config(device, 0) | (uint64_t)virtio_config(device, 4) << 32;
    bench.blocks = sectors / (bench.block / SECTOR);
    virtio_start(device);
    return bench.blocks > 0;
}

int main(void)
{
    bench.random = argument_is("order", "random", true);
    bench.writes = argument_is("direction", "write", false);
    bench.by_interrupt = argument_is("by", "irq", false);
    bench.block = argument_number("block", 4096);
    bench.depth = argument_number("depth", 1);
    bench.seed = argument_number("seed", 1);
    if (bench.depth < 1 || bench.depth > DEPTH_MAX || bench.block < SECTOR || bench.block % SECTOR ||
        (uint64_t)bench.block * bench.depth > DATA_MAX)
        guest_panic("a block or a depth that is out of range");
    bench.data = memory_free((uint64_t)bench.block * bench.depth + SAMPLES_SIZE);
    if (!set_up()) {
        print("blkbench: there is no disk that can be used\n");
        return 1;
    }
    measure(argument_number("ms", 1000));
    return 0;
}
