/*
 * A dirty log that another process writes: a device back end that reaches guest memory by itself.
 *
 * The format is that of vhost (vhost-user specification, "Migration"): one bit for each 4 KiB page of guest
 * physical addresses, page N in bit N % 8 of byte N / 8, set by an atomic OR after the page was written. The
 * log is a memfd, shared with as many processes as need it. As a source of memory/dirty.h it takes the bits
 * out and translates them into pages of RAM blocks: through the current view, and through every view that was
 * current since the last time, because a bit may have been set for a page that has moved since. The other
 * process is hostile as far as the log goes: bits where nothing, or no RAM, is count for nothing.
 *
 * Owned by the memory lock but for the log itself.
 */
#pragma once

#include <stdint.h>

struct address_space;
struct error;
struct shared_log;

/*
 * Creates a log for the addresses below the end of the highest RAM that `space` shows now; -ENOMEM. It is a
 * listener and a source until it is destroyed. A commit that shows RAM beyond its end is refused with -ENOSPC
 * while clients track, and makes the log larger otherwise.
 */
int shared_log_create(struct address_space *space, struct shared_log **log, struct error *err);

/* Takes the last bits out and frees it. NULL is allowed. */
void shared_log_destroy(struct shared_log *log);

/* What the other process maps: the descriptor (borrowed) and its size in bytes. Constant while clients track.
 */
int shared_log_fd(const struct shared_log *log);
uint64_t shared_log_size(const struct shared_log *log);
