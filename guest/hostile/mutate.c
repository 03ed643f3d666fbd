#include "guest/hostile/mutate.h"

#include "guest/hostile/target.h"

#define REQUESTS_MAX 16
#define CHANGES_MAX  8

/* An address that the device may write, or one where there is nothing. */
static uint64_t odd_address(struct target *target)
{
    switch (random_below(target, 4)) {
    case 0:
        return bad_place(target, random_below(target, PLACES), 64);
    case 1: /* the upper half of addresses is never RAM */
        return next_random(target) | 1ull << 63;
    default:
        return (uint64_t)target->memory + random_below(target, sizeof(struct target_memory) - DATA_SIZE);
    }
}

static uint64_t odd_number(struct target *target)
{
    switch (random_below(target, 4)) {
    case 0:
        return random_below(target, 8);
    case 1:
        return 1ull << random_below(target, 32);
    case 2:
        return -random_below(target, 8);
    default:
        return next_random(target);
    }
}

static struct descriptor *any_descriptor(struct target *target)
{
    if (random_below(target, 2))
        return &target->memory->table[random_below(target, 3 * REQUESTS_MAX)];
    return &target->memory->ring.descriptors[random_below(target, 3 * REQUESTS_MAX)];
}

static void change_descriptor(struct target *target, struct descriptor *descriptor)
{
    switch (random_below(target, 4)) {
    case 0:
        descriptor->address = odd_address(target);
        break;
    case 1:
        descriptor->length = odd_number(target);
        break;
    case 2:
        descriptor->third ^= 1u << random_below(target, 16);
        break;
    default:
        descriptor->fourth = odd_number(target);
        break;
    }
}

static void change(struct target *target)
{
    struct ring_memory *ring = &target->memory->ring;
    unsigned i = random_below(target, RING_ENTRIES + REQUESTS_MAX);

    switch (random_below(target, 6)) {
    case 0:
        ring->driver[i] = odd_number(target);
        break;
    case 1:
        ring->device[i] = odd_number(target);
        break;
    case 2:
        ((uint8_t *)target->memory->headers)[random_below(target, sizeof(target->memory->headers))] =
            odd_number(target);
        break;
    default:
        change_descriptor(target, any_descriptor(target));
        break;
    }
}

static void add_request(struct target *target, unsigned number)
{
    static const uint32_t types[] = {REQUEST_READ,    REQUEST_WRITE,  REQUEST_READ,  REQUEST_FLUSH,
                                     REQUEST_DISCARD, REQUEST_ZEROES, REQUEST_SERIAL};
    uint32_t type = types[random_below(target, 7)];
    uint64_t sector = random_below(target, target->sectors);
    void *data = target->memory->data + random_below(target, DATA_SIZE / 2);
    uint32_t size = random_below(target, 16) * SECTOR;

    if (random_below(target, 2))
        target_indirect_request(target, 3 * number, type, sector, data, size);
    else
        target_request(target, type, sector, data, size);
}

void spoil_ring(struct target *target)
{
    for (unsigned i = random_below(target, CHANGES_MAX) + 1; i > 0; i--)
        change(target);
}

void mutate(struct target *target)
{
    unsigned requests = 1 + random_below(target, REQUESTS_MAX);

    for (unsigned i = 0; i < requests; i++) {
        add_request(target, i);
        if (random_below(target, 4) == 0)
            change(target);
        ring_offer(&target->ring);
        if (random_below(target, 4) == 0)
            device_notify(&target->device, 0);
    }
    spoil_ring(target);
    device_notify(&target->device, 0);
    if (random_below(target, 4) == 0)
        device_disable_queue(&target->device);
}
