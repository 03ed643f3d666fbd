#include <pthread.h>

#include "devices/virtio/mmio.h"
#include "memory/address_space.h"
#include "memory/flat_view.h"
#include "memory/listener.h"
#include "tests/unit/devices/virtio_fixture.h"

#define BASE 0xFEB01000u

/* Registers, by their offsets in table 4.1 of the specification. */
enum {
    MAGIC = 0x000,
    VERSION = 0x004,
    DEVICE_ID = 0x008,
    VENDOR_ID = 0x00C,
    DEVICE_FEATURES = 0x010,
    DEVICE_FEATURES_SEL = 0x014,
    DRIVER_FEATURES = 0x020,
    DRIVER_FEATURES_SEL = 0x024,
    QUEUE_SEL = 0x030,
    QUEUE_NUM_MAX = 0x034,
    QUEUE_NUM = 0x038,
    QUEUE_READY = 0x044,
    QUEUE_NOTIFY = 0x050,
    INTERRUPT_STATUS = 0x060,
    INTERRUPT_ACK = 0x064,
    STATUS = 0x070,
    QUEUE_DESC = 0x080,
    QUEUE_DRIVER = 0x090,
    QUEUE_DEVICE = 0x0A0,
    SHM_SEL = 0x0AC,
    SHM_LEN = 0x0B0,
    SHM_BASE = 0x0B8,
    QUEUE_RESET = 0x0C0,
    CONFIG_GENERATION = 0x0FC,
    CONFIG = 0x100,
    SIZE = 0x200,
};

static struct virtio_fixture f;
static struct virtio_mmio *mmio;

static void start(void)
{
    fixture_start(&f);
    cr_assert_eq(virtio_mmio_create(f.guest.memory, f.device, f.irq_fd, &mmio, NULL), 0);
    virtio_guest_map(&f.guest, BASE, virtio_mmio_region(mmio));
}

static void end(void)
{
    virtio_guest_unmap(&f.guest, virtio_mmio_region(mmio));
    virtio_mmio_destroy(mmio);
    fixture_end(&f);
}

static uint32_t get(unsigned offset)
{
    uint32_t value = 0;
    cr_assert_eq(address_space_read(f.guest.space, BASE + offset, &value, sizeof(value)), 0, "0x%x", offset);
    return value;
}

static void set(unsigned offset, uint32_t value)
{
    cr_assert_eq(address_space_write(f.guest.space, BASE + offset, &value, sizeof(value)), 0, "0x%x", offset);
}

static void set_address(unsigned offset, uint64_t address)
{
    set(offset, (uint32_t)address);
    set(offset + 4, (uint32_t)(address >> 32));
}

static void negotiate(uint64_t features)
{
    set(STATUS, ACKNOWLEDGE);
    set(STATUS, ACKNOWLEDGE | DRIVER);
    for (unsigned half = 0; half < 2; half++) {
        set(DRIVER_FEATURES_SEL, half);
        set(DRIVER_FEATURES, (uint32_t)(features >> 32 * half));
    }
    set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    cr_assert(get(STATUS) & FEATURES_OK);
}

/* As section 4.2.3.2 says. */
static void enable(unsigned index)
{
    set(QUEUE_SEL, index);
    cr_assert_eq(get(QUEUE_READY), 0);
    cr_assert_eq(get(QUEUE_NUM_MAX), RING_MAX);
    driver_ring_init(&f.rings[index], &f.guest, index, RING_SIZE);
    set(QUEUE_NUM, RING_SIZE);
    set_address(QUEUE_DESC, f.rings[index].descriptors);
    set_address(QUEUE_DRIVER, f.rings[index].driver);
    set_address(QUEUE_DEVICE, f.rings[index].device);
    set(QUEUE_READY, 1);
    cr_assert_eq(get(QUEUE_READY), 1);
}

static void bring_up(uint64_t features)
{
    negotiate(VERSION_1 | features);
    for (unsigned i = 0; i < QUEUES; i++)
        enable(i);
    set(STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    cr_assert_eq(get(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

static void echo_once(unsigned index, const char *text)
{
    offer(&f, index, text);
    set(QUEUE_NOTIFY, index);
    expect_echo(&f, index, text);
}

TestSuite(virtio_mmio, .init = start, .fini = end);

Test(virtio_mmio, says_what_it_is)
{
    cr_assert_eq(get(MAGIC), 0x74726976);
    cr_assert_eq(get(VERSION), 2);
    cr_assert_eq(get(DEVICE_ID), ECHO_ID);
    cr_assert_neq(get(VENDOR_ID), 0);
    cr_assert_eq(get(STATUS), 0);
    cr_assert_eq(memory_region_size(virtio_mmio_region(mmio)), SIZE);
}

Test(virtio_mmio, shows_features_by_halves)
{
    uint64_t offered = virtio_offered_features(f.device);
    set(DEVICE_FEATURES_SEL, 0);
    cr_assert_eq(get(DEVICE_FEATURES), (uint32_t)offered);
    set(DEVICE_FEATURES_SEL, 1);
    cr_assert_eq(get(DEVICE_FEATURES), (uint32_t)(offered >> 32));
    set(DEVICE_FEATURES_SEL, 2);
    cr_assert_eq(get(DEVICE_FEATURES), 0);
    set(DEVICE_FEATURES_SEL, UINT32_MAX);
    cr_assert_eq(get(DEVICE_FEATURES), 0);
}

Test(virtio_mmio, accepts_features_by_halves)
{
    set(DRIVER_FEATURES_SEL, 2);
    set(DRIVER_FEATURES, UINT32_MAX);
    cr_assert_eq(virtio_accepted_features(f.device), 0);
    negotiate(VERSION_1 | BIT(3));
    cr_assert_eq(virtio_accepted_features(f.device), VERSION_1 | BIT(3));
}

Test(virtio_mmio, serves_a_driver)
{
    bring_up(BIT(VIRTIO_RING_F_INDIRECT_DESC));
    for (unsigned round = 0; round < 20; round++)
        for (unsigned i = 0; i < QUEUES; i++)
            echo_once(i, "echo");
}

Test(virtio_mmio, says_why_it_interrupted_until_that_is_acknowledged)
{
    bring_up(0);
    cr_assert_eq(get(INTERRUPT_STATUS), 0);
    echo_once(0, "interrupt");
    cr_assert_eq(get(INTERRUPT_STATUS), 1);
    virtio_config_changed(f.device);
    wait_for_interrupt(&f);
    cr_assert_eq(get(INTERRUPT_STATUS), 3);
    set(INTERRUPT_ACK, 1);
    cr_assert_eq(get(INTERRUPT_STATUS), 2);
    set(INTERRUPT_ACK, 0xFFFFFFFC);
    cr_assert_eq(get(INTERRUPT_STATUS), 2);
    set(INTERRUPT_ACK, UINT32_MAX);
    cr_assert_eq(get(INTERRUPT_STATUS), 0);
}

Test(virtio_mmio, forgets_on_reset)
{
    bring_up(0);
    echo_once(0, "x");
    set(QUEUE_SEL, QUEUES);
    set(DEVICE_FEATURES_SEL, 1);
    set(DRIVER_FEATURES_SEL, 1);
    set(STATUS, 0);
    cr_assert_eq(get(STATUS), 0);
    cr_assert_eq(get(INTERRUPT_STATUS), 0);
    cr_assert_eq(get(DEVICE_FEATURES), (uint32_t)virtio_offered_features(f.device));
    cr_assert_eq(get(QUEUE_NUM_MAX), RING_MAX);
    set(DRIVER_FEATURES, 8);
    cr_assert_eq(virtio_accepted_features(f.device), 8);
    for (unsigned i = 0; i < QUEUES; i++) {
        set(QUEUE_SEL, i);
        cr_assert_eq(get(QUEUE_READY), 0);
    }
    bring_up(0);
    echo_once(3, "again");
}

Test(virtio_mmio, a_status_beyond_a_byte_does_nothing)
{
    bring_up(0);
    set(STATUS, 0x100);
    set(STATUS, 0xFFFFFF00);
    set(STATUS, 0x180);
    cr_assert_eq(get(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    echo_once(0, "no reset");
}

Test(virtio_mmio, addresses_may_be_written_by_halves_in_any_order)
{
    set(QUEUE_SEL, 2);
    set(QUEUE_DESC + 4, 0x89ABCDEF);
    set(QUEUE_DESC, 0x01234567);
    set(QUEUE_DRIVER, 0x11111111);
    set(QUEUE_DEVICE + 4, 0x22222222);
    struct virtio_queue_setup setup = virtio_queue_get_setup(f.device, 2);
    cr_assert_eq(setup.descriptors, 0x89ABCDEF01234567);
    cr_assert_eq(setup.driver, 0x11111111);
    cr_assert_eq(setup.device, 0x2222222200000000);
    set(QUEUE_DESC, 0);
    cr_assert_eq(virtio_queue_get_setup(f.device, 2).descriptors, 0x89ABCDEF00000000);
    cr_assert_eq(virtio_queue_get_setup(f.device, 1).descriptors, 0);
}

Test(virtio_mmio, half_an_address_breaks_the_device_only)
{
    negotiate(VERSION_1);
    enable(1);
    set(QUEUE_SEL, 0);
    set(QUEUE_NUM, RING_SIZE);
    set(QUEUE_DESC + 4, 0x100);
    set(QUEUE_READY, 1);
    set(STATUS, DRIVER_OK);
    while (!(get(STATUS) & NEEDS_RESET))
        wait_for_interrupt(&f);
    cr_assert(get(INTERRUPT_STATUS) & 2);
    echo_once(1, "next door");
}

Test(virtio_mmio, a_size_beyond_16_bits_is_no_size)
{
    set(QUEUE_SEL, 0);
    uint32_t sizes[] = {0x10010, 0x10000, UINT32_MAX, 0, RING_MAX + 1};
    for (unsigned i = 0; i < 5; i++) {
        set(QUEUE_NUM, sizes[i]);
        set(QUEUE_READY, 1);
        cr_assert_eq(get(QUEUE_READY), 0, "0x%x", sizes[i]);
    }
    set(QUEUE_NUM, 16);
    set(QUEUE_READY, 2);
    cr_assert_eq(get(QUEUE_READY), 0);
    set(QUEUE_READY, 1);
    cr_assert_eq(get(QUEUE_READY), 1);
}

Test(virtio_mmio, a_queue_that_is_not_there_has_no_size_and_takes_no_harm)
{
    bring_up(0);
    uint32_t missing[] = {QUEUES, 0x8000, 0x10000, UINT32_MAX};
    for (unsigned i = 0; i < 4; i++) {
        set(QUEUE_SEL, missing[i]);
        cr_assert_eq(get(QUEUE_NUM_MAX), 0);
        set(QUEUE_NUM, 16);
        set_address(QUEUE_DESC, 0x10000);
        set(QUEUE_READY, 1);
        cr_assert_eq(get(QUEUE_READY), 0);
        set(QUEUE_RESET, 1);
        cr_assert_eq(get(QUEUE_RESET), 0);
        set(QUEUE_READY, 0);
        set(QUEUE_NOTIFY, missing[i]);
    }
    echo_once(0, "alive");
}

Test(virtio_mmio, does_not_change_an_enabled_queue)
{
    bring_up(0);
    set(QUEUE_SEL, 0);
    set(QUEUE_NUM, 8);
    set_address(QUEUE_DESC, 0xDEAD0000);
    set_address(QUEUE_DRIVER, 0xDEAD0000);
    set_address(QUEUE_DEVICE, 0xDEAD0000);
    set(QUEUE_READY, 1);
    echo_once(0, "as it was");
    set(STATUS, 0);
}

Test(virtio_mmio, a_queue_may_be_taken_away_and_brought_back)
{
    bring_up(0);
    set(QUEUE_SEL, 1);
    set(QUEUE_READY, 0);
    cr_assert_eq(get(QUEUE_READY), 0);
    set(QUEUE_NOTIFY, 1);
    echo_once(0, "goes on");
    enable(1);
    set(QUEUE_READY, 2);
    set(QUEUE_READY, UINT32_MAX);
    cr_assert_eq(get(QUEUE_READY), 1);
    echo_once(1, "is back");
}

Test(virtio_mmio, resets_its_device_when_it_is_destroyed)
{
    bring_up(0);
    virtio_guest_unmap(&f.guest, virtio_mmio_region(mmio));
    virtio_mmio_destroy(mmio);
    cr_assert_eq(virtio_get_status(f.device), 0);
    cr_assert_eq(f.echo.queue_stops, QUEUES);
    cr_assert_eq(virtio_mmio_create(f.guest.memory, f.device, f.irq_fd, &mmio, NULL), 0);
    virtio_guest_map(&f.guest, BASE, virtio_mmio_region(mmio));
    bring_up(0);
    echo_once(0, "anew");
}

Test(virtio_mmio, resets_one_queue)
{
    bring_up(BIT(VIRTIO_F_RING_RESET));
    set(QUEUE_SEL, 1);
    set(QUEUE_RESET, 0);
    cr_assert_eq(get(QUEUE_READY), 1);
    set(QUEUE_RESET, 1);
    cr_assert_eq(get(QUEUE_RESET), 0);
    cr_assert_eq(get(QUEUE_READY), 0);
    enable(1);
    cr_assert_eq(get(QUEUE_RESET), 0);
    echo_once(1, "is back");
    echo_once(0, "goes on");
}

static void *reset_queue_1(void *opaque)
{
    set(QUEUE_RESET, 1);
    return NULL;
}

Test(virtio_mmio, shows_that_a_queue_is_being_reset)
{
    bring_up(BIT(VIRTIO_F_RING_RESET));
    f.echo.late = true;
    offer(&f, 1, "slow");
    set(QUEUE_NOTIFY, 1);
    wait_until_held(&f, 1);
    set(QUEUE_SEL, 1);
    pthread_t vcpu;
    pthread_create(&vcpu, NULL, reset_queue_1, NULL);
    wait_until_stopping(&f, 1);
    cr_assert_eq(get(QUEUE_RESET), 1);
    echo_release(&f.echo, 1);
    pthread_join(vcpu, NULL);
    cr_assert_eq(get(QUEUE_RESET), 0);
    cr_assert_eq(get(QUEUE_READY), 0);
}

Test(virtio_mmio, has_no_shared_memory)
{
    for (uint32_t id = 0; id < 3; id++) {
        set(SHM_SEL, id);
        for (unsigned offset = 0; offset < 8; offset += 4) {
            cr_assert_eq(get(SHM_LEN + offset), UINT32_MAX);
            cr_assert_eq(get(SHM_BASE + offset), UINT32_MAX);
        }
    }
}

/* ---- Accesses that are not those of the specification ---- */

static void expect_access(unsigned offset, unsigned size, bool allowed)
{
    uint64_t value = 0;
    int result = address_space_read(f.guest.space, BASE + offset, &value, size);
    cr_assert_eq(result == 0, allowed, "read of %u bytes at 0x%x", size, offset);
    if (!allowed)
        cr_assert_eq(value, size == 8 ? UINT64_MAX : BIT(8 * size) - 1);
    value = 0;
    result = address_space_write(f.guest.space, BASE + offset, &value, size);
    cr_assert_eq(result == 0, allowed, "write of %u bytes at 0x%x", size, offset);
}

Test(virtio_mmio, registers_are_accessed_by_aligned_words)
{
    bring_up(0);
    for (unsigned offset = 0; offset < CONFIG; offset++) {
        expect_access(offset, 1, false);
        expect_access(offset, 2, false);
        expect_access(offset, 8, false);
        if (offset % 4)
            expect_access(offset, 4, false);
    }
    cr_assert_eq(get(STATUS), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

Test(virtio_mmio, the_configuration_is_accessed_by_aligned_bytes_halves_and_words)
{
    for (unsigned offset = CONFIG; offset < SIZE; offset++)
        for (unsigned size = 1; size <= 8; size *= 2)
            if (offset + size <= SIZE)
                expect_access(offset, size, size <= 4 && offset % size == 0);
}

Test(virtio_mmio, reads_and_writes_the_configuration)
{
    for (unsigned i = 0; i < ECHO_CONFIG_SIZE; i++)
        f.echo.config[i] = (uint8_t)(0x10 + i);
    cr_assert_eq(get(CONFIG), 0x13121110);
    cr_assert_eq(get(CONFIG + 8), 0x00001918);
    cr_assert_eq(get(CONFIG + 12), 0);
    uint16_t half = 0xBEEF;
    cr_assert_eq(address_space_write(f.guest.space, BASE + CONFIG + 6, &half, 2), 0);
    cr_assert_eq(get(CONFIG + 4), 0xBEEF1514);
    set(CONFIG + 8, UINT32_MAX);
    cr_assert_eq(get(CONFIG + 8), 0x0000FFFF);
    set(SIZE - 4, UINT32_MAX);
    cr_assert_eq(get(SIZE - 4), 0);
    uint32_t generation = get(CONFIG_GENERATION);
    virtio_config_changed(f.device);
    cr_assert_neq(get(CONFIG_GENERATION), generation);
}

Test(virtio_mmio, any_register_may_be_read_and_written_at_any_time)
{
    uint32_t values[] = {0, 1, 2, 0xF, 0x80, 0xFFFF, UINT32_MAX};
    for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        for (unsigned first = 0; first < CONFIG; first += 4) {
            set(first, values[i]);
            get(first);
            set(STATUS, 0xF);
            set(first, values[(i + 1) % 7]);
        }
        set(STATUS, 0);
    }
    bring_up(0);
    echo_once(0, "unharmed");
}

/* ---- Notifications without exits ---- */

struct fds {
    struct memory_listener listener;
    unsigned count;
};

static int hear_fd(struct memory_listener *listener, const struct memory_change *change,
                   const struct flat_ioeventfd *fd, struct error *err)
{
    struct fds *fds = (struct fds *)listener;
    cr_assert_eq(fd->address, BASE + QUEUE_NOTIFY);
    cr_assert_eq(fd->length, 4);
    cr_assert(fd->match);
    cr_assert_lt(fd->data, QUEUES);
    cr_assert_eq(fd->fd, virtio_queue_kick_fd(f.device, (unsigned)fd->data));
    fds->count++;
    return 0;
}

Test(virtio_mmio, each_queue_has_an_ioeventfd)
{
    static const struct memory_listener_ops ops = {.ioeventfd_add = hear_fd};
    struct fds fds = {.listener = {.name = "fds", .ops = &ops}};
    cr_assert_eq(memory_listener_register(&fds.listener, f.guest.space, NULL), 0);
    cr_assert_eq(fds.count, QUEUES);
    memory_listener_unregister(&fds.listener);
}

Test(virtio_mmio, an_ioeventfd_does_what_a_write_does)
{
    bring_up(0);
    offer(&f, 2, "no exit");
    eventfd_write(virtio_queue_kick_fd(f.device, 2), 1);
    expect_echo(&f, 2, "no exit");
}

/* ---- Several vCPUs ---- */

static void *write_anything(void *opaque)
{
    unsigned seed = *(unsigned *)opaque;
    for (unsigned i = 0; i < 3000; i++) {
        static const uint32_t values[] = {0, 1, 2, 3, 8, 0xB, 0xF, 16, 0x10000, 0x14000};
        seed = seed * 1103515245 + 12345;
        unsigned offset = seed >> 16 & 0xFC;
        set(offset, values[(seed >> 8) % 10]);
        get(offset);
        if (i % 16 == 0) {
            set(STATUS, 0xF);
            set(QUEUE_NOTIFY, seed >> 20 & 3);
        }
    }
    return NULL;
}

Test(virtio_mmio, vcpus_may_write_anything_at_the_same_time)
{
    unsigned seeds[] = {1, 2, 3};
    pthread_t vcpus[3];
    for (int i = 0; i < 3; i++)
        pthread_create(&vcpus[i], NULL, write_anything, &seeds[i]);
    for (int i = 0; i < 3; i++)
        pthread_join(vcpus[i], NULL);
    set(STATUS, 0);
    bring_up(0);
    for (unsigned i = 0; i < QUEUES; i++)
        echo_once(i, "unharmed");
}
