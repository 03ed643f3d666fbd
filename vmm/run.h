/*
 * `godwit run`: one machine in this process, from its configuration to the exit status.
 *
 * The first thread owns everything here: it builds the machine, serves the event loop while the vCPU threads
 * run, and takes all down again. Signals that end a process (INT, TERM, HUP) are read from a descriptor in
 * the event loop, so every way out passes the same clean-up.
 */
#pragma once

/*
 * Runs the command; `argv[0]` is its name. Returns the exit status: 0 when the guest powered off, reset or
 * was quit from the terminal; the byte written to the exit port; or one of vmm/exit_status.h. Blocks as long
 * as the machine lives.
 */
int run_main(int argc, char *const argv[]);
