/*
 * The device tree, as far as guests need it: nodes by "compatible" and the ranges in their "reg".
 * Interpreting it takes tens of thousands of instructions: do it in user mode.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

/* A range of guest-physical memory space or, for children of the ISA bus, of port space. */
struct tree_range {
    uint64_t start;
    uint64_t size;
    bool is_port;
};

/* Offset of the first node with this "compatible", or a negative number (also without a tree). */
int tree_find(const char *compatible);

/* Takes entry `index` of the "reg" of `node`. False if there is no such entry, or `node` is negative. */
bool tree_range(int node, unsigned index, struct tree_range *range);

/* Takes cell `index` of a property of `node`. False if there is none. */
bool tree_cell(int node, const char *property, unsigned index, uint32_t *value);

/* The initrd. False if there is none. */
bool tree_initrd(struct tree_range *range);

/* Fills `apic_ids` with the "reg" of each CPU node, at most `limit`, and returns how many there are. */
unsigned tree_cpus(uint8_t *apic_ids, unsigned limit);
