/* How a guest ends. */
#pragma once

#include <stdint.h>

/* Exit statuses that the library itself uses. A guest's own verdict is 0 (as it should be) or 1 (not so). */
#define EXIT_EXCEPTION 100
#define EXIT_PANIC     101

/*
 * Ends the machine with `status`: by the exit port of the device tree. Where the tree has none, by ACPI power
 * off for status 0 and by a triple fault, after a line that tells the status, for any other: a failure never
 * passes for success. Without a device tree the exit port is QEMU's isa-debug-exit at port 0xf4.
 */
_Noreturn void guest_exit(uint8_t status);

/* Prints "guest: REASON" and ends with EXIT_PANIC. */
_Noreturn void guest_panic(const char *reason);

/* Ends this CPU by a triple fault. */
_Noreturn void guest_triple_fault(void);

/* Stops this CPU for good. */
_Noreturn void guest_halt(void);
