/*
 * A guest that writes anything to any port of the machine's devices, over any width, while the host types,
 * reads slowly and sets its clock. This file defines the character device behind the serial port.
 *
 * The input is a list of four-byte steps: what to do, where, and a value.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/event_loop.h"
#include "devices/acpi_pm.h"
#include "devices/chardev.h"
#include "devices/debug_exit.h"
#include "devices/i8042.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/test_mmio.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "memory/region.h"

#define PORTS      64
#define SERIAL     0
#define RTC        8
#define I8042      10
#define EXIT_PORT  11
#define PM_EVENT   12
#define PM_CONTROL 16
#define PM_TIMER   20
#define PM_RESET   24
#define TEST_MMIO  28

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct chardev {
    struct chardev_front_end front_end;
    size_t room, taken;
    size_t input;
};

struct guest {
    struct memory *memory;
    struct memory_region root;
    struct address_space *space;
    struct event_loop *loop;
    struct chardev chardev;
    struct serial *serial;
    struct rtc *rtc;
    struct acpi_pm *pm;
    struct debug_exit *debug_exit;
    struct i8042 *i8042;
    struct test_mmio *test;
    bool serial_irq, sci;
    int64_t time;
};

static void check(bool holds)
{
    if (!holds)
        abort();
}

void chardev_attach(struct chardev *chardev, const struct chardev_front_end *front_end)
{
    if (front_end)
        chardev->front_end = *front_end;
}

size_t chardev_write(struct chardev *chardev, const void *data, size_t count)
{
    if (count > chardev->room)
        count = chardev->room;
    chardev->room -= count;
    chardev->taken += count;
    return count;
}

size_t chardev_read(struct chardev *chardev, void *data, size_t count)
{
    if (count > chardev->input)
        count = chardev->input;
    memset(data, 'i', count);
    chardev->input -= count;
    return count;
}

int chardev_flush(struct chardev *chardev, int interrupt)
{
    chardev->room = SIZE_MAX / 2;
    return 0;
}

static void set_line(void *opaque, unsigned number, bool level)
{
    *(bool *)opaque = level;
}

static void request(void *opaque, enum shutdown_cause cause, int status)
{
    check(status >= 0 && status <= 255);
    check(cause == SHUTDOWN_EXIT || status == 0);
}

static int64_t guest_clock(void *opaque)
{
    return ((struct guest *)opaque)->time;
}

static void map(struct guest *guest, uint64_t port, struct memory_region *region)
{
    check(memory_region_add_subregion(&guest->root, port, region, 0, NULL) == 0);
}

static void create_devices(struct guest *guest)
{
    struct shutdown_handler shutdown = {.request = request};
    struct serial_config serial = {&guest->chardev, {set_line, &guest->serial_irq, 4}};
    struct rtc_config rtc = {.loop = guest->loop, .clock = guest_clock, .opaque = guest};
    struct acpi_pm_config pm = {{set_line, &guest->sci, 9}, shutdown, 5, 6, guest_clock, guest};
    check(serial_create(&serial, guest->memory, &guest->serial, NULL) == 0);
    check(rtc_create(&rtc, guest->memory, &guest->rtc, NULL) == 0);
    check(acpi_pm_create(&pm, guest->memory, &guest->pm, NULL) == 0);
    check(debug_exit_create(&shutdown, guest->memory, &guest->debug_exit, NULL) == 0);
    check(i8042_create(&shutdown, guest->memory, &guest->i8042, NULL) == 0);
    check(test_mmio_create(guest->memory, &guest->test, NULL) == 0);
    serial_allow_waiting(guest->serial, false); /* nobody else would make room */
}

static void create_guest(struct guest *guest)
{
    *guest = (struct guest){.memory = memory_create()};
    check(guest->memory && event_loop_create(&guest->loop, NULL) == 0);
    check(memory_region_init_container(&guest->root, guest->memory, "io", 0x10000, NULL) == 0);
    check(address_space_create(guest->memory, "io", &guest->root, &guest->space, NULL) == 0);
    create_devices(guest);
    memory_transaction_begin(guest->memory);
    map(guest, SERIAL, serial_region(guest->serial));
    map(guest, RTC, rtc_region(guest->rtc));
    map(guest, I8042, i8042_region(guest->i8042));
    map(guest, EXIT_PORT, debug_exit_region(guest->debug_exit));
    map(guest, PM_EVENT, acpi_pm_event_region(guest->pm));
    map(guest, PM_CONTROL, acpi_pm_control_region(guest->pm));
    map(guest, PM_TIMER, acpi_pm_timer_region(guest->pm));
    map(guest, PM_RESET, acpi_pm_reset_region(guest->pm));
    map(guest, TEST_MMIO, test_mmio_region_a(guest->test));
    check(memory_transaction_commit(guest->memory, NULL) == 0);
}

static void destroy_guest(struct guest *guest)
{
    check(serial_flush(guest->serial, -1) == 0);
    address_space_destroy(guest->space);
    check(memory_region_remove_all_subregions(&guest->root, NULL) == 0);
    serial_destroy(guest->serial);
    rtc_destroy(guest->rtc);
    acpi_pm_destroy(guest->pm);
    debug_exit_destroy(guest->debug_exit);
    i8042_destroy(guest->i8042);
    test_mmio_destroy(guest->test);
    memory_region_destroy(&guest->root);
    memory_destroy(guest->memory);
    event_loop_destroy(guest->loop);
}

static uint8_t in(struct guest *guest, uint64_t port)
{
    uint8_t value;
    address_space_read(guest->space, port, &value, 1);
    return value;
}

static void out(struct guest *guest, uint64_t port, uint8_t value)
{
    address_space_write(guest->space, port, &value, 1);
}

/* What holds at any moment, as far as a guest can see it without changing it. */
static void check_lines(struct guest *guest)
{
    uint16_t status = (uint16_t)(in(guest, PM_EVENT) | in(guest, PM_EVENT + 1) << 8);
    uint16_t enable = (uint16_t)(in(guest, PM_EVENT + 2) | in(guest, PM_EVENT + 3) << 8);
    check(guest->sci == ((status & enable) != 0));
    uint8_t mcr = in(guest, SERIAL + 4);
    check((mcr & 0x18) == 0x08 || !guest->serial_irq);
}

/* The interrupt line and IIR say the same. */
static void check_iir(struct guest *guest)
{
    bool connected = (in(guest, SERIAL + 4) & 0x18) == 0x08, level = guest->serial_irq;
    uint8_t iir = in(guest, SERIAL + 2);
    check(!(iir & 0x30));
    check(!connected || level == !(iir & 1));
    check(!(in(guest, SERIAL + 5) & ~0x63));
}

/* A clock that runs shows a time that exists, in BCD at least. */
static void check_time(struct guest *guest)
{
    static const struct {
        uint8_t index, min, max;
    } fields[] = {{0, 0x00, 0x59}, {2, 0x00, 0x59}, {6, 0x01, 0x07},   {7, 0x01, 0x31},
                  {8, 0x01, 0x12}, {9, 0x00, 0x99}, {0x32, 0x00, 0x99}};
    out(guest, RTC, 0x0A);
    uint8_t a = in(guest, RTC + 1);
    out(guest, RTC, 0x0B);
    uint8_t b = in(guest, RTC + 1);
    if ((a & 0x60) == 0x60 || (b & 0x84))
        return;
    for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
        out(guest, RTC, fields[i].index);
        uint8_t value = in(guest, RTC + 1);
        check(value >= fields[i].min && value <= fields[i].max && (value & 0xF) <= 9);
    }
}

static void step(struct guest *guest, const uint8_t bytes[4])
{
    uint16_t value = (uint16_t)(bytes[2] | bytes[3] << 8);
    uint64_t port = bytes[1] % PORTS;
    uint64_t wide = value * 0x0001000100010001u;
    switch (bytes[0] % 16) {
    case 0:
    case 1:
    case 2:
        out(guest, port, bytes[2]);
        break;
    case 3:
        out(guest, RTC, bytes[1]);
        out(guest, RTC + 1, bytes[2]);
        break;
    case 4:
        address_space_write(guest->space, port, &wide, bytes[0] / 16 % 8 + 1);
        break;
    case 5:
        address_space_read(guest->space, port, &wide, bytes[0] / 16 % 8 + 1);
        break;
    case 6:
        in(guest, port);
        break;
    case 7:
        guest->chardev.input += bytes[2];
        guest->chardev.front_end.readable(guest->chardev.front_end.opaque);
        break;
    case 8:
        guest->chardev.room += bytes[2];
        guest->chardev.front_end.writable(guest->chardev.front_end.opaque);
        break;
    case 9:
        guest->time = (guest->time + (int16_t)value * ((int64_t)1 << bytes[1] % 40)) % ((int64_t)1 << 62);
        break;
    case 10:
        acpi_pm_press_power_button(guest->pm);
        break;
    case 11:
        check_iir(guest);
        break;
    case 12:
        check_time(guest);
        break;
    default:
        check_lines(guest);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest guest;
    create_guest(&guest);
    for (size_t at = 0; at + 4 <= size; at += 4)
        step(&guest, data + at);
    destroy_guest(&guest);
    return 0;
}
