/*
 * mmio: accesses the test device with every width, at every alignment and across its two regions, and
 * compares what it reads with a model: an array of bytes.
 */
#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/io.h"
#include "guest/lib/string.h"
#include "guest/lib/tree.h"

#define WINDOW         128 /* bytes that are tested: the two regions' nearest to where they meet */
#define MISMATCHES_MAX 10

struct test {
    uint64_t base;
    uint64_t size;
    uint8_t model[WINDOW];
    uint64_t random;
    unsigned writes, reads, mismatches;
};

static uint64_t next_random(struct test *test)
{
    test->random ^= test->random << 13;
    test->random ^= test->random >> 7;
    test->random ^= test->random << 17;
    return test->random;
}

static uint64_t device_read(uint64_t address, unsigned width)
{
    switch (width) {
    case 1:
        return mmio_read8(address);
    case 2:
        return mmio_read16(address);
    case 4:
        return mmio_read32(address);
    default:
        return mmio_read64(address);
    }
}

static void device_write(uint64_t address, unsigned width, uint64_t value)
{
    switch (width) {
    case 1:
        mmio_write8(address, value);
        break;
    case 2:
        mmio_write16(address, value);
        break;
    case 4:
        mmio_write32(address, value);
        break;
    default:
        mmio_write64(address, value);
        break;
    }
}

static void check(struct test *test, uint64_t offset, unsigned width)
{
    uint64_t expected = 0, value = device_read(test->base + offset, width);

    memcpy(&expected, test->model + offset, width);
    test->reads++;
    if (value != expected && ++test->mismatches <= MISMATCHES_MAX)
        print("mmio: 0x%lx, width %u: read 0x%lx, expected 0x%lx\n", test->base + offset, width, value,
              expected);
}

static void check_all(struct test *test)
{
    for (unsigned width = 1; width <= 8; width *= 2) {
        for (uint64_t offset = 0; offset + width <= test->size; offset++)
            check(test, offset, width);
    }
}

/* One write, and a look whether it changed what it should, and neither neighbour. */
static void write_one(struct test *test, uint64_t offset, unsigned width)
{
    uint64_t value = next_random(test);

    device_write(test->base + offset, width, value);
    memcpy(test->model + offset, &value, width);
    test->writes++;
    check(test, offset, width);
    if (offset > 0)
        check(test, offset - 1, 1);
    if (offset + width < test->size)
        check(test, offset + width, 1);
}

static void write_all(struct test *test, unsigned width)
{
    for (uint64_t offset = 0; offset + width <= test->size; offset++)
        write_one(test, offset, width);
    check_all(test);
}

/* Copies by string instructions, which KVM splits into accesses of its own choice. */
static void copy(struct test *test)
{
    uint8_t bytes[WINDOW];

    for (uint64_t i = 0; i < test->size; i++)
        test->model[i] = next_random(test);
    memcpy((void *)test->base, test->model, test->size);
    check_all(test);
    memcpy(bytes, (const void *)test->base, test->size);
    if (memcmp(bytes, test->model, test->size)) {
        print("mmio: a copy from the device differs\n");
        test->mismatches++;
    }
}

/* Instructions that read and write at once. */
static void modify(struct test *test)
{
    for (uint64_t offset = 0; offset + 4 <= test->size; offset++) {
        uint32_t value, addend = next_random(test);
        memcpy(&value, test->model + offset, sizeof(value));
        value += addend;
        memcpy(test->model + offset, &value, sizeof(value));
        __asm__ volatile("addl %0, (%1)" : : "r"(addend), "r"(test->base + offset) : "memory", "cc");
        test->writes++;
        check(test, offset, 4);
    }
}

static bool find_device(struct test *test)
{
    int node = tree_find("godwit,test-mmio");
    struct tree_range a, b;
    uint64_t before, behind;

    if (!tree_range(node, 0, &a) || !tree_range(node, 1, &b) || a.start + a.size != b.start)
        return false;
    before = a.size < WINDOW / 2 ? a.size : WINDOW / 2;
    behind = b.size < WINDOW / 2 ? b.size : WINDOW / 2;
    test->base = b.start - before;
    test->size = before + behind;
    print("mmio: regions 0x%lx and 0x%lx\n", a.start, b.start);
    return true;
}

int main(void)
{
    static struct test test;

    test.random = argument_number("seed", 1) | 1ull << 63;
    if (!find_device(&test)) {
        print("mmio: the device tree has no test device of two adjacent regions\n");
        return 1;
    }
    for (unsigned width = 1; width <= 8; width *= 2)
        write_all(&test, width);
    copy(&test);
    modify(&test);
    print("mmio: %u writes, %u reads, %u mismatches\n", test.writes, test.reads, test.mismatches);
    return test.mismatches ? 1 : 0;
}
