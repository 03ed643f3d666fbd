#include "devices/net/passt.h"

#include <endian.h>
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/net/frame.h"
#include "devices/net/net_backend.h"
#include "devices/net/passt_stream.h"
#include "devices/timeout.h"

#define RETRY_INTERVAL 1000000000 /* ns */
#define BATCH_FRAMES   64

/* But for the first part, it belongs to the queue's loop while the queue is started. */
struct passt {
    struct net_backend backend;
    struct sockaddr_un address;
    const struct log *log;
    struct event_loop *link_loop;
    struct event_source *link_source;
    int link_fd; /* an eventfd: the link has changed */

    int fd; /* the connection; -1: there is none */
    struct passt_stream input;
    uint8_t rest[PASST_PREFIX_SIZE + PASST_FRAME_MAX]; /* of a frame that was sent in part */
    size_t rest_start, rest_end;

    struct event_loop *loop;     /* NULL: not started */
    struct event_source *source; /* the connection */
    struct event_source
        *immediate; /* always ready when it is watched: what holds without the socket's help */
    int immediate_fd;
    struct timeout *retry;
    const struct net_queue_events *events;
    void *opaque;
    bool wants_input, wants_output;
    unsigned socket_events; /* what the two sources are watched for */
    bool immediate_watched;
};

static struct passt *passt_of(struct net_backend *backend)
{
    return container_of(backend, struct passt, backend);
}

/* ---- The connection ------------------------------------------------------------------------------------ */

/* A descriptor, or -errno. Does not block. */
static int connect_socket(const struct passt *passt)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (const struct sockaddr *)&passt->address, sizeof(passt->address)) == 0)
        return fd;
    int result = -errno;
    close(fd);
    return result;
}

static void set_link(struct passt *passt, bool up)
{
    passt->backend.link_up = up;
    ssize_t written = write(passt->link_fd, &(uint64_t){1}, sizeof(uint64_t));
    (void)written; /* fails only when the counter is full, and then it will be read */
}

static void link_changed(void *opaque, unsigned events)
{
    struct passt *passt = opaque;
    uint64_t count;
    ssize_t got = read(passt->link_fd, &count, sizeof(count));
    if (got == sizeof(count) && passt->backend.link_changed)
        passt->backend.link_changed(passt->backend.link_opaque);
}

/* An end of the connection is always watched for. */
static void update_sources(struct passt *passt)
{
    bool connected = passt->fd >= 0;
    unsigned events = POLLHUP | (passt->wants_input ? POLLIN : 0u);
    if (passt->wants_output || passt->rest_start < passt->rest_end)
        events |= POLLOUT;
    if (connected && events != passt->socket_events)
        event_loop_modify(passt->loop, passt->source, passt->socket_events = events);
    bool immediate =
        (passt->wants_input && passt_stream_peek(&passt->input) != 0) || (passt->wants_output && !connected);
    if (immediate != passt->immediate_watched)
        event_loop_modify(passt->loop, passt->immediate, immediate ? POLLIN : 0);
    passt->immediate_watched = immediate;
}

/* Ends the connection, and with it all that is under way in it. */
static void disconnect(struct passt *passt, const char *why)
{
    log_write(passt->log, LOG_WARN, "passt at %s %s: the link is down until it can be reached again",
              passt->address.sun_path, why);
    event_loop_remove(passt->loop, passt->source);
    close(passt->fd);
    passt->source = NULL;
    passt->fd = -1;
    passt->rest_start = passt->rest_end = 0;
    passt_stream_reset(&passt->input);
    set_link(passt, false);
    timeout_set(passt->retry, RETRY_INTERVAL);
    update_sources(passt);
}

/* ---- Receiving ----------------------------------------------------------------------------------------- */

/* Whether there is more to be looked at. */
static bool read_more(struct passt *passt)
{
    size_t size;
    uint8_t *room = passt_stream_room(&passt->input, &size);
    ssize_t got = passt->fd < 0 ? -1 : recv(passt->fd, room, size, MSG_DONTWAIT);
    if (got > 0)
        passt_stream_add(&passt->input, (size_t)got);
    else if (passt->fd >= 0 && (got == 0 || (errno != EAGAIN && errno != EINTR)))
        disconnect(passt, "has closed the connection");
    return got > 0;
}

/* Cut off where there is no room; 0 where there is none at all. */
static uint32_t deliver(const struct net_frame *frame, const uint8_t *data, size_t size)
{
    struct iovec body[IOV_MAX];
    unsigned count = net_frame_body(frame, body, true);
    size_t done = 0;
    for (unsigned i = 0; i < count && done < size; i++) {
        size_t part = smaller(body[i].iov_len, size - done);
        memcpy(body[i].iov_base, data + done, part);
        done += part;
    }
    return count ? NET_HEADER_SIZE + (uint32_t)done : 0;
}

static unsigned receive_frames(struct net_backend *backend, unsigned index, struct net_frame *frames,
                               unsigned count)
{
    struct passt *passt = passt_of(backend);
    unsigned received = 0;
    while (received < count) {
        int length = passt_stream_peek(&passt->input);
        if (length < 0)
            disconnect(passt, "sent what is no frame");
        else if (length > 0) {
            const uint8_t *data = passt_stream_take(&passt->input, (size_t)length);
            frames[received].length = deliver(&frames[received], data, (size_t)length);
            received += frames[received].length > 0;
        } else if (!read_more(passt))
            break;
    }
    update_sources(passt);
    return received;
}

/* ---- Sending ------------------------------------------------------------------------------------------- */

/* Frames that leave together. */
struct batch {
    struct iovec iov[IOV_MAX];
    unsigned iov_count, frame_count;
    struct {
        uint32_t prefix; /* as it is sent */
        unsigned number; /* among the frames that were to be sent */
        unsigned first;  /* of its pieces */
        size_t size;     /* prefix included */
    } frames[BATCH_FRAMES];
};

static void add_frame(struct batch *batch, const struct net_frame *frame, unsigned number)
{
    struct iovec *body = &batch->iov[batch->iov_count + 1];
    unsigned count = net_frame_body(frame, body, false);
    size_t size = 0;
    for (unsigned i = 0; i < count; i++)
        size += body[i].iov_len;
    if (size < PASST_FRAME_MIN || size > PASST_FRAME_MAX)
        return;
    unsigned slot = batch->frame_count++;
    batch->frames[slot].prefix = htobe32((uint32_t)size);
    batch->frames[slot].number = number;
    batch->frames[slot].first = batch->iov_count;
    batch->frames[slot].size = PASST_PREFIX_SIZE + size;
    batch->iov[batch->iov_count] = (struct iovec){&batch->frames[slot].prefix, PASST_PREFIX_SIZE};
    batch->iov_count += 1 + count;
}

/* Takes frames for as long as there is room for them; leaves out what cannot be sent. Returns how many. */
static unsigned gather(struct batch *batch, const struct net_frame *frames, unsigned count)
{
    unsigned number = 0;
    batch->iov_count = batch->frame_count = 0;
    for (; number < count && batch->frame_count < BATCH_FRAMES; number++) {
        unsigned pieces = frames[number].iov_count;
        if (pieces >= IOV_MAX)
            continue;
        if (batch->iov_count + 1 + pieces > IOV_MAX)
            break;
        add_frame(batch, &frames[number], number);
    }
    return number;
}

/* Copies what has not been sent of a frame, whose memory is not ours for long. */
static void keep_rest(struct passt *passt, const struct batch *batch, unsigned slot, size_t sent)
{
    const struct iovec *piece = &batch->iov[batch->frames[slot].first];
    passt->rest_start = passt->rest_end = 0;
    for (size_t left = batch->frames[slot].size; left > 0; left -= piece++->iov_len) {
        size_t skip = smaller(sent, piece->iov_len);
        memcpy(passt->rest + passt->rest_end, (const char *)piece->iov_base + skip, piece->iov_len - skip);
        passt->rest_end += piece->iov_len - skip;
        sent -= skip;
    }
}

/* How many of `taken` frames are done with after so many bytes of the batch have been sent. */
static unsigned account(struct passt *passt, const struct batch *batch, unsigned taken, size_t sent)
{
    for (unsigned slot = 0; slot < batch->frame_count; slot++) {
        if (sent == 0)
            return batch->frames[slot].number;
        if (sent < batch->frames[slot].size) {
            keep_rest(passt, batch, slot, sent);
            return batch->frames[slot].number + 1;
        }
        sent -= batch->frames[slot].size;
    }
    return taken;
}

/* As send(2), but 0 where there is no room, and -1 where the connection is over. */
static ssize_t transmit(struct passt *passt, struct iovec *iov, unsigned count)
{
    const struct msghdr message = {.msg_iov = iov, .msg_iovlen = count};
    ssize_t sent = sendmsg(passt->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS || errno == ENOMEM))
        return 0;
    if (sent < 0)
        disconnect(passt, "has closed the connection");
    return sent;
}

static void send_rest(struct passt *passt)
{
    struct iovec rest = {passt->rest + passt->rest_start, passt->rest_end - passt->rest_start};
    if (rest.iov_len == 0)
        return;
    ssize_t sent = transmit(passt, &rest, 1);
    if (sent > 0)
        passt->rest_start += (size_t)sent;
}

static unsigned send_frames(struct net_backend *backend, unsigned index, const struct net_frame *frames,
                            unsigned count)
{
    struct passt *passt = passt_of(backend);
    unsigned done = 0;
    struct batch batch;
    send_rest(passt);
    while (done < count && passt->fd >= 0 && passt->rest_start == passt->rest_end) {
        unsigned taken = gather(&batch, frames + done, count - done);
        ssize_t sent = batch.frame_count ? transmit(passt, batch.iov, batch.iov_count) : 0;
        unsigned finished = sent < 0 ? taken : account(passt, &batch, taken, (size_t)sent);
        done += finished;
        if (finished < taken)
            break;
    }
    update_sources(passt);
    return passt->fd < 0 ? count : done;
}

/* ---- The queue ----------------------------------------------------------------------------------------- */

/* The queue's callbacks may stop it. */
static void call_back(struct passt *passt, bool readable, bool writable)
{
    if (readable && passt->wants_input)
        passt->events->readable(passt->opaque, 0);
    if (writable && passt->loop && passt->wants_output)
        passt->events->writable(passt->opaque, 0);
}

static void socket_ready(void *opaque, unsigned events)
{
    struct passt *passt = opaque;
    bool readable = events & POLLIN;
    if (events & POLLOUT)
        send_rest(passt);
    if (!readable && events & (POLLHUP | POLLERR) && passt->fd >= 0)
        disconnect(passt, "has closed the connection");
    update_sources(passt);
    call_back(passt, readable, events & POLLOUT);
}

static void immediately(void *opaque, unsigned events)
{
    struct passt *passt = opaque;
    call_back(passt, passt_stream_peek(&passt->input) != 0, passt->fd < 0);
}

static int watch_connection(struct passt *passt)
{
    passt->socket_events = POLLHUP;
    return event_loop_add(passt->loop, passt->fd, POLLHUP, socket_ready, passt, &passt->source);
}

static void retry(void *opaque)
{
    struct passt *passt = opaque;
    if (passt->fd >= 0)
        return;
    passt->fd = connect_socket(passt);
    if (passt->fd >= 0 && watch_connection(passt) < 0) {
        close(passt->fd);
        passt->fd = -1;
    }
    if (passt->fd < 0) {
        timeout_set(passt->retry, RETRY_INTERVAL);
        return;
    }
    log_write(passt->log, LOG_WARN, "passt at %s can be reached again: the link is up",
              passt->address.sun_path);
    set_link(passt, true);
    update_sources(passt);
}

static void stop(struct net_backend *backend, unsigned index)
{
    struct passt *passt = passt_of(backend);
    event_loop_remove(passt->loop, passt->source);
    event_loop_remove(passt->loop, passt->immediate);
    timeout_destroy(passt->retry);
    passt->source = passt->immediate = NULL;
    passt->retry = NULL;
    passt->loop = NULL;
}

static int start(struct net_backend *backend, unsigned index, struct event_loop *loop,
                 const struct net_queue_events *events, void *opaque)
{
    struct passt *passt = passt_of(backend);
    passt->loop = loop;
    passt->events = events;
    passt->opaque = opaque;
    passt->wants_input = passt->wants_output = passt->immediate_watched = false;
    int result = event_loop_add(loop, passt->immediate_fd, 0, immediately, passt, &passt->immediate);
    if (result == 0)
        result = timeout_create(loop, retry, passt, &passt->retry);
    if (result == 0 && passt->fd >= 0)
        result = watch_connection(passt);
    if (result < 0) {
        stop(backend, index);
        return result;
    }
    if (passt->fd < 0)
        timeout_set(passt->retry, 0);
    update_sources(passt);
    return 0;
}

static void watch(struct net_backend *backend, unsigned index, bool input, bool output)
{
    struct passt *passt = passt_of(backend);
    passt->wants_input = input;
    passt->wants_output = output;
    update_sources(passt);
}

/* ---- Opening ------------------------------------------------------------------------------------------- */

static int set_address(struct passt *passt, const char *path, struct error *err)
{
    size_t length = strlen(path);
    if (length >= sizeof(passt->address.sun_path))
        return error_set(
            err, ENAMETOOLONG,
            "the path of a socket has at most %zu bytes, and this one has %zu: %.80s...; use a shorter "
            "one, or one relative to the current directory",
            sizeof(passt->address.sun_path) - 1, length, path);
    passt->address.sun_family = AF_UNIX;
    memcpy(passt->address.sun_path, path, length + 1);
    return 0;
}

static int connect_first(struct passt *passt, struct error *err)
{
    const char *path = passt->address.sun_path;
    passt->fd = connect_socket(passt);
    if (passt->fd >= 0)
        return 0;
    int code = -passt->fd;
    if (code == ENOENT || code == ECONNREFUSED)
        return error_set_errno(err, code, "passt does not listen on %s: start it by passt --socket %s", path,
                               path);
    return error_set_errno(err, code, "cannot connect to passt's socket %s", path);
}

/* An address for which it only matters that the cards of one guest differ: passt has no other guest. */
static void suggest_mac(struct passt *passt)
{
    uint32_t hash = 2166136261; /* FNV-1a */
    for (const char *c = passt->address.sun_path; *c; c++)
        hash = (hash ^ (uint8_t)*c) * 16777619;
    const uint8_t mac[] = {0x52, 0x54, 0x00, (uint8_t)(hash >> 16), (uint8_t)(hash >> 8), (uint8_t)hash};
    memcpy(passt->backend.mac, mac, sizeof(mac));
}

static void destroy(struct net_backend *backend)
{
    struct passt *passt = passt_of(backend);
    const int fds[] = {passt->fd, passt->link_fd, passt->immediate_fd};
    event_loop_remove(passt->link_loop, passt->link_source);
    for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    passt_stream_release(&passt->input);
    free(passt);
}

static int build(struct passt *passt, const struct passt_config *config, struct error *err)
{
    int result = set_address(passt, config->path, err);
    if (result < 0)
        return result;
    passt->link_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    passt->immediate_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
    if (passt->link_fd < 0 || passt->immediate_fd < 0)
        return error_set_errno(err, errno, "cannot create an eventfd for passt");
    if (passt_stream_init(&passt->input) < 0 || event_loop_add(passt->link_loop, passt->link_fd, POLLIN,
                                                               link_changed, passt, &passt->link_source) < 0)
        return error_set(err, ENOMEM, "not enough memory for passt");
    suggest_mac(passt);
    return connect_first(passt, err);
}

int passt_open(const struct passt_config *config, struct net_backend **backend, struct error *err)
{
    static const struct net_backend_ops ops = {
        .destroy = destroy,
        .start = start,
        .stop = stop,
        .watch = watch,
        .receive = receive_frames,
        .send = send_frames,
    };
    struct passt *passt = calloc(1, sizeof(*passt));
    if (!passt)
        return error_set(err, ENOMEM, "not enough memory for passt");
    passt->backend.ops = &ops;
    passt->backend.queue_count = 1;
    passt->backend.link_up = true;
    passt->link_loop = config->loop;
    passt->log = config->log;
    passt->fd = passt->link_fd = passt->immediate_fd = -1;
    int result = build(passt, config, err);
    if (result < 0) {
        destroy(&passt->backend);
        return result;
    }
    *backend = &passt->backend;
    return 0;
}
