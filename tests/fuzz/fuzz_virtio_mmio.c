/*
 * A guest that accesses the registers of a virtio device over MMIO in any way and order, with any content in
 * the memory where its queues are. However it went, after a reset a proper driver finds a device that works.
 *
 * The input is a list of eight-byte steps: what to do, where, and a value.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "devices/virtio/mmio.h"
#include "memory/address_space.h"
#include "tests/support/virtio_echo.h"
#include "tests/support/virtio_guest.h"

#define BASE      0xD0000000u
#define QUEUES    3
#define RING_SIZE 16

enum {
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030,
    QUEUE_NUM = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    STATUS = 0x070,
    QUEUE_DESC = 0x080,
    ALL_STATUS = 0x0F,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct machine {
    struct virtio_guest guest;
    struct event_loop *loop;
    struct event_source *end;
    int end_fd, irq_fd;
    struct echo echo;
    struct virtio_mmio *mmio;
    struct driver_ring rings[QUEUES];
};

static void check(bool holds)
{
    if (!holds)
        abort();
}

static void end_run(void *opaque, unsigned events)
{
    event_loop_quit(opaque);
}

/* Serves what is ready: what ends the run was ready last. */
static void run_loop(struct machine *machine)
{
    event_loop_run(machine->loop);
}

static void create_machine(struct machine *machine)
{
    *machine = (struct machine){.end_fd = eventfd(1, 0), .irq_fd = eventfd(0, EFD_NONBLOCK)};
    virtio_guest_create(&machine->guest);
    check(event_loop_create(&machine->loop, NULL) == 0);
    struct event_loop *loops[] = {machine->loop, machine->loop, machine->loop};
    struct echo_config config = {
        .space = machine->guest.space, .queue_count = QUEUES, .queue_size_max = 64, .loops = loops};
    echo_create(&machine->echo, &config);
    check(event_loop_add(machine->loop, machine->end_fd, POLLIN, end_run, machine->loop, &machine->end) == 0);
    check(virtio_mmio_create(machine->guest.memory, &machine->echo.device, machine->irq_fd, &machine->mmio,
                             NULL) == 0);
    virtio_guest_map(&machine->guest, BASE, virtio_mmio_region(machine->mmio));
    for (unsigned i = 0; i < QUEUES; i++)
        driver_ring_init(&machine->rings[i], &machine->guest, i, RING_SIZE);
}

static void destroy_machine(struct machine *machine)
{
    virtio_guest_unmap(&machine->guest, virtio_mmio_region(machine->mmio));
    virtio_mmio_destroy(machine->mmio);
    echo_destroy(&machine->echo);
    event_loop_destroy(machine->loop);
    virtio_guest_destroy(&machine->guest);
    close(machine->end_fd);
    close(machine->irq_fd);
}

static void set(struct machine *machine, unsigned offset, uint32_t value)
{
    address_space_write(machine->guest.space, BASE + offset, &value, sizeof(value));
}

static uint32_t get(struct machine *machine, unsigned offset)
{
    uint32_t value = 0;
    check(address_space_read(machine->guest.space, BASE + offset, &value, sizeof(value)) == 0);
    return value;
}

static void negotiate(struct machine *machine, uint64_t features)
{
    features |= (uint64_t)1 << VIRTIO_F_VERSION_1;
    for (unsigned half = 0; half < 2; half++) {
        set(machine, DRIVER_FEATURES_SEL, half);
        set(machine, DRIVER_FEATURES, (uint32_t)(features >> 32 * half));
    }
    set(machine, STATUS, ALL_STATUS & ~VIRTIO_CONFIG_S_DRIVER_OK);
}

static void enable(struct machine *machine, unsigned index, uint32_t size)
{
    const struct driver_ring *ring = &machine->rings[index];
    const uint64_t addresses[] = {ring->descriptors, ring->driver, ring->device};
    set(machine, QUEUE_SEL, index);
    set(machine, QUEUE_NUM, size);
    for (unsigned i = 0; i < 3; i++) {
        set(machine, QUEUE_DESC + 0x10 * i, (uint32_t)addresses[i]);
        set(machine, QUEUE_DESC + 0x10 * i + 4, (uint32_t)(addresses[i] >> 32));
    }
    set(machine, QUEUE_READY, 1);
}

/* What is held is released when the loop runs next, or a reset waits for it. */
static void release_all(struct machine *machine)
{
    for (unsigned i = 0; i < QUEUES; i++)
        echo_release(&machine->echo, i);
}

/* What a proper driver does with a device that has been through anything. */
static void check_alive(struct machine *machine)
{
    static const char text[] = "alive";
    char data[DRIVER_BUFFER_SIZE];
    uint32_t size;
    machine->echo.late = false;
    release_all(machine);
    set(machine, STATUS, 0);
    check(get(machine, STATUS) == 0);
    negotiate(machine, 0);
    for (unsigned i = 0; i < QUEUES; i++) {
        driver_ring_init(&machine->rings[i], &machine->guest, i, RING_SIZE);
        enable(machine, i, RING_SIZE);
    }
    set(machine, STATUS, ALL_STATUS);
    check(get(machine, STATUS) == ALL_STATUS);
    for (unsigned i = 0; i < QUEUES; i++) {
        driver_offer(&machine->rings[i], text, sizeof(text));
        set(machine, QUEUE_NOTIFY, i);
        run_loop(machine);
        check(driver_take(&machine->rings[i], data, &size));
        check(size == sizeof(text) && memcmp(data, text, size) == 0);
    }
}

/* Values that lead further. */
static uint32_t useful(uint32_t value)
{
    static const uint32_t values[] = {0, 1, 2, 3, 15, 16, 64, 0x10000, 0x12000, 0x14000, BASE, UINT32_MAX};
    return value >> 24 ? value : values[value % (sizeof(values) / sizeof(values[0]))];
}

static void access_anything(struct machine *machine, const uint8_t bytes[8], bool write)
{
    uint64_t value;
    unsigned offset = (bytes[2] | bytes[3] << 8) % (VIRTIO_MMIO_REGION_SIZE + 8);
    memcpy(&value, bytes, sizeof(value));
    if (write)
        address_space_write(machine->guest.space, BASE + offset, &value, bytes[1] % 8 + 1);
    else
        address_space_read(machine->guest.space, BASE + offset, &value, bytes[1] % 8 + 1);
}

static void poke(struct machine *machine, const uint8_t bytes[8], unsigned size)
{
    const struct driver_ring *ring = &machine->rings[bytes[1] % QUEUES];
    const uint64_t areas[] = {ring->descriptors, ring->driver, ring->device, ring->buffers};
    uint64_t address = areas[bytes[1] / 64] + ((bytes[2] | bytes[3] << 8) & 0x7FF);
    address_space_write(machine->guest.space, address, bytes + 4, size);
}

/* Where there is no room, as if the driver had taken everything back. */
static void offer(struct machine *machine, unsigned index, const uint8_t bytes[8])
{
    struct driver_ring *ring = &machine->rings[index];
    if ((uint16_t)(ring->offered - ring->taken) >= ring->size / 2)
        ring->taken = ring->offered;
    driver_offer(ring, bytes, 8);
}

static void step(struct machine *machine, const uint8_t bytes[8])
{
    uint32_t value;
    release_all(machine);
    memcpy(&value, bytes + 4, sizeof(value));
    unsigned index = bytes[1] % QUEUES;
    switch (bytes[0] % 13) {
    case 0:
    case 1:
        set(machine, bytes[1] * 4u % VIRTIO_MMIO_REGION_SIZE, useful(value));
        break;
    case 2:
        get(machine, bytes[1] * 4u % VIRTIO_MMIO_REGION_SIZE);
        break;
    case 3:
        access_anything(machine, bytes, bytes[0] / 13 % 2);
        break;
    case 4:
        poke(machine, bytes, 4);
        break;
    case 5:
        poke(machine, bytes, 2);
        break;
    case 6:
        set(machine, QUEUE_NOTIFY, index);
        break;
    case 7:
        offer(machine, index, bytes);
        break;
    case 8:
        negotiate(machine,
                  (uint64_t)value << 8 * (bytes[1] % 5) & virtio_offered_features(&machine->echo.device));
        break;
    case 9:
        enable(machine, index, bytes[4] % 4 ? RING_SIZE : useful(value));
        break;
    case 10:
        set(machine, STATUS, ALL_STATUS);
        break;
    case 11:
        machine->echo.late = bytes[1] % 2;
        break;
    default:
        run_loop(machine);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct machine machine;
    create_machine(&machine);
    for (size_t at = 0; at + 8 <= size; at += 8)
        step(&machine, data + at);
    check_alive(&machine);
    destroy_machine(&machine);
    return 0;
}
