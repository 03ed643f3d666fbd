/*
 * Drives the memory core with a random but reproducible sequence of operations, and compares after each one,
 * with what the oracle (tests/support/memory_oracle.h) says:
 *   - the flat views of two address spaces, one of which may contain the other's tree;
 *   - what reads and guest_map() answer at every unit of address;
 *   - every call of four listeners, in order, with the views it is given;
 *   - the slots, ioeventfds and zones of a fake KVM, and that its rules were kept;
 *   - after an injected failure, that everything is as before.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

/*
 * Runs the sequence that `data` stands for. Where something is wrong it prints what, with the tree and the
 * views, and aborts.
 */
void memory_driver_run(const uint8_t *data, size_t size);
