/*
 * The exit port: a guest ends its machine by writing an exit status to it. For test guests, which have no
 * other business than to report success or failure.
 */
#pragma once

#include "devices/shutdown.h"

struct debug_exit;
struct error;
struct memory;
struct memory_region;

/* `shutdown` is copied. */
int debug_exit_create(const struct shutdown_handler *shutdown, struct memory *memory, struct debug_exit **out,
                      struct error *err);

/*
 * One byte: of a wider write it gets the low byte, and the rest falls on whatever is next to it. Reads as all
 * ones. Owned by the device; must be out of its container before debug_exit_destroy().
 */
struct memory_region *debug_exit_region(struct debug_exit *debug_exit);

/* NULL is allowed. */
void debug_exit_destroy(struct debug_exit *debug_exit);
