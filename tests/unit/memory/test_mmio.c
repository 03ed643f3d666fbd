#include "memory/mmio.h"
#include "tests/unit/memory/fixture.h"

#define DEVICE 32 /* bytes of registers */
#define CALLS  32

/* A device that is plain memory to the accesses it claims to implement, and notes them. */
struct device {
    uint8_t bytes[DEVICE];
    struct memory_region_ops ops;
    unsigned calls;
    struct {
        uint64_t offset;
        unsigned size;
        bool write;
    } log[CALLS];
    bool broken; /* was asked for what it does not implement */
};

static void note(struct device *device, uint64_t offset, unsigned size, bool write)
{
    unsigned min = device->ops.impl.min ? device->ops.impl.min : 1;
    unsigned max = device->ops.impl.max ? device->ops.impl.max : 4;
    max = max < min ? min : max;
    if (size < min || size > max || (offset % size && !device->ops.impl.unaligned) ||
        offset + size > DEVICE || device->calls == CALLS)
        device->broken = true;
    else if (device->calls < CALLS) {
        device->log[device->calls].offset = offset;
        device->log[device->calls].size = size;
        device->log[device->calls++].write = write;
    }
}

static uint64_t device_read(void *opaque, uint64_t offset, unsigned size)
{
    struct device *device = opaque;
    note(device, offset, size, false);
    uint64_t value = 0;
    if (!device->broken)
        memcpy(&value, &device->bytes[offset], size);
    /* Bits beyond the size are noise that must not get through. */
    return size == 8 ? value : value | UINT64_MAX << 8 * size;
}

static void device_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct device *device = opaque;
    note(device, offset, size, true);
    if (!device->broken)
        memcpy(&device->bytes[offset], &value, size);
}

static void reset(struct device *device, struct memory_access_sizes valid, struct memory_access_sizes impl)
{
    *device = (struct device){.ops = {device_read, device_write, valid, impl, NULL}};
    for (unsigned i = 0; i < DEVICE; i++)
        device->bytes[i] = (uint8_t)(0x30 + i);
}

static void init(struct device *device, struct memory_region *region, struct memory *memory)
{
    cr_assert_eq(memory_region_init_mmio(region, memory, "device", &device->ops, device, DEVICE, NULL), 0);
}

/* Whether the declared sizes let the guest make this access. */
static bool allowed(const struct memory_access_sizes *valid, uint64_t offset, unsigned size)
{
    unsigned min = valid->min ? valid->min : 1, max = valid->max ? valid->max : 8;
    return size >= min && size <= (max < min ? min : max) && (offset % size == 0 || valid->unaligned);
}

static void check_ascending(const struct device *device)
{
    for (unsigned i = 1; i < device->calls; i++)
        cr_assert_geq(device->log[i].offset, device->log[i - 1].offset);
}

static void check_access(struct memory *memory, struct memory_access_sizes valid,
                         struct memory_access_sizes impl, uint64_t offset, unsigned size)
{
    struct device device;
    struct memory_region region;
    reset(&device, valid, impl);
    init(&device, &region, memory);
    uint8_t wanted[DEVICE], data[8], ones[8];
    memcpy(wanted, device.bytes, DEVICE);
    memset(ones, 0xff, sizeof(ones));
    bool valid_access = allowed(&valid, offset, size);
    cr_assert_eq(mmio_read(&region, offset, data, size), valid_access ? 0 : -EACCES);
    cr_assert_arr_eq(data, valid_access ? &wanted[offset] : ones, size);
    check_ascending(&device);
    device.calls = 0;
    for (unsigned i = 0; i < size; i++)
        data[i] = (uint8_t)(0xa0 + i);
    cr_assert_eq(mmio_write(&region, offset, data, size), valid_access ? 0 : -EACCES);
    if (valid_access)
        memcpy(&wanted[offset], data, size);
    cr_assert_arr_eq(device.bytes, wanted, DEVICE);
    check_ascending(&device);
    cr_assert_not(device.broken);
    cr_assert(valid_access || !device.calls);
    memory_region_destroy(&region);
}

/* Every declaration and every access that fits: the bytes are those of plain memory. */
Test(mmio, every_combination_of_sizes)
{
    static const unsigned sizes[] = {0, 1, 2, 4, 8};
    struct memory *memory = memory_create();
    for (unsigned v = 0; v < 50; v++) {
        for (unsigned i = 0; i < 50; i++) {
            struct memory_access_sizes valid = {sizes[v / 2 % 5], sizes[v / 10], v % 2};
            struct memory_access_sizes impl = {sizes[i / 2 % 5], sizes[i / 10], i % 2};
            if ((valid.max && valid.min > valid.max) || (impl.max && impl.min > impl.max))
                continue;
            for (unsigned size = 1; size <= 8; size *= 2)
                for (uint64_t offset = 0; offset <= 16; offset++)
                    check_access(memory, valid, impl, offset, size);
        }
    }
    memory_destroy(memory);
}

struct one_device {
    struct memory *memory;
    struct memory_region region;
    struct device device;
};

static struct one_device d;

static void start(void)
{
    d.memory = memory_create();
}

static void end(void)
{
    memory_region_destroy(&d.region);
    memory_destroy(d.memory);
}

static void declare(struct memory_access_sizes valid, struct memory_access_sizes impl)
{
    reset(&d.device, valid, impl);
    init(&d.device, &d.region, d.memory);
}

static void assert_calls(const char *wanted)
{
    char text[256] = "";
    size_t length = 0;
    for (unsigned i = 0; i < d.device.calls; i++)
        length += (size_t)snprintf(text + length, sizeof(text) - length, "%s%c%u@%llu", i ? " " : "",
                                   d.device.log[i].write ? 'w' : 'r', d.device.log[i].size,
                                   (unsigned long long)d.device.log[i].offset);
    cr_assert_str_eq(text, wanted);
}

TestSuite(mmio_calls, .init = start, .fini = end);

#define SIZES(...) ((struct memory_access_sizes){__VA_ARGS__})

Test(mmio_calls, nothing_declared_means_up_to_eight_by_fours)
{
    declare(SIZES(0), SIZES(0));
    uint64_t data;
    cr_assert_eq(mmio_read(&d.region, 8, &data, 8), 0);
    assert_calls("r4@8 r4@12");
}

Test(mmio_calls, wider_accesses_are_split_in_ascending_order)
{
    declare(SIZES(0), SIZES(.max = 2));
    uint64_t data = 0;
    cr_assert_eq(mmio_write(&d.region, 0, &data, 8), 0);
    assert_calls("w2@0 w2@2 w2@4 w2@6");
}

Test(mmio_calls, unaligned_accesses_are_split_into_aligned_ones)
{
    declare(SIZES(.unaligned = true), SIZES(0));
    uint32_t data = 0;
    cr_assert_eq(mmio_write(&d.region, 1, &data, 4), 0);
    assert_calls("w1@1 w2@2 w1@4");
}

Test(mmio_calls, unaligned_accesses_pass_where_implemented)
{
    declare(SIZES(.unaligned = true), SIZES(.unaligned = true));
    uint32_t data = 0;
    cr_assert_eq(mmio_write(&d.region, 1, &data, 4), 0);
    assert_calls("w4@1");
}

Test(mmio_calls, narrower_reads_take_part_of_a_wider_one)
{
    declare(SIZES(0), SIZES(.min = 4, .max = 4));
    uint8_t data;
    cr_assert_eq(mmio_read(&d.region, 6, &data, 1), 0);
    cr_assert_eq(data, 0x36);
    assert_calls("r4@4");
}

Test(mmio_calls, narrower_writes_change_part_of_a_wider_one)
{
    declare(SIZES(0), SIZES(.min = 4, .max = 4));
    uint8_t data = 0xaa;
    cr_assert_eq(mmio_write(&d.region, 6, &data, 1), 0);
    assert_calls("r4@4 w4@4");
    cr_assert_eq(d.device.bytes[6], 0xaa);
    cr_assert_eq(d.device.bytes[5], 0x35);
}

Test(mmio_calls, other_lengths_are_a_series)
{
    declare(SIZES(.max = 4), SIZES(0));
    uint8_t data[11];
    cr_assert_eq(mmio_read(&d.region, 1, data, 11), 0);
    assert_calls("r1@1 r2@2 r4@4 r4@8");
    cr_assert_arr_eq(data, &d.device.bytes[1], 11);
}

Test(mmio_calls, of_a_series_what_is_not_valid_is_refused_alone)
{
    declare(SIZES(.min = 2, .max = 4), SIZES(0));
    uint8_t data[7];
    cr_assert_eq(mmio_read(&d.region, 0, data, 7), -EACCES);
    assert_calls("r4@0 r2@4");
    cr_assert_arr_eq(data, d.device.bytes, 6);
    cr_assert_eq(data[6], 0xff);
}

static bool only_even(void *opaque, uint64_t offset, unsigned size, bool is_write)
{
    return offset % 2 == 0 && !is_write;
}

Test(mmio_calls, device_may_refuse)
{
    declare(SIZES(0), SIZES(0));
    d.device.ops.accepts = only_even;
    uint8_t data = 0;
    cr_assert_eq(mmio_read(&d.region, 2, &data, 1), 0);
    cr_assert_eq(data, 0x32);
    cr_assert_eq(mmio_read(&d.region, 3, &data, 1), -EACCES);
    cr_assert_eq(data, 0xff);
    cr_assert_eq(mmio_write(&d.region, 2, &data, 1), -EACCES);
    assert_calls("r1@2");
}

Test(mmio_calls, device_may_lack_read_or_write)
{
    declare(SIZES(0), SIZES(0));
    uint8_t data = 0;
    d.device.ops.read = NULL;
    cr_assert_eq(mmio_read(&d.region, 0, &data, 1), -EACCES);
    cr_assert_eq(data, 0xff);
    cr_assert_eq(mmio_write(&d.region, 0, &data, 1), 0);
    d.device.ops.write = NULL;
    cr_assert_eq(mmio_write(&d.region, 0, &data, 1), -EACCES);
    assert_calls("w1@0");
}
