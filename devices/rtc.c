#include "devices/rtc.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "devices/clock.h"
#include "devices/timeout.h"
#include "memory/region.h"

/* Guest time in nanoseconds since 1970: in 64 bits it would end within reach of what a guest can set. */
typedef __int128 instant;

#define SECOND        ((instant)NANOSECONDS)
#define DAY           86400 /* seconds */
#define NEVER         ((instant)1 << 120)
#define UIP_TIME      244000    /* how long before an update it shows */
#define LATCH_TIME    10000000  /* how long a reading of register A holds */
#define DIVIDER_START 500000000 /* from the divider's start to the first update */
#define OSCILLATOR_HZ 32768

#define CMOS_SIZE     128

/* Indices. Seconds, minutes and hours are each followed by their alarm. */
enum {
    CMOS_SECONDS,
    CMOS_SECONDS_ALARM,
    CMOS_MINUTES,
    CMOS_MINUTES_ALARM,
    CMOS_HOURS,
    CMOS_HOURS_ALARM,
    CMOS_WEEKDAY,
    CMOS_DAY,
    CMOS_MONTH,
    CMOS_YEAR,
    CMOS_A,
    CMOS_B,
    CMOS_C,
    CMOS_D,
    CMOS_CENTURY = 0x32,
};

#define A_UIP              0x80
#define A_RATE             0x0F
#define A_DIVIDER_RESET    0x60 /* both of these bits hold the divider */
#define A_DEFAULT          0x26 /* 32,768 Hz time base, 1024 Hz periodic interrupt */

#define B_SET              0x80
#define B_UPDATE_INTERRUPT 0x10
#define B_BINARY           0x04
#define B_24_HOURS         0x02

/* Register C; the same bits of register B enable their interrupts. */
#define C_INTERRUPT        0x80
#define C_PERIODIC         0x40
#define C_ALARM            0x20
#define C_UPDATE           0x10
#define C_EVENTS           (C_PERIODIC | C_ALARM | C_UPDATE)

#define D_VALID            0x80

#define HOURS_PM           0x80
#define ALARM_ANY          0xC0 /* an alarm byte with these bits matches everything */

struct rtc {
    struct memory_region region;
    struct rtc_config config;
    struct timeout *timeout;
    pthread_mutex_t lock; /* guards all below */
    instant offset;       /* guest time minus host time */
    instant seen;         /* guest time up to which register C tells what happened */
    instant latched;      /* when register A was last read with UIP clear */
    instant due;          /* what the timer runs for; NEVER: it does not run */
    bool irq_level;
    uint8_t index;
    /* Time registers are current only while the clock is stopped; A is without UIP, C without C_INTERRUPT. */
    uint8_t cmos[CMOS_SIZE];
};

static int64_t host_clock(void *opaque)
{
    return clock_now(CLOCK_REALTIME);
}

static instant guest_time(const struct rtc *rtc)
{
    return rtc->config.clock(rtc->config.opaque) + rtc->offset;
}

static instant floor_divide(instant value, instant divisor)
{
    instant quotient = value / divisor;
    return value % divisor < 0 ? quotient - 1 : quotient;
}

static instant floor_modulo(instant value, instant divisor)
{
    return value - floor_divide(value, divisor) * divisor;
}

static bool divider_held(const struct rtc *rtc)
{
    return (rtc->cmos[CMOS_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* Whether time goes on in the registers. */
static bool running(const struct rtc *rtc)
{
    return !(rtc->cmos[CMOS_B] & B_SET) && !divider_held(rtc);
}

static uint8_t encode(const struct rtc *rtc, int value)
{
    return (uint8_t)(rtc->cmos[CMOS_B] & B_BINARY ? value : value / 10 << 4 | value % 10);
}

static int decode(const struct rtc *rtc, uint8_t value)
{
    return rtc->cmos[CMOS_B] & B_BINARY ? value : (value >> 4) * 10 + (value & 0xF);
}

static uint8_t encode_hours(const struct rtc *rtc, int hours)
{
    if (rtc->cmos[CMOS_B] & B_24_HOURS)
        return encode(rtc, hours);
    return encode(rtc, (hours + 11) % 12 + 1) | (hours >= 12 ? HOURS_PM : 0);
}

static int decode_hours(const struct rtc *rtc, uint8_t value)
{
    if (rtc->cmos[CMOS_B] & B_24_HOURS)
        return decode(rtc, value);
    return decode(rtc, value & (uint8_t)~HOURS_PM) % 12 + (value & HOURS_PM ? 12 : 0);
}

/* Brings the time registers to `time`. */
static void store_time(struct rtc *rtc, instant time)
{
    time_t seconds = (time_t)floor_divide(time, SECOND);
    struct tm tm;
    gmtime_r(&seconds, &tm);
    int year = (int)floor_modulo(tm.tm_year + 1900, 10000);
    rtc->cmos[CMOS_SECONDS] = encode(rtc, tm.tm_sec);
    rtc->cmos[CMOS_MINUTES] = encode(rtc, tm.tm_min);
    rtc->cmos[CMOS_HOURS] = encode_hours(rtc, tm.tm_hour);
    rtc->cmos[CMOS_WEEKDAY] = encode(rtc, tm.tm_wday + 1);
    rtc->cmos[CMOS_DAY] = encode(rtc, tm.tm_mday);
    rtc->cmos[CMOS_MONTH] = encode(rtc, tm.tm_mon + 1);
    rtc->cmos[CMOS_YEAR] = encode(rtc, year % 100);
    rtc->cmos[CMOS_CENTURY] = encode(rtc, year / 100);
}

/* The time that the time registers show, in whole seconds; dates that do not exist count on into the next
 * month. */
static instant load_time(const struct rtc *rtc)
{
    const uint8_t *cmos = rtc->cmos;
    struct tm tm = {
        .tm_sec = decode(rtc, cmos[CMOS_SECONDS]),
        .tm_min = decode(rtc, cmos[CMOS_MINUTES]),
        .tm_hour = decode_hours(rtc, cmos[CMOS_HOURS]),
        .tm_mday = decode(rtc, cmos[CMOS_DAY]),
        .tm_mon = decode(rtc, cmos[CMOS_MONTH]) - 1,
        .tm_year = decode(rtc, cmos[CMOS_CENTURY]) * 100 + decode(rtc, cmos[CMOS_YEAR]) - 1900,
    };
    return timegm(&tm) * SECOND;
}

/* Makes guest time what the time registers show. */
static void set_time(struct rtc *rtc, instant fraction)
{
    instant now = guest_time(rtc);
    instant wanted = load_time(rtc) + fraction;
    rtc->offset += wanted - now;
    rtc->seen = wanted;
    rtc->latched = -NEVER;
}

/* An alarm byte's value: -1 for any, or at least `limit` where nothing can match. */
static int alarm_field(const struct rtc *rtc, unsigned index)
{
    uint8_t value = rtc->cmos[index];
    if ((value & ALARM_ANY) == ALARM_ANY)
        return -1;
    return index == CMOS_HOURS_ALARM ? decode_hours(rtc, value) : decode(rtc, value);
}

static instant next_alarm(const struct rtc *rtc, instant after)
{
    int seconds = alarm_field(rtc, CMOS_SECONDS_ALARM);
    int minutes = alarm_field(rtc, CMOS_MINUTES_ALARM);
    int hours = alarm_field(rtc, CMOS_HOURS_ALARM);
    if (seconds >= 60 || minutes >= 60 || hours >= 24)
        return NEVER;
    instant at = floor_divide(after, SECOND) + 1;
    for (;;) {
        int of_day = (int)floor_modulo(at, DAY);
        if (hours >= 0 && of_day / 3600 != hours)
            at += 3600 - of_day % 3600;
        else if (minutes >= 0 && of_day / 60 % 60 != minutes)
            at += 60 - of_day % 60;
        else if (seconds >= 0 && of_day % 60 != seconds)
            at++;
        else
            return at * SECOND;
    }
}

static instant next_update(instant after)
{
    return (floor_divide(after, SECOND) + 1) * SECOND;
}

/* Rates 1 and 2 are those of 8 and 9; from 3 on each is half as fast as the one before. */
static instant next_periodic(const struct rtc *rtc, instant after)
{
    unsigned rate = rtc->cmos[CMOS_A] & A_RATE;
    if (rate == 0)
        return NEVER;
    if (rate <= 2)
        rate += 7;
    instant cycles = (instant)1 << (rate - 1);
    instant ticks = floor_divide(after * OSCILLATOR_HZ, cycles * SECOND) + 1;
    return -floor_divide(-ticks * cycles * SECOND, OSCILLATOR_HZ);
}

/* The first moment after `after` at which one of `events` happens. */
static instant next_event(const struct rtc *rtc, uint8_t events, instant after)
{
    instant next = NEVER, candidate;
    if ((events & C_UPDATE) && running(rtc))
        next = next_update(after);
    if ((events & C_ALARM) && running(rtc) && (candidate = next_alarm(rtc, after)) < next)
        next = candidate;
    if ((events & C_PERIODIC) && !divider_held(rtc) && (candidate = next_periodic(rtc, after)) < next)
        next = candidate;
    return next;
}

/* Notes in register C what has happened. The host's clock may have been set back: then nothing has. */
static void catch_up(struct rtc *rtc)
{
    instant now = guest_time(rtc);
    for (uint8_t event = C_UPDATE; event & C_EVENTS; event <<= 1)
        if (next_event(rtc, event, rtc->seen) <= now)
            rtc->cmos[CMOS_C] |= event;
    rtc->seen = now;
}

/* Sets the interrupt line, or else the timer for the next interrupt. */
static void update_interrupt(struct rtc *rtc)
{
    uint8_t enabled = rtc->cmos[CMOS_B] & C_EVENTS;
    bool level = rtc->cmos[CMOS_C] & enabled;
    if (level != rtc->irq_level) {
        rtc->irq_level = level;
        irq_line_set(&rtc->config.irq, level);
    }
    instant due = level ? NEVER : next_event(rtc, enabled, rtc->seen);
    if (due == rtc->due)
        return;
    rtc->due = due;
    if (due == NEVER)
        timeout_cancel(rtc->timeout);
    else
        timeout_set(rtc->timeout, (int64_t)(due - rtc->seen));
}

static void timer_expired(void *opaque)
{
    struct rtc *rtc = opaque;
    pthread_mutex_lock(&rtc->lock);
    rtc->due = NEVER;
    catch_up(rtc);
    update_interrupt(rtc);
    pthread_mutex_unlock(&rtc->lock);
}

static bool is_time(unsigned index)
{
    switch (index) {
    case CMOS_SECONDS:
    case CMOS_MINUTES:
    case CMOS_HOURS:
    case CMOS_WEEKDAY:
    case CMOS_DAY:
    case CMOS_MONTH:
    case CMOS_YEAR:
    case CMOS_CENTURY:
        return true;
    default:
        return false;
    }
}

static uint8_t read_time(struct rtc *rtc, unsigned index)
{
    if (running(rtc)) {
        instant now = guest_time(rtc);
        bool latched = rtc->latched <= now && now < rtc->latched + LATCH_TIME;
        store_time(rtc, latched ? rtc->latched : now);
    }
    return rtc->cmos[index];
}

static uint8_t read_a(struct rtc *rtc)
{
    instant now = guest_time(rtc);
    if (running(rtc) && floor_modulo(now, SECOND) >= SECOND - UIP_TIME)
        return rtc->cmos[CMOS_A] | A_UIP;
    rtc->latched = now;
    return rtc->cmos[CMOS_A];
}

static uint8_t read_c(struct rtc *rtc)
{
    catch_up(rtc);
    uint8_t value = rtc->cmos[CMOS_C];
    if (value & rtc->cmos[CMOS_B])
        value |= C_INTERRUPT;
    rtc->cmos[CMOS_C] = 0;
    update_interrupt(rtc);
    return value;
}

static uint8_t read_register(struct rtc *rtc, unsigned index)
{
    if (is_time(index))
        return read_time(rtc, index);
    if (index == CMOS_A)
        return read_a(rtc);
    if (index == CMOS_C)
        return read_c(rtc);
    return rtc->cmos[index];
}

/* A register that is set while the clock runs changes the time at once. */
static void write_time(struct rtc *rtc, unsigned index, uint8_t value)
{
    if (!running(rtc)) {
        rtc->cmos[index] = value;
        return;
    }
    instant now = guest_time(rtc);
    store_time(rtc, now);
    rtc->cmos[index] = value;
    set_time(rtc, floor_modulo(now, SECOND));
}

/*
 * Registers A and B stop and start the clock. It stops with the time of that moment in its registers and goes
 * on with what the guest has left there.
 */
static void write_control(struct rtc *rtc, unsigned index, uint8_t value)
{
    bool was_running = running(rtc), was_held = divider_held(rtc);
    instant now = guest_time(rtc);
    if (was_running)
        store_time(rtc, now);
    rtc->cmos[index] = value;
    if (running(rtc) && !was_running)
        set_time(rtc, was_held ? SECOND - DIVIDER_START : floor_modulo(now, SECOND));
}

static void write_register(struct rtc *rtc, unsigned index, uint8_t value)
{
    catch_up(rtc);
    if (is_time(index))
        write_time(rtc, index, value);
    else if (index == CMOS_A)
        write_control(rtc, index, value & (uint8_t)~A_UIP);
    else if (index == CMOS_B)
        write_control(rtc, index, value & B_SET ? value & (uint8_t)~B_UPDATE_INTERRUPT : value);
    else if (index != CMOS_C && index != CMOS_D)
        rtc->cmos[index] = value;
    update_interrupt(rtc);
}

static uint64_t region_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rtc *rtc = opaque;
    if (offset == 0)
        return UINT64_MAX;
    pthread_mutex_lock(&rtc->lock);
    uint8_t value = read_register(rtc, rtc->index);
    pthread_mutex_unlock(&rtc->lock);
    return value;
}

/* The top bit of the index masks NMIs on a PC; there are none here. */
static void region_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rtc *rtc = opaque;
    pthread_mutex_lock(&rtc->lock);
    if (offset == 0)
        rtc->index = value % CMOS_SIZE;
    else
        write_register(rtc, rtc->index, (uint8_t)value);
    pthread_mutex_unlock(&rtc->lock);
}

static int init_region(struct rtc *rtc, struct memory *memory, struct error *err)
{
    static const struct memory_region_ops ops = {
        .read = region_read,
        .write = region_write,
        .valid = {.min = 1, .max = 8, .unaligned = true},
        .impl = {.min = 1, .max = 1},
    };
    int result = memory_region_init_mmio(&rtc->region, memory, "rtc", &ops, rtc, 2, err);
    return result ? result : memory_region_add_coalesced(&rtc->region, 0, 1, err);
}

int rtc_create(const struct rtc_config *config, struct memory *memory, struct rtc **out, struct error *err)
{
    struct rtc *rtc = calloc(1, sizeof(*rtc));
    if (!rtc)
        return error_set(err, ENOMEM, "not enough memory for the real-time clock");
    rtc->config = *config;
    if (!rtc->config.clock)
        rtc->config.clock = host_clock;
    rtc->cmos[CMOS_A] = A_DEFAULT;
    rtc->cmos[CMOS_B] = B_24_HOURS;
    rtc->cmos[CMOS_D] = D_VALID;
    rtc->seen = guest_time(rtc);
    rtc->latched = -NEVER;
    rtc->due = NEVER;
    pthread_mutex_init(&rtc->lock, NULL);
    int result = timeout_create(config->loop, timer_expired, rtc, &rtc->timeout);
    if (result)
        error_set_errno(err, -result, "cannot create the real-time clock's timer");
    else
        result = init_region(rtc, memory, err);
    if (result) {
        rtc_destroy(rtc);
        return result;
    }
    *out = rtc;
    return 0;
}

struct memory_region *rtc_region(struct rtc *rtc)
{
    return &rtc->region;
}

void rtc_destroy(struct rtc *rtc)
{
    if (!rtc)
        return;
    memory_region_destroy(&rtc->region);
    timeout_destroy(rtc->timeout);
    pthread_mutex_destroy(&rtc->lock);
    free(rtc);
}
