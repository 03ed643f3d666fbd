/*
 * netbench: how many frames a second the first virtio network card takes, or brings. Polls from user mode,
 * and prints how many there were, and in what time.
 */
#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/memory.h"
#include "guest/lib/string.h"
#include "guest/lib/tsc.h"
#include "guest/lib/virtio.h"

#define ID_NET      1
#define RECEIVE     0 /* queues */
#define SEND        1
#define HEADER      12 /* in front of each frame: VIRTIO 1.2, section 5.1.6 */
#define FRAME_MIN   14
#define FRAME_MAX   1514
#define BUFFER_SIZE 2048

static struct {
    struct virtio_device device;
    struct virtqueue queue;
    bool sends;
    uint32_t frame;
    uint8_t *buffers; /* BUFFER_SIZE for each entry of the queue */
    uint64_t frames, bytes;
} bench;

/* To everybody, from a locally administered address, of the type for local experiments. */
static void fill(uint8_t *frame)
{
    static const uint8_t start[FRAME_MIN] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2,
                                             0,    0,    0,    0,    1,    0x88, 0xb5};

    memcpy(frame, start, sizeof(start));
}

static void hand_over(uint16_t slot)
{
    const struct virtqueue_buffer buffer = {
        bench.buffers + (uint64_t)slot * BUFFER_SIZE,
        bench.sends ? HEADER + bench.frame : BUFFER_SIZE,
        !bench.sends,
    };

    if (!virtqueue_add(&bench.queue, &buffer, 1, slot))
        guest_panic("no room in the queue");
}

static void turn_over(void)
{
    uint32_t written;
    uint16_t slot;

    while (virtqueue_take(&bench.queue, &slot, &written)) {
        bench.frames++;
        bench.bytes += bench.sends ? bench.frame : written - HEADER;
        hand_over(slot);
    }
    virtqueue_kick(&bench.queue);
}

static void run(uint64_t ticks)
{
    uint64_t begin = tsc_read();

    while (tsc_read() - begin < ticks)
        turn_over();
}

static void measure(uint64_t milliseconds)
{
    uint64_t hz = tsc_hz(), begin, ticks, kicks;

    for (uint16_t slot = 0; slot < bench.queue.size; slot++) {
        fill(bench.buffers + (uint64_t)slot * BUFFER_SIZE + HEADER);
        hand_over(slot);
    }
    virtqueue_kick(&bench.queue);
    print("netbench: ready\n");
    run(hz / 1000 * milliseconds / 10);
    bench.frames = bench.bytes = 0;
    kicks = bench.queue.kicks;
    begin = tsc_read();
    run(hz / 1000 * milliseconds);
    ticks = tsc_read() - begin;
    print("netbench: frames %lu ns %lu bytes %lu kicks %lu\n", bench.frames, ticks * 1000 / (hz / 1000000),
          bench.bytes, bench.queue.kicks - kicks);
    virtio_reset(&bench.device);
}

int main(void)
{
    bench.sends = argument_is("direction", "send", true);
    bench.frame = argument_number("frame", 60);
    if (bench.frame < FRAME_MIN || bench.frame > FRAME_MAX)
        guest_panic("a frame of a size that is out of range");
    bench.buffers = memory_free(VIRTQUEUE_SIZE_MAX * BUFFER_SIZE);
    memset(bench.buffers, 0, VIRTQUEUE_SIZE_MAX * BUFFER_SIZE);
    if (!virtio_find(ID_NET, 0, &bench.device) ||
        !virtio_negotiate(&bench.device, VIRTIO_F_VERSION_1 | virtio_ring_features()) ||
        !virtio_queue_setup(&bench.device, bench.sends ? SEND : RECEIVE, VIRTQUEUE_SIZE_MAX, &bench.queue)) {
        print("netbench: there is no network card that can be used\n");
        return 1;
    }
    virtio_start(&bench.device);
    measure(argument_number("ms", 1000));
    return 0;
}
