#include "devices/virtio/device.h"

#include <assert.h>
#include <errno.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/virtio/queue.h"

#define BIT(number) ((uint64_t)1 << (number))

/* What virtqueues and this file do for every kind of device. */
#define COMMON_FEATURES                                                                                      \
    (BIT(VIRTIO_F_VERSION_1) | BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_F_IN_ORDER) |                          \
     BIT(VIRTIO_F_RING_RESET) | BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_RING_F_INDIRECT_DESC))

/* Status bits that the driver sets. */
#define DRIVER_STATUS                                                                                        \
    (VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_DRIVER_OK |                      \
     VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_FAILED)

/* A guest that breaks its device over and over does not fill the log. */
#define COMPLAINTS_MAX 16

struct virtio_queue {
    struct virtio_device *device;
    unsigned index;
    char name[32];
    struct event_loop *loop;
    struct event_source *kicks; /* silent unless the queue is started */
    struct event_poller poller; /* while it is started */
    int kick_fd;
    struct virtio_queue_setup setup; /* guarded by the device's lock */
    struct virtqueue *ring;          /* NULL unless it is started; set by whoever makes a change */
    /* The loop's, while it is started: */
    bool broken;
    bool stopped;
    bool polled;  /* its device says when it is drained, and leaves it to the loop to look for more */
    bool drained; /* kicks are to be asked for before the loop sleeps */
};

static struct virtio_queue *find_queue(struct virtio_device *device, unsigned index)
{
    return index < device->queue_count ? &device->queues[index] : NULL;
}

/* Takes the lock, with the right to start and stop queues. */
static void begin_change(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    while (device->changing)
        pthread_cond_wait(&device->unchanged, &device->lock);
    device->changing = true;
}

static void end_change(struct virtio_device *device)
{
    device->changing = false;
    pthread_cond_signal(&device->unchanged);
    pthread_mutex_unlock(&device->lock);
}

static void interrupt_config(struct virtio_device *device)
{
    if (device->transport && device->status & VIRTIO_CONFIG_S_DRIVER_OK)
        device->transport->interrupt_config(device->transport_opaque);
}

/* Without the lock. */
static void ask_for_reset(struct virtio_device *device, const struct error *why)
{
    unsigned complaints = device->complaints++;
    if (complaints < COMPLAINTS_MAX)
        log_write(device->log, LOG_WARN, "%s%s", why->message,
                  complaints == COMPLAINTS_MAX - 1 ? " (more of this device is not shown)" : "");
    device->status |= VIRTIO_CONFIG_S_NEEDS_RESET;
    interrupt_config(device);
}

/* ---- On the queue's loop ---- */

static void on_kick(void *opaque, unsigned events)
{
    struct virtio_queue *queue = opaque;
    queue->drained = false;
    queue->device->ops->kicked(queue->device, queue->index, queue->ring);
}

bool virtio_queue_drained(struct virtio_device *device, unsigned index)
{
    struct virtio_queue *queue = &device->queues[index];
    queue->polled = true;
    queue->drained = event_loop_polls(queue->loop);
    return !queue->drained && virtqueue_set_kicks(queue->ring, true);
}

static bool look(struct event_poller *poller)
{
    struct virtio_queue *queue = container_of(poller, struct virtio_queue, poller);
    if (!queue->drained || !virtqueue_peek(queue->ring))
        return false;
    on_kick(queue, POLLIN);
    return true;
}

static void wake(struct event_poller *poller)
{
    struct virtio_queue *queue = container_of(poller, struct virtio_queue, poller);
    if (!queue->polled || queue->broken)
        return;
    virtqueue_set_kicks(queue->ring, false);
    queue->drained = true;
}

static bool rest(struct event_poller *poller)
{
    struct virtio_queue *queue = container_of(poller, struct virtio_queue, poller);
    bool more = queue->drained && virtqueue_set_kicks(queue->ring, true);
    queue->drained = false;
    if (more)
        on_kick(queue, POLLIN);
    return more;
}

static void start_serving(void *opaque)
{
    struct virtio_queue *queue = opaque;
    const struct virtio_device_ops *ops = queue->device->ops;
    event_loop_modify(queue->loop, queue->kicks, POLLIN | EVENT_EDGE);
    event_loop_poll(queue->loop, &queue->poller);
    if (ops->start_queue)
        ops->start_queue(queue->device, queue->index, queue->ring);
    if (!queue->broken)
        on_kick(queue, POLLIN);
}

static void stop_serving(void *opaque)
{
    struct virtio_queue *queue = opaque;
    const struct virtio_device_ops *ops = queue->device->ops;
    event_loop_modify(queue->loop, queue->kicks, 0);
    event_loop_unpoll(queue->loop, &queue->poller);
    queue->polled = queue->drained = false;
    if (ops->stop_queue)
        ops->stop_queue(queue->device, queue->index, queue->ring);
    else
        queue->stopped = true;
}

static bool has_stopped(void *opaque)
{
    struct virtio_queue *queue = opaque;
    return queue->stopped;
}

void virtio_queue_interrupt(struct virtio_device *device, unsigned index)
{
    if (virtqueue_wants_interrupt(device->queues[index].ring) && device->transport)
        device->transport->interrupt_queue(device->transport_opaque, index);
}

void virtio_queue_stopped(struct virtio_device *device, unsigned index)
{
    device->queues[index].stopped = true;
}

void virtio_queue_broke(struct virtio_device *device, unsigned index, const struct error *why)
{
    struct virtio_queue *queue = &device->queues[index];
    if (queue->broken)
        return;
    queue->broken = true;
    event_loop_modify(queue->loop, queue->kicks, 0);
    ask_for_reset(device, why);
}

/* ---- Changes, with the lock held, which they give up while they wait ---- */

static int create_ring(struct virtio_queue *queue, struct error *err)
{
    struct virtio_device *device = queue->device;
    struct virtqueue_config config = {
        .name = queue->name,
        .space = device->space,
        .size = queue->setup.size,
        .descriptors = queue->setup.descriptors,
        .driver = queue->setup.driver,
        .device = queue->setup.device,
        .packed = virtio_has_feature(device, VIRTIO_F_RING_PACKED),
        .event_idx = virtio_has_feature(device, VIRTIO_RING_F_EVENT_IDX),
        .indirect = virtio_has_feature(device, VIRTIO_RING_F_INDIRECT_DESC),
        .in_order = virtio_has_feature(device, VIRTIO_F_IN_ORDER),
    };
    queue->broken = false;
    queue->stopped = false;
    return virtqueue_create(&config, &queue->ring, err);
}

static void start_queue(struct virtio_queue *queue)
{
    struct virtio_device *device = queue->device;
    struct error err;
    int result = create_ring(queue, &err);
    pthread_mutex_unlock(&device->lock);
    if (result == 0)
        event_loop_call(queue->loop, start_serving, queue);
    else
        ask_for_reset(device, &err);
    pthread_mutex_lock(&device->lock);
}

/* All are told before any is waited for. */
static void stop_queues(struct virtio_device *device, unsigned first, unsigned count)
{
    pthread_mutex_unlock(&device->lock);
    for (unsigned i = first; i < first + count; i++) {
        struct virtio_queue *queue = &device->queues[i];
        if (queue->ring)
            event_loop_call(queue->loop, stop_serving, queue);
    }
    for (unsigned i = first; i < first + count; i++) {
        struct virtio_queue *queue = &device->queues[i];
        if (!queue->ring)
            continue;
        event_loop_wait(queue->loop, has_stopped, queue);
        virtqueue_destroy(queue->ring);
        queue->ring = NULL;
    }
    pthread_mutex_lock(&device->lock);
    for (unsigned i = first; i < first + count; i++)
        device->queues[i].setup = (struct virtio_queue_setup){.size = device->queue_size_max};
}

static void reset(struct virtio_device *device)
{
    stop_queues(device, 0, device->queue_count);
    device->started = false;
    device->driver_features = 0;
    device->features = 0;
    device->status = 0;
    if (device->ops->reset)
        device->ops->reset(device);
}

static bool acceptable(struct virtio_device *device)
{
    uint64_t features = device->driver_features;
    return features & BIT(VIRTIO_F_VERSION_1) && !(features & ~device->offered) &&
           (!device->ops->accepts || device->ops->accepts(device, features));
}

static void start(struct virtio_device *device)
{
    struct error err;
    device->started = !device->ops->start || device->ops->start(device, &err) == 0;
    device->status |= VIRTIO_CONFIG_S_DRIVER_OK;
    if (!device->started) {
        pthread_mutex_unlock(&device->lock);
        ask_for_reset(device, &err);
        pthread_mutex_lock(&device->lock);
        return;
    }
    for (unsigned i = 0; i < device->queue_count; i++) {
        if (device->queues[i].setup.enabled)
            start_queue(&device->queues[i]);
    }
}

static void add_status(struct virtio_device *device, uint8_t added)
{
    device->status |= added & ~(VIRTIO_CONFIG_S_FEATURES_OK | VIRTIO_CONFIG_S_DRIVER_OK);
    if (added & VIRTIO_CONFIG_S_FEATURES_OK && acceptable(device)) {
        device->features = device->driver_features;
        device->status |= VIRTIO_CONFIG_S_FEATURES_OK;
    }
    if (added & VIRTIO_CONFIG_S_DRIVER_OK && device->status & VIRTIO_CONFIG_S_FEATURES_OK)
        start(device);
}

/* ---- For transports ---- */

void virtio_set_transport(struct virtio_device *device, const struct virtio_transport_ops *ops, void *opaque)
{
    device->transport = ops;
    device->transport_opaque = opaque;
}

uint8_t virtio_get_status(struct virtio_device *device)
{
    return device->status;
}

void virtio_set_status(struct virtio_device *device, uint8_t status)
{
    begin_change(device);
    if (status == 0)
        reset(device);
    else
        add_status(device, status & DRIVER_STATUS & ~device->status);
    end_change(device);
}

uint64_t virtio_offered_features(struct virtio_device *device)
{
    return device->offered;
}

uint64_t virtio_accepted_features(struct virtio_device *device)
{
    pthread_mutex_lock(&device->lock);
    uint64_t features = device->driver_features;
    pthread_mutex_unlock(&device->lock);
    return features;
}

void virtio_accept_features(struct virtio_device *device, unsigned half, uint32_t bits)
{
    if (half > 1)
        return;
    pthread_mutex_lock(&device->lock);
    if (!(device->status & VIRTIO_CONFIG_S_FEATURES_OK)) {
        unsigned shift = half * 32;
        device->driver_features &= ~((uint64_t)UINT32_MAX << shift);
        device->driver_features |= (uint64_t)bits << shift;
    }
    pthread_mutex_unlock(&device->lock);
}

uint8_t virtio_config_generation(struct virtio_device *device)
{
    return device->generation;
}

void virtio_config_changed(struct virtio_device *device)
{
    device->generation++;
    interrupt_config(device);
}

/* How many of `size` bytes at `offset` are in the configuration space. */
static uint32_t config_bytes(const struct virtio_device *device, uint32_t offset, uint32_t size)
{
    uint32_t rest = offset < device->config_size ? device->config_size - offset : 0;
    return size < rest ? size : rest;
}

void virtio_read_config(struct virtio_device *device, uint32_t offset, void *data, uint32_t size)
{
    uint32_t count = config_bytes(device, offset, size);
    memset(data, 0, size);
    if (!count || !device->ops->read_config)
        return;
    pthread_mutex_lock(&device->lock);
    device->ops->read_config(device, offset, data, count);
    pthread_mutex_unlock(&device->lock);
}

void virtio_write_config(struct virtio_device *device, uint32_t offset, const void *data, uint32_t size)
{
    uint32_t count = config_bytes(device, offset, size);
    if (!count || !device->ops->write_config)
        return;
    pthread_mutex_lock(&device->lock);
    device->ops->write_config(device, offset, data, count);
    pthread_mutex_unlock(&device->lock);
}

uint16_t virtio_queue_size_max(struct virtio_device *device, unsigned index)
{
    return find_queue(device, index) ? device->queue_size_max : 0;
}

struct virtio_queue_setup virtio_queue_get_setup(struct virtio_device *device, unsigned index)
{
    struct virtio_queue_setup setup = {.size = 0};
    struct virtio_queue *queue = find_queue(device, index);
    if (!queue)
        return setup;
    pthread_mutex_lock(&device->lock);
    setup = queue->setup;
    pthread_mutex_unlock(&device->lock);
    return setup;
}

void virtio_queue_set_setup(struct virtio_device *device, unsigned index,
                            const struct virtio_queue_setup *setup)
{
    struct virtio_queue *queue = find_queue(device, index);
    if (!queue)
        return;
    pthread_mutex_lock(&device->lock);
    if (!queue->setup.enabled) {
        bool resetting = queue->setup.resetting;
        queue->setup = *setup;
        queue->setup.enabled = false;
        queue->setup.resetting = resetting;
    }
    pthread_mutex_unlock(&device->lock);
}

void virtio_queue_enable(struct virtio_device *device, unsigned index)
{
    struct virtio_queue *queue = find_queue(device, index);
    if (!queue)
        return;
    begin_change(device);
    uint16_t size = queue->setup.size;
    if (!queue->setup.enabled && size > 0 && size <= device->queue_size_max) {
        queue->setup.enabled = true;
        if (device->started)
            start_queue(queue);
    }
    end_change(device);
}

void virtio_queue_disable(struct virtio_device *device, unsigned index)
{
    if (!find_queue(device, index))
        return;
    begin_change(device);
    stop_queues(device, index, 1);
    end_change(device);
}

void virtio_queue_reset(struct virtio_device *device, unsigned index)
{
    struct virtio_queue *queue = find_queue(device, index);
    if (!queue)
        return;
    begin_change(device);
    if (virtio_has_feature(device, VIRTIO_F_RING_RESET)) {
        queue->setup.resetting = true;
        stop_queues(device, index, 1);
    }
    end_change(device);
}

int virtio_queue_kick_fd(struct virtio_device *device, unsigned index)
{
    struct virtio_queue *queue = find_queue(device, index);
    return queue ? queue->kick_fd : -1;
}

void virtio_queue_kick(struct virtio_device *device, unsigned index)
{
    struct virtio_queue *queue = find_queue(device, index);
    if (queue)
        eventfd_write(queue->kick_fd, 1);
}

/* ---- Creation ---- */

struct addition {
    struct virtio_queue *queue;
    int result;
};

static void add_source(void *opaque)
{
    struct addition *addition = opaque;
    struct virtio_queue *queue = addition->queue;
    addition->result = event_loop_add(queue->loop, queue->kick_fd, 0, on_kick, queue, &queue->kicks);
}

static void remove_source(void *opaque)
{
    struct virtio_queue *queue = opaque;
    event_loop_remove(queue->loop, queue->kicks);
}

static int init_queue(struct virtio_queue *queue, struct error *err)
{
    queue->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->kick_fd < 0)
        return error_set_errno(err, errno, "cannot create an eventfd for %s", queue->name);
    struct addition addition = {.queue = queue};
    event_loop_call(queue->loop, add_source, &addition);
    if (addition.result < 0)
        return error_set(err, -addition.result, "not enough memory for %s", queue->name);
    return 0;
}

static void destroy_queue(struct virtio_queue *queue)
{
    if (queue->kicks)
        event_loop_call(queue->loop, remove_source, queue);
    if (queue->kick_fd >= 0)
        close(queue->kick_fd);
}

static int init_queues(struct virtio_device *device, const struct virtio_device_config *config,
                       struct error *err)
{
    device->queues = calloc(config->queue_count, sizeof(*device->queues));
    if (!device->queues)
        return error_set(err, ENOMEM, "not enough memory for the queues of %s", config->ops->name);
    for (unsigned i = 0; i < config->queue_count; i++) {
        struct virtio_queue *queue = &device->queues[i];
        *queue = (struct virtio_queue){.device = device,
                                       .index = i,
                                       .loop = config->loops[i],
                                       .poller = {.look = look, .rest = rest, .wake = wake}};
        queue->setup.size = config->queue_size_max;
        snprintf(queue->name, sizeof(queue->name), "%s queue %u", config->ops->name, i);
        device->queue_count = i + 1;
        int result = init_queue(queue, err);
        if (result < 0)
            return result;
    }
    return 0;
}

int virtio_device_init(struct virtio_device *device, const struct virtio_device_config *config,
                       struct error *err)
{
    assert(config->queue_count > 0 && config->queue_count <= VIRTIO_QUEUES_MAX);
    device->ops = config->ops;
    device->log = config->log;
    device->space = config->space;
    device->offered |= COMMON_FEATURES;
    device->queue_size_max = config->queue_size_max;
    pthread_mutex_init(&device->lock, NULL);
    pthread_cond_init(&device->unchanged, NULL);
    int result = init_queues(device, config, err);
    if (result < 0)
        virtio_device_destroy(device);
    return result;
}

void virtio_device_destroy(struct virtio_device *device)
{
    begin_change(device);
    stop_queues(device, 0, device->queue_count);
    end_change(device);
    for (unsigned i = 0; i < device->queue_count; i++)
        destroy_queue(&device->queues[i]);
    free(device->queues);
    pthread_cond_destroy(&device->unchanged);
    pthread_mutex_destroy(&device->lock);
}
