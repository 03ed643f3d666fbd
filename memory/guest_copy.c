#include "memory/guest_copy.h"

#include <stdint.h>
#include <string.h>

/* Guest memory has no declared type. */
typedef uint16_t __attribute__((may_alias)) guest_u16;
typedef uint32_t __attribute__((may_alias)) guest_u32;
typedef uint64_t __attribute__((may_alias)) guest_u64;

/* The widest unit, up to 8 bytes, that is aligned at `address` and fits into `size`. */
static size_t unit_at(const void *address, size_t size)
{
    size_t unit = 8;
    while (unit > size || (uintptr_t)address % unit)
        unit /= 2;
    return unit;
}

static void load(void *to, const void *guest, size_t unit)
{
    uint64_t value = 0;
    if (unit == 8)
        value = __atomic_load_n((const guest_u64 *)guest, __ATOMIC_RELAXED);
    else if (unit == 4)
        value = __atomic_load_n((const guest_u32 *)guest, __ATOMIC_RELAXED);
    else if (unit == 2)
        value = __atomic_load_n((const guest_u16 *)guest, __ATOMIC_RELAXED);
    else
        value = __atomic_load_n((const uint8_t *)guest, __ATOMIC_RELAXED);
    memcpy(to, &value, unit);
}

static void store(void *guest, const void *from, size_t unit)
{
    uint64_t value = 0;
    memcpy(&value, from, unit);
    if (unit == 8)
        __atomic_store_n((guest_u64 *)guest, value, __ATOMIC_RELAXED);
    else if (unit == 4)
        __atomic_store_n((guest_u32 *)guest, (uint32_t)value, __ATOMIC_RELAXED);
    else if (unit == 2)
        __atomic_store_n((guest_u16 *)guest, (uint16_t)value, __ATOMIC_RELAXED);
    else
        __atomic_store_n((uint8_t *)guest, (uint8_t)value, __ATOMIC_RELAXED);
}

void guest_copy_from(void *to, const void *guest, size_t size)
{
    char *at = to;
    for (size_t unit; size; at += unit, guest = (const char *)guest + unit, size -= unit) {
        unit = unit_at(guest, size);
        load(at, guest, unit);
    }
}

void guest_copy_to(void *guest, const void *from, size_t size)
{
    const char *at = from;
    for (size_t unit; size; at += unit, guest = (char *)guest + unit, size -= unit) {
        unit = unit_at(guest, size);
        store(guest, at, unit);
    }
}
