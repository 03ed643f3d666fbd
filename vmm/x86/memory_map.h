/*
 * The memory map as boot protocols report it: what of the guest physical address space is free RAM, and what
 * a guest must leave alone.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct platform;

#define MEMORY_MAP_MAX 6

struct memory_map_entry {
    uint64_t address, size;
    bool usable; /* RAM; otherwise reserved */
};

/* Fills `map`, ascending and without overlaps; returns the number of entries. */
unsigned memory_map_build(const struct platform *platform, struct memory_map_entry map[MEMORY_MAP_MAX]);
