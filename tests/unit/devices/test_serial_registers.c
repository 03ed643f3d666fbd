/*
 * The registers and interrupts of the 16550A, with a character device that the test controls: this file
 * defines the functions that the port calls.
 */
#include <string.h>

#include "devices/chardev.h"
#include "devices/serial.h"
#include "fixture.h"

#define COM1   0x3F8

#define THR    0
#define RBR    0
#define IER    1
#define IIR    2
#define FCR    2
#define LCR    3
#define MCR    4
#define LSR    5
#define MSR    6
#define SCR    7

#define NO_INT 0x01

struct chardev {
    struct chardev_front_end front_end;
    size_t room; /* how much output is taken */
    uint8_t written[65536];
    size_t written_count;
    uint8_t input[65536];
    size_t input_count, input_taken;
};

void chardev_attach(struct chardev *chardev, const struct chardev_front_end *front_end)
{
    if (front_end)
        chardev->front_end = *front_end;
}

size_t chardev_write(struct chardev *chardev, const void *data, size_t count)
{
    if (count > chardev->room)
        count = chardev->room;
    memcpy(chardev->written + chardev->written_count, data, count);
    chardev->written_count += count;
    chardev->room -= count;
    return count;
}

size_t chardev_read(struct chardev *chardev, void *data, size_t count)
{
    size_t left = chardev->input_count - chardev->input_taken;
    if (count > left)
        count = left;
    memcpy(data, chardev->input + chardev->input_taken, count);
    chardev->input_taken += count;
    return count;
}

int chardev_flush(struct chardev *chardev, int interrupt)
{
    chardev->room = sizeof(chardev->written) - chardev->written_count;
    return 0;
}

static struct bus bus;
static struct chardev chardev;
static struct test_line line;
static struct serial *serial;

static void setup(void)
{
    chardev.room = sizeof(chardev.written);
    bus_create(&bus);
    struct serial_config config = {.chardev = &chardev, .irq = test_line_init(&line)};
    struct error err = {0};
    cr_assert_eq(serial_create(&config, bus.memory, &serial, &err), 0, "%s", err.message);
    bus_map(&bus, COM1, serial_region(serial));
}

static void teardown(void)
{
    bus_unmap(serial_region(serial));
    serial_destroy(serial);
    bus_destroy(&bus);
}

TestSuite(serial_registers, .init = setup, .fini = teardown);

static uint8_t in(unsigned offset)
{
    return (uint8_t)bus_in(&bus, COM1 + offset, 1);
}

static void out(unsigned offset, uint8_t value)
{
    bus_out(&bus, COM1 + offset, value, 1);
}

static void type(const char *text, size_t count)
{
    memcpy(chardev.input + chardev.input_count, text, count);
    chardev.input_count += count;
    chardev.front_end.readable(chardev.front_end.opaque);
}

static void allow_output(size_t room)
{
    chardev.room = room;
    chardev.front_end.writable(chardev.front_end.opaque);
}

Test(serial_registers, are_as_after_a_reset)
{
    cr_assert_eq(in(IER), 0);
    cr_assert_eq(in(IIR), NO_INT);
    cr_assert_eq(in(LCR), 0);
    cr_assert_eq(in(MCR), 0);
    cr_assert_eq(in(LSR), 0x60);
    cr_assert_eq(in(MSR), 0xB0);
    cr_assert_not(test_line_level(&line));
}

Test(serial_registers, keep_what_is_written)
{
    for (unsigned value = 0; value < 256; value++) {
        out(SCR, (uint8_t)value);
        cr_assert_eq(in(SCR), value);
        out(LCR, (uint8_t)value & 0x7F);
        cr_assert_eq(in(LCR), value & 0x7F);
        out(IER, (uint8_t)value);
        cr_assert_eq(in(IER), value & 0x0F);
        out(MCR, (uint8_t)value);
        cr_assert_eq(in(MCR), value & 0x1F);
    }
}

Test(serial_registers, have_a_divisor_behind_dlab)
{
    out(LCR, 0x83);
    out(0, 0x34);
    out(1, 0x12);
    cr_assert_eq(in(0), 0x34);
    cr_assert_eq(in(1), 0x12);
    out(LCR, 0x03);
    cr_assert_eq(in(IER), 0);
    cr_assert_eq(chardev.written_count, 0);
}

Test(serial_registers, can_be_accessed_two_and_four_at_a_time)
{
    bus_out(&bus, COM1 + 3, 0x0800 | 0x03, 2);
    cr_assert_eq(in(LCR), 0x03);
    cr_assert_eq(in(MCR), 0x08);
    cr_assert_eq(bus_in(&bus, COM1 + 3, 4), 0xB0600803);
}

/* What Linux's 8250 driver does to find out what it has (serial8250_config_port and serial8250_do_startup),
 * and what it must find. */
Test(serial_registers, are_taken_for_a_16550a_by_linux)
{
    out(IER, 0);
    cr_assert_eq(in(IER)&0x0F, 0);
    out(IER, 0x0F);
    cr_assert_eq(in(IER)&0x0F, 0x0F);
    out(IER, 0);
    uint8_t mcr = in(MCR);
    out(MCR, 0x10 | 0x0A);
    cr_assert_eq(in(MSR)&0xF0, 0x90, "loopback test");
    out(MCR, mcr);
    out(LCR, 0xBF);
    out(FCR, 0);
    out(LCR, 0);
    out(FCR, 0x01);
    cr_assert_eq(in(IIR) >> 6, 3, "FIFO");
    out(LCR, 0x80);
    cr_assert_neq(in(IIR), 0, "no EFR at offset 2");
    out(LCR, 0xBF);
    cr_assert_neq(in(IIR), 0, "no EFR at offset 2");
    out(LCR, 0);
    out(FCR, 0x01);
    uint8_t without = in(IIR) >> 5;
    out(FCR, 0x01 | 0x20);
    uint8_t with = in(IIR) >> 5;
    cr_assert_eq(without, 6);
    cr_assert_eq(with, 6, "no 64-byte FIFO");
    out(IER, 0x40);
    cr_assert_eq(in(IER)&0x40, 0, "no UUE: not an XScale");
    out(IER, 0);
    /* Startup: the test whether THRE is asserted again. */
    out(FCR, 0x01);
    out(FCR, 0x01 | 0x02 | 0x04);
    out(FCR, 0);
    in(LSR), in(RBR), in(IIR), in(MSR);
    cr_assert_neq(in(LSR), 0xFF);
    out(IER, 0x02);
    cr_assert_eq(in(IIR), 0x02);
    out(IER, 0);
    out(IER, 0x02);
    cr_assert_eq(in(IIR), 0x02, "THRE is reasserted");
    out(IER, 0);
    /* The test for UART_BUG_TXEN. */
    out(MCR, 0x08 | 0x03);
    out(IER, 0x02);
    cr_assert_eq(in(LSR)&0x40, 0x40);
    cr_assert_eq(in(IIR)&NO_INT, 0, "TX interrupt comes without a byte sent");
    out(IER, 0);
}

/* The driver empties the FIFOs and reads the receiver before it enables the interrupt. */
Test(serial_registers, lose_nothing_that_was_typed_before_the_driver_came)
{
    type("typed early", 11);
    out(IER, 0x0F), out(IER, 0);
    out(FCR, 0x01), out(FCR, 0x07), out(FCR, 0);
    in(LSR), in(RBR), in(IIR), in(MSR);
    in(LSR);
    out(FCR, 0x81);
    out(MCR, 0x0B);
    out(IER, 0x02), in(LSR), in(IIR), out(IER, 0);
    in(LSR), in(RBR), in(IIR), in(MSR);
    out(IER, 0x05);
    cr_assert(test_line_level(&line));
    char got[12] = {0};
    for (int i = 0; i < 11; i++) {
        cr_assert(in(LSR)&1);
        got[i] = (char)in(RBR);
    }
    cr_assert_str_eq(got, "typed early");
    cr_assert_not(in(LSR)&1);
}

Test(serial_registers, give_input_to_a_guest_that_polls)
{
    type("ab", 2);
    int looks = 0;
    while (!(in(LSR)&1))
        cr_assert_lt(++looks, 3);
    cr_assert_eq(in(RBR), 'a');
    while (!(in(LSR)&1))
        cr_assert_lt(++looks, 6);
    cr_assert_eq(in(RBR), 'b');
}

Test(serial_registers, give_input_to_a_guest_that_polls_iir)
{
    type("a", 1);
    out(IER, 0x01);
    cr_assert_eq(in(IIR), 0x04);
    cr_assert_eq(in(RBR), 'a');
    cr_assert_eq(in(IIR), NO_INT);
}

Test(serial_registers, take_no_input_for_a_guest_that_only_writes)
{
    type("ab", 2);
    for (int i = 0; i < 100; i++) {
        cr_assert_eq(in(LSR), 0x60);
        out(THR, 'x');
    }
    cr_assert_eq(chardev.input_taken, 0);
}

Test(serial_registers, follow_the_trigger_level)
{
    static const unsigned levels[] = {1, 4, 8, 14};
    out(MCR, 0x08);
    out(IER, 0x01);
    for (unsigned i = 0; i < 4; i++) {
        out(FCR, (uint8_t)(0x01 | i << 6));
        for (unsigned count = 1; count <= 16; count++) {
            type("x", 1);
            cr_assert_eq(in(IIR), count >= levels[i] ? 0xC4 : 0xCC);
            cr_assert(test_line_level(&line));
        }
        for (unsigned count = 16; count > 0; count--) {
            cr_assert_eq(in(IIR), count >= levels[i] ? 0xC4 : 0xCC);
            in(RBR);
        }
        cr_assert_eq(in(IIR), 0xC1);
        cr_assert_not(test_line_level(&line));
    }
}

Test(serial_registers, take_from_the_host_no_more_than_the_fifo_holds)
{
    char text[100];
    memset(text, 'y', sizeof(text));
    out(MCR, 0x08);
    out(IER, 0x01);
    type(text, 50);
    cr_assert_eq(chardev.input_taken, 1, "no FIFO: one byte");
    out(FCR, 0x01);
    cr_assert_eq(chardev.input_taken, 17);
    in(RBR);
    cr_assert_eq(chardev.input_taken, 17, "as long as there is something");
    for (int i = 0; i < 15; i++)
        in(RBR);
    cr_assert_eq(chardev.input_taken, 33);
    cr_assert_eq(in(LSR)&0x02, 0, "never an overrun");
}

/* An edge-triggered controller must see an edge although the handler leaves before the end. */
Test(serial_registers, pulse_the_line_for_each_batch)
{
    char text[64];
    memset(text, 'z', sizeof(text));
    out(FCR, 0x01);
    out(MCR, 0x08);
    out(IER, 0x03); /* with the other interrupt pending all the time */
    type(text, 64);
    line.edges = 0;
    for (int i = 0; i < 16; i++)
        in(RBR);
    cr_assert(test_line_level(&line));
    cr_assert_eq(line.edges, 1);
}

Test(serial_registers, rank_the_interrupts)
{
    out(FCR, 0x01);
    out(IER, 0x0F);
    out(MCR, 0x10); /* loopback: DCD, DSR and CTS go */
    for (int i = 0; i < 17; i++)
        out(THR, 'q');
    cr_assert_eq(in(IIR), 0xC6);
    cr_assert_eq(in(LSR)&0x03, 0x03, "overrun");
    cr_assert_eq(in(LSR)&0x02, 0, "reading clears it");
    cr_assert_eq(in(IIR), 0xC4);
    for (int i = 0; i < 16; i++)
        cr_assert_eq(in(RBR), 'q');
    cr_assert_eq(in(IIR), 0xC2);
    cr_assert_eq(in(IIR), 0xC0, "reading IIR has cleared THRE");
    cr_assert_eq(in(MSR), 0x0B);
    cr_assert_eq(in(MSR), 0x00);
    cr_assert_eq(in(IIR), 0xC1);
}

Test(serial_registers, interrupt_only_with_out2)
{
    out(IER, 0x02);
    cr_assert_not(test_line_level(&line));
    out(MCR, 0x08);
    cr_assert(test_line_level(&line));
    out(MCR, 0x18);
    cr_assert_not(test_line_level(&line), "loopback turns the outputs off");
    out(MCR, 0x08);
    cr_assert(test_line_level(&line));
    in(IIR);
    cr_assert_not(test_line_level(&line));
}

Test(serial_registers, loop_back_bytes_and_modem_lines)
{
    static const uint8_t lines[16] = {0x00, 0x20, 0x10, 0x30, 0x40, 0x60, 0x50, 0x70,
                                      0x80, 0xA0, 0x90, 0xB0, 0xC0, 0xE0, 0xD0, 0xF0};
    for (uint8_t outputs = 0; outputs < 16; outputs++) {
        out(MCR, 0x10 | outputs);
        cr_assert_eq(in(MSR)&0xF0, lines[outputs]);
    }
    out(MCR, 0x14);
    in(MSR);
    out(MCR, 0x10);
    cr_assert_eq(in(MSR), 0x04, "RI counts as it goes");
    out(MCR, 0x14);
    cr_assert_eq(in(MSR), 0x40, "and not as it comes");
    type("no", 2);
    out(IER, 0x01);
    out(THR, 0x5A);
    cr_assert_eq(in(RBR), 0x5A);
    cr_assert_eq(chardev.written_count, 0);
    cr_assert_eq(chardev.input_taken, 0, "the host waits meanwhile");
    out(MCR, 0x08);
    cr_assert_eq(in(RBR), 'n');
}

Test(serial_registers, tell_the_truth_about_back_pressure)
{
    out(FCR, 0x01);
    out(MCR, 0x08);
    out(IER, 0x02);
    in(IIR);
    chardev.room = 1;
    out(THR, 'a');
    cr_assert_eq(in(LSR)&0x60, 0x60);
    cr_assert_eq(in(IIR), 0xC2);
    out(THR, 'b');
    cr_assert_eq(in(LSR)&0x60, 0);
    cr_assert_eq(in(IIR), 0xC1);
    cr_assert_not(test_line_level(&line));
    out(THR, 'c');
    allow_output(1);
    cr_assert_eq(in(LSR)&0x60, 0, "one of two has gone");
    allow_output(10);
    cr_assert_eq(in(LSR)&0x60, 0x60);
    cr_assert(test_line_level(&line));
    cr_assert_eq(in(IIR), 0xC2);
    cr_assert_eq(memcmp(chardev.written, "abc", 3), 0);
}

/* A write beyond the FIFO is on its way on another thread when waiting is turned off. */
static void *overfill(void *opaque)
{
    for (int i = 0; i < 17 + 100; i++)
        out(THR, pattern((size_t)i));
    return NULL;
}

Test(serial_registers, keep_what_is_written_while_the_machine_stops)
{
    out(FCR, 0x01);
    chardev.room = 0;
    pthread_t guest;
    cr_assert_eq(pthread_create(&guest, NULL, overfill, NULL), 0);
    serial_allow_waiting(serial, false);
    pthread_join(guest, NULL);
    cr_assert_eq(chardev.written_count, 0);
    cr_assert_eq(serial_flush(serial, -1), 0);
    cr_assert_eq(chardev.written_count, 117);
    for (size_t i = 0; i < 117; i++)
        cr_assert_eq(chardev.written[i], pattern(i));
    cr_assert_eq(in(LSR)&0x60, 0x60);
}

Test(serial_registers, drop_only_what_passes_every_limit)
{
    chardev.room = 0;
    serial_allow_waiting(serial, false);
    for (int i = 0; i < 6000; i++)
        out(THR, 'o');
    serial_flush(serial, -1);
    cr_assert_geq(chardev.written_count, 4096);
    cr_assert_lt(chardev.written_count, 6000);
}

Test(serial_registers, empty_the_fifos_on_request)
{
    char text[16];
    memset(text, 'f', sizeof(text));
    out(FCR, 0x01);
    out(MCR, 0x08);
    out(IER, 0x01);
    type(text, 16);
    out(FCR, 0x03);
    cr_assert_eq(in(LSR)&1, 0);
    chardev.room = 0;
    out(THR, 'g');
    cr_assert_eq(in(LSR)&0x60, 0);
    out(FCR, 0x05);
    cr_assert_eq(in(LSR)&0x60, 0x60);
    allow_output(10);
    cr_assert_eq(chardev.written_count, 0);
    out(FCR, 0xC0);
    cr_assert_eq(in(IIR), NO_INT, "without FCR0 the rest means nothing");
}
