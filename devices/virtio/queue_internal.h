/*
 * What the files of a virtqueue share and nobody else sees: queue.c has its life, the chains that are out and
 * the order in which they come back; queue_chain.c walks descriptors and turns them into host memory;
 * queue_split.c and queue_packed.c know where the rings keep what.
 */
#pragma once

#include <endian.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "devices/virtio/queue.h"

struct flat_view;

/* The areas of a queue's memory, by the specification's names. */
enum area {
    AREA_DESCRIPTORS,
    AREA_DRIVER,
    AREA_DEVICE,
    AREAS,
};

#define PACKED_WRAP 0x8000 /* in a position of a packed ring: the wrap counter */

/* A stretch of guest RAM or ROM as host memory. */
struct window {
    uint64_t start, size;
    char *read, *write; /* NULL: not for that */
};

#define WINDOWS 2 /* a guest's RAM lies below and above 4 GiB */

/*
 * A view with the rings as it shows them, and the windows that descriptors were last found in. The queue uses
 * one for as long as the view is the current one and there is something to do; chains keep the one they were
 * found through.
 */
struct ring_map {
    struct flat_view *view;
    unsigned references;
    char *areas[AREAS];
    struct window windows[WINDOWS];
    unsigned next_window; /* to be replaced */
    struct ring_map *next;
};

/* Host memory of one chain: the part that the device reads, then the part that it writes. */
struct chain {
    struct virtqueue_chain shown;
    struct virtqueue *queue;
    struct ring_map *map;
    uint16_t id;      /* split: the first descriptor; packed: the buffer id */
    uint16_t last;    /* the link of its last descriptor in the ring: packed rings keep the id there */
    uint16_t entries; /* descriptors of the ring */
    bool finished;    /* by the device; IN_ORDER: it waits for those taken earlier */
    uint32_t written; /* as the driver is told */
    uint16_t used;    /* where it was put back */
    unsigned capacity;
    struct iovec *iov;
    uint64_t *addresses;   /* in the guest, of each of `iov` */
    struct chain *next;    /* that is free, or given back, too */
    struct ring_map spare; /* so that there are always enough of them */
};

/* Descriptors where they lie: in a ring or in an indirect table. */
struct table {
    const char *host;
    unsigned count;
    unsigned index; /* of the next one */
    unsigned left;  /* that may still be read: ends loops */
    bool linked;    /* each says which one is next, or else they follow each other */
    bool indirect;
};

enum kicks {
    KICKS_UNKNOWN, /* what the driver has been told: by somebody else, before us */
    KICKS_ASKED,
    KICKS_DECLINED,
};

/* The two layouts. Each but `sizes` needs the rings mapped. */
struct ring_layout {
    /* The bytes of the three areas, and which the device writes. */
    void (*sizes)(const struct virtqueue_config *config, size_t sizes[AREAS]);
    bool writes_descriptors;
    /* Whether a chain is there: 1, 0, or -EPROTO for a queue that breaks. */
    int (*available)(struct virtqueue *queue);
    /* Walks the next chain, which is there, and passes over it. */
    int (*take)(struct virtqueue *queue, struct chain *chain);
    void (*untake)(struct virtqueue *queue, const struct chain *chain);
    /* Puts a chain back into the ring; shows the driver all that were put since it was last called; marks
     * what the two have written for one dirty. */
    void (*put)(struct virtqueue *queue, struct chain *chain);
    void (*show)(struct virtqueue *queue);
    void (*mark_put)(struct virtqueue *queue, const struct chain *chain);
    /* Whether the driver wants to hear of the last `pushed` entries, which are not 0. */
    bool (*wants_interrupt)(struct virtqueue *queue, unsigned pushed);
    /* Tells the driver to kick for what it adds from now on; not to. */
    void (*ask_kicks)(struct virtqueue *queue);
    void (*decline_kicks)(struct virtqueue *queue);
};

extern const struct ring_layout ring_split, ring_packed;

struct virtqueue {
    struct virtqueue_config config;
    const struct ring_layout *layout;
    struct ring_map *map; /* NULL while there is nothing to do */
    struct ring_map *free_maps, first_map;
    struct chain *free_chains;
    unsigned out;         /* chains */
    unsigned out_entries; /* of the ring */
    uint16_t avail, used; /* of the next to take, and to give back; packed: with the wrap counter */
    uint16_t avail_seen;  /* split: the driver's index when it was last read */
    uint16_t first_put, first_flags; /* packed: what shows the driver those put */
    bool hidden;                     /* packed: some are put and not shown */
    unsigned pushed;                 /* entries since the driver's wish for interrupts was last looked at */
    bool kicks_wanted;
    enum kicks kicks;
    uint16_t kick_at;     /* with EVENT_IDX: where the driver was asked to kick */
    struct chain **order; /* IN_ORDER: those out in the order in which they were taken, from `oldest` */
    unsigned oldest;
    bool dropping; /* the driver will see nothing more: IN_ORDER, of all that are out */
    bool broken, told;
    struct error why;
    uint64_t ids[VIRTQUEUE_SIZE_MAX / 64]; /* that are out */
};

/* Breaks the queue, for the reason given, and returns -EPROTO. */
int virtqueue_break(struct virtqueue *queue, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Whether what has been stored must be marked dirty: a full fence, whatever it returns. */
bool virtqueue_tracked(const struct virtqueue *queue);

/* Marks bytes of an area dirty. */
void virtqueue_mark(const struct virtqueue *queue, enum area area, size_t offset, size_t length);

/* A chain that is not in use; NULL where memory is short. */
struct chain *chain_new(struct virtqueue *queue);

/* Empties it, and takes it up among those free. */
void chain_free(struct chain *chain);

/* Frees all that are free. */
void chain_free_all(struct virtqueue *queue);

/*
 * Follows the descriptors from the next one of `table` on and gathers what they describe in `chain`. Returns
 * 0 with the table where the chain ends; -EPROTO for a queue that breaks; -ENOMEM.
 */
int chain_walk(struct virtqueue *queue, struct chain *chain, struct table *table);

/* Marks what the device has touched of it dirty. */
void chain_mark(const struct chain *chain);

#define DESCRIPTOR_SIZE     16 /* in both layouts: address, length, two fields of 16 bits */

#define DESCRIPTOR_NEXT     1
#define DESCRIPTOR_WRITE    2
#define DESCRIPTOR_INDIRECT 4

/* Fields in guest memory: little endian, naturally aligned, and of no declared type. */
typedef uint16_t __attribute__((may_alias)) ring_u16;
typedef uint32_t __attribute__((may_alias)) ring_u32;
typedef uint64_t __attribute__((may_alias)) ring_u64;

static inline uint16_t ring_load16(const char *field)
{
    return le16toh(__atomic_load_n((const ring_u16 *)(const void *)field, __ATOMIC_RELAXED));
}

/* What follows in the program is read later. */
static inline uint16_t ring_load16_acquire(const char *field)
{
    return le16toh(__atomic_load_n((const ring_u16 *)(const void *)field, __ATOMIC_ACQUIRE));
}

static inline uint64_t ring_load64(const char *field)
{
    return le64toh(__atomic_load_n((const ring_u64 *)(const void *)field, __ATOMIC_RELAXED));
}

static inline void ring_store16(char *field, uint16_t value)
{
    __atomic_store_n((ring_u16 *)(void *)field, htole16(value), __ATOMIC_RELAXED);
}

/* What precedes in the program is written earlier. */
static inline void ring_store16_release(char *field, uint16_t value)
{
    __atomic_store_n((ring_u16 *)(void *)field, htole16(value), __ATOMIC_RELEASE);
}

static inline void ring_store32(char *field, uint32_t value)
{
    __atomic_store_n((ring_u32 *)(void *)field, htole32(value), __ATOMIC_RELAXED);
}

static inline void ring_store64(char *field, uint64_t value)
{
    __atomic_store_n((ring_u64 *)(void *)field, htole64(value), __ATOMIC_RELAXED);
}
