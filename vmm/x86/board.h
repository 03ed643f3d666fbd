/*
 * The board of an x86 machine: its memory and port space, its interrupt controllers, its devices, and what of
 * them the guest is told. The interrupt controllers and the PIT are KVM's: an interrupt reaches the guest,
 * and its end of interrupt is handled, without an exit, irqfds go straight to them, and their state is KVM's
 * to save.
 *
 * Made and freed by the machine's thread. Its address spaces are used by every vCPU thread; each device
 * guards itself.
 */
#pragma once

#include <stddef.h>
#include <stdio.h>

#include "vmm/machine.h"

struct address_space;
struct board;
struct boot_entry;
struct dirty_reaper;
struct kvm_vm;

/* Builds the board on a VM without vCPUs. `machine` is told (machine_end()) what the guest asks for. -errno,
 * message. */
int board_create(const struct machine_config *config, struct kvm_vm *vm, struct machine *machine,
                 struct board **board, struct error *err);

/* Frees it. No vCPU runs, nor will. NULL is allowed. */
void board_destroy(struct board *board);

/* Loads the kernel and writes the tables of the firmware. -errno with a message. */
int board_load(struct board *board, struct boot_entry *entry, struct error *err);

/* The device tree that board_load() made. */
const void *board_device_tree(const struct board *board, size_t *size);

struct address_space *board_memory(struct board *board);
struct address_space *board_io(struct board *board); /* ports */

/* What reaps the rings of vCPUs; NULL unless the dirty log is in rings. */
struct dirty_reaper *board_dirty_reaper(struct board *board);

/* Lets vCPUs that wait in a device for the host go on: a step of stopping them. Any thread. */
void board_release_vcpus(struct board *board);

/* Waits until the guest's output has left, or `interrupt` (a descriptor, or -1) is readable: 0 or -EINTR. */
int board_flush(struct board *board, int interrupt);

void board_press_power_button(struct board *board);
void board_print_memory(const struct board *board, FILE *out);
