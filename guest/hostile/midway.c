/* Everything stops, or changes, while requests are under way; also by a second CPU. */
#include "guest/hostile/midway.h"

#include "guest/hostile/target.h"
#include "guest/lib/apic.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/smp.h"
#include "guest/lib/string.h"
#include "guest/lib/tree.h"

#define UNDER_WAY   48 /* requests */
#define PIECE       (DATA_SIZE / UNDER_WAY / SECTOR * SECTOR)
#define PATTERN     0xa5
#define CPUS_MAX    2
#define WAIT_ROUNDS 100
#define VECTOR_TICK 0x40
#define TICKS_HZ    1000

/* What the second CPU does while it is told to. */
enum work {
    REST,
    SPOIL_RING,
    SPOIL_TABLE,
    SPOIL_DATA,
    STOP_QUEUE,
    RESET_DEVICE,
    KICK,
};

static struct {
    bool there;
    struct target *target;
    volatile enum work work, at;
} other;

static uint64_t piece_sector(const struct target *target, unsigned i)
{
    return i * (PIECE / SECTOR) % (target->sectors - PIECE / SECTOR);
}

void set_going(struct target *target)
{
    static const uint32_t types[] = {REQUEST_READ,    REQUEST_WRITE,  REQUEST_READ,  REQUEST_FLUSH,
                                     REQUEST_DISCARD, REQUEST_ZEROES, REQUEST_SERIAL};

    for (unsigned i = 0; i < UNDER_WAY; i++) {
        uint32_t type = types[i % 7];
        uint8_t *data = target->memory->data + i * PIECE;
        uint32_t size = type == REQUEST_DISCARD || type == REQUEST_ZEROES ? 16 : PIECE;
        if (size == 16) {
            uint64_t range[2] = {piece_sector(target, i), PIECE / SECTOR};
            memcpy(data, range, sizeof(range));
        }
        if (i % 3 == 0)
            target_indirect_request(target, 3 * i, type, piece_sector(target, i), data, size);
        else
            target_request(target, type, piece_sector(target, i), type == REQUEST_FLUSH ? NULL : data, size);
        ring_offer(&target->ring);
    }
    device_notify(&target->device, 0);
}

static void wait(uint64_t rounds)
{
    for (uint64_t i = 0; i < rounds; i++)
        __builtin_ia32_pause();
}

/* Whether the device leaves the memory alone that it has given up, while it does other things. */
static bool memory_is_ours(struct target *target)
{
    uint8_t *data = target->memory->data;

    /* The last piece is not among what shows that the device works. */
    memset(data + DATA_SIZE / 2, PATTERN, DATA_SIZE / 2);
    if (!(device_status(&target->device) & STATUS_DRIVER_OK) && !target_begin(target, target->features))
        return false;
    if (!target_works(target))
        return false;
    for (unsigned i = DATA_SIZE / 2; i < DATA_SIZE; i++) {
        if (data[i] != PATTERN)
            return wrong("memory was written after the queue was stopped, at %u", i);
    }
    return true;
}

static bool reset(struct target *target, uint64_t value)
{
    set_going(target);
    wait(value * WAIT_ROUNDS);
    device_set_status(&target->device, 0);
    return memory_is_ours(target);
}

static bool stop_queue(struct target *target, uint64_t value)
{
    set_going(target);
    wait(value / 2 * WAIT_ROUNDS);
    device_select(&target->device, 0);
    if (value & 1)
        device_disable_queue(&target->device);
    else
        device_reset_queue(&target->device);
    target_set_up_queue(target);
    device_enable_queue(&target->device);
    return memory_is_ours(target);
}

/* The cache's mode is switched, kicks come, the status gets bits, while requests are under way. */
static bool write_registers(struct target *target, uint64_t value)
{
    struct span config = device_config(&target->device);

    set_going(target);
    for (unsigned i = 0; i < 20; i++) {
        *(volatile uint8_t *)(config.start + 32) = i & 1;
        device_notify(&target->device, i);
        device_set_status(&target->device, value ? STATUS_FAILED : STATUS_DRIVER_OK);
        device_enable_queue(&target->device);
    }
    return true;
}

/* Requests are under way, and the device breaks. */
static bool broken(struct target *target, uint64_t value)
{
    set_going(target);
    wait(value * WAIT_ROUNDS);
    target_request(target, REQUEST_READ, 0, (void *)bad_place(target, value, 16), SECTOR);
    target_go(target);
    if (!target_await_break(target))
        return false;
    device_set_status(&target->device, 0);
    return memory_is_ours(target);
}

/* ---- With a second CPU ---- */

static const uint64_t *interesting(const struct target *target, unsigned *count)
{
    static uint64_t values[12];

    *count = 12;
    values[0] = 0;
    values[1] = 1;
    values[2] = UINT64_MAX;
    values[3] = target->ram_end;
    values[4] = target->ram_end - 8;
    values[5] = (uint64_t)target->memory->data;
    values[6] = (uint64_t)&target->memory->ring;
    values[7] = (uint64_t)target->memory->table;
    values[8] = 0x0007000000000200;
    values[9] = 0x0001000400000030;
    values[10] = 0x8000008000000010;
    values[11] = target->device.registers;
    return values;
}

/* A word of memory, to something and back: also while the device reads it. */
static void spoil(uint64_t *memory, uint64_t size, uint64_t *random)
{
    unsigned count;
    const uint64_t *values = interesting(other.target, &count);
    uint64_t *word, before;

    *random = *random * 6364136223846793005 + 1442695040888963407;
    word = &memory[(*random >> 20) % (size / sizeof(*word))];
    before = *word;
    __atomic_store_n(word, values[(*random >> 50) % count], __ATOMIC_RELAXED);
    wait(*random >> 60);
    __atomic_store_n(word, before, __ATOMIC_RELAXED);
}

static void stop_and_start(const struct device *device)
{
    device_disable_queue(device);
    device_enable_queue(device);
}

static void do_work(enum work work, uint64_t *random)
{
    struct target_memory *memory = other.target->memory;
    const struct device *device = &other.target->device;

    if (work == SPOIL_RING)
        spoil((uint64_t *)&memory->ring, sizeof(memory->ring), random);
    else if (work == SPOIL_TABLE)
        spoil((uint64_t *)memory->table, 3 * UNDER_WAY * sizeof(struct descriptor), random);
    else if (work == SPOIL_DATA)
        spoil((uint64_t *)memory->headers, sizeof(memory->headers), random);
    else if (work == STOP_QUEUE)
        stop_and_start(device);
    else if (work == RESET_DEVICE)
        device_set_status(device, 0);
    else if (work == KICK)
        device_notify(device, 0);
}

static void on_tick(struct interrupt_frame *frame)
{
    lapic_end_of_interrupt();
}

/* Without work it halts, and looks for some now and then: a host's processor is better used otherwise. */
static void second_cpu(uint64_t argument)
{
    uint64_t random = argument;

    lapic_enable();
    lapic_timer(VECTOR_TICK, TICKS_HZ);
    for (;;) {
        enum work work = other.work;
        other.at = work;
        if (work == REST)
            interrupt_wait();
        else
            do_work(work, &random);
    }
}

/* Returns when it is at it. */
static void have_done(enum work work)
{
    other.work = work;
    while (other.at != work)
        wait(1);
}

bool midway_start_cpu(struct target *target)
{
    uint8_t apic_ids[CPUS_MAX];

    other.target = target;
    if (tree_cpus(apic_ids, CPUS_MAX) == CPUS_MAX) {
        lapic_enable();
        interrupt_set(VECTOR_TICK, on_tick);
        smp_start(1, apic_ids[1], second_cpu, target->random);
        other.there = true;
    }
    return other.there;
}

void midway_kick(bool on)
{
    if (other.there)
        have_done(on ? KICK : REST);
}

/* Whatever the device has read, nothing but it comes to harm. */
static bool changed_after_kick(struct target *target, uint64_t value)
{
    static const enum work works[] = {SPOIL_RING, SPOIL_TABLE, SPOIL_DATA};

    if (!other.there)
        return true;
    have_done(works[value % 3]);
    for (unsigned i = 0; i < 4; i++) {
        set_going(target);
        wait(value * WAIT_ROUNDS);
        while (ring_take(&target->ring) >= 0)
            device_notify(&target->device, 0);
    }
    have_done(REST);
    return true;
}

/* One CPU sets up, kicks and resets, another one stops, resets or kicks. */
static bool at_once(struct target *target, uint64_t value)
{
    static const enum work works[] = {STOP_QUEUE, RESET_DEVICE, KICK};

    if (!other.there)
        return true;
    have_done(works[value % 3]);
    for (unsigned i = 0; i < 4; i++) {
        device_set_status(&target->device, 0);
        device_set_status(&target->device, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
        device_accept(&target->device, target->features);
        device_set_status(&target->device, STATUS_FEATURES_OK);
        target_set_up_queue(target);
        device_enable_queue(&target->device);
        device_set_status(&target->device, STATUS_DRIVER_OK);
        set_going(target);
    }
    have_done(REST);
    device_set_status(&target->device, 0);
    return memory_is_ours(target);
}

const struct attack midway_attacks[] = {
    {"reset midway", reset, 12, DONE, 0, 0},
    {"queue stopped midway", stop_queue, 12, DONE, 0, 0},
    {"registers midway", write_registers, 2, DONE, 0, 0},
    {"broken midway", broken, 3, DONE, 0, 0},
    {"changed after the kick", changed_after_kick, 24, DONE, 0, 0},
    {"two at once", at_once, 12, DONE, 0, 0},
    {0},
};
