/*
 * The tables that the first CPU starts on: descriptors, and in long mode the identity map of the low 4 GiB.
 */
#pragma once

#include "vmm/x86/boot.h"

/* Writes those of `mode` at LAYOUT_GDT and LAYOUT_PAGE_TABLES. */
int entry_write_tables(enum boot_mode mode, struct address_space *memory, struct error *err);
