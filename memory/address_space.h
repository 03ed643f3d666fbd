/*
 * An address space: one region tree seen as a flat view, and the way in for every access to it.
 *
 * The view is an immutable sorted set of flat ranges (memory/flat_view.h). Readers take a reference to the
 * current view, use it for as short as one access, and give it back; they never wait. A commit publishes a
 * new view; the old one dies with its last reader.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

struct address_space;
struct error;
struct flat_view;
struct memory;
struct memory_region;

/*
 * Creates a space that shows `root` (borrowed; it must outlive the space). `name` is borrowed: "memory",
 * "io". -EBUSY within a transaction.
 */
int address_space_create(struct memory *memory, const char *name, struct memory_region *root,
                         struct address_space **space, struct error *err);

/* Frees it. Its listeners must be unregistered, no access under way and no transaction open. NULL is allowed.
 */
void address_space_destroy(struct address_space *space);

/*
 * One access by a CPU or a device, of any length, RAM and MMIO mixed: RAM is copied, MMIO is handed to its
 * ops in pieces of their declared sizes. Bytes that nothing answers for, beyond 2^64 too, read as ones and
 * are dropped when written; what cannot be written is dropped as well. Returns 0, or for the first part that
 * failed -ENXIO where nothing was there, -EACCES where the region refused or cannot be written; the rest of
 * the access takes place all the same. Any thread, with no lock held that an MMIO callback could take.
 */
int address_space_read(struct address_space *space, uint64_t address, void *data, size_t length);
int address_space_write(struct address_space *space, uint64_t address, const void *data, size_t length);

/*
 * Guest RAM as host memory. A mapping keeps the view it came from alive; it is short-lived and must not be
 * kept across anything that waits for the guest. Longer use means mapping again.
 */
#define GUEST_MAPPING_MAX 16

struct guest_mapping {
    struct flat_view *view;
    unsigned count;
    struct iovec iov[GUEST_MAPPING_MAX]; /* in guest address order, neighbours joined where host memory is */
    uint64_t address, length;            /* private */
};

/*
 * Maps [address, address + length), all of it RAM or, unless `writable`, ROM. -EFAULT, with nothing mapped,
 * where part of it is anything else, wraps, or needs more than GUEST_MAPPING_MAX pieces. Length 0 gives an
 * empty mapping. Any thread.
 */
int guest_map(struct address_space *space, uint64_t address, uint64_t length, bool writable,
              struct guest_mapping *mapping);

/* Gives a mapping back, of which the first `written` bytes may have been changed: their pages are marked
 * dirty (memory/dirty.h). */
void guest_unmap(struct guest_mapping *mapping, uint64_t written);

/*
 * The same for who takes a view once (memory/flat_view.h) and maps much through it. Puts the pieces of host
 * memory into `iov`, at most `max`, and returns how many: -EFAULT as above, but -ENOSPC where they are more.
 * What has been stored is to be marked before the view is given back. Any thread.
 */
int flat_view_map(const struct flat_view *view, uint64_t address, uint64_t length, bool writable,
                  struct iovec *iov, unsigned max);

/* Whether what the caller has stored so far must be marked; a full fence, whatever it returns. */
bool flat_view_tracked(const struct flat_view *view);

/* Marks the pages of [address, address + length), all of it RAM in this view, dirty (memory/dirty.h). */
void flat_view_mark(const struct flat_view *view, uint64_t address, uint64_t length);

/*
 * Waits until no access that began before the call can still use a region that is no longer in any view:
 * after it, a removed region's memory may go. Not from within an MMIO callback or a transaction. Blocks for
 * as long as such an access takes; commits go on meanwhile, and do not make it wait longer.
 */
void memory_synchronize(struct memory *memory);
