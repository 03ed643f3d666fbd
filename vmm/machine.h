/*
 * A machine: one KVM VM, its board (memory and devices), its vCPUs, and how its life ends.
 *
 * A machine is created with its kernel loaded and its vCPUs waiting; machine_run() lets them go and serves
 * the event loop until the guest, the person or the host ends it. The thread that created a machine runs and
 * destroys it; machine_end() alone may be called from any thread. No state is shared between machines.
 */
#pragma once

#include <stdio.h>

struct backends;
struct chardev;
struct config;
struct error;
struct event_loop;
struct log;
struct machine;

enum machine_outcome {
    MACHINE_POWERED_OFF, /* by the guest */
    MACHINE_RESET,       /* likewise: it wants a new machine */
    MACHINE_EXIT_PORT,   /* `status`: the byte the guest wrote */
    MACHINE_CRASHED,     /* KVM cannot go on; machine_report_crash() says why */
    MACHINE_SIGNALLED,   /* `status`: the signal */
    MACHINE_QUIT,        /* by the person at the terminal */
    MACHINE_FAILED,      /* the host let godwit down, which said so in the log */
};

struct machine_end {
    enum machine_outcome outcome;
    int status;
};

struct machine_config {
    const struct config
        *config; /* what was asked for; borrowed until the machine is destroyed, as is the rest */
    const struct log *log;
    struct event_loop *loop;
    struct chardev *console;         /* what the serial port is connected to */
    const struct backends *backends; /* and the other devices (vmm/backends.h) */
};

/*
 * Creates the machine and loads its kernel; without a kernel it has no vCPUs and can only be looked at.
 * -errno with a message; nothing is left then.
 */
int machine_create(const struct machine_config *config, struct machine **machine, struct error *err);

/* Stops the vCPUs and frees everything. NULL is allowed. */
void machine_destroy(struct machine *machine);

/*
 * Starts the vCPUs, and runs the event loop until the machine ends: on return no vCPU is in the guest.
 * Returns 0 with `end` filled in, or -errno with a message. Blocks.
 */
int machine_run(struct machine *machine, struct machine_end *end, struct error *err);

/* Ends the machine; the first call decides how. Any thread, vCPU threads included; does not wait. */
void machine_end(struct machine *machine, enum machine_outcome outcome, int status);

/*
 * After machine_run(): waits until what the guest wrote to its console has left godwit, or until `interrupt`
 * (a descriptor, or -1) is readable.
 */
void machine_flush(struct machine *machine, int interrupt);

/* Presses the ACPI power button. On the event loop's thread. */
void machine_press_power_button(struct machine *machine);

/* Prints what a person needs to know after MACHINE_CRASHED. */
void machine_report_crash(const struct machine *machine, FILE *out);

/* Prints the region trees and the flat views. */
void machine_print_memory(const struct machine *machine, FILE *out);

/* Writes the device tree to a new file at `path`. -errno with a message. */
int machine_write_device_tree(const struct machine *machine, const char *path, struct error *err);
