/*
 * Copying from and to guest RAM, which the guest and other threads read and write at the same time.
 *
 * Each naturally aligned 2, 4 or 8 bytes (by host address) that a copy covers move by one load or store, so
 * an aligned access is never torn. There is no order among them: where order matters the caller puts a fence.
 * Any thread; neither blocks.
 */
#pragma once

#include <stddef.h>

void guest_copy_from(void *to, const void *guest, size_t size);
void guest_copy_to(void *guest, const void *from, size_t size);
