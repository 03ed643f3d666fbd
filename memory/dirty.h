/*
 * Dirty tracking: which pages of guest RAM have been written since a client last took them.
 *
 * A client (a migration, a meter of the dirty rate) has one bitmap for each RAM block, in which everything
 * that writes guest memory comes together, a bit for each page of RAM_PAGE_SIZE: what godwit's own devices
 * store is marked at once; what the guest writes is known to the accelerator, and what a device in another
 * process writes to a log that both share. These two are sources: dirty_sync() has them add what they know.
 * Clients do not disturb each other: what one takes stays marked for the others.
 *
 * A page is clean when its client has taken it and nobody has written it since. To take pages makes all
 * sources watch them again before the call returns, so whoever copies a page after he took it misses nothing:
 * a write that his copy does not have marks the page again. No mark is ever lost; where the exact one cannot
 * be had, a page is marked too often.
 *
 * Who starts or takes must not be in an MMIO callback. All calls may come from any thread; they block on the
 * lock of `struct memory` but for dirty_mark(), which takes none. Bitmaps belong to their block; the
 * half of them that is marked without the lock is changed by atomic operations only (memory/dirty_block.h).
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct dirty_client;
struct error;
struct memory;
struct ram_block;

#define DIRTY_CLIENTS_MAX 8
#define DIRTY_WORD_PAGES  64 /* pages of one word of a bitmap; the lowest bit is the first page */

enum dirty_first {
    DIRTY_FROM_NOW,   /* all pages are clean at first */
    DIRTY_EVERYTHING, /* all are dirty: for who is going to copy them all */
};

/*
 * Starts tracking for a new client, which errors call `name`. RAM that comes later is tracked too, and dirty
 * at first; so is RAM that comes back after its block had no region at all. -EBUSY for one client too many
 * and within a transaction; -ENOMEM; or what a listener that cannot log, or a source, says: then everything
 * is as before.
 */
int dirty_start(struct memory *memory, const char *name, enum dirty_first first, struct dirty_client **client,
                struct error *err);

/*
 * Ends it, and frees the client. The memory of its bitmaps goes back to the host. Not within a transaction. A
 * listener that fails now goes on to log, to no effect but on speed, until a client comes or goes. NULL is
 * allowed.
 */
void dirty_stop(struct dirty_client *client);

/*
 * Adds what the sources know to the bitmaps of all clients. An error is a source's; what other sources, or it
 * itself before, have added stays.
 */
int dirty_sync(struct memory *memory, struct error *err);

/* Pages of `block` that are marked; of all blocks where it is NULL. */
uint64_t dirty_count(const struct dirty_client *client, const struct ram_block *block);

/*
 * Takes the marks of `count` pages from page `first` of `block`: they go to `bitmap`, whose first bit is page
 * `first`, and the pages are clean. Both numbers are multiples of DIRTY_WORD_PAGES, but `count` may end with
 * the block. Bits of `bitmap` behind the last page are zero. Returns -EINVAL, and takes nothing, for pages
 * that are not so, or not all in the block, or for a block that is not of this memory; or a source's error,
 * after which nothing is taken either. dirty_sync() comes first, or what it would add is not there.
 */
int dirty_take(struct dirty_client *client, struct ram_block *block, uint64_t first, uint64_t count,
               uint64_t *bitmap, struct error *err);

/* Marks pages again that were taken, where what they were taken for came to nothing. Numbers as above. */
int dirty_put_back(struct dirty_client *client, struct ram_block *block, uint64_t first, uint64_t count,
                   const uint64_t *bitmap, struct error *err);

/*
 * Marks what [offset, offset + length) of `block` touches, for all clients: after the bytes have been stored.
 * Who stores by address_space_write() or guest_unmap() need not. What lies outside of the block is left out.
 */
void dirty_mark(struct ram_block *block, uint64_t offset, uint64_t length);

/*
 * The same for the pages whose bits are set in `bitmap`, of which the first bit is page `first` (any number):
 * for sources, with the memory lock held.
 */
void dirty_merge(struct ram_block *block, uint64_t first, uint64_t count, const uint64_t *bitmap);

/*
 * Something that knows of writes. Called with the memory lock held, and only while there are clients. Whoever
 * is about to forget what he knows (a slot that is deleted) adds it to the bitmaps first, by himself.
 */
struct dirty_source;

struct dirty_source_ops {
    /* Adds all that it knows, by dirty_merge() or dirty_mark(). */
    int (*sync)(struct dirty_source *source, struct error *err);
    /*
     * The pages of `block` whose bits are set are being taken: from this call's return on, the next write to
     * each is to be noticed. NULL for a source that notices every write. Other clients rely on what they have
     * not taken: a source forgets a write here only if it has added it to all bitmaps and this is the first
     * that is taken since.
     */
    int (*watch)(struct dirty_source *source, struct ram_block *block, uint64_t first, uint64_t count,
                 const uint64_t *bitmap, struct error *err);
};

/* Embedded in its owner, who sets the first field. */
struct dirty_source {
    const struct dirty_source_ops *ops;
    struct memory *memory; /* private from here on */
    struct dirty_source *next;
};

void dirty_source_add(struct dirty_source *source, struct memory *memory);

/* One that was never added is left alone. */
void dirty_source_remove(struct dirty_source *source);
