/*
 * Which process has something open, as far as /proc tells: for messages about what is in use.
 */
#pragma once

#include <stdbool.h>

struct holder {
    long pid;
    char name[32];
};

/*
 * Looks for a process with a descriptor whose description (/proc/PID/fdinfo, proc(5)) has a line that begins
 * with `prefix` and has `text` in it. Processes of other users are not seen. Any thread.
 */
bool holder_find(const char *prefix, const char *text, struct holder *holder);

/*
 * For what a killed process had open: the kernel lets go of files only when its I/O has ended, when the
 * process is not seen any more. Waits a moment and returns true, if it is worth while to look again after
 * `attempt` times (from 0 on): for about a second altogether.
 */
bool holder_wait(unsigned attempt);
