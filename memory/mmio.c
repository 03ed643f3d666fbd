#include "memory/mmio.h"

#include <errno.h>
#include <string.h>

#include "memory/region.h"

#define VALID_MAX 8 /* where nothing is declared */
#define IMPL_MAX  4

static unsigned sizes_min(const struct memory_access_sizes *sizes)
{
    return sizes->min ? sizes->min : 1;
}

static unsigned sizes_max(const struct memory_access_sizes *sizes, unsigned standard)
{
    unsigned max = sizes->max ? sizes->max : standard;
    return max < sizes_min(sizes) ? sizes_min(sizes) : max;
}

/* The widest power of two, up to `max`, that fits into `length` and is aligned at `offset`. */
static unsigned aligned_size(uint64_t offset, size_t length, unsigned max)
{
    unsigned size = max;
    while (size > 1 && (size > length || offset % size))
        size /= 2;
    return size;
}

/* Whether the guest means `length` bytes as one access, and not as a series. */
static bool is_single(size_t length)
{
    return length == 1 || length == 2 || length == 4 || length == 8;
}

static bool access_valid(const struct memory_region *region, uint64_t offset, unsigned size, bool is_write)
{
    const struct memory_region_ops *ops = region->ops;
    if (is_write ? !ops->write : !ops->read)
        return false;
    if (size < sizes_min(&ops->valid) || size > sizes_max(&ops->valid, VALID_MAX))
        return false;
    if (offset % size && !ops->valid.unaligned)
        return false;
    return !ops->accepts || ops->accepts(region->opaque, offset, size, is_write);
}

/* One call of the device on the way through an access. */
struct unit {
    uint64_t offset;
    unsigned size;
    unsigned skip; /* bytes before those that the access wants */
    unsigned take; /* bytes that it wants */
};

static struct unit next_unit(const struct memory_region_ops *ops, uint64_t offset, unsigned length)
{
    unsigned min = sizes_min(&ops->impl), max = sizes_max(&ops->impl, IMPL_MAX);
    unsigned size = aligned_size(ops->impl.unaligned ? 0 : offset, length, max);
    if (size >= min)
        return (struct unit){offset, size, 0, size};
    unsigned skip = (unsigned)(offset % min);
    unsigned take = min - skip < length ? min - skip : length;
    return (struct unit){offset - skip, min, skip, take};
}

static uint64_t low_bytes(unsigned count)
{
    return count == 8 ? UINT64_MAX : ((uint64_t)1 << 8 * count) - 1;
}

static uint64_t read_units(const struct memory_region *region, uint64_t offset, unsigned size)
{
    uint64_t value = 0;
    for (unsigned done = 0; done < size;) {
        struct unit unit = next_unit(region->ops, offset + done, size - done);
        uint64_t whole = region->ops->read(region->opaque, unit.offset, unit.size);
        value |= (whole >> 8 * unit.skip & low_bytes(unit.take)) << 8 * done;
        done += unit.take;
    }
    return value;
}

static void write_units(const struct memory_region *region, uint64_t offset, unsigned size, uint64_t value)
{
    const struct memory_region_ops *ops = region->ops;
    for (unsigned done = 0; done < size;) {
        struct unit unit = next_unit(ops, offset + done, size - done);
        uint64_t part = (value >> 8 * done & low_bytes(unit.take)) << 8 * unit.skip;
        if (unit.take < unit.size && ops->read) {
            uint64_t kept = ~(low_bytes(unit.take) << 8 * unit.skip) & low_bytes(unit.size);
            part |= ops->read(region->opaque, unit.offset, unit.size) & kept;
        }
        ops->write(region->opaque, unit.offset, part, unit.size);
        done += unit.take;
    }
}

/* One access of the guest. The bytes go to `in`, or come from `out`. */
static int access_once(const struct memory_region *region, uint64_t offset, char *in, const char *out,
                       unsigned size)
{
    bool valid = access_valid(region, offset, size, out);
    uint64_t value = UINT64_MAX;
    if (out)
        memcpy(&value, out, size);
    if (valid && out)
        write_units(region, offset, size, value);
    else if (valid)
        value = read_units(region, offset, size);
    if (in)
        memcpy(in, &value, size);
    return valid ? 0 : -EACCES;
}

static int access_all(const struct memory_region *region, uint64_t offset, char *in, const char *out,
                      size_t length)
{
    if (is_single(length))
        return access_once(region, offset, in, out, (unsigned)length);
    int result = 0;
    unsigned size, max = sizes_max(&region->ops->valid, VALID_MAX);
    for (size_t done = 0; done < length; done += size) {
        size = aligned_size(offset + done, length - done, max);
        if (access_once(region, offset + done, in ? in + done : NULL, out ? out + done : NULL, size))
            result = -EACCES;
    }
    return result;
}

int mmio_read(const struct memory_region *region, uint64_t offset, void *data, size_t length)
{
    return access_all(region, offset, data, NULL, length);
}

int mmio_write(const struct memory_region *region, uint64_t offset, const void *data, size_t length)
{
    return access_all(region, offset, NULL, data, length);
}
