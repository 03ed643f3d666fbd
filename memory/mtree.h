/*
 * Prints what a memory system looks like, for people: the region tree of each address space as it was built,
 * and the flat view that came of it.
 */
#pragma once

#include <stdio.h>

struct memory;

/*
 * Prints all address spaces of `memory`. Each region has a line, indented below its container,
 *     0000000000000000-00000000bfffffff (prio 0, alias): ram-low -> ram @0000000000000000
 * with addresses in the space, disabled regions and attributes marked, siblings by address and the topmost
 * first; the targets of aliases follow, each once, with addresses of their own. Then each flat range has a
 * line, and below it what the accelerator answers there. Any thread; blocks on the memory lock. Errors of the
 * file show in ferror().
 */
void mtree_print(struct memory *memory, FILE *file);
