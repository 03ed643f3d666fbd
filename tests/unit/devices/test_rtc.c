#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "devices/rtc.h"
#include "fixture.h"

#define RTC         0x70

#define SECONDS     0x00
#define MINUTES     0x02
#define HOURS       0x04
#define WEEKDAY     0x06
#define DAY         0x07
#define MONTH       0x08
#define YEAR        0x09
#define A           0x0A
#define B           0x0B
#define C           0x0C
#define D           0x0D
#define CENTURY     0x32

#define MILLISECOND 1000000ll
#define SECOND      1000000000ll
#define Y2024       1704067200ll /* 2024-01-01 00:00:00 */

static struct bus bus;
static struct loop_thread loop;
static struct test_line line;
static struct rtc *rtc;
static int64_t host_time; /* nanoseconds */
static int64_t started;   /* monotonic: host_time runs on from there */

static int64_t monotonic(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static int64_t stopped_clock(void *opaque)
{
    return host_time;
}

static int64_t running_clock(void *opaque)
{
    return host_time + monotonic() - started;
}

static void create(int64_t (*clock)(void *opaque))
{
    struct error err = {0};
    bus_create(&bus);
    loop_create(&loop);
    struct rtc_config config = {.loop = loop.loop, .irq = test_line_init(&line), .clock = clock};
    cr_assert_eq(rtc_create(&config, bus.memory, &rtc, &err), 0, "%s", err.message);
    bus_map(&bus, RTC, rtc_region(rtc));
}

static void setup(void)
{
    host_time = Y2024 * SECOND + 300 * MILLISECOND;
    create(stopped_clock);
}

static void teardown(void)
{
    bus_unmap(rtc_region(rtc));
    rtc_destroy(rtc);
    event_loop_destroy(loop.loop);
    bus_destroy(&bus);
}

TestSuite(rtc, .init = setup, .fini = teardown);

static uint8_t get(uint8_t index)
{
    bus_out(&bus, RTC, index, 1);
    return (uint8_t)bus_in(&bus, RTC + 1, 1);
}

static void put(uint8_t index, uint8_t value)
{
    bus_out(&bus, RTC, index, 1);
    bus_out(&bus, RTC + 1, value, 1);
}

/* Compares the registers, as text, with what the C library makes of the host's time. */
static void check_time(bool binary, bool hours24)
{
    time_t seconds = host_time / SECOND - (host_time % SECOND < 0);
    struct tm tm;
    char expected[64], got[64];
    gmtime_r(&seconds, &tm);
    const char *format = hours24 ? "%C%y-%m-%d %H:%M:%S " : "%C%y-%m-%d %I:%M:%S ";
    size_t length = strftime(expected, sizeof(expected), format, &tm);
    snprintf(expected + length, sizeof(expected) - length, "%d%s", tm.tm_wday + 1,
             !hours24 && tm.tm_hour >= 12 ? " pm" : "");
    uint8_t hours = get(HOURS);
    bool pm = !hours24 && (hours & 0x80);
    if (pm)
        hours &= 0x7F;
    snprintf(got, sizeof(got),
             binary ? "%02d%02d-%02d-%02d %02d:%02d:%02d %d%s" : "%02x%02x-%02x-%02x %02x:%02x:%02x %x%s",
             get(CENTURY), get(YEAR), get(MONTH), get(DAY), hours, get(MINUTES), get(SECONDS), get(WEEKDAY),
             pm ? " pm" : "");
    cr_assert_str_eq(got, expected);
}

Test(rtc, shows_the_time_in_every_format)
{
    static const int64_t instants[] = {0,          951782399,  951782400,        951868799,
                                       951868800,  1709164799, 1709251199,       978307199,
                                       4102444799, -1,         253402300799 / 30};
    unsigned seed = 1;
    for (int i = 0; i < 4000; i++) {
        int64_t seconds = (size_t)i < sizeof(instants) / sizeof(instants[0])
                              ? instants[i]
                              : (int64_t)rand_r(&seed) * 4 - 2000000000;
        host_time = seconds * SECOND + rand_r(&seed) % SECOND;
        bool binary = i & 1, hours24 = i & 2;
        put(B, (uint8_t)(binary << 2 | hours24 << 1));
        check_time(binary, hours24);
    }
}

Test(rtc, has_the_registers_of_a_working_clock)
{
    cr_assert_eq(get(A), 0x26);
    cr_assert_eq(get(B), 0x02);
    cr_assert_eq(get(D), 0x80);
    put(D, 0);
    cr_assert_eq(get(D), 0x80);
    put(C, 0xFF);
    cr_assert_eq(get(C), 0);
    cr_assert_eq(bus_in(&bus, RTC, 1), 0xFF);
}

Test(rtc, keeps_cmos_ram)
{
    for (unsigned i = 14; i < 128; i++)
        if (i != CENTURY)
            put((uint8_t)i, (uint8_t)(i * 7));
    for (unsigned i = 14; i < 128; i++)
        if (i != CENTURY)
            cr_assert_eq(get((uint8_t)(i | 0x80)), (uint8_t)(i * 7), "the top bit is not part of the index");
    bus_out(&bus, RTC, 0x5540, 2);
    cr_assert_eq(get(0x40), 0x55, "both ports in one access");
}

Test(rtc, shows_an_update_before_it_comes)
{
    host_time = Y2024 * SECOND + SECOND - 245000;
    cr_assert_eq(get(A) & 0x80, 0);
    host_time = Y2024 * SECOND + SECOND - 244000;
    cr_assert_eq(get(A) & 0x80, 0x80);
    host_time = Y2024 * SECOND + SECOND;
    cr_assert_eq(get(A) & 0x80, 0);
    cr_assert_eq(get(SECONDS), 0x01);
}

/* The last moment without UIP, and a guest that is slow to read. */
Test(rtc, holds_the_time_for_a_reader)
{
    host_time = (Y2024 - 1) * SECOND + SECOND - 300000;
    cr_assert_eq(get(A) & 0x80, 0);
    int64_t seen = host_time;
    host_time += 5 * MILLISECOND;
    cr_assert_eq(get(SECONDS), 0x59);
    cr_assert_eq(get(YEAR), 0x23);
    host_time = seen + 10 * MILLISECOND;
    cr_assert_eq(get(SECONDS), 0x00);
    cr_assert_eq(get(YEAR), 0x24);
    get(A);
    host_time -= 3600 * SECOND;
    cr_assert_eq(get(HOURS), 0x23, "the host's clock has been set back");
}

/* As Linux's mc146818_set_time() does, in BCD. */
static void set_time(const char *digits)
{
    static const uint8_t registers[] = {CENTURY, YEAR, MONTH, DAY, HOURS, MINUTES, SECONDS};
    uint8_t control = get(B);
    put(B, control | 0x80);
    uint8_t frequency = get(A);
    put(A, frequency | 0x70);
    for (int i = 0; i < 7; i++)
        put(registers[i], (uint8_t)((digits[2 * i] - '0') << 4 | (digits[2 * i + 1] - '0')));
    put(B, control);
    put(A, frequency);
}

Test(rtc, can_be_set)
{
    set_time("20380119031407");
    cr_assert_eq(get(A), 0x26);
    int64_t set_at = host_time;
    host_time += 500 * MILLISECOND - 1;
    cr_assert_eq(get(SECONDS), 0x07);
    host_time++;
    cr_assert_eq(get(SECONDS), 0x08, "the first update comes half a second after the divider starts");
    host_time = set_at + 86400 * SECOND;
    cr_assert_eq(get(YEAR), 0x38);
    cr_assert_eq(get(DAY), 0x20);
    cr_assert_eq(get(HOURS), 0x03);
    cr_assert_eq(get(SECONDS), 0x07);
    cr_assert_eq(get(WEEKDAY), 4, "a Wednesday");
    set_time("00000101000000");
    cr_assert_eq(get(CENTURY), 0x00);
    set_time("99991231235959");
    host_time += SECOND;
    cr_assert_eq(get(CENTURY), 0x00);
    cr_assert_eq(get(YEAR), 0x00);
    set_time("20240229120000");
    cr_assert_eq(get(DAY), 0x29);
}

Test(rtc, stands_still_while_it_is_set)
{
    put(B, 0x82);
    host_time += 10 * SECOND;
    cr_assert_eq(get(SECONDS), 0x00);
    cr_assert_eq(get(A) & 0x80, 0);
    put(MINUTES, 0x30);
    cr_assert_eq(get(MINUTES), 0x30);
    put(B, 0x02);
    cr_assert_eq(get(MINUTES), 0x30);
    cr_assert_eq(get(SECONDS), 0x00);
    host_time += 700 * MILLISECOND;
    cr_assert_eq(get(SECONDS), 0x01, "the divider has gone on");
}

Test(rtc, registers_can_be_set_as_it_runs)
{
    put(HOURS, 0x15);
    put(YEAR, 0x99);
    put(CENTURY, 0x19);
    host_time += SECOND;
    cr_assert_eq(get(HOURS), 0x15);
    cr_assert_eq(get(YEAR), 0x99);
    cr_assert_eq(get(CENTURY), 0x19);
    cr_assert_eq(get(SECONDS), 0x01);
}

/* The alarm comes after `seconds` and not before, which its flag would tell; -1: not within two days. */
static void check_alarm(int seconds)
{
    get(C);
    host_time += seconds < 0 ? 2 * 86400 * SECOND : (seconds - 1) * SECOND;
    cr_assert_eq(get(C) & 0x20, 0);
    if (seconds < 0)
        return;
    host_time += SECOND;
    cr_assert_eq(get(C) & 0x20, 0x20);
}

Test(rtc, alarm_comes_when_hour_minute_and_second_match)
{
    static const struct {
        uint8_t hours, minutes, seconds, b;
        int after, again;
    } cases[] = {
        {0xFF, 0xFF, 0xFF, 0x02, 1, 1},
        {0xFF, 0xFF, 0x10, 0x02, 10, 60},
        {0xFF, 0x02, 0x05, 0x02, 125, 3600},
        {0x01, 0x00, 0x00, 0x02, 3600, 86400},
        {0xFF, 0x02, 0xC0, 0x02, 120, 1},
        {0x0D, 0x0A, 0x1E, 0x06, 13 * 3600 + 630, 86400},
        {0x81, 0x00, 0x00, 0x00, 13 * 3600, 86400},
        {0x12, 0x00, 0x01, 0x00, 1, 86400},
        {0x25, 0x00, 0x00, 0x02, -1, -1},
        {0xFF, 0x75, 0xFF, 0x02, -1, -1},
        {0xFF, 0xFF, 0x3C, 0x06, -1, -1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        host_time = Y2024 * SECOND + 300 * MILLISECOND;
        put(B, cases[i].b);
        put(1, cases[i].seconds);
        put(3, cases[i].minutes);
        put(5, cases[i].hours);
        check_alarm(cases[i].after);
        check_alarm(cases[i].again);
    }
}

Test(rtc, flags_come_without_their_interrupts)
{
    put(A, 0x2F); /* 2 Hz */
    put(1, 0xFF), put(3, 0xFF), put(5, 0xFF);
    get(C);
    host_time += 100 * MILLISECOND;
    cr_assert_eq(get(C), 0);
    host_time += 100 * MILLISECOND;
    cr_assert_eq(get(C), 0x40);
    host_time += 500 * MILLISECOND;
    cr_assert_eq(get(C), 0x70);
    cr_assert_eq(get(C), 0, "reading clears them");
    host_time -= 100 * SECOND;
    cr_assert_eq(get(C), 0, "nothing happens as the host's clock goes back");
    cr_assert_not(test_line_level(&line));
}

Test(rtc, interrupts_until_register_c_is_read)
{
    put(1, 0xFF), put(3, 0xFF), put(5, 0xFF);
    put(B, 0x22);
    get(C);
    cr_assert_not(test_line_level(&line));
    host_time += SECOND;
    put(0x40, 0);
    cr_assert(test_line_level(&line));
    cr_assert_eq(get(C) & 0xA0, 0xA0);
    cr_assert_not(test_line_level(&line));
    host_time += SECOND;
    put(B, 0x02);
    cr_assert_not(test_line_level(&line));
    put(B, 0x22);
    cr_assert(test_line_level(&line), "enabling raises what was pending");
}

Test(rtc, setting_the_clock_turns_the_update_interrupt_off)
{
    put(B, 0x12);
    put(B, 0x92);
    cr_assert_eq(get(B), 0x82);
}

static void setup_running(void)
{
    host_time = Y2024 * SECOND + 995 * MILLISECOND;
    started = monotonic();
    create(running_clock);
    loop_start(&loop);
}

static void teardown_running(void)
{
    loop_stop(&loop);
    teardown();
}

TestSuite(rtc_interrupts, .init = setup_running, .fini = teardown_running);

Test(rtc_interrupts, periodic)
{
    put(A, 0x26);
    put(B, 0x42);
    for (int i = 0; i < 20; i++) {
        test_line_wait(&line);
        cr_assert_eq(get(C) & 0xC0, 0xC0);
    }
}

Test(rtc_interrupts, update_ended)
{
    put(B, 0x12);
    test_line_wait(&line);
    cr_assert_eq(get(C) & 0x90, 0x90);
}

Test(rtc_interrupts, alarm)
{
    put(1, 0xFF), put(3, 0xFF), put(5, 0xFF);
    put(B, 0x22);
    test_line_wait(&line);
    cr_assert_eq(get(C) & 0xA0, 0xA0);
}
