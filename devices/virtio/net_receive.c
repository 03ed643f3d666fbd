#include <endian.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/net_internal.h"
#include "memory/guest_copy.h"

enum progress {
    GOES_ON,
    NO_FRAME,
    NO_BUFFERS, /* or too few */
    NOT_IN_USE,
    BROKEN,
};

/* ---- Buffers ---- */

/* Takes chains until those in hand have room for so many bytes: 1, or 0 if they have not; -errno. */
static int take_chains(struct net_receiver *rx, uint64_t bytes, struct error *err)
{
    while (rx->room < bytes && rx->count < ARRAY_SIZE(rx->chains)) {
        struct virtqueue_chain *chain;
        int result = virtqueue_pop(rx->ring, &chain, err);
        if (result <= 0)
            return result;
        rx->chains[rx->count++] = chain;
        rx->room += chain->in_bytes;
    }
    return rx->room >= bytes;
}

static void put_chains_back(struct net_receiver *rx)
{
    while (rx->count)
        virtqueue_unpop(rx->ring, rx->chains[--rx->count]);
    rx->room = 0;
}

/* How many of the chains in hand it takes for so many bytes, of which each one's part is told. */
static unsigned spread(const struct net_receiver *rx, uint32_t bytes, uint32_t parts[NET_RING_SIZE])
{
    unsigned count = 0;
    for (; bytes; bytes -= parts[count++])
        parts[count] = (uint32_t)smaller(rx->chains[count]->in_bytes, bytes);
    return count;
}

static void give_chains(struct net_receiver *rx, const uint32_t *parts, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        rx->room -= rx->chains[i]->in_bytes;
    virtqueue_push_all(rx->ring, rx->chains, parts, count);
    rx->count -= count;
    for (unsigned i = 0; i < rx->count; i++)
        rx->chains[i] = rx->chains[i + count];
}

/* Copies into the chains in hand, from `offset` bytes on. */
static void scatter(struct net_receiver *rx, uint64_t offset, const char *data, size_t size)
{
    for (unsigned i = 0; i < rx->count && size; i++) {
        struct virtqueue_chain *chain = rx->chains[i];
        if (offset >= chain->in_bytes) {
            offset -= chain->in_bytes;
            continue;
        }
        size_t done = virtqueue_write(chain, offset, data, size);
        data += done;
        size -= done;
        offset = 0;
    }
}

/* ---- Frames ---- */

/*
 * A frame that has just been received: its first bytes lie in the chains in hand, the rest, if any, in the
 * spill.
 */
struct frame {
    uint32_t length;
    uint32_t direct; /* bytes of it in chains */
};

/* Makes the pieces of the chains in hand, of the first one if frames cannot be spread over several, and of
 * the spill one list. Returns how many bytes are in chains. */
static uint32_t make_list(struct net_receiver *rx, bool merges, struct net_frame *frame)
{
    unsigned count = 0;
    uint32_t bytes = 0;
    for (unsigned i = 0; i < (merges ? rx->count : 1); i++) {
        const struct virtqueue_chain *chain = rx->chains[i];
        for (unsigned j = 0; j < chain->in_count && count < IOV_MAX - 1 && bytes < NET_FRAME_MAX; j++) {
            rx->iov[count] = chain->in[j];
            rx->iov[count].iov_len = smaller(chain->in[j].iov_len, NET_FRAME_MAX - bytes);
            bytes += (uint32_t)rx->iov[count++].iov_len;
        }
    }
    if (bytes < NET_FRAME_MAX)
        rx->iov[count++] = (struct iovec){rx->spill, NET_FRAME_MAX - bytes};
    *frame = (struct net_frame){.iov = rx->iov, .iov_count = count};
    return bytes;
}

/* Copies from the list that a frame was received into. */
static void copy_from_list(const struct net_receiver *rx, void *to, size_t size)
{
    char *data = to;
    for (const struct iovec *iov = rx->iov; size; iov++) {
        size_t part = smaller(iov->iov_len, size);
        guest_copy_from(data, iov->iov_base, part);
        data += part;
        size -= part;
    }
}

static struct net_head read_head(const struct net_receiver *rx, const struct frame *frame)
{
    struct net_head head = {.type = 0};
    copy_from_list(rx, &head, smaller(sizeof(head), frame->length));
    return head;
}

/* Its chains serve the next one; what was written there must not be forgotten. */
static void drop_frame(struct net_receiver *rx, const struct frame *frame)
{
    uint32_t parts[NET_RING_SIZE];
    unsigned count = spread(rx, frame->direct, parts);
    for (unsigned i = 0; i < count; i++) {
        if (rx->chains[i]->touched < parts[i])
            rx->chains[i]->touched = parts[i];
    }
}

/* Whether the driver cannot offer more than what is in hand: for all that is known of indirect tables. */
static bool has_all_buffers(const struct net_receiver *rx)
{
    unsigned pieces = 0;
    for (unsigned i = 0; i < rx->count; i++)
        pieces += rx->chains[i]->out_count + rx->chains[i]->in_count;
    return pieces >= rx->ring_size || rx->count == ARRAY_SIZE(rx->chains);
}

/* Keeps all of a frame until the driver offers more buffers. */
static void keep_frame(struct net_receiver *rx, const struct frame *frame)
{
    memmove(rx->spill + frame->direct, rx->spill, frame->length - frame->direct);
    copy_from_list(rx, rx->spill, frame->direct);
    rx->waiting = frame->length;
}

/* VIRTIO 1.2, section 5.1.6.4.1. All of it is in the chains in hand. */
static void give_frame(struct net_receiver *rx, const struct net_settings *settings,
                       const struct net_head *head, uint32_t length)
{
    uint32_t parts[NET_RING_SIZE];
    unsigned count = spread(rx, length, parts);
    uint16_t buffers = htole16((uint16_t)count);
    uint8_t no_flags = 0;
    virtqueue_write(rx->chains[0], offsetof(struct virtio_net_hdr_v1, num_buffers), &buffers,
                    sizeof(buffers));
    if (head->header.flags && !(settings->offloads & NET_OFFLOAD_CHECKSUM))
        virtqueue_write(rx->chains[0], offsetof(struct virtio_net_hdr_v1, flags), &no_flags,
                        sizeof(no_flags));
    give_chains(rx, parts, count);
}

static void expect(struct net_receiver *rx, uint32_t length)
{
    if (rx->expected < length)
        rx->expected = length;
    else
        rx->expected -= (rx->expected - length) / 16;
}

/* What did not fit into the chains in hand needs more of them, or with one for each frame, is lost. */
static enum progress deliver(struct net_receiver *rx, const struct net_settings *settings, bool merges,
                             const struct frame *frame, struct error *err)
{
    expect(rx, frame->length);
    bool fits = merges || frame->length <= rx->chains[0]->in_bytes;
    struct net_head head = read_head(rx, frame);
    if (!fits || !net_settings_want(settings, &head, frame->length)) {
        drop_frame(rx, frame);
        return GOES_ON;
    }
    int result = take_chains(rx, frame->length, err);
    if (result < 0)
        return BROKEN;
    if (result == 0) {
        drop_frame(rx, frame);
        if (has_all_buffers(rx))
            return GOES_ON;
        keep_frame(rx, frame);
        return NO_BUFFERS;
    }
    scatter(rx, frame->direct, rx->spill, frame->length - frame->direct);
    give_frame(rx, settings, &head, frame->length);
    return GOES_ON;
}

/* As deliver(), of the frame that waits. The driver's wishes may have changed. */
static enum progress deliver_waiting(struct net_receiver *rx, const struct net_settings *settings)
{
    struct net_head head;
    bool fits = rx->room >= rx->waiting;
    if (!fits && !has_all_buffers(rx))
        return NO_BUFFERS;
    memcpy(&head, rx->spill, sizeof(head));
    if (fits && net_settings_want(settings, &head, rx->waiting)) {
        scatter(rx, 0, rx->spill, rx->waiting);
        give_frame(rx, settings, &head, rx->waiting);
    }
    rx->waiting = 0;
    return GOES_ON;
}

static enum progress receive_one(struct net_pair *pair, const struct net_settings *settings, int64_t *budget,
                                 struct error *err)
{
    struct net_receiver *rx = &pair->receiver;
    bool merges = virtio_has_feature(&pair->net->device, VIRTIO_NET_F_MRG_RXBUF);
    if (take_chains(rx, rx->waiting ? rx->waiting : merges ? rx->expected : 1, err) < 0)
        return BROKEN;
    if (rx->count == 0)
        return NO_BUFFERS;
    if (rx->chains[0]->in_bytes < NET_HEADER_SIZE) {
        give_chains(rx, NULL, 1);
        return GOES_ON;
    }
    if (rx->waiting)
        return deliver_waiting(rx, settings);
    struct net_frame list;
    uint32_t room = make_list(rx, merges, &list);
    if (!net_backend_receive(pair->net->backend, pair->index, &list, 1))
        return NO_FRAME;
    *budget -= list.length;
    struct frame frame = {list.length, (uint32_t)smaller(list.length, room)};
    return deliver(rx, settings, merges, &frame, err);
}

/* ---- Batches ---- */

static enum progress receive_batch(struct net_pair *pair, const struct net_settings *settings,
                                   struct error *err)
{
    struct net_receiver *rx = &pair->receiver;
    enum progress progress = GOES_ON;
    int64_t budget = NET_BUDGET;
    if (pair->index >= settings->pairs)
        return NOT_IN_USE;
    virtqueue_set_kicks(rx->ring, false);
    for (unsigned tries = 1; progress == GOES_ON && budget > 0; tries++) {
        budget -= NET_FRAME_COST;
        progress = receive_one(pair, settings, &budget, err);
        if (progress == NO_BUFFERS && virtqueue_set_kicks(rx->ring, true))
            progress = GOES_ON;
        if (tries % NET_BATCH == 1) /* from the first on: a driver that sleeps wakes up meanwhile */
            virtio_queue_interrupt(&pair->net->device, net_receive_queue(pair));
    }
    put_chains_back(rx);
    return progress;
}

void net_receive(struct net_pair *pair)
{
    struct net_receiver *rx = &pair->receiver;
    struct virtio_net *net = pair->net;
    unsigned index = net_receive_queue(pair);
    struct error err;
    rx->reading++;
    enum progress progress = receive_batch(pair, net->settings, &err);
    rx->reading++;
    virtio_queue_interrupt(&net->device, index);
    if (progress == BROKEN) {
        rx->ring = NULL;
        virtio_queue_broke(&net->device, index, &err);
    } else if (progress == GOES_ON && rx->waiting) {
        virtio_queue_kick(&net->device, index);
    }
    pair->wants_input = progress == NO_FRAME || progress == GOES_ON;
    net_pair_watch(pair);
}
