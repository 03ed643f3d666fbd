/*
 * Memory regions: what a machine's address spaces are made of.
 *
 * A region is a node of a tree. A container groups its subregions at offsets of its own; RAM, ROM, ROM
 * device, MMIO and reservation regions end the search for what an address means ("terminate") and may have
 * subregions lying over them; an alias shows a window of another region somewhere else, and is the only way
 * to show something twice. Where siblings overlap the higher priority wins, and among equals the one added
 * last; whatever lies deep inside a sibling of lower priority cannot show through a terminating region above
 * it.
 *
 * Regions are embedded in what owns them and initialised by one memory_region_init_*() call; the fields are
 * private to memory/. Every change goes through a function here, holds the lock of its `struct memory`, and
 * is its own transaction unless one is open: outside of a transaction a returned error means that nothing
 * changed. All functions may be called from any thread and block only on that lock and on what listeners do.
 *
 * Names are borrowed, not copied; they show in errors and in mtree.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/extent_index.h"

struct error;
struct memory;
struct ram_block;

/* Sizes go to 2^64 inclusive. */
typedef unsigned __int128 memory_size;
#define MEMORY_SIZE_MAX ((memory_size)1 << 64)

enum memory_region_kind {
    MEMORY_REGION_CONTAINER,
    MEMORY_REGION_RAM,
    MEMORY_REGION_ROM,
    MEMORY_REGION_ROM_DEVICE, /* reads go straight to its RAM while in ROMD mode, writes always to its ops */
    MEMORY_REGION_MMIO,
    MEMORY_REGION_ALIAS,
    MEMORY_REGION_RESERVATION, /* accesses that the accelerator itself serves, such as its interrupt
                                  controllers */
};

/* Widths, in bytes, of accesses. A `min` of 0 means 1; a `max` of 0 means 8 valid or 4 implemented (or `min`,
 * if that is more). */
struct memory_access_sizes {
    unsigned min, max; /* powers of two, 1 to 8 */
    bool unaligned;
};

/*
 * What an MMIO region or ROM device does. Called on the thread that makes the access, with no lock held: the
 * device guards itself. `offset` is from the start of the region; `size` is 1, 2, 4 or 8; values are little
 * endian. A callback may access any address space, and may change regions: its own access goes on in the view
 * that it began with. A device that reaches guest memory while it holds its own lock uses guest_map(), which
 * never leads back to a device.
 */
struct memory_region_ops {
    /* Either may be NULL: then the region refuses that kind of access. */
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
    /*
     * What the guest may do; anything else reads as all ones and is not written. A part of an access that
     * falls to the region is judged as a whole if it is of 1, 2, 4 or 8 bytes; of another length it is a
     * series in ascending order, each the widest that is aligned and not over `max`.
     */
    struct memory_access_sizes valid;
    /*
     * What read and write above can do. Accesses that are wider or unaligned are split, in ascending order;
     * narrower reads take part of a wider one; narrower writes read the wider unit, change their part and
     * write it back (without `read`, the rest is written as zeroes). A wider unit is aligned, so a region
     * whose size is no multiple of `min` is asked for bytes past its end.
     */
    struct memory_access_sizes impl;
    /* Optional: a further check. */
    bool (*accepts)(void *opaque, uint64_t offset, unsigned size, bool is_write);
};

struct address_space;
struct memory_offloads;
struct memory_undo;

/* What changes in a transaction, and is put back where it fails. */
struct memory_region_state {
    bool enabled;
    bool readonly; /* for what shows through it, aliases included */
    bool unmergeable;
    bool romd_mode;
    unsigned log; /* regions with a RAM block: mask of the dirty clients (memory/dirty.h) */
    int priority;
    uint64_t order;   /* among siblings of one priority the greatest is on top */
    uint64_t address; /* in the container */
    uint64_t alias_offset;
    memory_size size;
    struct memory_region *container;
    struct memory_offloads *offloads; /* ioeventfds and coalesced ranges; NULL: none */
};

struct memory_region {
    struct memory *memory;
    const char *name;
    enum memory_region_kind kind;
    struct memory_region_state state;
    struct memory_region *subregions;   /* in no order */
    struct memory_region *next, **link; /* siblings */
    struct extent_index children;       /* the subregions' extents */
    struct extent extent;               /* in the container */
    struct memory_region *alias_target;
    struct memory_region *aliases; /* that show this region */
    struct memory_region *next_alias, **alias_link;
    struct extent_index windows;  /* what the aliases show of it */
    struct extent window;         /* what an alias shows of its target */
    struct address_space *spaces; /* of which it is the root */
    struct ram_block *block;
    uint64_t block_offset;
    struct memory_region *next_of_block, **link_of_block; /* another that shows the block */
    const struct memory_region_ops *ops;
    void *opaque;
    struct memory_undo *undo; /* its state before the open transaction; NULL: unchanged */
    uint64_t visited;         /* by the search with this number */
};

/*
 * The initialisers. `size` is 1 to 2^64 (-EINVAL otherwise). A region starts enabled, in no container.
 */
int memory_region_init_container(struct memory_region *region, struct memory *memory, const char *name,
                                 memory_size size, struct error *err);

/* RAM: `size` bytes of `block` (borrowed) from `block_offset`, both multiples of the page size, within the
 * block. */
int memory_region_init_ram(struct memory_region *region, struct memory *memory, const char *name,
                           struct ram_block *block, uint64_t block_offset, memory_size size,
                           struct error *err);

/* As RAM, but the guest cannot write it. */
int memory_region_init_rom(struct memory_region *region, struct memory *memory, const char *name,
                           struct ram_block *block, uint64_t block_offset, memory_size size,
                           struct error *err);

/* As ROM, in ROMD mode; writes, and reads while ROMD mode is off, go to `ops` (borrowed, as `opaque`). */
int memory_region_init_rom_device(struct memory_region *region, struct memory *memory, const char *name,
                                  const struct memory_region_ops *ops, void *opaque, struct ram_block *block,
                                  uint64_t block_offset, memory_size size, struct error *err);

int memory_region_init_mmio(struct memory_region *region, struct memory *memory, const char *name,
                            const struct memory_region_ops *ops, void *opaque, memory_size size,
                            struct error *err);

/* Shows `size` bytes of `target` from `offset` on; what lies past the target's end shows nothing. */
int memory_region_init_alias(struct memory_region *region, struct memory *memory, const char *name,
                             struct memory_region *target, uint64_t offset, memory_size size,
                             struct error *err);

int memory_region_init_reservation(struct memory_region *region, struct memory *memory, const char *name,
                                   memory_size size, struct error *err);

/*
 * Ends a region's life. It must be in no container, hold no subregion and be shown by no alias or address
 * space (asserted). Its memory may be reused when memory_synchronize() (memory/address_space.h) has returned.
 * A region whose initialiser failed, or that was zeroed and never initialised, may be destroyed too.
 */
void memory_region_destroy(struct memory_region *region);

/* Its size now, which only its owner's own changes can make another. */
static inline memory_size memory_region_size(const struct memory_region *region)
{
    return region->state.size;
}

/*
 * Puts `child` at `offset` of `container` with `priority` (0 is usual). -EINVAL for a child that has a
 * container already, for a container that is an alias, and for a cycle; -EOVERFLOW where `offset` + size
 * passes 2^64. Subregions may reach beyond the end of the container, which does not show them there.
 */
int memory_region_add_subregion(struct memory_region *container, uint64_t offset, struct memory_region *child,
                                int priority, struct error *err);

/* Takes `child` out of its container. -EINVAL where it has none. */
int memory_region_remove_subregion(struct memory_region *child, struct error *err);

/* Empties `container`. */
int memory_region_remove_all_subregions(struct memory_region *container, struct error *err);

/* A disabled region shows nothing, nor does what it contains or shows as an alias. */
int memory_region_set_enabled(struct memory_region *region, bool enabled, struct error *err);

/* Moves a region within its container: as taking it out and putting it in again, so it ends on top of its
 * equals. */
int memory_region_set_address(struct memory_region *region, uint64_t address, struct error *err);

/* -EINVAL for a size of 0, over 2^64, or past the end of its RAM; -EOVERFLOW where it would pass 2^64 in its
 * container. */
int memory_region_set_size(struct memory_region *region, memory_size size, struct error *err);

/* Aliases (others: -EINVAL): where in the target the window begins. */
int memory_region_set_alias_offset(struct memory_region *alias, uint64_t offset, struct error *err);

/* Whether what shows through this region (of any kind) can be written. */
int memory_region_set_readonly(struct memory_region *region, bool readonly, struct error *err);

/* Keeps each piece that shows through this region a flat range of its own, also beside a matching neighbour:
 * for RAM that comes and goes in pieces. */
int memory_region_set_unmergeable(struct memory_region *region, bool unmergeable, struct error *err);

/* ROM devices (others: -EINVAL): whether reads go straight to RAM. */
int memory_region_set_romd(struct memory_region *region, bool romd_mode, struct error *err);

/*
 * An eventfd that the accelerator signals in place of a write to `offset` of the region: of `length` bytes
 * (1, 2, 4, 8, or 0 for any), and with `match` only if the value written is `data` (which does not count
 * without). `fd` is borrowed. Registered with the accelerator wherever the bytes it covers are visible as a
 * whole and can be written. All five fields are its identity: -EEXIST for adding it twice, -ENOENT for
 * removing what is not there, -EINVAL for a length that is not listed or passes the region's end, for a match
 * of any length, and for a region that is neither MMIO, ROM device nor reservation.
 */
int memory_region_add_ioeventfd(struct memory_region *region, uint64_t offset, unsigned length, bool match,
                                uint64_t data, int fd, struct error *err);
int memory_region_remove_ioeventfd(struct memory_region *region, uint64_t offset, unsigned length, bool match,
                                   uint64_t data, int fd, struct error *err);

/*
 * Lets the accelerator hold back writes to [offset, offset + length) until the next exit: only for registers
 * where a late write cannot be told from a prompt one. -EINVAL for no bytes, past the region's end, and for a
 * region that an ioeventfd cannot be in; -EEXIST where it overlaps another. They are taken away all at once.
 */
int memory_region_add_coalesced(struct memory_region *region, uint64_t offset, uint64_t length,
                                struct error *err);
int memory_region_clear_coalesced(struct memory_region *region, struct error *err);
