/*
 * The dirty bitmaps of one RAM block: what memory/dirty.c is made of, private to memory/.
 *
 * A block has a bitmap for each client that ever tracked it. Once there a bitmap stays mapped until the block
 * goes, so that whoever marks needs no lock: at worst he marks for a client that has just stopped. A client
 * fills its bitmap before it is shown to those who mark. Bits behind the block's last page are never set.
 *
 * A bitmap has two halves, and a page is dirty whose bit is set in either. One is of the memory lock's owner:
 * what sources add, all words at a time, without an atomic operation for each. The other is marked by whoever
 * stores, without a lock. It is nearly always empty, so each group of its words has a byte that says whether
 * to look at them: it is set after a bit was, and cleared before the words are taken.
 *
 * Who marks stores first, then looks at the mask of clients, then at the bit; a full fence follows the store.
 * Who starts shows himself in the mask, who takes clears the bit, and then a full fence comes before the
 * first page is copied. So of a store and a copy that miss each other, one leaves its mark for the other to
 * see.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/ram_block.h"

struct error;
struct memory;
struct memory_region;

static inline uint64_t dirty_block_pages(const struct ram_block *block)
{
    return block->size / RAM_PAGE_SIZE;
}

/*
 * With the memory lock held, as for all below: notes a region that shows `block`. With its first region a
 * block joins the region's memory, and if clients track that, all of its pages are dirty. -EINVAL where it
 * has regions in another memory; -ENOMEM.
 */
int dirty_block_add_region(struct ram_block *block, struct memory_region *region, struct error *err);
void dirty_block_remove_region(struct memory_region *region);

/* Frees the bitmaps of a block that goes. */
void dirty_block_free(struct ram_block *block);

/* Makes sure that the client of bit `client` has a bitmap, with all bits set; -ENOMEM. */
int dirty_block_fill(struct ram_block *block, unsigned client);

/* Gives the memory of a client's bitmap, if it has one, back to the host. */
void dirty_block_drop(struct ram_block *block, unsigned client);

uint64_t dirty_block_count(const struct ram_block *block, unsigned client);

/* Moves `words` words from word `first` on from the client's bitmap to `bitmap`. Returns whether any bit is
 * set in them. */
bool dirty_block_take(struct ram_block *block, unsigned client, uint64_t first, uint64_t words,
                      uint64_t *bitmap);

/* Sets the bits of `count` pages from page `first` on that are set in `bitmap`. */
void dirty_block_merge(struct ram_block *block, unsigned client, uint64_t first, uint64_t count,
                       const uint64_t *bitmap);

/* Whether anybody tracks anything, as seen after what the caller has stored. Any thread, without the lock. */
bool dirty_tracked(const struct memory *memory);
