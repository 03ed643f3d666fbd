#include "devices/net/nowhere.h"

#include <stdlib.h>
#include <string.h>

#include "devices/net/net_backend.h"

static void destroy(struct net_backend *backend)
{
    free(backend);
}

static int start(struct net_backend *backend, unsigned queue, struct event_loop *loop,
                 const struct net_queue_events *events, void *opaque)
{
    return 0;
}

static void stop(struct net_backend *backend, unsigned queue)
{
}

static void watch(struct net_backend *backend, unsigned queue, bool input, bool output)
{
}

static unsigned receive_none(struct net_backend *backend, unsigned queue, struct net_frame *frames,
                             unsigned count)
{
    return 0;
}

static unsigned lose_all(struct net_backend *backend, unsigned queue, const struct net_frame *frames,
                         unsigned count)
{
    return count;
}

struct net_backend *net_nowhere_create(unsigned queues)
{
    static const struct net_backend_ops ops = {
        .destroy = destroy,
        .start = start,
        .stop = stop,
        .watch = watch,
        .receive = receive_none,
        .send = lose_all,
    };
    struct net_backend *backend = calloc(1, sizeof(*backend));
    if (!backend)
        return NULL;
    backend->ops = &ops;
    backend->queue_count = queues;
    memcpy(backend->mac, (uint8_t[]){0x52, 0x54, 0, 0, 0, 1}, sizeof(backend->mac));
    return backend;
}
