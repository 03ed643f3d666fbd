/*
 * Streams through the serial port and pipes, guest on one side, host on the other, each at its own pace:
 * every byte must come out, in order.
 */
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>

#include "devices/chardev.h"
#include "devices/serial.h"
#include "fixture.h"

#define COM1   0x3F8
#define LENGTH 200000

#define DATA   0
#define IER    1
#define IIR    2
#define FCR    2
#define MCR    4
#define LSR    5

struct bench {
    struct bus bus;
    struct loop_thread loop;
    struct chardev *chardev;
    struct serial *serial;
    struct test_line line;
    int host_in, host_out; /* the host's ends of the pipes: what the guest reads, and what it has written */
    size_t chunk;          /* of the reader: small is slow */
    size_t received, wrong;
    pthread_t feeder, reader;
};

static void small_pipe(int ends[2])
{
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    cr_assert_eq(fcntl(ends[0], F_SETPIPE_SZ, 4096), 4096);
}

static void *feed(void *opaque)
{
    struct bench *bench = opaque;
    uint8_t data[1000];
    for (size_t sent = 0; sent < LENGTH; sent += sizeof(data)) {
        for (size_t i = 0; i < sizeof(data); i++)
            data[i] = pattern(sent + i);
        if (write(bench->host_in, data, sizeof(data)) != sizeof(data))
            abort();
    }
    return NULL;
}

static void *drain(void *opaque)
{
    struct bench *bench = opaque;
    uint8_t data[4096];
    ssize_t count;
    while ((count = read(bench->host_out, data, bench->chunk)) > 0) {
        for (ssize_t i = 0; i < count; i++)
            bench->wrong += data[i] != pattern(bench->received++);
        if (bench->chunk < sizeof(data))
            sched_yield();
    }
    return NULL;
}

static void bench_start(struct bench *bench, size_t chunk)
{
    int input[2], output[2];
    struct error err = {0};
    small_pipe(input);
    small_pipe(output);
    *bench = (struct bench){.host_in = input[1], .host_out = output[0], .chunk = chunk};
    bus_create(&bench->bus);
    loop_create(&bench->loop);
    struct chardev_config chardev = {.loop = bench->loop.loop};
    cr_assert_eq(chardev_create_stdio(&chardev, input[0], output[1], &bench->chardev, &err), 0, "%s",
                 err.message);
    close(output[1]); /* it has been opened again, and its closing shall end the reader */
    struct serial_config serial = {.chardev = bench->chardev, .irq = test_line_init(&bench->line)};
    cr_assert_eq(serial_create(&serial, bench->bus.memory, &bench->serial, &err), 0, "%s", err.message);
    bus_map(&bench->bus, COM1, serial_region(bench->serial));
    loop_start(&bench->loop);
    pthread_create(&bench->feeder, NULL, feed, bench);
    pthread_create(&bench->reader, NULL, drain, bench);
}

/* Ends the machine as godwit does, and checks that the host has got everything. */
static void bench_finish(struct bench *bench)
{
    pthread_join(bench->feeder, NULL);
    loop_stop(&bench->loop);
    cr_assert_eq(serial_flush(bench->serial, -1), 0);
    bus_unmap(serial_region(bench->serial));
    serial_destroy(bench->serial);
    chardev_destroy(bench->chardev);
    pthread_join(bench->reader, NULL);
    cr_assert_eq(bench->received, LENGTH);
    cr_assert_eq(bench->wrong, 0);
    event_loop_destroy(bench->loop.loop);
    bus_destroy(&bench->bus);
}

static uint8_t in(struct bench *bench, unsigned offset)
{
    return (uint8_t)bus_in(&bench->bus, COM1 + offset, 1);
}

static void out(struct bench *bench, unsigned offset, uint8_t value)
{
    bus_out(&bench->bus, COM1 + offset, value, 1);
}

static void echo_polled(struct bench *bench)
{
    out(bench, FCR, 0x01);
    for (size_t i = 0; i < LENGTH; i++) {
        while (!(in(bench, LSR) & 0x01))
            ;
        uint8_t byte = in(bench, DATA);
        while (!(in(bench, LSR) & 0x20))
            ;
        out(bench, DATA, byte);
    }
}

Test(serial, polled_echo)
{
    struct bench bench;
    bench_start(&bench, 4096);
    echo_polled(&bench);
    bench_finish(&bench);
}

Test(serial, polled_echo_to_a_slow_reader)
{
    struct bench bench;
    bench_start(&bench, 10);
    echo_polled(&bench);
    bench_finish(&bench);
}

/* An interrupt-driven driver in the manner of Linux's: a queue between receiver and transmitter. */
struct driver {
    struct bench *bench;
    uint8_t queue[LENGTH];
    size_t received, sent;
    uint8_t ier;
};

static void set_ier(struct driver *driver, uint8_t ier)
{
    if (ier == driver->ier)
        return;
    driver->ier = ier;
    out(driver->bench, IER, ier);
}

static void handle(struct driver *driver)
{
    struct bench *bench = driver->bench;
    uint8_t status = in(bench, LSR);
    for (int i = 0; i < 256 && (status & 0x01); i++) {
        driver->queue[driver->received++] = in(bench, DATA);
        status = in(bench, LSR);
    }
    if (status & 0x20)
        for (int i = 0; i < 16 && driver->sent < driver->received; i++)
            out(bench, DATA, driver->queue[driver->sent++]);
    set_ier(driver, driver->sent < driver->received ? 0x03 : 0x01);
}

static void echo_by_interrupt(struct bench *bench)
{
    struct driver *driver = calloc(1, sizeof(*driver));
    driver->bench = bench;
    out(bench, FCR, 0x81);
    out(bench, MCR, 0x0B);
    set_ier(driver, 0x01);
    while (driver->sent < LENGTH) {
        test_line_wait(&bench->line);
        for (int pass = 0; pass < 5 && !(in(bench, IIR) & 0x01); pass++) /* Linux gives up, too; at 512 */
            handle(driver);
    }
    free(driver);
}

Test(serial, interrupt_driven_echo)
{
    struct bench bench;
    bench_start(&bench, 4096);
    echo_by_interrupt(&bench);
    bench_finish(&bench);
}

Test(serial, interrupt_driven_echo_to_a_slow_reader)
{
    struct bench bench;
    bench_start(&bench, 10);
    echo_by_interrupt(&bench);
    bench_finish(&bench);
}

/* `rep outsb`: no look at the line status. The input is left to the end. */
static void write_blindly(struct bench *bench)
{
    for (size_t i = 0; i < LENGTH; i++)
        out(bench, DATA, pattern(i));
    for (size_t i = 0; i < LENGTH; i++) {
        while (!(in(bench, LSR) & 0x01))
            ;
        cr_assert_eq(in(bench, DATA), pattern(i));
    }
}

Test(serial, blind_writer)
{
    struct bench bench;
    bench_start(&bench, 4096);
    write_blindly(&bench);
    bench_finish(&bench);
}

Test(serial, blind_writer_and_a_slow_reader)
{
    struct bench bench;
    bench_start(&bench, 10);
    out(&bench, FCR, 0x01);
    write_blindly(&bench);
    bench_finish(&bench);
}
