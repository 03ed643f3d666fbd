/*
 * virtio_blk: reads whole virtio disks, by many requests at a time, and prints their checksums; writes the
 * text of seq(1) to them and reads that back; asks for what a disk must refuse. Polls, or waits for
 * interrupts.
 */
#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/checksum.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/memory.h"
#include "guest/lib/sequence.h"
#include "guest/lib/string.h"
#include "guest/lib/virtio.h"

#define VECTOR_DISK      0x40
#define ID_BLOCK         2
#define SECTOR           512
#define QUEUES_MAX       16
#define DEPTH            16          /* requests in a queue */
#define BATCH            (256 << 10) /* bytes that are under way at most */
#define REQUEST_MAX      64          /* sectors */
#define WRONG_MAX        10          /* answers; then the guest does not go on with this disk */
#define SERIAL_SIZE      20

#define FEATURE_READONLY (1 << 5)
#define FEATURE_FLUSH    (1 << 9)
#define FEATURE_QUEUES   (1 << 12)

#define CONFIG_CAPACITY  0
#define CONFIG_QUEUES    32 /* in the upper half */

#define READ             0
#define WRITE            1
#define FLUSH            4
#define GET_SERIAL       8
#define NONSENSE         77

#define OK               0
#define IO_ERROR         1
#define UNSUPPORTED      2
#define UNANSWERED       0xff

struct request {
    struct {
        uint32_t type, reserved;
        uint64_t sector;
    } header;
    uint8_t status, expected;
    bool busy;
};

struct disk {
    unsigned number;
    struct virtio_device device;
    uint64_t sectors;
    bool readonly, by_interrupt;
    unsigned queue_count, next_queue;
    struct virtqueue queues[QUEUES_MAX];
    struct request requests[QUEUES_MAX][DEPTH];
    unsigned under_way;
    uint64_t random, answers, wrong;
    uint8_t *area; /* BATCH bytes twice */
};

static struct disk current;
static volatile uint64_t interrupts;

static void count_interrupt(struct interrupt_frame *frame)
{
    if (virtio_acknowledge(&current.device))
        interrupts++;
    lapic_end_of_interrupt();
}

static bool take_interrupts(void)
{
    pic_mask();
    lapic_enable();
    interrupt_set(VECTOR_DISK, count_interrupt);
    current.by_interrupt = true;
    return virtio_interrupt(&current.device, VECTOR_DISK);
}

static void complain(struct disk *disk, const char *what)
{
    disk->wrong++;
    print("virtio_blk: disk %u: %s\n", disk->number, what);
}

/* Numbers from 0 to `limit` - 1, in an order of their own. */
static unsigned next_random(struct disk *disk, unsigned limit)
{
    disk->random = disk->random * 6364136223846793005 + 1442695040888963407;
    return (disk->random >> 33) % limit;
}

static void answer(struct disk *disk, struct request *request)
{
    disk->answers++;
    if (request->status != request->expected) {
        print("virtio_blk: disk %u: request %u of sector %lu: status %u, expected %u\n", disk->number,
              request->header.type, request->header.sector, request->status, request->expected);
        disk->wrong++;
    }
    request->busy = false;
    disk->under_way--;
}

static void reap(struct disk *disk)
{
    uint16_t slot;
    uint32_t written;

    for (unsigned q = 0; q < disk->queue_count; q++) {
        while (virtqueue_take(&disk->queues[q], &slot, &written))
            answer(disk, &disk->requests[q][slot]);
    }
}

/* Whether interrupts will come for all answers that are not there yet. */
static bool ask_for_interrupts(struct disk *disk)
{
    for (unsigned q = 0; q < disk->queue_count; q++) {
        if (virtqueue_set_interrupts(&disk->queues[q], true))
            return false;
    }
    return true;
}

/* For answers. Interrupts are off but while it waits for one, so none comes between looking and waiting. */
static void reap_more(struct disk *disk)
{
    unsigned before = disk->under_way;

    reap(disk);
    if (disk->by_interrupt && disk->under_way == before && ask_for_interrupts(disk))
        interrupt_wait();
}

static void wait_for_all(struct disk *disk)
{
    while (disk->under_way > 0)
        reap_more(disk);
}

static unsigned free_slot(struct disk *disk, unsigned queue)
{
    for (;;) {
        for (unsigned slot = 0; slot < DEPTH; slot++) {
            if (!disk->requests[queue][slot].busy)
                return slot;
        }
        reap_more(disk);
    }
}

/* The data are in two pieces, which meet anywhere. */
static void hand_over(struct disk *disk, unsigned q, unsigned slot, uint8_t *data, uint32_t size)
{
    struct request *request = &disk->requests[q][slot];
    bool reads = request->header.type != WRITE;
    uint32_t first = size ? 1 + next_random(disk, size - 1) : 0;
    struct virtqueue_buffer chain[VIRTQUEUE_CHAIN_MAX] = {{&request->header, sizeof(request->header), false}};
    unsigned count = 1;

    if (size) {
        chain[count++] = (struct virtqueue_buffer){data, first, reads};
        chain[count++] = (struct virtqueue_buffer){data + first, size - first, reads};
    }
    chain[count++] = (struct virtqueue_buffer){&request->status, 1, true};
    if (!virtqueue_add(&disk->queues[q], chain, count, slot))
        guest_panic("no room in a queue that has some");
    virtqueue_kick(&disk->queues[q]);
}

/* Starts a request, on one queue after the other. */
static void start(struct disk *disk, uint32_t type, uint64_t sector, uint8_t *data, uint32_t size,
                  uint8_t expected)
{
    unsigned q = disk->next_queue++ % disk->queue_count, slot = free_slot(disk, q);
    struct request *request = &disk->requests[q][slot];

    request->header.type = type;
    request->header.sector = sector;
    request->status = UNANSWERED;
    request->expected = expected;
    request->busy = true;
    disk->under_way++;
    hand_over(disk, q, slot, data, size);
}

static void ask(struct disk *disk, uint32_t type, uint64_t sector, uint32_t size, uint8_t expected)
{
    start(disk, type, sector, disk->area, size, expected);
    wait_for_all(disk);
}

/* Moves sectors between the disk and the area, by requests of any size. Returns how many bytes. */
static uint32_t move_batch(struct disk *disk, uint32_t type, uint64_t sector)
{
    uint32_t done = 0, count = BATCH / SECTOR;

    if (count > disk->sectors - sector)
        count = disk->sectors - sector;
    while (done < count) {
        uint32_t size = 1 + next_random(disk, REQUEST_MAX);
        if (size > count - done)
            size = count - done;
        start(disk, type, sector + done, disk->area + done * SECTOR, size * SECTOR, OK);
        done += size;
    }
    wait_for_all(disk);
    return count * SECTOR;
}

static bool more(const struct disk *disk, uint64_t sector)
{
    return sector < disk->sectors && disk->wrong < WRONG_MAX;
}

static void read_all(struct disk *disk)
{
    static struct checksum sum;

    checksum_begin(&sum);
    for (uint64_t sector = 0; more(disk, sector); sector += BATCH / SECTOR)
        checksum_add(&sum, disk->area, move_batch(disk, READ, sector));
    print("virtio_blk: disk %u: cksum %u %lu\n", disk->number, checksum_end(&sum), sum.length);
}

static void write_all(struct disk *disk, uint64_t number)
{
    struct sequence text;

    sequence_begin(&text, number);
    for (uint64_t sector = 0; more(disk, sector); sector += BATCH / SECTOR) {
        sequence_read(&text, disk->area, BATCH);
        move_batch(disk, WRITE, sector);
    }
    if (disk->device.features & FEATURE_FLUSH)
        ask(disk, FLUSH, 0, 0, OK);
}

static void compare_all(struct disk *disk, uint64_t number)
{
    struct sequence text;

    sequence_begin(&text, number);
    for (uint64_t sector = 0; more(disk, sector); sector += BATCH / SECTOR) {
        uint32_t size = move_batch(disk, READ, sector);
        sequence_read(&text, disk->area + BATCH, BATCH);
        if (memcmp(disk->area, disk->area + BATCH, size))
            complain(disk, "what was read is not what was written");
    }
}

static void ask_for_wrong_things(struct disk *disk)
{
    ask(disk, READ, disk->sectors, SECTOR, IO_ERROR);
    ask(disk, READ, disk->sectors - 1, 2 * SECTOR, IO_ERROR);
    ask(disk, READ, UINT64_MAX, SECTOR, IO_ERROR);
    ask(disk, READ, 0, SECTOR - 1, IO_ERROR);
    ask(disk, WRITE, disk->sectors, SECTOR, IO_ERROR);
    if (disk->readonly)
        ask(disk, WRITE, 0, SECTOR, IO_ERROR);
    ask(disk, NONSENSE, 0, SECTOR, UNSUPPORTED);
    if (virtio_status(&disk->device) & VIRTIO_NEEDS_RESET)
        complain(disk, "the device is broken");
}

static void introduce(struct disk *disk)
{
    char serial[SERIAL_SIZE + 1] = {0};

    ask(disk, GET_SERIAL, 0, SERIAL_SIZE, OK);
    memcpy(serial, disk->area, SERIAL_SIZE);
    print("virtio_blk: disk %u: %lu sectors, %s, %u queues, irq %u, serial '%s'\n", disk->number,
          disk->sectors, disk->readonly ? "read-only" : "writable", disk->queue_count, disk->device.irq,
          serial);
}

static bool set_up(struct disk *disk)
{
    struct virtio_device *device = &disk->device;

    if (!virtio_negotiate(device, VIRTIO_F_VERSION_1 | FEATURE_READONLY | FEATURE_FLUSH | FEATURE_QUEUES |
                                      virtio_ring_features()))
        return false;
    disk->readonly = device->features & FEATURE_READONLY;
    disk->sectors =
        virtio_config(device, CONFIG_CAPACITY) | (uint64_t)virtio_config(device, CONFIG_CAPACITY + 4) << 32;
    disk->queue_count = device->features & FEATURE_QUEUES ? virtio_config(device, CONFIG_QUEUES) >> 16 : 1;
    if (disk->queue_count < 1 || disk->queue_count > QUEUES_MAX)
        return false;
    for (unsigned q = 0; q < disk->queue_count; q++) {
        if (!virtio_queue_setup(device, q, DEPTH * VIRTQUEUE_CHAIN_MAX, &disk->queues[q]))
            return false;
    }
    virtio_start(device);
    return !(virtio_status(device) & VIRTIO_NEEDS_RESET);
}

static void work(struct disk *disk, uint64_t number)
{
    uint64_t features = disk->device.features;

    introduce(disk);
    read_all(disk);
    if (number && !disk->readonly) {
        write_all(disk, number);
        compare_all(disk, number);
    }
    ask_for_wrong_things(disk);
    print("virtio_blk: disk %u: %lu answers, %lu wrong, %s\n", disk->number, disk->answers, disk->wrong,
          disk->by_interrupt ? interrupts ? "by interrupts" : "without an interrupt" : "polled");
    print("virtio_blk: disk %u: %s, %s ring%s%s\n", disk->number, disk->device.transport->name,
          features & VIRTIO_F_RING_PACKED ? "packed" : "split",
          features & VIRTIO_F_EVENT_IDX ? ", event indices" : "",
          features & VIRTIO_F_INDIRECT ? ", indirect tables" : "");
}

/* Returns how much was wrong. */
static uint64_t serve(const struct virtio_device *device, unsigned number, void *area)
{
    uint64_t text = argument_number("write", 0);

    memset(&current, 0, sizeof(current));
    current.number = number;
    current.device = *device;
    current.area = area;
    current.random = argument_number("seed", 1);
    interrupts = 0;
    if ((!argument_is("by", "irq", false) || take_interrupts()) && set_up(&current))
        work(&current, text ? text + number : 0);
    else
        complain(&current, "it cannot be set up");
    virtio_reset(&current.device);
    return current.wrong;
}

int main(void)
{
    struct virtio_device device;
    uint64_t wrong = 0;
    uint8_t *area = memory_free(2 * BATCH);
    unsigned count = 0;

    for (; virtio_find(ID_BLOCK, count, &device); count++)
        wrong += serve(&device, count, area);
    print("virtio_blk: %u disks, %lu wrong answers\n", count, wrong);
    return count == 0 || wrong ? 1 : 0;
}
