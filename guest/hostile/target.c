#include "guest/hostile/target.h"

#include <stdarg.h>

#include "guest/lib/apic.h"
#include "guest/lib/console.h"
#include "guest/lib/string.h"

#define LOOKS      1000
#define POLLS_MAX  100000 /* each is an exit: many seconds */
#define GOOD_BYTES 4096

uint64_t next_random(struct target *target)
{
    target->random ^= target->random << 13;
    target->random ^= target->random >> 7;
    target->random ^= target->random << 17;
    return target->random;
}

uint64_t random_below(struct target *target, uint64_t limit)
{
    return next_random(target) % limit;
}

uint64_t bad_place(const struct target *target, uint64_t number, uint32_t size)
{
    const uint64_t places[PLACES] = {
        target->ram_end,
        target->ram_end - 16,
        target->ram_end - size + 16,
        target->device.registers,
        target->witness->device.registers,
        target->device.registers + 0x200 - 16,
        IOAPIC_BASE,
        LAPIC_BASE,
        (1ull << 52) + 16,
        1ull << 63,
        -(uint64_t)16,
        -(uint64_t)size,
    };

    return places[number] & ~15ull;
}

bool target_negotiate(struct target *target, uint64_t features)
{
    const struct device *device = &target->device;
    uint32_t status = STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK;

    target->features = (features | F_VERSION_1) & device->offered;
    device_set_status(device, 0);
    if (device_status(device))
        return wrong("status 0x%x after a reset", device_status(device));
    device_set_status(device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    device_accept(device, target->features);
    device_set_status(device, status);
    if (device_status(device) != status)
        return wrong("status 0x%x after features were accepted", device_status(device));
    return true;
}

void target_set_up_queue(struct target *target)
{
    struct ring_memory *ring = &target->memory->ring;

    ring_begin(&target->ring, ring, target->features & F_PACKED);
    device_select(&target->device, target->queue);
    device_set_queue_size(&target->device, RING_SIZE);
    device_set_queue_areas(&target->device, (uint64_t)ring->descriptors, (uint64_t)ring->driver,
                           (uint64_t)ring->device);
}

void target_driver_ok(struct target *target)
{
    device_set_status(&target->device,
                      STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK | STATUS_DRIVER_OK);
}

bool target_begin(struct target *target, uint64_t features)
{
    if (!target_negotiate(target, features))
        return false;
    target_set_up_queue(target);
    device_enable_queue(&target->device);
    target_driver_ok(target);
    return true;
}

static unsigned fill_slot(struct target *target, uint32_t type, uint64_t sector)
{
    unsigned slot = target->slot++ % SLOTS;

    target->memory->headers[slot] = (struct request_header){type, 0, sector};
    __atomic_store_n(&target->memory->status[slot], UNANSWERED, __ATOMIC_RELAXED);
    return slot;
}

/* Of the data: every request but these gives the device something to write. */
static uint16_t data_flags(uint32_t type)
{
    return type == REQUEST_WRITE || type == REQUEST_DISCARD || type == REQUEST_ZEROES ? 0 : FLAG_WRITE;
}

unsigned target_request(struct target *target, uint32_t type, uint64_t sector, const void *data,
                        uint32_t size)
{
    unsigned slot = fill_slot(target, type, sector);

    ring_add(&target->ring, (uint64_t)&target->memory->headers[slot], sizeof(struct request_header), 0);
    if (data)
        ring_add(&target->ring, (uint64_t)data, size, data_flags(type));
    ring_add(&target->ring, (uint64_t)&target->memory->status[slot], 1, FLAG_WRITE);
    return slot;
}

static void fill_entry(const struct target *target, unsigned index, uint64_t address, uint32_t length,
                       uint16_t flags, uint16_t next)
{
    struct descriptor *entry = &target->memory->table[index];

    *entry = (struct descriptor){.address = address, .length = length};
    *descriptor_flags(&target->ring, entry) = flags;
    *descriptor_link(&target->ring, entry) = next;
}

unsigned target_indirect_request(struct target *target, unsigned first, uint32_t type, uint64_t sector,
                                 const void *data, uint32_t size)
{
    struct target_memory *memory = target->memory;
    unsigned slot = fill_slot(target, type, sector);
    uint16_t next = target->ring.packed ? 0 : FLAG_NEXT;

    fill_entry(target, first, (uint64_t)&memory->headers[slot], sizeof(struct request_header), next, 1);
    fill_entry(target, first + 1, (uint64_t)data, size, data_flags(type) | next, 2);
    fill_entry(target, first + 2, (uint64_t)&memory->status[slot], 1, FLAG_WRITE, 0);
    ring_add(&target->ring, (uint64_t)&memory->table[first], 3 * sizeof(struct descriptor), FLAG_INDIRECT);
    return slot;
}

struct descriptor *target_part(struct target *target, unsigned n)
{
    return &target->memory->ring.descriptors[(target->ring.base + n) % RING_SIZE];
}

void target_go(struct target *target)
{
    ring_offer(&target->ring);
    device_notify(&target->device, target->queue);
}

static bool answered(const struct target *target, enum outcome outcome, unsigned slot)
{
    uint8_t status = __atomic_load_n(&target->memory->status[slot], __ATOMIC_RELAXED);
    uint8_t want = outcome == OK            ? ANSWER_OK
                   : outcome == ERROR       ? ANSWER_ERROR
                   : outcome == UNSUPPORTED ? ANSWER_UNSUPPORTED
                                            : UNANSWERED;

    if (outcome == ANY)
        return true;
    if (outcome == BREAKS)
        return wrong("answered (%u), where the device ought to need a reset", status);
    return status == want ? true : wrong("answered with %u, not with %u", status, want);
}

/* Looks for an answer, without leaving the guest. */
static bool look(struct target *target, unsigned rounds)
{
    while (rounds-- > 0) {
        if (ring_take(&target->ring) >= 0)
            return true;
        __builtin_ia32_pause();
    }
    return false;
}

bool target_await(struct target *target, enum outcome outcome, unsigned slot)
{
    unsigned rounds = outcome == BREAKS ? 1 : LOOKS;

    for (unsigned polls = 0; polls < POLLS_MAX; polls++) {
        if (look(target, rounds))
            return answered(target, outcome, slot);
        if (device_status(&target->device) & STATUS_NEEDS_RESET)
            return outcome == BREAKS || outcome == ANY ? true : wrong("the device needs a reset");
    }
    return wrong("neither an answer nor a broken device");
}

bool target_await_break(const struct target *target)
{
    for (unsigned polls = 0; polls < POLLS_MAX; polls++) {
        if (device_status(&target->device) & STATUS_NEEDS_RESET)
            return true;
    }
    return wrong("the device goes on");
}

static bool move(struct target *target, uint32_t type, uint64_t sector, void *data)
{
    unsigned slot = target_request(target, type, sector, data, GOOD_BYTES);

    target_go(target);
    return target_await(target, OK, slot);
}

bool target_works(struct target *target)
{
    uint64_t *data = (uint64_t *)target->memory->data;
    uint64_t sector = random_below(target, target->sectors - GOOD_BYTES / SECTOR);
    uint64_t first = next_random(target);

    for (unsigned i = 0; i < GOOD_BYTES / sizeof(*data); i++)
        data[i] = first + i;
    if (!move(target, REQUEST_WRITE, sector, data))
        return false;
    memset(data, 0, GOOD_BYTES);
    if (!move(target, REQUEST_READ, sector, data))
        return false;
    for (unsigned i = 0; i < GOOD_BYTES / sizeof(*data); i++) {
        if (data[i] != first + i)
            return wrong("what was read is not what was written");
    }
    return true;
}
