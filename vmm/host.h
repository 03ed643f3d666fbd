/*
 * `godwit host`: what this host's KVM can do, for people as a table, for programs as JSON.
 *
 * The keys of the JSON object are an interface: programs depend on them (docs/man/godwit-host.1).
 */
#pragma once

#include <stdbool.h>

/*
 * Runs the command; `argv[0]` is its name. Returns the exit status: 0 if godwit can run guests here; or one
 * of vmm/exit_status.h.
 */
int host_main(int argc, char *const argv[]);

/*
 * Whether this host's KVM runs guests on the CPU's virtualization hardware. Otherwise it is of the PVM kind:
 * it runs the guest's user mode natively and interprets its kernel mode, of which it knows only some
 * instructions.
 */
bool host_kvm_is_hardware(void);
