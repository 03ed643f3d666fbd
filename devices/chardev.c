#include "devices/chardev_backend.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/macros.h"
#include "devices/clock.h"
#include "devices/timeout.h"

#define FLUSH_INTERVAL 1000000 /* nanoseconds */

/* Writes as much as `output` takes without blocking. Returns how much, or -errno. */
static ssize_t write_some(struct chardev *chardev, const uint8_t *data, size_t count)
{
    if (chardev->output_may_block) {
        struct pollfd output = {.fd = chardev->output, .events = POLLOUT};
        if (poll(&output, 1, 0) != 1)
            return -EAGAIN;
        count = smaller(count, CHARDEV_BUFFER);
    }
    ssize_t written = write(chardev->output, data, count);
    return written < 0 ? -errno : written;
}

static void block(struct chardev *chardev)
{
    chardev->blocked = true;
    event_loop_modify(chardev->config.loop, chardev->output_source, POLLOUT);
}

/* Writes until `out` is empty, or the descriptor is full or broken. With the lock. */
static void flush_output(struct chardev *chardev)
{
    if (chardev->out.count == 0)
        return;
    while (chardev->out.count > 0 && chardev->output >= 0 && !chardev->blocked) {
        const uint8_t *data;
        size_t count = ring_peek(&chardev->out, &data);
        ssize_t written = write_some(chardev, data, count);
        if (written >= 0) {
            ring_drop(&chardev->out, (size_t)written);
            if (chardev->ops->output_succeeded)
                chardev->ops->output_succeeded(chardev);
        } else if (written == -EAGAIN) {
            block(chardev);
        } else if (written != -EINTR) {
            chardev->ops->output_failed(chardev, (int)-written);
        }
    }
    chardev->last_flush = clock_now(CLOCK_MONOTONIC);
}

/* Writes at once after a pause, and otherwise makes sure that it will be done soon. With the lock. */
static void flush_soon(struct chardev *chardev)
{
    if (chardev->blocked || chardev->flush_pending)
        return;
    int64_t wait = chardev->last_flush + FLUSH_INTERVAL - clock_now(CLOCK_MONOTONIC);
    if (wait <= 0) {
        flush_output(chardev);
    } else {
        chardev->flush_pending = true;
        timeout_set(chardev->flush_timeout, wait);
    }
}

static void flush_expired(void *opaque)
{
    struct chardev *chardev = opaque;
    pthread_mutex_lock(&chardev->lock);
    chardev->flush_pending = false;
    flush_output(chardev);
    pthread_mutex_unlock(&chardev->lock);
}

static void output_ready(void *opaque, unsigned events)
{
    struct chardev *chardev = opaque;
    pthread_mutex_lock(&chardev->lock);
    chardev->blocked = false;
    flush_output(chardev);
    if (!chardev->blocked)
        event_loop_modify(chardev->config.loop, chardev->output_source, 0);
    pthread_mutex_unlock(&chardev->lock);
    chardev_tell_writable(chardev);
}

void chardev_tell_writable(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    bool tell = chardev->refused && (chardev->output < 0 || chardev->out.count < CHARDEV_BUFFER);
    if (tell)
        chardev->refused = false;
    pthread_mutex_unlock(&chardev->lock);
    if (tell && chardev->front_end.writable)
        chardev->front_end.writable(chardev->front_end.opaque);
}

void chardev_close_output(struct chardev *chardev)
{
    chardev->output = -1;
    chardev->blocked = false;
    if (chardev->output_source)
        event_loop_modify(chardev->config.loop, chardev->output_source, 0);
}

/* Keeps output for which there is no descriptor now, at the cost of the oldest. With the lock. */
static void keep_output(struct chardev *chardev, const uint8_t *data, size_t count)
{
    struct ring *out = &chardev->out;
    size_t kept = smaller(count, out->limit);
    size_t room = out->limit - out->count;
    size_t old = kept > room ? kept - room : 0;
    ring_drop(out, old);
    chardev->dropped += old + count - ring_put(out, data + count - kept, kept);
}

size_t chardev_write(struct chardev *chardev, const void *data, size_t count)
{
    const uint8_t *bytes = data;
    size_t taken = 0;
    pthread_mutex_lock(&chardev->lock);
    while (taken < count && chardev->output >= 0) {
        if (chardev->out.count < CHARDEV_BUFFER) {
            size_t room = CHARDEV_BUFFER - chardev->out.count;
            taken += ring_put(&chardev->out, bytes + taken, smaller(count - taken, room));
        }
        if (chardev->out.count < CHARDEV_BUFFER)
            flush_soon(chardev);
        else if (chardev->blocked)
            break;
        else
            flush_output(chardev);
    }
    if (chardev->output < 0) {
        if (chardev->keeps_output)
            keep_output(chardev, bytes + taken, count - taken);
        taken = count;
    }
    chardev->refused |= taken < count;
    pthread_mutex_unlock(&chardev->lock);
    return taken;
}

/* Returns whether output is left that somebody can be given. */
static bool flush_once(struct chardev *chardev, int *output)
{
    pthread_mutex_lock(&chardev->lock);
    chardev->blocked = false;
    flush_output(chardev);
    *output = chardev->output;
    bool left = chardev->out.count > 0 && chardev->output >= 0;
    pthread_mutex_unlock(&chardev->lock);
    return left;
}

int chardev_flush(struct chardev *chardev, int interrupt)
{
    if (chardev->ops->flushing)
        chardev->ops->flushing(chardev);
    int output;
    while (flush_once(chardev, &output)) {
        struct pollfd wait[] = {{.fd = output, .events = POLLOUT}, {.fd = interrupt, .events = POLLIN}};
        if (poll(wait, 2, -1) > 0 && wait[1].revents)
            return -EINTR;
    }
    return 0;
}

/* Gives input to the front end by way of `in`, in which there is room for it. */
static void take_input(struct chardev *chardev, uint8_t *data, size_t count)
{
    if (chardev->config.filter)
        count = chardev->config.filter(chardev->config.filter_opaque, data, count);
    if (count == 0)
        return;
    pthread_mutex_lock(&chardev->lock);
    ring_put(&chardev->in, data, count);
    if (chardev->in.count == chardev->in.limit) {
        chardev->input_paused = true;
        event_loop_modify(chardev->config.loop, chardev->input_source, chardev->idle_events);
    }
    pthread_mutex_unlock(&chardev->lock);
    if (chardev->front_end.readable)
        chardev->front_end.readable(chardev->front_end.opaque);
}

static size_t input_room(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    size_t room = chardev->input_at_end ? 0 : chardev->in.limit - chardev->in.count;
    pthread_mutex_unlock(&chardev->lock);
    return room;
}

static void input_ready(void *opaque, unsigned events)
{
    struct chardev *chardev = opaque;
    size_t room = input_room(chardev);
    if (room == 0) {
        chardev->ops->hung_up(chardev);
        return;
    }
    uint8_t data[CHARDEV_BUFFER];
    ssize_t count = read(chardev->input, data, smaller(room, sizeof(data)));
    if (count > 0)
        take_input(chardev, data, (size_t)count);
    else if (count == 0 || (errno != EAGAIN && errno != EINTR))
        chardev->ops->input_ended(chardev);
}

size_t chardev_read(struct chardev *chardev, void *data, size_t count)
{
    pthread_mutex_lock(&chardev->lock);
    count = ring_get(&chardev->in, data, count);
    if (chardev->input_paused && chardev->in.count <= chardev->in.limit / 2) {
        chardev->input_paused = false;
        event_loop_modify(chardev->config.loop, chardev->input_source, POLLIN);
    }
    pthread_mutex_unlock(&chardev->lock);
    return count;
}

void chardev_end_input(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    chardev->input_at_end = true;
    event_loop_modify(chardev->config.loop, chardev->input_source, chardev->idle_events);
    pthread_mutex_unlock(&chardev->lock);
}

int chardev_init(struct chardev *chardev, const struct chardev_ops *ops, const struct chardev_config *config,
                 size_t input_limit, size_t output_limit)
{
    chardev->ops = ops;
    chardev->config = *config;
    chardev->input = chardev->output = -1;
    chardev->last_flush = clock_now(CLOCK_MONOTONIC) - FLUSH_INTERVAL;
    if (ring_init(&chardev->in, smaller(CHARDEV_BUFFER, input_limit), input_limit) ||
        ring_init(&chardev->out, CHARDEV_BUFFER, output_limit)) {
        ring_free(&chardev->in);
        return -ENOMEM;
    }
    pthread_mutex_init(&chardev->lock, NULL);
    return 0;
}

void chardev_release(struct chardev *chardev)
{
    event_loop_remove(chardev->config.loop, chardev->input_source);
    event_loop_remove(chardev->config.loop, chardev->output_source);
    timeout_destroy(chardev->flush_timeout);
    ring_free(&chardev->in);
    ring_free(&chardev->out);
    pthread_mutex_destroy(&chardev->lock);
}

/* Tells a new reader, in one line, of the output that nobody will see. With the lock. */
static void announce_dropped(struct chardev *chardev)
{
    if (chardev->dropped == 0)
        return;
    char line[80];
    int length = snprintf(line, sizeof(line), "[godwit: %llu bytes of earlier output were dropped]\r\n",
                          (unsigned long long)chardev->dropped);
    if (write_some(chardev, (const uint8_t *)line, (size_t)length) == length)
        chardev->dropped = 0;
}

static int add_sources(struct chardev *chardev, int input, int output)
{
    struct event_loop *loop = chardev->config.loop;
    int result = 0;
    if (!chardev->flush_timeout)
        result = timeout_create(loop, flush_expired, chardev, &chardev->flush_timeout);
    if (!result && input >= 0)
        result = event_loop_add(loop, input, POLLIN, input_ready, chardev, &chardev->input_source);
    if (!result && output >= 0)
        result = event_loop_add(loop, output, 0, output_ready, chardev, &chardev->output_source);
    return result;
}

int chardev_connect(struct chardev *chardev, int input, int output)
{
    pthread_mutex_lock(&chardev->lock);
    int result = add_sources(chardev, input, output);
    if (!result) {
        chardev->input = input;
        chardev->output = output;
        chardev->input_at_end = false;
        if (input >= 0 && chardev->in.count == chardev->in.limit) {
            chardev->input_paused = true;
            event_loop_modify(chardev->config.loop, chardev->input_source, chardev->idle_events);
        }
        if (output >= 0)
            announce_dropped(chardev);
        flush_output(chardev);
    }
    pthread_mutex_unlock(&chardev->lock);
    if (result)
        chardev_disconnect(chardev);
    return result;
}

void chardev_disconnect(struct chardev *chardev)
{
    pthread_mutex_lock(&chardev->lock);
    chardev_close_output(chardev);
    event_loop_remove(chardev->config.loop, chardev->output_source);
    event_loop_remove(chardev->config.loop, chardev->input_source);
    chardev->output_source = chardev->input_source = NULL;
    chardev->input = -1;
    chardev->input_paused = false;
    pthread_mutex_unlock(&chardev->lock);
    chardev_tell_writable(chardev);
}

void chardev_attach(struct chardev *chardev, const struct chardev_front_end *front_end)
{
    chardev->front_end = front_end ? *front_end : (struct chardev_front_end){0};
}

void chardev_destroy(struct chardev *chardev)
{
    if (chardev)
        chardev->ops->destroy(chardev);
}

static void destroy_none(struct chardev *chardev)
{
    chardev_release(chardev);
    free(chardev);
}

int chardev_create_none(const struct chardev_config *config, struct chardev **out, struct error *err)
{
    static const struct chardev_ops ops = {.destroy = destroy_none};
    struct chardev *chardev = calloc(1, sizeof(*chardev));
    if (!chardev || chardev_init(chardev, &ops, config, 1, CHARDEV_BUFFER)) {
        free(chardev);
        return error_set(err, ENOMEM, "not enough memory for a serial port's back end");
    }
    *out = chardev;
    return 0;
}
