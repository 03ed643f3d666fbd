/*
 * Locks of disk images: open file description locks on the whole file, exclusive for an image that will be
 * written, shared for others. The kernel gives them up with the last descriptor of the open file.
 */
#pragma once

#include <stdbool.h>

struct error;

/*
 * Locks the open file `fd`, which was opened for writing if `exclusive`. -EBUSY with a message that names
 * `path` and, as far as /proc tells, the process that is in the way; other -errno where the file system has
 * no locks.
 *
 * Where no process is seen to hold the lock it may be that of one that was killed, as the kernel lets go of
 * files only when its I/O has ended: for that the call waits up to a second.
 */
int disk_lock(int fd, const char *path, bool exclusive, struct error *err);
