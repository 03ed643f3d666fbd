#include "devices/acpi_pm.h"

#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"
#include "devices/clock.h"
#include "memory/region.h"

#define PM_TIMER_HZ      3579545

/* PM1 status and enable bits, in either of the block's two registers */
#define PM1_TIMER        0x0001
#define PM1_GLOBAL_LOCK  0x0020
#define PM1_POWER_BUTTON 0x0100
#define PM1_SLEEP_BUTTON 0x0200
#define PM1_RTC          0x0400
#define PM1_ENABLE_MASK  (PM1_TIMER | PM1_GLOBAL_LOCK | PM1_POWER_BUTTON | PM1_SLEEP_BUTTON | PM1_RTC)

/* PM1 control, by byte */
#define CONTROL_SCI_EN   0x01 /* low byte */
#define CONTROL_SLP_EN   0x20 /* high byte */
#define CONTROL_SLP_TYP  2    /* shift, high byte */

#define RESET_OFFSET     1

struct acpi_pm {
    struct memory_region event, control, timer, reset;
    struct acpi_pm_config config;
    pthread_mutex_t lock; /* guards all below */
    uint16_t status, enable;
    uint8_t sleep_type;
};

static void update_sci(struct acpi_pm *pm)
{
    irq_line_set(&pm->config.sci, pm->status & pm->enable);
}

/* Status and enable register as four bytes: wider accesses are split, which the one-to-clear status bits
 * want. */
static uint64_t event_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    pthread_mutex_lock(&pm->lock);
    uint16_t value = offset < 2 ? pm->status : pm->enable;
    pthread_mutex_unlock(&pm->lock);
    return offset & 1 ? value >> 8 : value & 0xFF;
}

static void event_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;
    unsigned shift = offset & 1 ? 8 : 0;
    uint16_t bits = (uint16_t)((uint8_t)value << shift);
    pthread_mutex_lock(&pm->lock);
    if (offset < 2)
        pm->status &= (uint16_t)~bits;
    else
        pm->enable = (uint16_t)((pm->enable & ~(0xFFu << shift)) | (bits & PM1_ENABLE_MASK));
    update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
}

static uint64_t control_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    if (offset == 0)
        return CONTROL_SCI_EN;
    pthread_mutex_lock(&pm->lock);
    uint8_t value = (uint8_t)(pm->sleep_type << CONTROL_SLP_TYP);
    pthread_mutex_unlock(&pm->lock);
    return value;
}

static void control_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;
    if (offset == 0)
        return;
    uint8_t sleep_type = (value >> CONTROL_SLP_TYP) & 7;
    pthread_mutex_lock(&pm->lock);
    pm->sleep_type = sleep_type;
    pthread_mutex_unlock(&pm->lock);
    if ((value & CONTROL_SLP_EN) && sleep_type == pm->config.s5_sleep_type)
        pm->config.shutdown.request(pm->config.shutdown.opaque, SHUTDOWN_POWER_OFF, 0);
}

static int64_t monotonic_clock(void *opaque)
{
    return clock_now(CLOCK_MONOTONIC);
}

static uint64_t timer_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    int64_t time = pm->config.clock(pm->config.opaque);
    return (uint32_t)((__int128)time * PM_TIMER_HZ / NANOSECONDS);
}

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned size)
{
    return offset == RESET_OFFSET && size == 1 ? 0 : UINT64_MAX;
}

static void reset_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;
    if (offset == RESET_OFFSET && size == 1 && (value & pm->config.reset_value) == pm->config.reset_value)
        pm->config.shutdown.request(pm->config.shutdown.opaque, SHUTDOWN_RESET, 0);
}

static void ignore_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
}

static int init_regions(struct acpi_pm *pm, struct memory *memory, struct error *err)
{
    static const struct memory_region_ops event_ops = {
        .read = event_read,
        .write = event_write,
        .valid = {.min = 1, .max = 4},
        .impl = {.min = 1, .max = 1},
    };
    static const struct memory_region_ops control_ops = {
        .read = control_read,
        .write = control_write,
        .valid = {.min = 1, .max = 2},
        .impl = {.min = 1, .max = 1},
    };
    static const struct memory_region_ops timer_ops = {
        .read = timer_read,
        .write = ignore_write,
        .valid = {.min = 1, .max = 4},
        .impl = {.min = 4, .max = 4},
    };
    static const struct memory_region_ops reset_ops = {
        .read = reset_read,
        .write = reset_write,
        .valid = {.min = 1, .max = 4, .unaligned = true},
        .impl = {.min = 1, .max = 4, .unaligned = true},
    };
    int result = memory_region_init_mmio(&pm->event, memory, "acpi-pm-event", &event_ops, pm, 4, err);
    if (!result)
        result = memory_region_init_mmio(&pm->control, memory, "acpi-pm-control", &control_ops, pm, 2, err);
    if (!result)
        result = memory_region_init_mmio(&pm->timer, memory, "acpi-pm-timer", &timer_ops, pm, 4, err);
    if (!result)
        result = memory_region_init_mmio(&pm->reset, memory, "reset", &reset_ops, pm, 4, err);
    return result;
}

int acpi_pm_create(const struct acpi_pm_config *config, struct memory *memory, struct acpi_pm **out,
                   struct error *err)
{
    struct acpi_pm *pm = calloc(1, sizeof(*pm));
    if (!pm)
        return error_set(err, ENOMEM, "not enough memory for ACPI power management");
    pm->config = *config;
    if (!pm->config.clock)
        pm->config.clock = monotonic_clock;
    pthread_mutex_init(&pm->lock, NULL);
    int result = init_regions(pm, memory, err);
    if (result) {
        acpi_pm_destroy(pm);
        return result;
    }
    *out = pm;
    return 0;
}

struct memory_region *acpi_pm_event_region(struct acpi_pm *pm)
{
    return &pm->event;
}

struct memory_region *acpi_pm_control_region(struct acpi_pm *pm)
{
    return &pm->control;
}

struct memory_region *acpi_pm_timer_region(struct acpi_pm *pm)
{
    return &pm->timer;
}

struct memory_region *acpi_pm_reset_region(struct acpi_pm *pm)
{
    return &pm->reset;
}

void acpi_pm_press_power_button(struct acpi_pm *pm)
{
    pthread_mutex_lock(&pm->lock);
    pm->status |= PM1_POWER_BUTTON;
    update_sci(pm);
    pthread_mutex_unlock(&pm->lock);
}

void acpi_pm_destroy(struct acpi_pm *pm)
{
    if (!pm)
        return;
    memory_region_destroy(&pm->event);
    memory_region_destroy(&pm->control);
    memory_region_destroy(&pm->timer);
    memory_region_destroy(&pm->reset);
    pthread_mutex_destroy(&pm->lock);
    free(pm);
}
