/*
 * Accesses to the ops of one region: what the device declares it can do (struct memory_region_ops) meets what
 * the guest does.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct memory_region;

/*
 * `length` bytes from `offset` of the region, little endian. 1, 2, 4 and 8 bytes are one access of the guest;
 * another length is a series of them in ascending order, each the widest that is aligned and valid. Returns
 * 0, or -EACCES where the region refused one; what it refuses reads as ones.
 */
int mmio_read(const struct memory_region *region, uint64_t offset, void *data, size_t length);
int mmio_write(const struct memory_region *region, uint64_t offset, const void *data, size_t length);
