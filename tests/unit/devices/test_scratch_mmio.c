#include <stdlib.h>
#include <string.h>

#include "devices/test_mmio.h"
#include "fixture.h"

#define BASE 0x1000
#define SIZE (2 * TEST_MMIO_REGION_SIZE)

/* Both regions side by side are 128 bytes of memory, whatever the width and alignment of the accesses. */
Test(scratch_mmio, behaves_as_memory)
{
    struct bus bus;
    struct test_mmio *test;
    struct error err = {0};
    bus_create(&bus);
    cr_assert_eq(test_mmio_create(bus.memory, &test, &err), 0, "%s", err.message);
    bus_map(&bus, BASE, test_mmio_region_a(test));
    bus_map(&bus, BASE + TEST_MMIO_REGION_SIZE, test_mmio_region_b(test));
    uint8_t memory[SIZE] = {0};
    unsigned seed = 1;
    for (int i = 0; i < 50000; i++) {
        uint8_t data[8];
        size_t size = (size_t)rand_r(&seed) % 8 + 1;
        size_t offset = (size_t)rand_r(&seed) % (SIZE - size + 1);
        if (rand_r(&seed) % 2) {
            for (size_t byte = 0; byte < size; byte++)
                data[byte] = (uint8_t)rand_r(&seed);
            cr_assert_eq(address_space_write(bus.space, BASE + offset, data, size), 0);
            memcpy(memory + offset, data, size);
        } else {
            cr_assert_eq(address_space_read(bus.space, BASE + offset, data, size), 0);
            cr_assert_eq(memcmp(data, memory + offset, size), 0);
        }
    }
    bus_unmap(test_mmio_region_a(test));
    bus_unmap(test_mmio_region_b(test));
    test_mmio_destroy(test);
    bus_destroy(&bus);
}
