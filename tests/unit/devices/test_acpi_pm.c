#include "devices/acpi_pm.h"
#include "fixture.h"

#define EVENT   0x600
#define CONTROL 0x604
#define TIMER   0x608
#define RESET   0xCF9

#define S5      5

static struct bus bus;
static struct test_line line;
static struct acpi_pm *pm;
static unsigned power_offs, resets;
static int64_t host_time;

static void request(void *opaque, enum shutdown_cause cause, int status)
{
    power_offs += cause == SHUTDOWN_POWER_OFF;
    resets += cause == SHUTDOWN_RESET;
    cr_assert_eq(status, 0);
}

static int64_t stopped_clock(void *opaque)
{
    return host_time;
}

static void setup(void)
{
    struct error err = {0};
    bus_create(&bus);
    struct acpi_pm_config config = {
        .sci = test_line_init(&line),
        .shutdown = {.request = request},
        .s5_sleep_type = S5,
        .reset_value = 6,
        .clock = stopped_clock,
    };
    cr_assert_eq(acpi_pm_create(&config, bus.memory, &pm, &err), 0, "%s", err.message);
    bus_map(&bus, EVENT, acpi_pm_event_region(pm));
    bus_map(&bus, CONTROL, acpi_pm_control_region(pm));
    bus_map(&bus, TIMER, acpi_pm_timer_region(pm));
    bus_map(&bus, RESET - 1, acpi_pm_reset_region(pm));
}

static void teardown(void)
{
    bus_unmap(acpi_pm_event_region(pm));
    bus_unmap(acpi_pm_control_region(pm));
    bus_unmap(acpi_pm_timer_region(pm));
    bus_unmap(acpi_pm_reset_region(pm));
    acpi_pm_destroy(pm);
    bus_destroy(&bus);
}

TestSuite(acpi_pm, .init = setup, .fini = teardown);

Test(acpi_pm, power_button_raises_the_sci_until_it_is_acknowledged)
{
    acpi_pm_press_power_button(pm);
    cr_assert_not(test_line_level(&line), "not before it is enabled");
    cr_assert_eq(bus_in(&bus, EVENT, 2), 0x0100);
    bus_out(&bus, EVENT + 2, 0x0100, 2);
    cr_assert(test_line_level(&line));
    bus_out(&bus, EVENT, 0xFEFF, 2);
    cr_assert(test_line_level(&line), "other bits do not acknowledge it");
    bus_out(&bus, EVENT, 0x0100, 2);
    cr_assert_not(test_line_level(&line));
    cr_assert_eq(bus_in(&bus, EVENT, 4), 0x01000000);
    acpi_pm_press_power_button(pm);
    cr_assert(test_line_level(&line));
    bus_out(&bus, EVENT + 1, 0x01, 1);
    cr_assert_not(test_line_level(&line), "a byte does, too");
}

Test(acpi_pm, enable_bits_are_kept_where_there_is_an_event)
{
    bus_out(&bus, EVENT + 2, 0xFFFF, 2);
    cr_assert_eq(bus_in(&bus, EVENT + 2, 2), 0x0721);
    bus_out(&bus, EVENT + 2, 0, 1);
    cr_assert_eq(bus_in(&bus, EVENT + 2, 2), 0x0700);
}

Test(acpi_pm, only_s5_powers_off)
{
    cr_assert_eq(bus_in(&bus, CONTROL, 2), 0x0001, "ACPI mode");
    for (unsigned type = 0; type < 8; type++) {
        bus_out(&bus, CONTROL, type << 10, 2);
        cr_assert_eq(bus_in(&bus, CONTROL, 2), type << 10 | 1);
        bus_out(&bus, CONTROL, type << 10 | 0x2001, 2);
        cr_assert_eq(power_offs, type >= S5);
        cr_assert_eq(bus_in(&bus, CONTROL, 2), type << 10 | 1, "SLP_EN reads as zero");
    }
    cr_assert_eq(power_offs, 1);
}

Test(acpi_pm, timer_counts_at_its_rate)
{
    for (int64_t seconds = 0; seconds < 100000000; seconds = seconds * 3 + 1) {
        host_time = seconds * 1000000000;
        cr_assert_eq(bus_in(&bus, TIMER, 4), (uint32_t)(seconds * 3579545));
    }
    host_time = 1000000;
    cr_assert_eq(bus_in(&bus, TIMER, 4), 3579);
    cr_assert_eq(bus_in(&bus, TIMER, 2), 3579);
    cr_assert_eq(bus_in(&bus, TIMER + 1, 1), 3579 >> 8);
    bus_out(&bus, TIMER, 0, 4);
    cr_assert_eq(bus_in(&bus, TIMER, 4), 3579);
}

Test(acpi_pm, reset_register_is_one_byte)
{
    bus_out(&bus, RESET, 0x02, 1);
    bus_out(&bus, RESET - 1, 0x80000600, 4); /* a PCI configuration address */
    bus_out(&bus, RESET, 0x0606, 2);
    bus_out(&bus, RESET - 1, 0x06, 1);
    cr_assert_eq(resets, 0);
    cr_assert_eq(bus_in(&bus, RESET - 1, 4), 0xFFFFFFFF, "no PCI here");
    cr_assert_eq(bus_in(&bus, RESET, 1), 0);
    bus_out(&bus, RESET, 0x06, 1);
    cr_assert_eq(resets, 1);
    bus_out(&bus, RESET, 0x0E, 1);
    cr_assert_eq(resets, 2);
}
