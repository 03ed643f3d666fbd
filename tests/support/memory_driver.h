/*
 * Drives the memory core with a random but reproducible sequence of operations, and compares after each one,
 * with what the oracle (tests/support/memory_oracle.h) says:
 *   - the flat views of two address spaces, one of which may show the other's tree;
 *   - what reads, writes and guest_map() answer at every unit of address;
 *   - every call of four listeners, in order, with the views and windows it is given;
 *   - the slots, ioeventfds and zones of a fake KVM, and that its rules were kept;
 *   - what clients of dirty tracking take, while devices and a guest store;
 *   - after an injected failure of a listener, of KVM or of an allocation, that everything is as before.
 *
 * The input is a series of steps of MEMORY_DRIVER_STEP bytes: the first one says what kind of machine it is,
 * each other is one operation, whose bytes choose what it does. So any step can be left out, and a byte that
 * is zero makes the simplest choice. Programs that use this are linked with the options of
 * tests/support/failing_malloc.h.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define MEMORY_DRIVER_STEP 11

enum memory_driver_flags {
    MEMORY_DRIVER_NARRATE = 1, /* say on standard error what is done */
    MEMORY_DRIVER_WRONG = 2,   /* expect the lower of two priorities on top: this must be found out */
};

/*
 * Runs the steps that `data` stands for. Where something is wrong it prints what, with the tree, the views
 * and the calls, and aborts.
 */
void memory_driver_run(const uint8_t *data, size_t size, unsigned flags);
