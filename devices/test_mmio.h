/*
 * Scratch memory behind MMIO, for tests of the way from a guest's access to a device: two regions of 64
 * bytes, of which one does only aligned 4-byte accesses and the other only single bytes. Any access of 1 to 8
 * bytes is valid in both, unaligned ones included, so what a guest reads back depends on the memory core
 * splitting and merging right.
 */
#pragma once

struct error;
struct memory;
struct memory_region;
struct test_mmio;

#define TEST_MMIO_REGION_SIZE 64

int test_mmio_create(struct memory *memory, struct test_mmio **out, struct error *err);

/* Owned by the device; must be out of their containers before test_mmio_destroy(). */
struct memory_region *test_mmio_region_a(struct test_mmio *test); /* 4-byte accesses */
struct memory_region *test_mmio_region_b(struct test_mmio *test); /* 1-byte accesses */

/* NULL is allowed. */
void test_mmio_destroy(struct test_mmio *test);
