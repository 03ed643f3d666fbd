#include <errno.h>
#include <string.h>

#include "memory/address_space.h"
#include "memory/dirty.h"
#include "memory/flat_view.h"
#include "memory/guest_copy.h"
#include "memory/internal.h"
#include "memory/mmio.h"

/* One access: exactly one of the buffers is there. */
struct access {
    char *in;
    const char *out;
};

/* Nothing answers, or nothing may be written. */
static int access_refused(const struct access *access, size_t at, size_t length, int result)
{
    if (access->in)
        memset(access->in + at, 0xff, length);
    return result;
}

/* Marks what has been stored at `offset` of a range that shows RAM. */
static void mark(const struct flat_range *range, uint64_t offset, uint64_t length)
{
    const struct memory_region *region = range->region;
    dirty_mark(region->block, region->block_offset + range->offset_in_region + offset, length);
}

/* `length` bytes of the access, `at` into it, at `offset` into `range`. */
static int access_range(const struct access *access, size_t at, const struct flat_range *range,
                        uint64_t offset, size_t length)
{
    if (access->out && range->readonly)
        return access_refused(access, at, length, -EACCES);
    char *host = flat_range_host(range, access->out);
    const struct memory_region *region = range->region;
    if (host) {
        if (access->in) {
            guest_copy_from(access->in + at, host + offset, length);
        } else {
            guest_copy_to(host + offset, access->out + at, length);
            mark(range, offset, length);
        }
        return 0;
    }
    if (!region->ops)
        return access_refused(access, at, length, -ENXIO);
    uint64_t place = range->offset_in_region + offset;
    return access->in ? mmio_read(region, place, access->in + at, length)
                      : mmio_write(region, place, access->out + at, length);
}

static size_t shorter(memory_size a, size_t b)
{
    return a < b ? (size_t)a : b;
}

static int access_view(const struct flat_view *view, uint64_t address, const struct access *access,
                       size_t length)
{
    int result = 0;
    size_t part;
    for (size_t at = 0; at < length; at += part) {
        memory_size place = (memory_size)address + at;
        const struct flat_range *range =
            place < MEMORY_SIZE_MAX ? flat_view_from(view, (uint64_t)place) : NULL;
        int partial;
        if (range && range->start <= place) {
            part = shorter(flat_range_end(range) - place, length - at);
            partial = access_range(access, at, range, (uint64_t)(place - range->start), part);
        } else {
            part = range ? shorter(range->start - place, length - at) : length - at;
            partial = access_refused(access, at, part, -ENXIO);
        }
        if (!result)
            result = partial;
    }
    return result;
}

static int access_space(struct address_space *space, uint64_t address, const struct access *access,
                        size_t length)
{
    struct flat_view *view = flat_view_get(space);
    int result = access_view(view, address, access, length);
    flat_view_put(view);
    return result;
}

int address_space_read(struct address_space *space, uint64_t address, void *data, size_t length)
{
    return access_space(space, address, &(struct access){.in = data}, length);
}

int address_space_write(struct address_space *space, uint64_t address, const void *data, size_t length)
{
    return access_space(space, address, &(struct access){.out = data}, length);
}

/* Pieces of host memory, at most `max`. */
struct pieces {
    struct iovec *iov;
    unsigned count, max;
};

/* Adds one, to the last one if it continues that. */
static bool add_piece(struct pieces *pieces, char *host, size_t length)
{
    struct iovec *last = pieces->count ? &pieces->iov[pieces->count - 1] : NULL;
    if (last && (char *)last->iov_base + last->iov_len == host) {
        last->iov_len += length;
        return true;
    }
    if (pieces->count == pieces->max)
        return false;
    pieces->iov[pieces->count++] = (struct iovec){host, length};
    return true;
}

int flat_view_map(const struct flat_view *view, uint64_t address, uint64_t length, bool writable,
                  struct iovec *iov, unsigned max)
{
    struct pieces pieces = {.iov = iov, .max = max};
    if (length && address + (length - 1) < address)
        return -EFAULT;
    const struct flat_range *range = length ? flat_view_from(view, address) : NULL;
    while (length) {
        char *host = range && range->start <= address ? flat_range_host(range, writable) : NULL;
        if (!host)
            return -EFAULT;
        uint64_t offset = address - range->start;
        size_t part = shorter(range->size - offset, length);
        if (!add_piece(&pieces, host + offset, part))
            return -ENOSPC;
        address += part;
        length -= part;
        range = flat_view_next(view, range);
    }
    return (int)pieces.count;
}

int guest_map(struct address_space *space, uint64_t address, uint64_t length, bool writable,
              struct guest_mapping *mapping)
{
    mapping->count = 0;
    mapping->view = NULL;
    struct flat_view *view = flat_view_get(space);
    int count = flat_view_map(view, address, length, writable, mapping->iov, GUEST_MAPPING_MAX);
    if (count < 0) {
        flat_view_put(view);
        return -EFAULT;
    }
    mapping->count = (unsigned)count;
    mapping->view = view;
    mapping->address = address;
    mapping->length = length;
    return 0;
}

void flat_view_mark(const struct flat_view *view, uint64_t address, uint64_t length)
{
    const struct flat_range *range = length ? flat_view_from(view, address) : NULL;
    for (uint64_t part; length; address += part, length -= part) {
        uint64_t offset = address - range->start;
        part = shorter(range->size - offset, length);
        mark(range, offset, part);
        range = flat_view_next(view, range);
    }
}

void guest_unmap(struct guest_mapping *mapping, uint64_t written)
{
    if (mapping->view && written && flat_view_tracked(mapping->view))
        flat_view_mark(mapping->view, mapping->address,
                       written < mapping->length ? written : mapping->length);
    flat_view_put(mapping->view);
    mapping->view = NULL;
    mapping->count = 0;
}
