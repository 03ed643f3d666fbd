/*
 * The command line: which command is called, and what there is to know about them.
 *
 * A command is a function that is called like main() with its own name as argv[0]; what it returns is the
 * exit status of the process.
 */
#pragma once

#include <stdio.h>

struct log;

/* Where commands put errors that come before any configuration: standard error. */
extern const struct log cli_log;

/*
 * Runs the command that `argv` names. Returns the exit status (vmm/exit_status.h): EXIT_STATUS_USAGE for an
 * unknown command, and otherwise the command's own. Blocks as long as the command.
 */
int cli_main(int argc, char *argv[]);

/*
 * Prints help on standard output. Returns the exit status: 0, or 1 with a message when the output could not
 * be written. Blocks as standard output does.
 */
int cli_print(void (*usage)(FILE *out));

/* Ends what a command wrote to standard output. Returns the exit status, as cli_print() does. */
int cli_end_output(void);

/* Prints the commands of godwit with examples. */
void cli_usage(FILE *out);

/* Prints the options of `godwit run`, as vmm/config_option.h lists them, with examples. */
void run_usage(FILE *out);
