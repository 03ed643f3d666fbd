/*
 * Pieces of a flat view as one line of text, for people: what mtree and the trace print. Each function cuts
 * its text to fit into `size` bytes. Any thread; none blocks.
 */
#pragma once

#include <stddef.h>

#include "memory/flat_view.h"

#define DESCRIPTION_SIZE 256 /* enough but for very long names */

const char *memory_region_kind_name(enum memory_region_kind kind);

/* First and last address, 16 digits each; of an address below zero, where a region reaches beyond what can
 * be seen of it, the lowest 64 bits. */
void describe_extent(char *text, size_t size, __int128 start, memory_size length);

/* "EXTENT (KIND, ATTRIBUTES): REGION @OFFSET" */
void describe_range(char *text, size_t size, const struct flat_range *range);

/* "ADDRESS length LENGTH value DATA fd FD"; without length, or value, if it matches any. */
void describe_ioeventfd(char *text, size_t size, const struct flat_ioeventfd *ioeventfd);
