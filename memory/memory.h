/*
 * The memory system of one machine: what ties its regions and address spaces together.
 *
 * Regions form trees (memory/region.h); an address space (memory/address_space.h) shows one tree as a flat
 * view and tells its listeners (memory/listener.h) what changed. Changes are made in transactions: nothing
 * becomes visible before the outermost commit, and then all of it does, or none. A change made outside of a
 * transaction is a transaction of its own.
 *
 * One recursive lock in `struct memory` owns every tree, list of listeners and list of address spaces: the
 * thread that begins a transaction holds it until the outermost commit. Readers of memory take no lock
 * (memory/address_space.h).
 */
#pragma once

struct error;
struct memory;

/* A memory system with no address space; NULL when memory is short. */
struct memory *memory_create(void);

/* Frees it. Every address space, region with RAM, dirty client and dirty source must be gone by then. */
void memory_destroy(struct memory *memory);

/*
 * Begins a transaction, or nests one in this thread's. Blocks while another thread is in one.
 */
void memory_transaction_begin(struct memory *memory);

/*
 * Ends a transaction. The outermost commit renders the views that can have changed and shows the difference
 * to the listeners; if one of them refuses or fails, everything since the outermost begin is undone (regions,
 * views, listeners) and its -errno and message are returned. Inner commits return 0.
 */
int memory_transaction_commit(struct memory *memory, struct error *err);
