/*
 * The command line: which command is called, and what there is to know about them.
 *
 * A command is a function that is called like main() with its own name as argv[0]; what it returns is the
 * exit status of the process.
 */
#pragma once

#include <stdio.h>

/*
 * Runs the command that `argv` names. Returns the exit status: 2 for a command line that is wrong, 1 when the
 * help that was asked for cannot be written, and otherwise the command's own. Blocks as long as the command.
 */
int cli_main(int argc, char *argv[]);

/* Prints the commands of godwit with examples. */
void cli_usage(FILE *out);

/* Prints the options of `godwit run`, as vmm/config_option.h lists them, with examples. */
void run_usage(FILE *out);
