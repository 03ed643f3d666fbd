/* Negotiation, set-up of queues, and registers, out of order and out of range. */
#include "guest/hostile/target.h"

#include "guest/lib/io.h"

/* What the target's features are when an attack begins. */
static uint64_t usual(const struct target *target)
{
    return target->features;
}

static unsigned request(struct target *target)
{
    unsigned slot = target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);

    target_go(target);
    return slot;
}

static bool request_works(struct target *target)
{
    return target_await(target, OK, request(target));
}

/* ---- Negotiation ---- */

static bool driver_ok_at_once(struct target *target, uint64_t value)
{
    const struct device *device = &target->device;
    uint32_t status = value ? STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK : STATUS_DRIVER_OK;

    device_set_status(device, 0);
    target_set_up_queue(target);
    device_enable_queue(device);
    request(target);
    device_set_status(device, status);
    device_notify(device, 0);
    return device_status(device) & STATUS_DRIVER_OK ? wrong("DRIVER_OK without FEATURES_OK") : true;
}

static bool accept(struct target *target, uint64_t features)
{
    const struct device *device = &target->device;

    device_set_status(device, 0);
    device_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    device_accept(device, features);
    device_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    return device_status(device) & STATUS_FEATURES_OK;
}

static bool features_not_offered(struct target *target, uint64_t value)
{
    for (unsigned bit = 0; bit < 64; bit++) {
        if (!(target->device.offered >> bit & 1) && accept(target, usual(target) | 1ull << bit))
            return wrong("feature %u, which it does not offer", bit);
    }
    return true;
}

static bool legacy(struct target *target, uint64_t value)
{
    uint64_t features = value ? usual(target) & ~F_VERSION_1 : 0;

    return accept(target, features) ? wrong("features without VERSION_1") : true;
}

/* What was accepted before a reset is not any more. */
static bool old_features(struct target *target, uint64_t value)
{
    const struct device *device = &target->device;

    device_set_status(device, 0);
    device_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    device_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    return device_status(device) & STATUS_FEATURES_OK ? wrong("features are left from before") : true;
}

/* The driver stops half-way, kicks, and goes away. */
static bool never_completed(struct target *target, uint64_t value)
{
    static const uint32_t stages[] = {
        0,
        STATUS_ACKNOWLEDGE,
        STATUS_ACKNOWLEDGE | STATUS_DRIVER,
        STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK,
    };
    const struct device *device = &target->device;

    device_set_status(device, 0);
    for (unsigned stage = 0; stage <= value; stage++) {
        if (stages[stage] & STATUS_FEATURES_OK)
            device_accept(device, usual(target));
        device_set_status(device, stages[stage]);
    }
    target_set_up_queue(target);
    device_enable_queue(device);
    request(target);
    for (unsigned i = 0; i < 16; i++)
        device_notify(device, i);
    return ring_take(&target->ring) < 0 ? true : wrong("an answer before DRIVER_OK");
}

/* What is offered before DRIVER_OK is looked at then. */
static bool early_kick(struct target *target, uint64_t value)
{
    if (!target_negotiate(target, usual(target)))
        return false;
    target_set_up_queue(target);
    if (value)
        device_enable_queue(&target->device);
    request(target);
    device_enable_queue(&target->device);
    target_driver_ok(target);
    return true;
}

static bool late_features(struct target *target, uint64_t value)
{
    device_accept(&target->device, value ? ~0ull : 0);
    if (!request_works(target))
        return false;
    target_indirect_request(target, 0, REQUEST_READ, 0, target->memory->data, SECTOR);
    target_go(target);
    return true;
}

static bool odd_status(struct target *target, uint64_t value)
{
    static const uint32_t words[] = {
        STATUS_NEEDS_RESET, STATUS_FAILED, 0x10, 0x20, 0x7f, 0xff, 1, STATUS_DRIVER_OK,
    };
    const struct device *device = &target->device;

    device_set_status(device, words[value]);
    if (device_status(device) & STATUS_NEEDS_RESET)
        return wrong("it needs a reset because the driver says so");
    request(target);
    return true;
}

/* ---- Queues ---- */

static bool areas(struct target *target, const uint64_t places[3])
{
    if (!target_negotiate(target, usual(target)))
        return false;
    target_set_up_queue(target);
    device_set_queue_areas(&target->device, places[0], places[1], places[2]);
    device_enable_queue(&target->device);
    target_driver_ok(target);
    device_notify(&target->device, 0);
    return true;
}

static bool area(struct target *target, unsigned number, uint64_t place)
{
    struct ring_memory *ring = &target->memory->ring;
    uint64_t places[] = {(uint64_t)ring->descriptors, (uint64_t)ring->driver, (uint64_t)ring->device};

    places[number] = place;
    return areas(target, places);
}

static bool area_elsewhere(struct target *target, uint64_t value)
{
    static const uint32_t sizes[] = {RING_SIZE * 16, RING_SIZE * 2, RING_SIZE * 8};
    unsigned number = value / PLACES;
    /* The driver and device areas of a packed ring have 4 bytes. */
    bool small = number > 0 && target->features & F_PACKED;
    uint64_t place = bad_place(target, value % PLACES, sizes[number]);

    if (small && place < target->ram_end)
        place = target->ram_end;
    return area(target, number, place);
}

static bool area_misaligned(struct target *target, uint64_t value)
{
    struct ring_memory *ring = &target->memory->ring;

    if (value < 4)
        return area(target, 0, (uint64_t)ring->descriptors + (1 << value));
    if (value == 4)
        return area(target, 1, (uint64_t)ring->driver + 1);
    return area(target, 2, (uint64_t)ring->device + value - 4);
}

/* All areas in one place, or each in the next one. */
static bool areas_overlap(struct target *target, uint64_t value)
{
    uint64_t place = (uint64_t)&target->memory->ring;
    const uint64_t places[] = {place, place + 16 * value, place + 32 * value};

    if (!areas(target, places))
        return false;
    target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);
    target_go(target);
    return true;
}

static bool size_refused(struct target *target, uint64_t value)
{
    static const uint32_t sizes[] = {0, 2 * RING_SIZE, RING_SIZE + 1, 0x8000, 0xffff, 0x10000, 0xffffffff};

    if (!target_negotiate(target, usual(target)))
        return false;
    target_set_up_queue(target);
    device_set_queue_size(&target->device, sizes[value]);
    device_enable_queue(&target->device);
    if (device_queue_enabled(&target->device))
        return wrong("a queue of %u entries", sizes[value]);
    target_driver_ok(target);
    request(target);
    return true;
}

static bool odd_size(struct target *target, uint64_t value)
{
    static const uint32_t sizes[] = {3, 5, RING_SIZE - 1};

    if (!target_negotiate(target, usual(target)))
        return false;
    target_set_up_queue(target);
    device_set_queue_size(&target->device, sizes[value]);
    device_enable_queue(&target->device);
    target_driver_ok(target);
    return true;
}

static bool no_such_queue(struct target *target, uint64_t value)
{
    static const uint32_t queues[] = {16, 63, 64, 0xffff, 0x10000, 0xffffffff};
    const struct device *device = &target->device;
    uint32_t queue = device_number(device, queues[value]);

    if (queue == 0)
        queue = 0x100;
    device_select(device, queue);
    if (device_queue_size_max(device))
        return wrong("there is a queue %u", queue);
    device_set_queue_size(device, RING_SIZE);
    device_set_queue_areas(device, 0, 0, 0);
    device_enable_queue(device);
    if (device_queue_enabled(device))
        return wrong("queue %u can be enabled", queue);
    device_reset_queue(device);
    device_disable_queue(device);
    device_notify(device, queue);
    device_select(device, 0);
    request(target);
    return true;
}

/* Of a queue that is enabled nothing changes. */
static bool set_up_again(struct target *target, uint64_t value)
{
    device_set_queue_size(&target->device, value ? 0 : 4);
    device_set_queue_areas(&target->device, bad_place(target, value, 1), 1, ~0ull);
    device_enable_queue(&target->device);
    request(target);
    return true;
}

static bool taken_away(struct target *target, uint64_t value)
{
    if (value)
        device_disable_queue(&target->device);
    else
        device_reset_queue(&target->device);
    if (device_queue_enabled(&target->device))
        return wrong("the queue is still enabled");
    request(target);
    for (unsigned i = 0; i < 16; i++)
        device_notify(&target->device, 0);
    if (ring_take(&target->ring) >= 0)
        return wrong("an answer by a queue that is off");
    target_set_up_queue(target);
    device_enable_queue(&target->device);
    return target_works(target);
}

static bool many_kicks(struct target *target, uint64_t value)
{
    target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);
    for (unsigned i = 0; i < 200; i++)
        device_notify(&target->device, i % 3 ? 0 : next_random(target));
    target_go(target);
    return true;
}

/* ---- Registers ---- */

static void poke(uint64_t address, unsigned width, uint64_t value)
{
    switch (width) {
    case 0:
        mmio_write8(address, value);
        break;
    case 1:
        mmio_write16(address, value);
        break;
    case 2:
        mmio_write32(address, value);
        break;
    default:
        mmio_write64(address, value);
        break;
    }
}

static void peek(uint64_t address, unsigned width)
{
    switch (width) {
    case 0:
        mmio_read8(address);
        break;
    case 1:
        mmio_read16(address);
        break;
    case 2:
        mmio_read32(address);
        break;
    default:
        mmio_read64(address);
        break;
    }
}

/* Everywhere, with every width, aligned or not; a driver that sets up queues at random writes none of its own
 * memory: values are beyond RAM. */
static bool registers(struct target *target, uint64_t value)
{
    struct span span = device_registers(&target->device);

    for (unsigned width = 0; width < 4; width++) {
        for (uint64_t offset = value; offset < span.size; offset += 3) {
            peek(span.start + offset, width);
            poke(span.start + offset, width, next_random(target) | 0x80808080c0c0c0c0);
        }
    }
    return true;
}

static bool config(struct target *target, uint64_t value)
{
    struct span span = device_config(&target->device);

    target_request(target, REQUEST_WRITE, 0, target->memory->data, 64 * SECTOR);
    target_go(target);
    for (uint64_t offset = 0; offset < span.size; offset++) {
        poke(span.start + offset, value, next_random(target));
        peek(span.start + offset, value);
    }
    return mmio_read32(span.start) == (uint32_t)target->sectors ? true : wrong("the capacity has changed");
}

const struct attack set_up_attacks[] = {
    {"DRIVER_OK at once", driver_ok_at_once, 2, DONE, 0, 0},
    {"features that are not offered", features_not_offered, 1, DONE, 0, 0},
    {"no VERSION_1", legacy, 2, DONE, 0, 0},
    {"features from before the reset", old_features, 1, DONE, 0, 0},
    {"negotiation never completed", never_completed, 4, DONE, 0, 0},
    {"an early kick", early_kick, 2, OK, 0, 0},
    {"late features", late_features, 2, OK, 0, 0},
    {"odd status", odd_status, 8, OK, 0, 0},
    {"areas elsewhere", area_elsewhere, 3 * PLACES, BREAKS, 0, 0},
    {"areas not aligned", area_misaligned, 8, BREAKS, 0, 0},
    {"areas over each other", areas_overlap, 3, ANY, 0, 0},
    {"queue sizes that cannot be", size_refused, 7, DONE, 0, 0},
    {"queue sizes of no power of two", odd_size, 3, BREAKS, SPLIT, 0},
    {"no such queue", no_such_queue, 6, OK, 0, 0},
    {"set-up of a running queue", set_up_again, 2, OK, 0, 0},
    {"a queue taken away", taken_away, 2, DONE, 0, 0},
    {"many kicks", many_kicks, 1, OK, 0, 0},
    {"registers", registers, 3, DONE, 0, 0},
    {"configuration space", config, 4, OK, 0, 0},
    {0},
};
