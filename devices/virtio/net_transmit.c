#include "base/error.h"
#include "devices/virtio/net_internal.h"

/* Sends what is in the ring, up to a batch, and says how many frames were taken. -errno with a message for a
 * broken queue. */
static int send_batch(struct net_pair *pair, int64_t *budget, struct error *err)
{
    struct net_transmitter *tx = &pair->transmitter;
    struct virtqueue_chain *chains[NET_BATCH];
    struct net_frame frames[NET_BATCH];
    unsigned count = 0;
    int result = 1;
    while (count < NET_BATCH && (result = virtqueue_pop(tx->ring, &chains[count], err)) > 0) {
        const struct virtqueue_chain *chain = chains[count];
        frames[count++] = (struct net_frame){chain->out, chain->out_count, chain->out_bytes};
    }
    unsigned sent = count ? net_backend_send(pair->net->backend, pair->index, frames, count) : 0;
    tx->full = sent < count;
    virtqueue_push_all(tx->ring, chains, NULL, sent);
    while (count > sent)
        virtqueue_unpop(tx->ring, chains[--count]);
    virtio_queue_interrupt(&pair->net->device, net_transmit_queue(pair));
    for (unsigned i = 0; i < sent; i++)
        *budget -= NET_FRAME_COST + (int64_t)frames[i].length;
    return result < 0 ? result : (int)sent;
}

void net_transmit(struct net_pair *pair)
{
    struct net_transmitter *tx = &pair->transmitter;
    unsigned index = net_transmit_queue(pair);
    struct error err;
    int64_t budget = NET_BUDGET;
    int sent = 1;
    virtqueue_set_kicks(tx->ring, false);
    while (sent > 0 && !tx->full && budget > 0) {
        sent = send_batch(pair, &budget, &err);
        if (sent == 0 && !tx->full && virtqueue_set_kicks(tx->ring, true))
            sent = 1;
    }
    if (sent < 0) {
        *tx = (struct net_transmitter){.ring = NULL};
        virtio_queue_broke(&pair->net->device, index, &err);
    } else if (sent > 0 && !tx->full) {
        virtio_queue_kick(&pair->net->device, index);
    }
    net_pair_watch(pair);
}
