/*
 * A guest that offers a virtio network device any chains on any queue, of any buffers with any content, while
 * frames with any head come from the network. Each frame to send and each command must come back, commands
 * with an answer where there is room for one, unless they break their queue; frames that were received must
 * lie within their buffers. After a reset the device works.
 *
 * The input begins with two bytes that choose features. Then come steps: a byte says which, as below.
 */
#include <linux/virtio_config.h>
#include <linux/virtio_net.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/event_loop.h"
#include "base/macros.h"
#include "devices/virtio/net.h"
#include "tests/support/fake_net.h"
#include "tests/support/mmio_guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PAIRS       2
#define QUEUES      (2 * PAIRS + 1)
#define BUFFERS_MAX 8
#define STEPS_MAX   64
#define CONTENT     64 /* bytes of a chain or a frame that the input gives */
#define OUT         MMIO_GUEST_DATA
#define IN          (MMIO_GUEST_DATA + 0x40000)
#define NONE        0xEE

#define BIT(number) ((uint64_t)1 << (number))

struct machine {
    const uint8_t *data;
    size_t size;
    struct event_loop *loop;
    struct event_source *end;
    int end_fd;
    struct fake_net backend;
    struct mmio_guest guest;
    struct virtio_net *net;
    uint64_t features;
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

static void end_run(void *opaque, unsigned events)
{
    struct machine *machine = opaque;
    eventfd_t count;
    eventfd_read(machine->end_fd, &count);
    event_loop_quit(machine->loop);
}

/* Until there is nothing more to do, if there ever is. */
static void serve(struct machine *machine)
{
    for (unsigned i = 0; i < 4; i++) {
        eventfd_write(machine->end_fd, 1);
        check(event_loop_run(machine->loop) == 0);
    }
}

static void create(struct machine *machine)
{
    static const uint8_t mac[] = {0x52, 0x54, 0, 0, 0, 1};
    struct event_loop *loops[PAIRS];
    uint8_t choice = next(machine), rings = next(machine);
    check(event_loop_create(&machine->loop, NULL) == 0);
    check((machine->end_fd = eventfd(0, EFD_NONBLOCK)) >= 0);
    check(event_loop_add(machine->loop, machine->end_fd, POLLIN, end_run, machine, &machine->end) == 0);
    fake_net_create(&machine->backend, PAIRS,
                    choice & 1 ? NET_OFFLOAD_CHECKSUM | NET_OFFLOAD_TSO4 | NET_OFFLOAD_TSO6 : 0,
                    choice & 2 ? 1500 : 0);
    mmio_guest_create(&machine->guest);
    loops[0] = loops[1] = machine->loop;
    struct virtio_net_setup setup = {
        .backend = &machine->backend.backend,
        .space = machine->guest.guest.space,
        .loops = loops,
    };
    memcpy(setup.mac, mac, sizeof(mac));
    check(virtio_net_create(&setup, &machine->net, NULL) == 0);
    mmio_guest_plug(&machine->guest, virtio_net_device(machine->net), QUEUES);
    uint64_t ring_features =
        BIT(VIRTIO_F_RING_PACKED) | BIT(VIRTIO_RING_F_EVENT_IDX) | BIT(VIRTIO_F_IN_ORDER);
    machine->features = mmio_guest_offered(&machine->guest) & ~ring_features;
    if (choice & 4)
        machine->features &= ~BIT(VIRTIO_NET_F_MRG_RXBUF);
    if (choice & 8)
        machine->features &= ~BIT(VIRTIO_NET_F_MQ);
    if (choice & 16)
        machine->features &= ~(BIT(VIRTIO_NET_F_CTRL_RX) | BIT(VIRTIO_NET_F_CTRL_VLAN));
    machine->features |= (rings & 1 ? BIT(VIRTIO_F_RING_PACKED) : 0) |
                         (rings & 2 ? BIT(VIRTIO_RING_F_EVENT_IDX) : 0) |
                         (rings & 4 ? BIT(VIRTIO_F_IN_ORDER) : 0);
    mmio_guest_start(&machine->guest, machine->features);
}

static void destroy(struct machine *machine)
{
    mmio_guest_unplug(&machine->guest);
    virtio_net_destroy(machine->net);
    mmio_guest_destroy(&machine->guest);
    fake_net_destroy(&machine->backend);
    event_loop_destroy(machine->loop);
    close(machine->end_fd);
}

static void reset(struct machine *machine)
{
    mmio_guest_reset(&machine->guest);
    mmio_guest_start(&machine->guest, machine->features);
}

static bool is_broken(struct machine *machine)
{
    return mmio_guest_get(&machine->guest, MMIO_GUEST_STATUS) & VIRTIO_CONFIG_S_NEEDS_RESET;
}

static unsigned control_queue(const struct machine *machine)
{
    return machine->features & BIT(VIRTIO_NET_F_MQ) ? 2 * PAIRS : 2;
}

/* Where the next buffer is: mostly behind the one before it. */
static struct queue_driver_buffer next_buffer(struct machine *machine, uint32_t place[2], bool *writable)
{
    static const uint32_t sizes[] = {0, 1, 2, 11, 12, 13, 26, 60, 1514, 1526, 4096, 0x10000, NET_FRAME_MAX};
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
    return buffer;
}

/* Fills `content` from the input. */
static void fill(struct machine *machine, uint8_t *content)
{
    for (unsigned left = next(machine) % CONTENT; left > 0; left--)
        *content++ = next(machine);
}

/* Offers a chain as the input says. False where the ring is full. */
static bool offer(struct machine *machine, unsigned queue, bool writable)
{
    struct queue_driver_buffer buffers[BUFFERS_MAX];
    uint32_t place[] = {OUT, IN + queue * 0x8000};
    uint8_t choice = next(machine);
    unsigned count = 1 + choice % BUFFERS_MAX;
    for (unsigned i = 0; i < count; i++)
        buffers[i] = next_buffer(machine, place, &writable);
    return mmio_guest_offer(&machine->guest, queue, choice >> 4, buffers, count, choice & 0x80);
}

/* Takes back all that a queue has given back. Returns how many chains. */
static unsigned collect(struct machine *machine, unsigned queue, uint32_t *written)
{
    unsigned token, count = 0;
    while (queue_driver_collect(&machine->guest.drivers[queue], &token, written))
        count++;
    check(!machine->guest.drivers[queue].failed);
    return count;
}

/* One that must come back at once, as nothing is out before it. */
static void exchange(struct machine *machine, unsigned queue)
{
    uint8_t *out = mmio_guest_memory(&machine->guest, OUT), *status;
    uint32_t written = 0;
    status = mmio_guest_memory(&machine->guest, IN + queue * 0x8000);
    fill(machine, out);
    *status = NONE;
    if (!offer(machine, queue, false))
        abort();
    serve(machine);
    if (!collect(machine, queue, &written)) {
        check(is_broken(machine));
        reset(machine);
    } else if (queue == control_queue(machine)) {
        check(written <= 1 && (written == 0 || *status <= VIRTIO_NET_ERR || *status == NONE));
    } else {
        check(written == 0);
    }
}

static void command(struct machine *machine)
{
    exchange(machine, control_queue(machine));
}

static void send(struct machine *machine)
{
    static uint8_t frame[NET_FRAME_MAX];
    unsigned pair = machine->features & BIT(VIRTIO_NET_F_MQ) ? next(machine) % PAIRS : 0;
    exchange(machine, 2 * pair + 1);
    while (fake_net_take(&machine->backend, pair, frame, sizeof(frame)))
        ;
}

static void offer_buffers(struct machine *machine)
{
    uint32_t written;
    unsigned pair = machine->features & BIT(VIRTIO_NET_F_MQ) ? next(machine) % PAIRS : 0;
    offer(machine, 2 * pair, true);
    serve(machine);
    collect(machine, 2 * pair, &written);
    if (is_broken(machine))
        reset(machine);
}

static void put_frame(struct machine *machine)
{
    static uint8_t frame[NET_FRAME_MAX];
    uint32_t written, length = next(machine);
    length |= (uint32_t)next(machine) << 8;
    memset(frame, 0, CONTENT);
    fill(machine, frame);
    if (fake_net_waiting(&machine->backend, 0) < 8)
        fake_net_put(&machine->backend, 0, frame, length);
    serve(machine);
    collect(machine, 0, &written);
    if (is_broken(machine))
        reset(machine);
}

static void change(struct machine *machine)
{
    uint8_t choice = next(machine);
    if (choice & 1)
        fake_net_set_link(&machine->backend, choice & 2);
    else if (choice & 2)
        virtio_net_announce(machine->net);
    else if (choice & 4)
        reset(machine);
    serve(machine);
}

/* Serves until a chain is back: how often a loop turns until a kick has reached it is the kernel's business.
 */
static unsigned serve_until_back(struct machine *machine, unsigned queue, uint32_t *written)
{
    unsigned count = 0;
    for (unsigned tries = 0; tries < 1000 && count == 0; tries++) {
        serve(machine);
        count = collect(machine, queue, written);
    }
    return count;
}

/* What a proper driver does with a device that has been through anything. */
static void check_alive(struct machine *machine)
{
    uint8_t *out = mmio_guest_memory(&machine->guest, OUT), *in = mmio_guest_memory(&machine->guest, IN);
    uint8_t frame[100] = {0}, sent[100];
    struct queue_driver_buffer to_send = {OUT, sizeof(frame), false}, buffer = {IN, 2048, true};
    uint32_t written;
    memset(frame + NET_HEADER_SIZE, 0xFF, 14);
    fake_net_set_link(&machine->backend, true);
    mmio_guest_reset(&machine->guest);
    mmio_guest_start(&machine->guest, 0);
    memcpy(out, frame, sizeof(frame));
    check(mmio_guest_offer(&machine->guest, 1, 0, &to_send, 1, false));
    check(serve_until_back(machine, 1, &written) == 1);
    check(fake_net_take(&machine->backend, 0, sent, sizeof(sent)) == sizeof(frame));
    check(!memcmp(sent, frame, sizeof(frame)));
    for (unsigned tries = 0; fake_net_waiting(&machine->backend, 0) && tries < 20; tries++) {
        check(mmio_guest_offer(&machine->guest, 0, 0, &buffer, 1, false));
        serve_until_back(machine, 0, &written);
    }
    fake_net_put(&machine->backend, 0, frame, sizeof(frame));
    mmio_guest_offer(&machine->guest, 0, 0, &buffer, 1, false);
    check(serve_until_back(machine, 0, &written) == 1 && written == sizeof(frame));
    check(!memcmp(in + NET_HEADER_SIZE, frame + NET_HEADER_SIZE, sizeof(frame) - NET_HEADER_SIZE));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const steps[])(struct machine *) = {command, send, offer_buffers, put_frame, change};
    struct machine machine = {.data = data, .size = size};
    create(&machine);
    for (unsigned i = 0; i < STEPS_MAX && machine.size; i++)
        steps[next(&machine) % ARRAY_SIZE(steps)](&machine);
    check_alive(&machine);
    destroy(&machine);
    return 0;
}
