/*
 * A guest that sends a virtio block device any chains: of any buffers, with any content. Each must come back,
 * with a status where there is room for one, unless it breaks its queue; the disk keeps its size, and after
 * a reset works.
 *
 * The input begins with a byte that chooses features; then come chains: a byte with the count of buffers, two
 * bytes for each (how long, where, which half), 16 for a header, and a length of further content, which is
 * taken from the input. A bit of the count has the configuration space accessed while the chain is out.
 */
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/macros.h"
#include "devices/block/disk.h"
#include "devices/virtio/block.h"
#include "tests/support/mmio_guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define DISK_SIZE   (256 * 1024)
#define BUFFERS_MAX 12
#define CHAINS_MAX  32
#define HEADER      sizeof(struct virtio_blk_outhdr)
#define OUT         MMIO_GUEST_DATA
#define IN          (MMIO_GUEST_DATA + 0x20000)
#define NONE        0xEE

#define BIT(number) ((uint64_t)1 << (number))

struct machine {
    const uint8_t *data;
    size_t size;
    struct event_loop *loop;
    struct event_source *interrupts;
    int disk_fd;
    struct disk *disk;
    struct virtio_block *block;
    struct mmio_guest guest;
    uint64_t features;
    bool orderly; /* the halves of the present chain lie at OUT and IN without a gap */
};

static void check(bool holds)
{
    if (!holds)
        abort();
}

static uint8_t next(struct machine *machine)
{
    if (!machine->size)
        return 0;
    machine->size--;
    return *machine->data++;
}

static void on_interrupt(void *opaque, unsigned events)
{
    struct machine *machine = opaque;
    eventfd_t count;
    eventfd_read(machine->guest.irq_fd, &count);
    event_loop_quit(machine->loop);
}

static void create(struct machine *machine)
{
    char path[64];
    machine->disk_fd = memfd_create("disk", MFD_CLOEXEC);
    check(machine->disk_fd >= 0 && ftruncate(machine->disk_fd, DISK_SIZE) == 0);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", machine->disk_fd);
    uint8_t choice = next(machine);
    struct disk_config config = {.path = path, .readonly = choice & 1};
    check(disk_open(&config, &machine->disk, NULL) == 0);
    check(event_loop_create(&machine->loop, NULL) == 0);
    mmio_guest_create(&machine->guest);
    struct virtio_block_config block = {
        .disk = machine->disk,
        .serial = "godwit-disk",
        .space = machine->guest.guest.space,
        .queue_count = 1,
        .loops = &machine->loop,
    };
    check(virtio_block_create(&block, &machine->block, NULL) == 0);
    mmio_guest_plug(&machine->guest, virtio_block_device(machine->block), 1);
    check(event_loop_add(machine->loop, machine->guest.irq_fd, POLLIN, on_interrupt, machine,
                         &machine->interrupts) == 0);
    machine->features = choice & 2 ? mmio_guest_offered(&machine->guest) : 0;
    machine->features &= ~(BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_IN_ORDER));
    if (choice & 4)
        machine->features |= BIT(VIRTIO_F_RING_PACKED);
    machine->features |= BIT(VIRTIO_RING_F_INDIRECT_DESC);
    mmio_guest_start(&machine->guest, machine->features);
}

static void destroy(struct machine *machine)
{
    struct stat status;
    check(fstat(machine->disk_fd, &status) == 0 && status.st_size == DISK_SIZE);
    mmio_guest_unplug(&machine->guest);
    virtio_block_destroy(machine->block);
    mmio_guest_destroy(&machine->guest);
    event_loop_destroy(machine->loop);
    disk_close(machine->disk);
    close(machine->disk_fd);
}

static bool is_broken(struct machine *machine)
{
    return mmio_guest_get(&machine->guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

/* Waits for the one chain that is out. False if the queue broke instead. */
static bool take(struct machine *machine, uint32_t *written)
{
    unsigned token;
    while (!queue_driver_collect(&machine->guest.drivers[0], &token, written)) {
        check(!machine->guest.drivers[0].failed);
        if (is_broken(machine))
            return false;
        check(event_loop_run(machine->loop) == 0);
    }
    return true;
}

/* Where the next buffer is: mostly behind the one before it, so that a half's content is that of the input.
 */
static struct queue_driver_buffer next_buffer(struct machine *machine, uint32_t place[2], bool *writable)
{
    static const uint32_t sizes[] = {0, 1, 15, 16, 17, 20, 511, 512, 513, 1024, 4096, 0x10000};
    uint8_t shape = next(machine), where = next(machine);
    *writable |= shape & 0x80;
    struct queue_driver_buffer buffer = {
        .address = place[*writable],
        .length = shape & 0x40 ? shape & 0x3F : sizes[(shape & 0x3F) % ARRAY_SIZE(sizes)],
        .writable = where == 0xFF ? !*writable : *writable,
    };
    if (where == 0xFE)
        buffer.address = 0xE0000000u + shape;
    else if (where == 0xFD)
        buffer.address = MMIO_GUEST_DATA_END - shape;
    if (where < 0xFD && place[*writable] + buffer.length < (*writable ? MMIO_GUEST_DATA_END : IN))
        place[*writable] += buffer.length;
    else
        machine->orderly = false;
    return buffer;
}

/* Nothing but the cache's mode can be written. */
static void touch_config(struct machine *machine)
{
    struct mmio_guest *guest = &machine->guest;
    unsigned offset = MMIO_GUEST_CONFIG + (next(machine) & ~3u);
    mmio_guest_set(guest, offset, next(machine) * 0x01010101u);
    mmio_guest_get(guest, offset);
    check(mmio_guest_get(guest, MMIO_GUEST_CONFIG) == DISK_SIZE / 512);
}

static void send(struct machine *machine)
{
    struct queue_driver_buffer buffers[BUFFERS_MAX];
    uint32_t place[] = {OUT, IN}, written;
    uint8_t choice = next(machine);
    unsigned count = 1 + choice % BUFFERS_MAX;
    bool writable = false;
    machine->orderly = true;
    for (unsigned i = 0; i < count; i++)
        buffers[i] = next_buffer(machine, place, &writable);
    uint8_t *content = mmio_guest_memory(&machine->guest, OUT);
    for (unsigned i = 0; i < HEADER; i++)
        content[i] = next(machine);
    for (unsigned left = next(machine); left > 0; left--)
        content[HEADER + left] = next(machine);
    uint8_t *last = mmio_guest_memory(&machine->guest, place[1] - 1);
    *last = NONE;
    bool offered = mmio_guest_offer(&machine->guest, 0, 0, buffers, count, choice & 0x80);
    if (choice & 0x40)
        touch_config(machine);
    if (!offered || !take(machine, &written)) {
        mmio_guest_reset(&machine->guest);
        mmio_guest_start(&machine->guest, machine->features);
    } else if (machine->orderly) {
        check(written == place[1] - IN);
        check(written == 0 || *last <= VIRTIO_BLK_S_UNSUPP);
    }
}

/* What a proper driver does with a device that has been through anything. */
static void check_alive(struct machine *machine)
{
    const struct queue_driver_buffer buffers[] = {
        {OUT, HEADER, false}, {IN, 4096, true}, {IN + 4096, 1, true}};
    struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN, .sector = DISK_SIZE / 512 - 8};
    uint8_t expected[4096];
    uint32_t written;
    check(pread(machine->disk_fd, expected, sizeof(expected), DISK_SIZE - 4096) == 4096);
    memcpy(mmio_guest_memory(&machine->guest, OUT), &header, sizeof(header));
    check(mmio_guest_offer(&machine->guest, 0, 0, buffers, ARRAY_SIZE(buffers), false));
    check(take(machine, &written) && written == 4097);
    check(*(uint8_t *)mmio_guest_memory(&machine->guest, IN + 4096) == VIRTIO_BLK_S_OK);
    check(!memcmp(mmio_guest_memory(&machine->guest, IN), expected, sizeof(expected)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct machine machine = {.data = data, .size = size};
    create(&machine);
    for (unsigned i = 0; i < CHAINS_MAX && machine.size; i++)
        send(&machine);
    check_alive(&machine);
    destroy(&machine);
    return 0;
}
