/*
 * Ioeventfds and coalesced ranges of a region: each change makes a new set, so that flat ranges can share it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "memory/internal.h"
#include "memory/memory.h"

struct memory_offloads *memory_offloads_get(struct memory_offloads *offloads)
{
    if (offloads)
        offloads->references++;
    return offloads;
}

void memory_offloads_put(struct memory_offloads *offloads)
{
    if (!offloads || --offloads->references)
        return;
    free(offloads->ioeventfds);
    free(offloads->zones);
    free(offloads);
}

/* A copy of `old` (NULL: an empty set) with room for one more of each. NULL where memory is short. */
static struct memory_offloads *copy(const struct memory_offloads *old)
{
    size_t ioeventfd_count = old ? old->ioeventfd_count : 0, zone_count = old ? old->zone_count : 0;
    struct memory_offloads *offloads = calloc(1, sizeof(*offloads));
    if (!offloads)
        return NULL;
    offloads->references = 1;
    offloads->ioeventfds = calloc(ioeventfd_count + 1, sizeof(*offloads->ioeventfds));
    offloads->zones = calloc(zone_count + 1, sizeof(*offloads->zones));
    if (!offloads->ioeventfds || !offloads->zones) {
        memory_offloads_put(offloads);
        return NULL;
    }
    if (ioeventfd_count)
        memcpy(offloads->ioeventfds, old->ioeventfds, ioeventfd_count * sizeof(*old->ioeventfds));
    if (zone_count)
        memcpy(offloads->zones, old->zones, zone_count * sizeof(*old->zones));
    offloads->ioeventfd_count = ioeventfd_count;
    offloads->zone_count = zone_count;
    return offloads;
}

/*
 * Begins a change of a region's set: `*offloads` is a copy of it to be changed, which end_change() puts into
 * the region. After a failure nothing is to be done.
 */
static int begin_change(struct memory_region *region, struct memory_offloads **offloads, struct error *err)
{
    int result = memory_region_begin_change(region, err);
    if (result)
        return result;
    *offloads = copy(region->state.offloads);
    if (*offloads)
        return 0;
    memory_transaction_commit(region->memory, NULL);
    return error_set(err, ENOMEM, "region %s: not enough memory for a change", region->name);
}

static int end_change(struct memory_region *region, struct memory_offloads *offloads, struct span span,
                      struct error *err)
{
    memory_offloads_put(region->state.offloads);
    region->state.offloads = offloads;
    if (region->state.enabled)
        memory_region_touch(region, span);
    return memory_transaction_commit(region->memory, err);
}

static int cancel_change(struct memory_region *region, struct memory_offloads *offloads, int result)
{
    memory_offloads_put(offloads);
    memory_transaction_commit(region->memory, NULL);
    return result;
}

static int compare(const struct ioeventfd *a, const struct ioeventfd *b)
{
    if (a->offset != b->offset)
        return a->offset < b->offset ? -1 : 1;
    if (a->length != b->length)
        return a->length < b->length ? -1 : 1;
    if (a->match != b->match)
        return a->match < b->match ? -1 : 1;
    if (a->data != b->data)
        return a->data < b->data ? -1 : 1;
    return a->fd < b->fd ? -1 : a->fd > b->fd;
}

/* Where `wanted` is, or would have to be put; `*found` tells which. */
static size_t find(const struct memory_offloads *offloads, const struct ioeventfd *wanted, bool *found)
{
    size_t low = 0, high = offloads->ioeventfd_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (compare(&offloads->ioeventfds[middle], wanted) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    *found = low < offloads->ioeventfd_count && !compare(&offloads->ioeventfds[low], wanted);
    return low;
}

/* Whether the guest's accesses to a region of this kind reach its ops, or something in their place. */
static bool traps(const struct memory_region *region)
{
    return region->kind == MEMORY_REGION_MMIO || region->kind == MEMORY_REGION_ROM_DEVICE ||
           region->kind == MEMORY_REGION_RESERVATION;
}

static int check_ioeventfd(const struct memory_region *region, const struct ioeventfd *ioeventfd,
                           struct error *err)
{
    unsigned length = ioeventfd->length;
    if (!traps(region))
        return error_set(err, EINVAL, "region %s: an ioeventfd needs a region whose writes trap",
                         region->name);
    if (length > 8 || (length & (length - 1)) || (length == 0 && ioeventfd->match))
        return error_set(err, EINVAL,
                         "region %s: an ioeventfd matches writes of 1, 2, 4 or 8 bytes, or of any length and "
                         "value",
                         region->name);
    if (ioeventfd->offset + (memory_size)(length ? length : 1) > region->state.size)
        return error_set(err, EINVAL, "region %s: an ioeventfd at 0x%llx passes its end", region->name,
                         (unsigned long long)ioeventfd->offset);
    return 0;
}

static struct span ioeventfd_span(const struct ioeventfd *ioeventfd)
{
    __int128 start = ioeventfd->offset;
    return (struct span){start, start + (ioeventfd->length ? ioeventfd->length : 1)};
}

int memory_region_add_ioeventfd(struct memory_region *region, uint64_t offset, unsigned length, bool match,
                                uint64_t data, int fd, struct error *err)
{
    struct ioeventfd new = {offset, match ? data : 0, length, match, fd};
    struct memory_offloads *offloads;
    int result = begin_change(region, &offloads, err);
    if (result)
        return result;
    result = check_ioeventfd(region, &new, err);
    if (result)
        return cancel_change(region, offloads, result);
    bool found;
    size_t at = find(offloads, &new, &found);
    if (found)
        return cancel_change(region, offloads,
                             error_set(err, EEXIST, "region %s: the ioeventfd at 0x%llx is there already",
                                       region->name, (unsigned long long)offset));
    struct ioeventfd *place = &offloads->ioeventfds[at];
    memmove(place + 1, place, (offloads->ioeventfd_count++ - at) * sizeof(*place));
    *place = new;
    return end_change(region, offloads, ioeventfd_span(&new), err);
}

int memory_region_remove_ioeventfd(struct memory_region *region, uint64_t offset, unsigned length, bool match,
                                   uint64_t data, int fd, struct error *err)
{
    struct ioeventfd old = {offset, match ? data : 0, length, match, fd};
    struct memory_offloads *offloads;
    int result = begin_change(region, &offloads, err);
    if (result)
        return result;
    bool found;
    size_t at = find(offloads, &old, &found);
    if (!found)
        return cancel_change(region, offloads,
                             error_set(err, ENOENT, "region %s: there is no such ioeventfd at 0x%llx",
                                       region->name, (unsigned long long)offset));
    struct ioeventfd *place = &offloads->ioeventfds[at];
    memmove(place, place + 1, (--offloads->ioeventfd_count - at) * sizeof(*place));
    return end_change(region, offloads, ioeventfd_span(&old), err);
}

/* Puts a zone in its place. False if it overlaps another. */
static bool insert_zone(struct memory_offloads *offloads, struct coalesced_zone zone)
{
    size_t at = 0;
    while (at < offloads->zone_count && offloads->zones[at].offset + offloads->zones[at].size <= zone.offset)
        at++;
    struct coalesced_zone *place = &offloads->zones[at];
    if (at < offloads->zone_count && place->offset < zone.offset + zone.size)
        return false;
    memmove(place + 1, place, (offloads->zone_count++ - at) * sizeof(*place));
    *place = zone;
    return true;
}

int memory_region_add_coalesced(struct memory_region *region, uint64_t offset, uint64_t length,
                                struct error *err)
{
    struct memory_offloads *offloads;
    int result = begin_change(region, &offloads, err);
    if (result)
        return result;
    if (!traps(region) || length == 0 || (memory_size)offset + length > region->state.size)
        return cancel_change(region, offloads,
                             error_set(err, EINVAL,
                                       "region %s: a coalesced range must lie within a region whose writes "
                                       "trap",
                                       region->name));
    if (!insert_zone(offloads, (struct coalesced_zone){offset, length}))
        return cancel_change(region, offloads,
                             error_set(err, EEXIST, "region %s: coalesced ranges overlap at 0x%llx",
                                       region->name, (unsigned long long)offset));
    struct span span = {offset, (__int128)offset + length};
    return end_change(region, offloads, span, err);
}

int memory_region_clear_coalesced(struct memory_region *region, struct error *err)
{
    struct memory_offloads *offloads;
    int result = begin_change(region, &offloads, err);
    if (result)
        return result;
    offloads->zone_count = 0;
    return end_change(region, offloads, memory_region_span(region), err);
}
