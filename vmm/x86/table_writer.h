/*
 * Bytes for the guest, written one piece after the other into room that may run out. What does not fit is
 * dropped and remembered, so that a table can be written without a check after each piece and with one at the
 * end.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address_space;
struct error;

struct table_writer {
    uint8_t *bytes; /* owned by whoever made the writer */
    size_t room;
    size_t used;
    bool full; /* something did not fit */
};

/* Appends `size` bytes; all of them or none. */
void table_append(struct table_writer *writer, const void *data, size_t size);

/* As table_append(), in front of what was written from `position` on. */
void table_insert(struct table_writer *writer, size_t position, const void *data, size_t size);

/* Appends zeroes until the next byte lies at a multiple of `alignment`, a power of two. */
void table_align(struct table_writer *writer, size_t alignment);

/* The byte that makes `size` bytes, with a zero where it goes, add up to 0 modulo 256. */
uint8_t table_checksum(const void *data, size_t size);

/*
 * Copies what was written into guest RAM at `address`. `name` says what it is: "the ACPI tables". -ENOSPC
 * where something did not fit, -EFAULT where the guest has no RAM there, with a message.
 */
int table_copy_to_guest(const struct table_writer *writer, struct address_space *memory, uint64_t address,
                        const char *name, struct error *err);
