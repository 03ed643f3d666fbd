#include <errno.h>
#include <pthread.h>
#include <semaphore.h>

#include "base/log.h"
#include "memory/address_space.h"
#include "tests/unit/devices/virtio_fixture.h"

static struct virtio_fixture f;
static _Atomic unsigned queue_interrupts, config_interrupts;

static void interrupt_queue(void *opaque, unsigned index)
{
    queue_interrupts++;
    eventfd_write(f.irq_fd, 1);
}

static void interrupt_config(void *opaque)
{
    config_interrupts++;
    eventfd_write(f.irq_fd, 1);
}

static void start(void)
{
    static const struct virtio_transport_ops transport = {interrupt_queue, interrupt_config};
    fixture_start(&f);
    virtio_set_transport(f.device, &transport, NULL);
}

static void end(void)
{
    fixture_end(&f);
}

static void accept(uint64_t features)
{
    virtio_accept_features(f.device, 0, (uint32_t)features);
    virtio_accept_features(f.device, 1, (uint32_t)(features >> 32));
}

/* Up to and with FEATURES_OK. */
static void negotiate(uint64_t features)
{
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER);
    accept(features);
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    cr_assert(virtio_get_status(f.device) & FEATURES_OK);
}

static void set_up(unsigned index)
{
    driver_ring_init(&f.rings[index], &f.guest, index, RING_SIZE);
    struct virtio_queue_setup setup = {.size = RING_SIZE,
                                       .descriptors = f.rings[index].descriptors,
                                       .driver = f.rings[index].driver,
                                       .device = f.rings[index].device};
    virtio_queue_set_setup(f.device, index, &setup);
}

static void enable(unsigned index)
{
    set_up(index);
    virtio_queue_enable(f.device, index);
    cr_assert(virtio_queue_get_setup(f.device, index).enabled);
}

static void set_driver_ok(void)
{
    virtio_set_status(f.device, virtio_get_status(f.device) | DRIVER_OK);
}

static void bring_up(uint64_t features)
{
    negotiate(VERSION_1 | features);
    for (unsigned i = 0; i < QUEUES; i++)
        enable(i);
    set_driver_ok();
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

static void echo_once(unsigned index, const char *text)
{
    offer(&f, index, text);
    virtio_queue_kick(f.device, index);
    expect_echo(&f, index, text);
}

static void wait_for_status(uint8_t bits)
{
    while (!(virtio_get_status(f.device) & bits))
        wait_for_interrupt(&f);
}

TestSuite(virtio_device, .init = start, .fini = end);

/* ---- Negotiation ---- */

Test(virtio_device, offers_what_rings_do_beside_its_own)
{
    uint64_t own = BIT(3);
    cr_assert_eq(virtio_offered_features(f.device), own | VERSION_1 | BIT(VIRTIO_F_RING_PACKED) |
                                                        BIT(VIRTIO_F_IN_ORDER) | BIT(VIRTIO_F_RING_RESET) |
                                                        BIT(VIRTIO_RING_F_EVENT_IDX) |
                                                        BIT(VIRTIO_RING_F_INDIRECT_DESC));
}

static void expect_refusal(uint64_t features)
{
    virtio_set_status(f.device, 0);
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER);
    accept(features);
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE | DRIVER);
    cr_assert_eq(f.device->features, 0);
}

Test(virtio_device, refuses_features_without_version_1_or_that_it_did_not_offer)
{
    expect_refusal(0);
    expect_refusal(BIT(VIRTIO_RING_F_EVENT_IDX));
    expect_refusal(VERSION_1 | BIT(0));
    expect_refusal(VERSION_1 | BIT(VIRTIO_F_ACCESS_PLATFORM));
    expect_refusal(VERSION_1 | BIT(63));
    expect_refusal(UINT64_MAX);
}

Test(virtio_device, can_negotiate_again_after_a_refusal)
{
    expect_refusal(VERSION_1 | BIT(0));
    accept(VERSION_1);
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER | FEATURES_OK);
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

Test(virtio_device, keeps_features_from_features_ok_until_a_reset)
{
    negotiate(VERSION_1 | BIT(3));
    accept(VERSION_1);
    cr_assert_eq(virtio_accepted_features(f.device), VERSION_1 | BIT(3));
    cr_assert_eq(f.device->features, VERSION_1 | BIT(3));
    cr_assert(virtio_has_feature(f.device, VIRTIO_F_VERSION_1) && !virtio_has_feature(f.device, 4));
    virtio_set_status(f.device, 0);
    cr_assert_eq(virtio_accepted_features(f.device), 0);
    cr_assert_eq(f.device->features, 0);
    negotiate(VERSION_1);
    cr_assert_eq(f.device->features, VERSION_1);
}

Test(virtio_device, takes_each_half_of_the_features_by_itself)
{
    virtio_accept_features(f.device, 1, 0xFFFF0000);
    virtio_accept_features(f.device, 0, 0x0000FFFF);
    virtio_accept_features(f.device, 2, 0xFFFFFFFF);
    virtio_accept_features(f.device, UINT32_MAX, 0xFFFFFFFF);
    cr_assert_eq(virtio_accepted_features(f.device), 0xFFFF00000000FFFF);
    virtio_accept_features(f.device, 0, 0);
    cr_assert_eq(virtio_accepted_features(f.device), 0xFFFF000000000000);
}

Test(virtio_device, status_bits_stay_until_a_reset)
{
    virtio_set_status(f.device, ACKNOWLEDGE);
    virtio_set_status(f.device, DRIVER);
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE | DRIVER);
    virtio_set_status(f.device, FAILED);
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE | DRIVER | FAILED);
    virtio_set_status(f.device, 0);
    cr_assert_eq(virtio_get_status(f.device), 0);
}

Test(virtio_device, needs_reset_and_bits_without_meaning_are_not_the_drivers_to_set)
{
    virtio_set_status(f.device, NEEDS_RESET | 16 | 32 | ACKNOWLEDGE);
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE);
}

Test(virtio_device, does_not_start_before_features_ok)
{
    enable(0);
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER | DRIVER_OK);
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE | DRIVER);
    accept(VERSION_1 | BIT(0));
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    cr_assert_eq(virtio_get_status(f.device), ACKNOWLEDGE | DRIVER);
    cr_assert_eq(f.echo.starts, 0);
    cr_assert_eq(f.echo.queue_starts, 0);
}

Test(virtio_device, starts_when_all_bits_come_at_once)
{
    accept(VERSION_1);
    enable(0);
    virtio_set_status(f.device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    cr_assert_eq(f.echo.starts, 1);
    echo_once(0, "all at once");
}

Test(virtio_device, starts_once)
{
    bring_up(0);
    set_driver_ok();
    virtio_set_status(f.device, DRIVER_OK);
    virtio_set_status(f.device, FEATURES_OK | DRIVER_OK);
    cr_assert_eq(f.echo.starts, 1);
    cr_assert_eq(f.echo.queue_starts, QUEUES);
}

Test(virtio_device, needs_a_reset_where_its_kind_does_not_start)
{
    f.echo.start_result = -EIO;
    negotiate(VERSION_1);
    enable(0);
    set_driver_ok();
    cr_assert(virtio_get_status(f.device) & NEEDS_RESET);
    cr_assert_eq(config_interrupts, 1);
    enable(1);
    cr_assert_eq(f.echo.queue_starts, 0);
    f.echo.start_result = 0;
    virtio_set_status(f.device, 0);
    bring_up(0);
    echo_once(1, "better");
}

/* ---- Configuration ---- */

Test(virtio_device, cuts_configuration_accesses_to_the_space)
{
    uint8_t data[4] = {1, 2, 3, 4};
    virtio_write_config(f.device, ECHO_CONFIG_SIZE - 2, data, 4);
    virtio_write_config(f.device, ECHO_CONFIG_SIZE, data, 4);
    virtio_write_config(f.device, UINT32_MAX, data, 4);
    memset(data, 0xEE, 4);
    virtio_read_config(f.device, ECHO_CONFIG_SIZE - 2, data, 4);
    cr_assert_eq(memcmp(data, "\1\2\0\0", 4), 0);
    memset(data, 0xEE, 4);
    virtio_read_config(f.device, UINT32_MAX - 1, data, 4);
    cr_assert_eq(memcmp(data, "\0\0\0\0", 4), 0);
}

Test(virtio_device, tells_of_a_changed_configuration_once_the_driver_is_ready)
{
    uint8_t generation = virtio_config_generation(f.device);
    virtio_config_changed(f.device);
    cr_assert_neq(virtio_config_generation(f.device), generation);
    cr_assert_eq(config_interrupts, 0);
    bring_up(0);
    virtio_config_changed(f.device);
    cr_assert_eq(config_interrupts, 1);
    virtio_set_status(f.device, 0);
    virtio_config_changed(f.device);
    cr_assert_eq(config_interrupts, 1);
}

/* ---- Queues ---- */

Test(virtio_device, knows_the_queues_it_has)
{
    cr_assert_eq(virtio_queue_size_max(f.device, QUEUES - 1), RING_MAX);
    cr_assert_geq(virtio_queue_kick_fd(f.device, QUEUES - 1), 0);
    unsigned missing[] = {QUEUES, 64, UINT16_MAX, UINT32_MAX};
    for (unsigned i = 0; i < 4; i++) {
        struct virtio_queue_setup setup = {.size = 16};
        virtio_queue_set_setup(f.device, missing[i], &setup);
        virtio_queue_enable(f.device, missing[i]);
        virtio_queue_kick(f.device, missing[i]);
        virtio_queue_disable(f.device, missing[i]);
        virtio_queue_reset(f.device, missing[i]);
        cr_assert_eq(virtio_queue_size_max(f.device, missing[i]), 0);
        cr_assert_eq(virtio_queue_get_setup(f.device, missing[i]).size, 0);
        cr_assert_eq(virtio_queue_kick_fd(f.device, missing[i]), -1);
    }
}

Test(virtio_device, an_enabled_queue_keeps_its_setup)
{
    cr_assert_eq(virtio_queue_get_setup(f.device, 0).size, RING_MAX);
    enable(0);
    struct virtio_queue_setup other = {.size = 8, .descriptors = 16, .driver = 16, .device = 16};
    virtio_queue_set_setup(f.device, 0, &other);
    struct virtio_queue_setup setup = virtio_queue_get_setup(f.device, 0);
    cr_assert(setup.enabled);
    cr_assert_eq(setup.size, RING_SIZE);
    cr_assert_eq(setup.descriptors, f.rings[0].descriptors);
    virtio_queue_disable(f.device, 0);
    setup = virtio_queue_get_setup(f.device, 0);
    cr_assert(!setup.enabled);
    cr_assert_eq(setup.size, RING_MAX);
    cr_assert_eq(setup.descriptors, 0);
}

Test(virtio_device, a_setup_cannot_enable)
{
    struct virtio_queue_setup setup = {.size = 8, .enabled = true, .resetting = true};
    virtio_queue_set_setup(f.device, 0, &setup);
    cr_assert(!virtio_queue_get_setup(f.device, 0).enabled);
    cr_assert(!virtio_queue_get_setup(f.device, 0).resetting);
}

Test(virtio_device, does_not_enable_a_queue_of_a_size_out_of_range)
{
    uint16_t sizes[] = {0, RING_MAX + 1, RING_MAX * 2, UINT16_MAX};
    for (unsigned i = 0; i < 4; i++) {
        virtio_queue_set_setup(f.device, 0, &(struct virtio_queue_setup){.size = sizes[i]});
        virtio_queue_enable(f.device, 0);
        cr_assert(!virtio_queue_get_setup(f.device, 0).enabled, "%u", sizes[i]);
    }
}

Test(virtio_device, serves_only_enabled_queues_and_those_enabled_later)
{
    negotiate(VERSION_1);
    enable(1);
    virtio_queue_enable(f.device, 1);
    set_driver_ok();
    cr_assert_eq(f.echo.queue_starts, 1);
    echo_once(1, "early");
    virtio_queue_kick(f.device, 3);
    enable(3);
    virtio_queue_enable(f.device, 3);
    cr_assert_eq(f.echo.queue_starts, 2);
    echo_once(3, "late");
}

static void expect_bad_setup(uint64_t features, struct virtio_queue_setup setup)
{
    unsigned starts = f.echo.queue_starts, interrupts = config_interrupts;
    negotiate(features);
    virtio_queue_set_setup(f.device, 0, &setup);
    virtio_queue_enable(f.device, 0);
    enable(1);
    set_driver_ok();
    cr_assert(virtio_get_status(f.device) & NEEDS_RESET);
    cr_assert_eq(f.echo.queue_starts, starts + 1);
    cr_assert_eq(config_interrupts, interrupts + 1);
    echo_once(1, "next door");
    virtio_set_status(f.device, 0);
    cr_assert_eq(virtio_get_status(f.device), 0);
}

Test(virtio_device, needs_a_reset_for_a_queue_that_cannot_be)
{
    expect_bad_setup(VERSION_1, (struct virtio_queue_setup){.size = 12});
    expect_bad_setup(VERSION_1, (struct virtio_queue_setup){.size = 16, .descriptors = 8});
    expect_bad_setup(VERSION_1, (struct virtio_queue_setup){.size = 16, .driver = 1});
    bring_up(0);
    echo_once(0, "healed");
}

Test(virtio_device, makes_packed_queues_where_that_was_accepted)
{
    negotiate(VERSION_1 | BIT(VIRTIO_F_RING_PACKED));
    struct virtio_queue_setup setup = {
        .size = 12, .descriptors = 0x10000, .driver = 0x11000, .device = 0x12000};
    virtio_queue_set_setup(f.device, 0, &setup);
    virtio_queue_enable(f.device, 0);
    set_driver_ok();
    cr_assert(!(virtio_get_status(f.device) & NEEDS_RESET));
    cr_assert_eq(f.echo.queue_starts, 1);
}

/* ---- Requests ---- */

Test(virtio_device, serves_each_queue_on_its_loop)
{
    bring_up(0);
    for (unsigned round = 0; round < 50; round++) {
        char text[32];
        for (unsigned i = 0; i < QUEUES; i++) {
            snprintf(text, sizeof(text), "queue %u round %u", i, round);
            offer(&f, i, text);
            virtio_queue_kick(f.device, i);
        }
        for (unsigned i = 0; i < QUEUES; i++) {
            snprintf(text, sizeof(text), "queue %u round %u", i, round);
            expect_echo(&f, i, text);
        }
    }
}

Test(virtio_device, interrupts_by_event_idx_where_that_was_accepted)
{
    bring_up(BIT(VIRTIO_RING_F_EVENT_IDX));
    echo_once(0, "the first is asked for");
    unsigned interrupts = queue_interrupts;
    offer(&f, 0, "the second is not");
    virtio_queue_kick(f.device, 0);
    char data[DRIVER_BUFFER_SIZE];
    uint32_t size;
    while (!driver_take(&f.rings[0], data, &size))
        sched_yield();
    virtio_set_status(f.device, 0);
    cr_assert_eq(queue_interrupts, interrupts);
}

static void put_descriptor(unsigned index, uint64_t at, struct vring_desc descriptor)
{
    cr_assert_eq(address_space_write(f.guest.space, f.rings[index].descriptors + at * sizeof(descriptor),
                                     &descriptor, sizeof(descriptor)),
                 0);
}

/* The next chain of queue 0 is one descriptor, which leads to a table with that of slot 1. */
static void kick_indirectly(void)
{
    uint64_t table = f.rings[0].descriptors + 2 * sizeof(struct vring_desc);
    offer(&f, 0, "first");
    offer(&f, 0, "leads");
    put_descriptor(0, 3, (struct vring_desc){f.rings[0].buffers + 256, 5, VRING_DESC_F_WRITE, 0});
    put_descriptor(0, 2, (struct vring_desc){f.rings[0].buffers, 5, VRING_DESC_F_NEXT, 1});
    put_descriptor(0, 0, (struct vring_desc){table, 32, VRING_DESC_F_INDIRECT, 0});
    f.rings[0].offered--;
    uint16_t one = 1;
    cr_assert_eq(address_space_write(f.guest.space, f.rings[0].driver + 2, &one, sizeof(one)), 0);
    virtio_queue_kick(f.device, 0);
}

Test(virtio_device, follows_indirect_tables_where_that_was_accepted)
{
    bring_up(BIT(VIRTIO_RING_F_INDIRECT_DESC));
    kick_indirectly();
    expect_echo(&f, 0, "first");
    virtio_set_status(f.device, 0);
    bring_up(0);
    kick_indirectly();
    wait_for_status(NEEDS_RESET);
}

/* The first of two chains comes back last. */
static void finish_second_before_first(void)
{
    f.echo.late = true;
    offer(&f, 0, "one");
    virtio_queue_kick(f.device, 0);
    wait_until_held(&f, 1);
    f.echo.late = false;
    offer(&f, 0, "two");
    virtio_queue_kick(f.device, 0);
}

Test(virtio_device, gives_back_in_order_where_that_was_accepted)
{
    bring_up(0);
    finish_second_before_first();
    expect_echo(&f, 0, "two");
    echo_release(&f.echo, 0);
    expect_echo(&f, 0, "one");
    virtio_set_status(f.device, 0);
    bring_up(BIT(VIRTIO_F_IN_ORDER));
    finish_second_before_first();
    echo_once(2, "same loop");
    echo_release(&f.echo, 0);
    expect_echo(&f, 0, "one");
    expect_echo(&f, 0, "two");
}

Test(virtio_device, serves_what_was_there_before_it_started)
{
    negotiate(VERSION_1);
    enable(0);
    offer(&f, 0, "no kick");
    offer(&f, 0, "at all");
    set_driver_ok();
    expect_echo(&f, 0, "no kick");
    expect_echo(&f, 0, "at all");
}

Test(virtio_device, kicks_of_a_queue_that_is_not_enabled_are_lost)
{
    virtio_queue_kick(f.device, 0);
    bring_up(0);
    virtio_queue_disable(f.device, 0);
    for (int i = 0; i < 100; i++)
        virtio_queue_kick(f.device, 0);
    echo_once(2, "same loop");
    cr_assert_eq(f.echo.queue_stops, 1);
    enable(0);
    echo_once(0, "back");
}

/* The driver's index says that more is offered than there is room for. */
static void break_ring(unsigned index)
{
    uint16_t far = (uint16_t)(f.rings[index].offered + RING_SIZE + 1);
    cr_assert_eq(address_space_write(f.guest.space, f.rings[index].driver + 2, &far, sizeof(far)), 0);
    virtio_queue_kick(f.device, index);
    wait_for_status(NEEDS_RESET);
}

Test(virtio_device, a_broken_queue_is_silent_and_the_others_go_on)
{
    bring_up(0);
    echo_once(0, "whole");
    break_ring(0);
    cr_assert_eq(config_interrupts, 1);
    for (int i = 0; i < 100; i++)
        virtio_queue_kick(f.device, 0);
    echo_once(2, "same loop");
    echo_once(1, "other loop");
    cr_assert_eq(f.echo.breaks, 1);
    cr_assert_eq(config_interrupts, 1);
}

Test(virtio_device, a_reset_heals_a_broken_queue)
{
    for (int i = 0; i < 30; i++) {
        bring_up(0);
        break_ring(i % QUEUES);
        virtio_set_status(f.device, 0);
        cr_assert_eq(virtio_get_status(f.device), 0);
    }
    bring_up(0);
    echo_once(0, "healed");
}

Test(virtio_device, a_guest_that_breaks_its_device_does_not_fill_the_log)
{
    int ends[2];
    cr_assert_eq(pipe(ends), 0);
    struct log log = {.fd = ends[1], .level = LOG_INFO, .name = "godwit"};
    f.device->log = &log;
    for (int i = 0; i < 40; i++) {
        bring_up(0);
        break_ring(0);
        virtio_set_status(f.device, 0);
    }
    char text[16384];
    ssize_t length = read(ends[0], text, sizeof(text) - 1);
    cr_assert_gt(length, 0);
    text[length] = 0;
    unsigned lines = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"), lines++) {
        cr_assert(strstr(line, "godwit: warn: virtio-echo queue 0: "), "%s", line);
        cr_assert_eq(!strstr(line, "not shown"), lines < 15);
    }
    cr_assert_eq(lines, 16);
    close(ends[0]);
    close(ends[1]);
}

/* ---- Resets ---- */

Test(virtio_device, a_reset_stops_every_queue_and_forgets_them)
{
    bring_up(0);
    echo_once(0, "before");
    virtio_set_status(f.device, 0);
    cr_assert_eq(f.echo.resets, 1);
    cr_assert_eq(f.echo.queue_stops, QUEUES);
    for (unsigned i = 0; i < QUEUES; i++) {
        struct virtio_queue_setup setup = virtio_queue_get_setup(f.device, i);
        cr_assert(!setup.enabled && setup.size == RING_MAX && !setup.descriptors);
    }
    bring_up(0);
    echo_once(0, "after");
}

static void *reset_device(void *opaque)
{
    virtio_set_status(f.device, 0);
    return NULL;
}

static void *reset_queue_0(void *opaque)
{
    virtio_queue_reset(f.device, 0);
    return NULL;
}

static pthread_t begin(void *(*function)(void *))
{
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, function, NULL), 0);
    return thread;
}

/* Offers a chain on each of two queues of one loop and one of the other, which the device holds. */
static void hold_three(void)
{
    f.echo.late = true;
    for (unsigned i = 0; i < 3; i++) {
        offer(&f, i, "takes long");
        virtio_queue_kick(f.device, i);
    }
    wait_until_held(&f, 3);
}

Test(virtio_device, a_reset_waits_for_requests_under_way)
{
    for (unsigned round = 1; round <= 3; round++) {
        bring_up(0);
        hold_three();
        pthread_t vcpu = begin(reset_device);
        for (unsigned i = 0; i < 3; i++)
            wait_until_stopping(&f, i);
        cr_assert_eq(f.echo.resets, round - 1);
        cr_assert(virtio_get_status(f.device) & DRIVER_OK);
        for (unsigned i = 3; i-- > 0;)
            echo_release(&f.echo, i);
        pthread_join(vcpu, NULL);
        cr_assert_eq(f.echo.resets, round);
        cr_assert_eq(virtio_get_status(f.device), 0);
    }
    f.echo.late = false;
    bring_up(0);
    echo_once(0, "after");
}

Test(virtio_device, loops_take_the_lock_and_interrupt_during_a_reset)
{
    bring_up(0);
    hold_three();
    pthread_t vcpu = begin(reset_device);
    wait_until_stopping(&f, 0);
    pthread_mutex_lock(&f.device->lock);
    pthread_mutex_unlock(&f.device->lock);
    virtio_config_changed(f.device);
    cr_assert_eq(config_interrupts, 1);
    uint8_t byte = 1;
    virtio_write_config(f.device, 0, &byte, 1);
    for (unsigned i = 0; i < 3; i++)
        echo_release(&f.echo, i);
    pthread_join(vcpu, NULL);
}

Test(virtio_device, a_second_reset_waits_for_the_first)
{
    bring_up(0);
    hold_three();
    pthread_t first = begin(reset_device), second = begin(reset_device), third = begin(reset_queue_0);
    wait_until_stopping(&f, 0);
    for (unsigned i = 0; i < 3; i++)
        echo_release(&f.echo, i);
    pthread_join(first, NULL);
    pthread_join(second, NULL);
    pthread_join(third, NULL);
    cr_assert_eq(f.echo.resets, 2);
    cr_assert_eq(f.echo.queue_stops, QUEUES);
}

Test(virtio_device, one_queue_is_reset_alone)
{
    bring_up(BIT(VIRTIO_F_RING_RESET));
    hold_three();
    pthread_t vcpu = begin(reset_queue_0);
    wait_until_stopping(&f, 0);
    cr_assert(virtio_queue_get_setup(f.device, 0).resetting);
    f.echo.late = false;
    echo_once(3, "goes on");
    echo_release(&f.echo, 2);
    expect_echo(&f, 2, "takes long");
    echo_release(&f.echo, 0);
    pthread_join(vcpu, NULL);
    struct virtio_queue_setup setup = virtio_queue_get_setup(f.device, 0);
    cr_assert(!setup.enabled && !setup.resetting);
    cr_assert_eq(setup.size, RING_MAX);
    enable(0);
    echo_once(0, "again");
    echo_release(&f.echo, 1);
    expect_echo(&f, 1, "takes long");
}

Test(virtio_device, a_queue_is_not_reset_where_that_was_not_accepted)
{
    bring_up(0);
    virtio_queue_reset(f.device, 0);
    cr_assert_eq(f.echo.queue_stops, 0);
    echo_once(0, "not touched");
}

static void *reset_often(void *opaque)
{
    for (int i = 0; i < 200; i++)
        virtio_set_status(f.device, 0);
    return NULL;
}

static void *kick_often(void *opaque)
{
    for (unsigned i = 0; i < 2000; i++)
        virtio_queue_kick(f.device, i % QUEUES);
    return NULL;
}

/* What a driver may do at the same time on another vCPU, in an order that no driver would. */
static void *bring_up_often(void *opaque)
{
    for (unsigned i = 0; i < 200; i++) {
        accept(VERSION_1 | BIT(VIRTIO_F_RING_RESET));
        virtio_set_status(f.device, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
        struct virtio_queue_setup setup = {
            .size = RING_SIZE, .descriptors = 0x10000, .driver = 0x12000, .device = 0x14000};
        virtio_queue_set_setup(f.device, i % QUEUES, &setup);
        virtio_queue_enable(f.device, i % QUEUES);
        virtio_queue_reset(f.device, (i + 1) % QUEUES);
        virtio_get_status(f.device);
        virtio_config_changed(f.device);
    }
    return NULL;
}

Test(virtio_device, vcpus_may_write_anything_at_the_same_time)
{
    void *(*functions[])(void *) = {reset_often, bring_up_often, kick_often, bring_up_often};
    pthread_t vcpus[4];
    for (int i = 0; i < 4; i++)
        vcpus[i] = begin(functions[i]);
    for (int i = 0; i < 4; i++)
        pthread_join(vcpus[i], NULL);
    virtio_set_status(f.device, 0);
    cr_assert_eq(f.echo.queue_starts, f.echo.queue_stops);
    bring_up(0);
    echo_once(0, "still there");
}

Test(virtio_device, is_destroyed_while_its_queues_run)
{
    bring_up(0);
    echo_once(0, "running");
}

/* ---- Loops that nobody runs ---- */

static void start_without_threads(void)
{
    static const struct virtio_transport_ops transport = {interrupt_queue, interrupt_config};
    f = (struct virtio_fixture){.irq_fd = -1};
    virtio_guest_create(&f.guest);
    cr_assert_eq(event_loop_create(&f.loops[0], NULL), 0);
    for (unsigned i = 1; i < QUEUES; i++)
        f.loops[i] = f.loops[0];
    create_echo(&f);
    virtio_set_transport(f.device, &transport, NULL);
}

static void end_without_threads(void)
{
    echo_destroy(&f.echo);
    event_loop_destroy(f.loops[0]);
    virtio_guest_destroy(&f.guest);
    close(f.irq_fd);
}

TestSuite(virtio_device_alone, .init = start_without_threads, .fini = end_without_threads);

Test(virtio_device_alone, starts_and_stops_before_its_loop_runs)
{
    negotiate(VERSION_1);
    enable(0);
    offer(&f, 0, "in place");
    set_driver_ok();
    expect_echo(&f, 0, "in place");
    virtio_set_status(f.device, 0);
    cr_assert_eq(f.echo.queue_stops, 1);
    bring_up(0);
}

static void *run_once(void *opaque)
{
    event_loop_run(f.loops[0]);
    return NULL;
}

Test(virtio_device_alone, is_reset_while_the_machine_stops)
{
    for (int i = 0; i < 50; i++) {
        pthread_t loop = begin(run_once);
        bring_up(0);
        echo_once(0, "running");
        pthread_t vcpu = begin(reset_device);
        event_loop_quit(f.loops[0]);
        pthread_join(loop, NULL);
        pthread_join(vcpu, NULL);
    }
    cr_assert_eq(f.echo.resets, 50);
    bring_up(0);
}

/* A loop that has ended before the request under way has. */
static void hold_one(void)
{
    f.echo.late = true;
    negotiate(VERSION_1);
    enable(0);
    offer(&f, 0, "takes long");
    set_driver_ok();
    cr_assert_eq(f.echo.held, 1);
}

Test(virtio_device_alone, a_reset_waits_in_place_for_requests_under_way)
{
    hold_one();
    pthread_t vcpu = begin(reset_device);
    cr_assert_eq(f.echo.resets, 0);
    echo_release(&f.echo, 0);
    pthread_join(vcpu, NULL);
    cr_assert_eq(f.echo.resets, 1);
}

/* The kernel ends the requests of a thread that ends. */
static sem_t loop_ended, thread_may_end;

static void *run_once_and_stay(void *opaque)
{
    event_loop_run(f.loops[0]);
    sem_post(&loop_ended);
    sem_wait(&thread_may_end);
    return NULL;
}

Test(virtio_device_alone, is_reset_while_the_machine_stops_with_requests_under_way)
{
    sem_init(&loop_ended, 0, 0);
    sem_init(&thread_may_end, 0, 0);
    for (unsigned i = 1; i <= 50; i++) {
        f.echo.late = false;
        bring_up(0);
        pthread_t loop = begin(run_once_and_stay);
        echo_once(0, "the loop runs");
        f.echo.late = true;
        offer(&f, 0, "takes long");
        virtio_queue_kick(f.device, 0);
        wait_until_held(&f, 1);
        pthread_t vcpu = begin(reset_device);
        wait_until_stopping(&f, 0);
        event_loop_quit(f.loops[0]);
        sem_wait(&loop_ended);
        cr_assert_eq(f.echo.resets, i - 1);
        echo_release(&f.echo, 0);
        pthread_join(vcpu, NULL);
        cr_assert_eq(f.echo.resets, i);
        sem_post(&thread_may_end);
        pthread_join(loop, NULL);
    }
}

Test(virtio_device_alone, is_destroyed_with_requests_under_way)
{
    hold_one();
    echo_release(&f.echo, 0);
}
