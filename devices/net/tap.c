#include "devices/net/tap.h"

#include <errno.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/net/frame.h"
#include "devices/net/tap_internal.h"

static struct tap *tap_of(struct net_backend *backend)
{
    return container_of(backend, struct tap, backend);
}

/* Nothing will come any more. What is sent has room: it is lost. */
static void lose_interface(struct tap_queue *queue)
{
    if (queue->gone)
        return;
    queue->gone = true;
    event_loop_modify(queue->loop, queue->source, 0);
    ssize_t written = write(queue->tap->end_fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)written; /* fails only when the counter is full, and then it will be read */
}

static void ready(void *opaque, unsigned events)
{
    struct tap_queue *queue = opaque;
    if (events & (POLLERR | POLLNVAL))
        lose_interface(queue);
    else if (events & POLLIN)
        queue->events->readable(queue->opaque, queue->index);
    /* That may have stopped the queue. */
    if (queue->loop && queue->output && (queue->gone || events & POLLOUT))
        queue->events->writable(queue->opaque, queue->index);
}

static int start(struct net_backend *backend, unsigned index, struct event_loop *loop,
                 const struct net_queue_events *events, void *opaque)
{
    struct tap_queue *queue = &tap_of(backend)->queues[index];
    int result = event_loop_add(loop, queue->fd, 0, ready, queue, &queue->source);
    if (result < 0)
        return result;
    queue->loop = loop;
    queue->events = events;
    queue->opaque = opaque;
    queue->output = false;
    return 0;
}

static void stop(struct net_backend *backend, unsigned index)
{
    struct tap_queue *queue = &tap_of(backend)->queues[index];
    event_loop_remove(queue->loop, queue->source);
    queue->loop = NULL;
}

static void watch(struct net_backend *backend, unsigned index, bool input, bool output)
{
    struct tap_queue *queue = &tap_of(backend)->queues[index];
    queue->output = output;
    if (!queue->gone)
        event_loop_modify(queue->loop, queue->source, (input ? POLLIN : 0u) | (output ? POLLOUT : 0u));
}

/* Reads or writes one frame; the number of bytes as the kernel counts them, or -errno. */
static ssize_t move(const struct tap_queue *queue, const struct net_frame *frame,
                    ssize_t (*call)(int fd, const struct iovec *iov, int count), bool clear)
{
    struct iovec body[IOV_MAX];
    struct iovec *iov = (struct iovec *)frame->iov;
    unsigned count = frame->iov_count;
    if (count > IOV_MAX)
        return -EMSGSIZE;
    if (queue->tap->bare) {
        count = net_frame_body(frame, body, clear);
        iov = body;
    }
    ssize_t size = call(queue->fd, iov, (int)count);
    return size < 0 ? -errno : size;
}

static ssize_t discard(const struct tap_queue *queue)
{
    char byte;
    return read(queue->fd, &byte, 1) < 0 ? -errno : -EMSGSIZE;
}

/* A frame that the kernel takes from the interface and cannot deliver is lost, and the next one tried. Where
 * there is no room at all it takes none: the frame is lost here, so that it does not wait for ever. */
static unsigned receive_frames(struct net_backend *backend, unsigned index, struct net_frame *frames,
                               unsigned count)
{
    struct tap_queue *queue = &tap_of(backend)->queues[index];
    unsigned received = 0;
    for (unsigned tries = count; tries > 0; tries--) {
        struct net_frame *frame = &frames[received];
        ssize_t size = move(queue, frame, readv, true);
        if (size == 0)
            size = discard(queue);
        if (size == -EBADFD)
            lose_interface(queue);
        if (size == -EAGAIN || size == -EBADFD)
            break;
        if (size < 0)
            continue;
        frame->length = (uint32_t)size + (queue->tap->bare ? NET_HEADER_SIZE : 0);
        received++;
    }
    return received;
}

static unsigned send_frames(struct net_backend *backend, unsigned index, const struct net_frame *frames,
                            unsigned count)
{
    const struct tap_queue *queue = &tap_of(backend)->queues[index];
    unsigned sent = 0;
    while (sent < count && move(queue, &frames[sent], writev, false) != -EAGAIN)
        sent++;
    return sent;
}

static int set_offloads(struct net_backend *backend, unsigned offloads)
{
    return tap_set_offloads(tap_of(backend), offloads);
}

static int set_attached(const struct tap_queue *queue, bool attached)
{
    struct ifreq request = {.ifr_flags = attached ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};
    return ioctl(queue->fd, TUNSETQUEUE, &request) < 0 ? -errno : 0;
}

/* From the last one down, and from the first one up: so the kernel counts queues as the guest does. */
static int use_queues(struct net_backend *backend, unsigned count)
{
    struct tap *tap = tap_of(backend);
    int result = 0;
    if (count < 1 || count > tap->opened)
        return -EINVAL;
    while (tap->used > count && (result = set_attached(&tap->queues[tap->used - 1], false)) == 0)
        tap->used--;
    while (tap->used < count && (result = set_attached(&tap->queues[tap->used], true)) == 0)
        tap->used++;
    return result;
}

static void interface_ended(void *opaque, unsigned events)
{
    struct tap *tap = opaque;
    struct net_backend *backend = &tap->backend;
    event_loop_modify(tap->loop, tap->end, 0);
    log_write(tap->log, LOG_WARN, "tap %s is gone: its link is down until godwit is started again",
              tap->name);
    backend->link_up = false;
    if (backend->link_changed)
        backend->link_changed(backend->link_opaque);
}

static void destroy(struct net_backend *backend)
{
    struct tap *tap = tap_of(backend);
    event_loop_remove(tap->loop, tap->end);
    tap_detach(tap);
    if (tap->end_fd >= 0)
        close(tap->end_fd);
    free(tap);
}

static int build(struct tap *tap, const struct tap_config *config, struct error *err)
{
    int result = tap_attach(tap, config, err);
    if (result < 0)
        return result;
    for (unsigned i = 0; i < tap->opened; i++) {
        tap->queues[i].tap = tap;
        tap->queues[i].index = i;
    }
    tap->backend.link_up = true;
    tap->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (tap->end_fd < 0)
        return error_set_errno(err, errno, "cannot create an eventfd for tap %s", tap->name);
    result = event_loop_add(tap->loop, tap->end_fd, POLLIN, interface_ended, tap, &tap->end);
    return result < 0 ? error_set_errno(err, -result, "cannot watch tap %s", tap->name) : 0;
}

int tap_open(const struct tap_config *config, struct net_backend **backend, struct error *err)
{
    static const struct net_backend_ops ops = {
        .destroy = destroy,
        .start = start,
        .stop = stop,
        .watch = watch,
        .receive = receive_frames,
        .send = send_frames,
        .set_offloads = set_offloads,
        .use_queues = use_queues,
    };
    struct tap *tap = calloc(1, sizeof(*tap));
    if (!tap)
        return error_set(err, ENOMEM, "not enough memory for a tap");
    tap->backend.ops = &ops;
    tap->end_fd = -1;
    tap->loop = config->loop;
    tap->log = config->log;
    int result = build(tap, config, err);
    if (result < 0) {
        destroy(&tap->backend);
        return result;
    }
    *backend = &tap->backend;
    return 0;
}
