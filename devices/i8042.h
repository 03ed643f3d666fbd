/*
 * The reset line of an i8042 keyboard controller without the controller: command 0xFE resets the machine, and
 * everything reads as all ones, by which guests see that there is no keyboard controller to probe. The data
 * port (0x60) needs no region for that: nothing at all reads as all ones too.
 */
#pragma once

#include "devices/shutdown.h"

struct error;
struct i8042;
struct memory;
struct memory_region;

/* `shutdown` is copied. */
int i8042_create(const struct shutdown_handler *shutdown, struct memory *memory, struct i8042 **out,
                 struct error *err);

/* One byte: the command and status port (0x64). Owned by the device; must be out of its container before
 * i8042_destroy(). */
struct memory_region *i8042_region(struct i8042 *i8042);

/* NULL is allowed. */
void i8042_destroy(struct i8042 *i8042);
