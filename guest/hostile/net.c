#include "guest/hostile/net.h"

#include "guest/hostile/mutate.h"
#include "guest/lib/string.h"

#define RECEIVE     0
#define TRANSMIT    1
#define CONTROL     2
#define QUEUES      3

#define F_MAC       (1ull << 5)
#define F_MERGEABLE (1ull << 15)
#define F_CONTROL   (0x7ull << 17 | 1ull << 23 | 1ull << 20 | 1ull << 21)
#define F_RINGS     (F_INDIRECT | F_EVENT_IDX | F_PACKED | F_IN_ORDER)

#define HEADER_SIZE 12
#define BUFFER_SIZE 2048
#define BUFFERS     32
#define FRAME_SIZE  60
#define POLLS_MAX   100000
#define CHAINS_MAX  24

static struct target queues[QUEUES];

static struct target *first(void)
{
    return &queues[0];
}

bool net_find(const struct target *like, struct target_memory *memory)
{
    struct device device;

    if (!device_find(DEVICE_NETWORK, 0, &device))
        return false;
    for (unsigned i = 0; i < QUEUES; i++) {
        queues[i] = *like;
        queues[i].device = device;
        queues[i].memory = memory + i;
        queues[i].queue = i;
    }
    return true;
}

/* All queues, with these features; the first of them stands for the device. */
static bool begin(uint64_t features)
{
    if (!target_negotiate(first(), features))
        return false;
    for (unsigned i = 0; i < QUEUES; i++) {
        queues[i].features = first()->features;
        target_set_up_queue(&queues[i]);
        device_enable_queue(&first()->device);
    }
    target_driver_ok(first());
    return true;
}

/* ---- What makes no sense ---- */

static uint32_t odd_length(struct target *target)
{
    static const uint32_t lengths[] = {
        0,  1,    2,    6,    HEADER_SIZE - 1, HEADER_SIZE, HEADER_SIZE + 1, 60,
        64, 1514, 1526, 4096, 65535,           65562,       128 << 10};

    return lengths[random_below(target, sizeof(lengths) / sizeof(lengths[0]))];
}

/* A chain of pieces that the device reads and of ones that it writes. */
static void add_chain(struct target *target, unsigned reads, unsigned writes)
{
    for (unsigned i = 0; i < reads + writes; i++) {
        uint64_t place = (uint64_t)target->memory->data + random_below(target, DATA_SIZE / 2);
        uint32_t length = odd_length(target);
        if (random_below(target, 500) == 0)
            place = bad_place(target, random_below(target, PLACES), 64);
        if (i == 0 && length == 0 && random_below(target, 50)) /* that would break the queue too often */
            length = 1;
        ring_add(&target->ring, place, length, i < reads ? 0 : FLAG_WRITE);
    }
    ring_offer(&target->ring);
}

static void offer_buffers(struct target *target)
{
    for (unsigned i = random_below(target, CHAINS_MAX); i > 0; i--)
        add_chain(target, random_below(target, 8) == 0, 1 + random_below(target, 3));
}

/* Headers at random, or of zeroes: offloads that were never negotiated, offsets beyond the frame. */
static void offer_frames(struct target *target)
{
    uint64_t *data = (uint64_t *)target->memory->data;
    bool zero = random_below(target, 2);

    for (unsigned i = 0; i < 4096 / sizeof(*data); i++)
        data[i] = zero ? 0 : next_random(target);
    for (unsigned i = random_below(target, CHAINS_MAX); i > 0; i--)
        add_chain(target, 1 + random_below(target, 4), random_below(target, 8) == 0);
}

/* A class, a command, data of any length, numbers of addresses of any size. */
static void offer_command(struct target *target)
{
    uint8_t *data = target->memory->data + random_below(target, 1024) * 64;
    uint32_t length = random_below(target, 48);

    data[0] = random_below(target, 8);
    data[1] = random_below(target, 6);
    for (unsigned i = 2; i < 50; i++)
        data[i] = random_below(target, 3) ? 0 : next_random(target);
    if (random_below(target, 2))
        data[2] = random_below(target, 4);
    ring_add(&target->ring, (uint64_t)data, random_below(target, 8) ? 2 : random_below(target, 3), 0);
    if (length)
        ring_add(&target->ring, (uint64_t)data + 2, random_below(target, 16) ? length : odd_length(target),
                 0);
    if (random_below(target, 16))
        ring_add(&target->ring, (uint64_t)&target->memory->status[0], 1, FLAG_WRITE);
    ring_offer(&target->ring);
}

static uint64_t some_features(struct target *target)
{
    uint64_t features = F_RING_RESET | F_MAC | (random_below(target, 4) ? F_CONTROL : 0);

    features |= next_random(target) & F_RINGS;
    return features | (random_below(target, 2) ? F_MERGEABLE : 0);
}

/* A set that does not fit together may be refused; every set is tried. */
static void negotiate_anything(void)
{
    const struct device *device = &first()->device;

    device_set_status(device, 0);
    device_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    device_accept(device, next_random(first()));
    device_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
}

static void take_away(struct target *target)
{
    device_select(&target->device, target->queue);
    device_disable_queue(&target->device);
}

void net_attack(void)
{
    struct target *device = first();
    uint64_t polls = random_below(device, 20);

    if (random_below(device, 8) == 0)
        negotiate_anything();
    if (!begin(some_features(device)))
        return;
    offer_buffers(&queues[RECEIVE]);
    offer_frames(&queues[TRANSMIT]);
    for (unsigned i = random_below(device, CHAINS_MAX); i > 0; i--)
        offer_command(&queues[CONTROL]);
    for (unsigned i = 0; i < QUEUES; i++) {
        if (random_below(device, 4) == 0)
            spoil_ring(&queues[i]);
        device_notify(&device->device, i);
    }
    for (uint64_t i = 0; i < polls; i++)
        device_notify(&device->device, random_below(device, QUEUES + 1));
    if (random_below(device, 2))
        take_away(&queues[random_below(device, QUEUES)]);
}

/* ---- What does ---- */

static void offer_buffer(struct target *target, unsigned number)
{
    uint8_t *buffer = target->memory->data + (uint64_t)number * BUFFER_SIZE;

    ring_add(&target->ring, (uint64_t)buffer, BUFFER_SIZE, FLAG_WRITE);
    target->memory->headers[ring_offer(&target->ring) % SLOTS].sector = (uint64_t)buffer;
}

static void send(struct target *target, uint64_t mark)
{
    uint8_t *frame = target->memory->data;

    memset(frame, 0, HEADER_SIZE + FRAME_SIZE);
    memset(frame + HEADER_SIZE, 0xff, 6); /* to all */
    memcpy(frame + HEADER_SIZE + 14, &mark, sizeof(mark));
    ring_add(&target->ring, (uint64_t)frame, HEADER_SIZE + FRAME_SIZE, 0);
    target_go(target);
}

/* Frames of before may come first. Each buffer has one descriptor, so buffers come back by the place in the
 * ring that they had, and are offered again. */
static bool receive(struct target *target, uint64_t mark)
{
    for (unsigned polls = 0; polls < POLLS_MAX; polls++) {
        int id = ring_take(&target->ring);
        uint8_t *buffer = id < 0 ? NULL : (uint8_t *)target->memory->headers[id % SLOTS].sector;
        if (buffer && !memcmp(buffer + HEADER_SIZE + 14, &mark, sizeof(mark)))
            return true;
        if (buffer) {
            offer_buffer(target, (buffer - target->memory->data) / BUFFER_SIZE);
            device_notify(&target->device, target->queue);
        } else if (device_status(&target->device) & STATUS_NEEDS_RESET) {
            return wrong("the network device needs a reset");
        }
    }
    return wrong("the frame does not come back");
}

bool net_works(void)
{
    uint64_t mark = next_random(first());

    if (!begin(F_MAC | (random_below(first(), 2) ? F_PACKED : 0)))
        return false;
    for (unsigned i = 0; i < BUFFERS; i++)
        offer_buffer(&queues[RECEIVE], i);
    device_notify(&first()->device, RECEIVE);
    send(&queues[TRANSMIT], mark);
    return receive(&queues[RECEIVE], mark);
}
