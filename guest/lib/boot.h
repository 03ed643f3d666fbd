/*
 * What the boot loader told the guest: how it was entered, the device tree, the command line.
 *
 * The command line ("bootargs") is the tree's /chosen/bootargs or, without a tree, what the boot protocol
 * passes. Guests read it as words NAME=VALUE; numbers are decimal or 0x…, and may end in k, M or G.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* The program: returns the exit status. Runs in user mode with interrupts off. */
int main(void);

/* Name of the way the guest was entered: elf64, flat, bzimage, pvh or multiboot. */
const char *boot_entry(void);

/* The device tree, if the loader passed a sound one, or NULL. It stays where the loader put it. */
const void *boot_tree(void);

/* The command line as the boot protocol passes it beside the tree, or NULL. */
const char *boot_protocol_arguments(void);

/* The command line; "" if there is none. */
const char *boot_arguments(void);

/*
 * The number in the word NAME=NUMBER, or `otherwise` if there is no such word. A malformed number ends the
 * guest.
 */
uint64_t argument_number(const char *name, uint64_t otherwise);

/* Whether the word NAME=VALUE is there, or, with `by_default`, no word NAME=… at all. */
bool argument_is(const char *name, const char *value, bool by_default);
