/*
 * A dirty log that another process writes: a device back end that reaches guest memory by itself.
 *
 * The format is that of vhost (vhost-user specification, "Migration"): one bit for each 4 KiB page of guest
 * physical addresses, page N in bit N % 8 of byte N / 8, set by an atomic OR after the page was written. The
 * log is a memfd, shared with as many processes as need it. As a source of memory/dirty.h it takes the bits
 * out and translates them into pages of RAM blocks.
 *
 * A bit means what the view showed that its process wrote by. So when a view is about to change, the bits
 * within the windows of the change count through both views, after the listeners of back ends have applied
 * the change (or taken it back): by then a process must have set the bits of all that it wrote by the view
 * before, and not write by that any more (vhost-user: the answer to the new memory table). The process is
 * hostile as far as the log goes: bits where nothing, or no RAM, is count for nothing, and the log cannot be
 * resized.
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
 * while clients track; otherwise it makes another, larger log, or fails with -ENOMEM.
 */
int shared_log_create(struct address_space *space, struct shared_log **log, struct error *err);

/* Takes the last bits out and frees it. NULL is allowed. */
void shared_log_destroy(struct shared_log *log);

/*
 * What the other process maps, from the start of tracking on: the descriptor (borrowed) and its size in
 * bytes. Both may change by a commit while nobody tracks, and by none while clients do.
 */
int shared_log_fd(const struct shared_log *log);
uint64_t shared_log_size(const struct shared_log *log);
