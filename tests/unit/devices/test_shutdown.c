/* The devices that do nothing but end the machine: the exit port and the i8042 reset line. */
#include "devices/debug_exit.h"
#include "devices/i8042.h"
#include "fixture.h"

#define PORT  0x501
#define I8042 0x64

static unsigned calls;
static enum shutdown_cause last_cause;
static int last_status;

static void request(void *opaque, enum shutdown_cause cause, int status)
{
    calls++;
    last_cause = cause;
    last_status = status;
}

static const struct shutdown_handler handler = {.request = request};

Test(shutdown, exit_port_gives_the_low_byte_of_any_write)
{
    struct bus bus;
    struct debug_exit *debug_exit;
    struct error err = {0};
    bus_create(&bus);
    cr_assert_eq(debug_exit_create(&handler, bus.memory, &debug_exit, &err), 0, "%s", err.message);
    bus_map(&bus, PORT, debug_exit_region(debug_exit));
    unsigned expected = 0;
    for (unsigned size = 1; size <= 4; size *= 2) {
        for (unsigned status = 0; status < 256; status++) {
            bus_out(&bus, PORT, 0xABCDEF00 | status, size);
            cr_assert_eq(calls, ++expected);
            cr_assert_eq(last_cause, SHUTDOWN_EXIT);
            cr_assert_eq(last_status, (int)status);
        }
    }
    cr_assert_eq(bus_in(&bus, PORT, 4), 0xFFFFFFFF);
    bus_unmap(debug_exit_region(debug_exit));
    debug_exit_destroy(debug_exit);
    bus_destroy(&bus);
}

Test(shutdown, i8042_resets_on_its_command_and_shows_no_controller)
{
    struct bus bus;
    struct i8042 *i8042;
    struct error err = {0};
    bus_create(&bus);
    cr_assert_eq(i8042_create(&handler, bus.memory, &i8042, &err), 0, "%s", err.message);
    bus_map(&bus, I8042, i8042_region(i8042));
    for (unsigned command = 0; command < 256; command++) {
        bus_out(&bus, I8042, command, 1);
        cr_assert_eq(calls, command >= 0xFE);
    }
    cr_assert_eq(last_cause, SHUTDOWN_RESET);
    cr_assert_eq(bus_in(&bus, I8042, 1), 0xFF);
    cr_assert_eq(bus_in(&bus, I8042 - 4, 1), 0xFF);
    bus_unmap(i8042_region(i8042));
    i8042_destroy(i8042);
    bus_destroy(&bus);
}
