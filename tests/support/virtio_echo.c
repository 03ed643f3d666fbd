#include "tests/support/virtio_echo.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/queue.h"

#define FEATURE_CONFIG_WRITABLE 3 /* any bit of its own will do */

static void must(bool holds)
{
    if (!holds)
        abort();
}

static struct echo *echo_of(struct virtio_device *device)
{
    return container_of(device, struct echo, device);
}

static void read_config(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
    must(offset + size <= ECHO_CONFIG_SIZE && size > 0);
    memcpy(data, echo_of(device)->config + offset, size);
}

static void write_config(struct virtio_device *device, uint32_t offset, const void *data, uint32_t size)
{
    must(offset + size <= ECHO_CONFIG_SIZE && size > 0);
    memcpy(echo_of(device)->config + offset, data, size);
}

static int start(struct virtio_device *device, struct error *err)
{
    struct echo *echo = echo_of(device);
    must(!echo->started);
    echo->starts++;
    if (echo->start_result)
        return error_set(err, -echo->start_result, "echo: does not start today");
    echo->started = true;
    return 0;
}

static void reset(struct virtio_device *device)
{
    struct echo *echo = echo_of(device);
    for (unsigned i = 0; i < ECHO_QUEUES_MAX; i++)
        must(!echo->queues[i].ring && !echo->queues[i].held_count);
    echo->started = false;
    echo->resets++;
}

static void start_queue(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    struct echo *echo = echo_of(device);
    must(echo->started && !echo->queues[index].ring);
    echo->queues[index].ring = ring;
    echo->queue_starts++;
}

static void finish(struct virtqueue *ring, struct virtqueue_chain *chain)
{
    char data[256];
    size_t moved = 0, got;
    while ((got = virtqueue_read(chain, moved, data, sizeof(data))) > 0) {
        got = virtqueue_write(chain, moved, data, got);
        moved += got;
        if (got == 0)
            break;
    }
    virtqueue_push(ring, chain, (uint32_t)moved);
}

static void say_stopped(struct echo_queue *queue)
{
    queue->ring = NULL;
    queue->stopping = false;
    queue->echo->queue_stops++;
    virtio_queue_stopped(&queue->echo->device, queue->index);
}

static void release(struct event_request *request, int result)
{
    struct echo_queue *queue = container_of(request, struct echo_queue, release);
    must(result == sizeof(queue->released) && queue->held_count > 0);
    for (unsigned i = 0; i < queue->held_count; i++) {
        if (queue->stopping)
            virtqueue_drop(queue->ring, queue->held[i]);
        else
            finish(queue->ring, queue->held[i]);
    }
    queue->echo->held -= queue->held_count;
    queue->held_count = 0;
    if (queue->stopping)
        say_stopped(queue);
    else
        virtio_queue_interrupt(&queue->echo->device, queue->index);
}

static void hold(struct echo_queue *queue, struct virtqueue_chain *chain)
{
    if (queue->held_count == 0)
        io_uring_prep_read(event_loop_request(queue->loop, &queue->release), queue->release_fd,
                           &queue->released, sizeof(queue->released), 0);
    queue->held[queue->held_count++] = chain;
    queue->echo->held++;
}

static void kicked(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    struct echo *echo = echo_of(device);
    struct echo_queue *queue = &echo->queues[index];
    struct virtqueue_chain *chain;
    struct error err;
    int result;
    must(queue->ring == ring && !queue->stopping);
    while ((result = virtqueue_pop(ring, &chain, &err)) == 1) {
        if (echo->late && queue->held_count < ECHO_HELD_MAX)
            hold(queue, chain);
        else
            finish(ring, chain);
    }
    if (result < 0) {
        echo->breaks++;
        virtio_queue_broke(device, index, &err);
        virtio_queue_broke(device, index, &err); /* more does nothing */
    }
    virtio_queue_interrupt(device, index);
}

static void stop_queue(struct virtio_device *device, unsigned index, struct virtqueue *ring)
{
    struct echo_queue *queue = &echo_of(device)->queues[index];
    must(queue->ring == ring && !queue->stopping);
    if (queue->held_count)
        queue->stopping = true;
    else
        say_stopped(queue);
}

void echo_create(struct echo *echo, const struct echo_config *config)
{
    static const struct virtio_device_ops ops = {
        .name = "virtio-echo",
        .id = ECHO_ID,
        .read_config = read_config,
        .write_config = write_config,
        .start = start,
        .reset = reset,
        .start_queue = start_queue,
        .kicked = kicked,
        .stop_queue = stop_queue,
    };
    struct virtio_device_config device = {
        .ops = &ops,
        .log = config->log,
        .space = config->space,
        .queue_count = config->queue_count,
        .queue_size_max = config->queue_size_max,
        .loops = config->loops,
    };
    *echo = (struct echo){.device.config_size = ECHO_CONFIG_SIZE,
                          .device.offered = 1u << FEATURE_CONFIG_WRITABLE};
    must(virtio_device_init(&echo->device, &device, NULL) == 0);
    for (unsigned i = 0; i < config->queue_count; i++) {
        struct echo_queue *queue = &echo->queues[i];
        *queue = (struct echo_queue){.echo = echo, .index = i, .loop = config->loops[i]};
        queue->release.done = release;
        queue->release_fd = eventfd(0, EFD_CLOEXEC);
        must(queue->release_fd >= 0);
    }
}

void echo_release(struct echo *echo, unsigned index)
{
    eventfd_write(echo->queues[index].release_fd, 1);
}

void echo_destroy(struct echo *echo)
{
    unsigned count = echo->device.queue_count;
    virtio_device_destroy(&echo->device);
    for (unsigned i = 0; i < count; i++) {
        must(!echo->queues[i].ring);
        close(echo->queues[i].release_fd);
    }
}
