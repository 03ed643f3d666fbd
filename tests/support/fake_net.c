#include "tests/support/fake_net.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/macros.h"

static void must(bool holds)
{
    if (!holds)
        abort();
}

static struct fake_net *fake_of(struct net_backend *backend)
{
    return container_of(backend, struct fake_net, backend);
}

/* ---- Frames ---- */

static void append(struct fake_frames *frames, struct fake_frame *frame)
{
    frame->next = NULL;
    *frames->end = frame;
    frames->end = &frame->next;
    frames->count++;
}

static struct fake_frame *take(struct fake_frames *frames)
{
    struct fake_frame *frame = frames->first;
    if (!frame)
        return NULL;
    frames->first = frame->next;
    if (!frames->first)
        frames->end = &frames->first;
    frames->count--;
    return frame;
}

static struct fake_frame *make(uint32_t length)
{
    struct fake_frame *frame = malloc(sizeof(*frame) + length);
    must(frame);
    frame->length = length;
    return frame;
}

static void free_all(struct fake_frames *frames)
{
    for (struct fake_frame *frame; (frame = take(frames));)
        free(frame);
}

/* ---- What a device is called for, for as long as it holds. With the lock held ---- */

static bool has_input(const struct fake_queue *queue)
{
    return queue->watches_input && queue->input.count && queue->net->backend.link_up;
}

static bool has_room(const struct fake_queue *queue)
{
    return queue->watches_output && queue->room;
}

static void look(struct fake_queue *queue)
{
    if (queue->started && (has_input(queue) || has_room(queue)))
        eventfd_write(queue->wake_fd, 1);
}

static void wake_up(void *opaque, unsigned events)
{
    struct fake_queue *queue = opaque;
    struct fake_net *net = queue->net;
    eventfd_t count;
    eventfd_read(queue->wake_fd, &count);
    pthread_mutex_lock(&net->lock);
    bool input = has_input(queue), output = has_room(queue);
    queue->calls += input + output;
    pthread_mutex_unlock(&net->lock);
    if (input)
        queue->events->readable(queue->opaque, queue->index);
    if (output)
        queue->events->writable(queue->opaque, queue->index);
    pthread_mutex_lock(&net->lock);
    look(queue);
    pthread_mutex_unlock(&net->lock);
}

/* ---- The backend ---- */

/* Takes the lock, for a call of the device's. */
static struct fake_queue *enter(struct net_backend *backend, unsigned index)
{
    struct fake_net *net = fake_of(backend);
    must(index < net->backend.queue_count);
    struct fake_queue *queue = &net->queues[index];
    queue->accesses++;
    pthread_mutex_lock(&net->lock);
    return queue;
}

static void leave(struct fake_queue *queue)
{
    look(queue);
    pthread_mutex_unlock(&queue->net->lock);
}

static int start(struct net_backend *backend, unsigned index, struct event_loop *loop,
                 const struct net_queue_events *events, void *opaque)
{
    struct fake_queue *queue = enter(backend, index);
    must(!queue->started);
    int result = queue->net->start_result;
    if (result == 0)
        result = event_loop_add(loop, queue->wake_fd, POLLIN, wake_up, queue, &queue->wake);
    if (result == 0) {
        queue->started = true;
        queue->loop = loop;
        queue->events = events;
        queue->opaque = opaque;
    }
    leave(queue);
    return result;
}

static void stop(struct net_backend *backend, unsigned index)
{
    struct fake_queue *queue = enter(backend, index);
    must(queue->started);
    event_loop_remove(queue->loop, queue->wake);
    queue->started = queue->watches_input = queue->watches_output = false;
    leave(queue);
}

static void watch(struct net_backend *backend, unsigned index, bool input, bool output)
{
    struct fake_queue *queue = enter(backend, index);
    must(queue->started);
    queue->watches_input = input;
    queue->watches_output = output;
    leave(queue);
}

/* What does not fit is cut off. */
static void receive_one(struct fake_frame *from, struct net_frame *frame)
{
    frame->length = 0;
    for (unsigned i = 0; i < frame->iov_count && frame->length < from->length; i++) {
        size_t part = smaller(frame->iov[i].iov_len, from->length - frame->length);
        memcpy(frame->iov[i].iov_base, from->data + frame->length, part);
        frame->length += (uint32_t)part;
    }
    free(from);
}

static unsigned receive(struct net_backend *backend, unsigned index, struct net_frame *frames, unsigned count)
{
    struct fake_queue *queue = enter(backend, index);
    unsigned received = 0;
    must(queue->started && count > 0);
    for (; backend->link_up && received < count && queue->input.count; received++)
        receive_one(take(&queue->input), &frames[received]);
    leave(queue);
    return received;
}

static void send_one(struct fake_queue *queue, const struct net_frame *frame)
{
    struct fake_frame *to = make(frame->length);
    uint32_t length = 0;
    for (unsigned i = 0; i < frame->iov_count; i++) {
        must(frame->iov[i].iov_len <= frame->length - length);
        memcpy(to->data + length, frame->iov[i].iov_base, frame->iov[i].iov_len);
        length += (uint32_t)frame->iov[i].iov_len;
    }
    must(length == frame->length);
    append(&queue->output, to);
}

static unsigned send(struct net_backend *backend, unsigned index, const struct net_frame *frames,
                     unsigned count)
{
    struct fake_queue *queue = enter(backend, index);
    unsigned sent = 0;
    must(queue->started && count > 0);
    if (queue->largest_batch < count)
        queue->largest_batch = count;
    for (; sent < count && queue->room; sent++) {
        queue->room -= queue->room != FAKE_NET_ROOM_MAX;
        if (backend->link_up && frames[sent].length > NET_HEADER_SIZE && frames[sent].length <= NET_FRAME_MAX)
            send_one(queue, &frames[sent]);
    }
    leave(queue);
    return sent;
}

static int set_offloads(struct net_backend *backend, unsigned offloads)
{
    struct fake_net *net = fake_of(backend);
    must(!(offloads & ~backend->offloads));
    if (net->offloads_result == 0)
        net->guest_offloads = offloads;
    return net->offloads_result;
}

static int use_queues(struct net_backend *backend, unsigned count)
{
    struct fake_net *net = fake_of(backend);
    must(count > 0 && count <= backend->queue_count);
    if (net->queues_result == 0)
        net->used_queues = count;
    return net->queues_result;
}

void fake_net_create(struct fake_net *net, unsigned queues, unsigned offloads, uint16_t mtu)
{
    static const struct net_backend_ops ops = {
        .start = start,
        .stop = stop,
        .watch = watch,
        .receive = receive,
        .send = send,
        .set_offloads = set_offloads,
        .use_queues = use_queues,
    };
    must(queues <= FAKE_NET_QUEUES_MAX);
    *net = (struct fake_net){
        .backend = {.ops = &ops, .queue_count = queues, .offloads = offloads, .mtu = mtu, .link_up = true},
        .used_queues = queues,
    };
    pthread_mutex_init(&net->lock, NULL);
    for (unsigned i = 0; i < queues; i++) {
        struct fake_queue *queue = &net->queues[i];
        queue->net = net;
        queue->index = i;
        queue->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        must(queue->wake_fd >= 0);
        queue->input.end = &queue->input.first;
        queue->output.end = &queue->output.first;
        queue->room = FAKE_NET_ROOM_MAX;
    }
}

void fake_net_destroy(struct fake_net *net)
{
    for (unsigned i = 0; i < net->backend.queue_count; i++) {
        must(!net->queues[i].started);
        free_all(&net->queues[i].input);
        free_all(&net->queues[i].output);
        close(net->queues[i].wake_fd);
    }
    pthread_mutex_destroy(&net->lock);
}

/* ---- The other side ---- */

void fake_net_put(struct fake_net *net, unsigned queue, const void *data, uint32_t length)
{
    struct fake_frame *frame = make(length);
    memcpy(frame->data, data, length);
    pthread_mutex_lock(&net->lock);
    append(&net->queues[queue].input, frame);
    look(&net->queues[queue]);
    pthread_mutex_unlock(&net->lock);
}

unsigned fake_net_waiting(struct fake_net *net, unsigned queue)
{
    pthread_mutex_lock(&net->lock);
    unsigned count = net->queues[queue].input.count;
    pthread_mutex_unlock(&net->lock);
    return count;
}

uint32_t fake_net_take(struct fake_net *net, unsigned queue, void *data, uint32_t size)
{
    pthread_mutex_lock(&net->lock);
    struct fake_frame *frame = take(&net->queues[queue].output);
    pthread_mutex_unlock(&net->lock);
    if (!frame)
        return 0;
    uint32_t length = frame->length;
    memcpy(data, frame->data, smaller(length, size));
    free(frame);
    return length;
}

void fake_net_set_room(struct fake_net *net, unsigned queue, unsigned frames)
{
    pthread_mutex_lock(&net->lock);
    net->queues[queue].room = frames;
    look(&net->queues[queue]);
    pthread_mutex_unlock(&net->lock);
}

unsigned fake_net_calls(struct fake_net *net, unsigned queue)
{
    pthread_mutex_lock(&net->lock);
    unsigned calls = net->queues[queue].calls;
    pthread_mutex_unlock(&net->lock);
    return calls;
}

void fake_net_set_link(struct fake_net *net, bool up)
{
    net->backend.link_up = up;
    pthread_mutex_lock(&net->lock);
    for (unsigned i = 0; i < net->backend.queue_count; i++)
        look(&net->queues[i]);
    pthread_mutex_unlock(&net->lock);
    if (net->backend.link_changed)
        net->backend.link_changed(net->backend.link_opaque);
}
