/*
 * A trace of all that the listeners of an address space are told, a line for each call (`--trace memory`).
 *
 * A trace is two listeners: one hears what goes by rising priority before all others, one what goes by
 * falling priority before all others. So a call that somebody fails later has its line, and what is taken
 * back then has another, marked "undo". A space without a trace pays nothing for it.
 *
 * Lines name the space, the call and what it is about, as in
 *   memory: range_add 0000000000000000-0000000000003fff (ram, read-only): low @0000000000000000
 *   memory: undo range_del 0000000000000000-0000000000003fff (ram, read-only): low @0000000000000000
 */
#pragma once

struct address_space;
struct error;
struct log;
struct memory_trace;

/*
 * Begins a trace of `space` with what it shows now. `log` is borrowed and must let level INFO pass. -ENOMEM;
 * -EBUSY in a listener's callback. As memory_listener_register() otherwise.
 */
int memory_trace_create(struct address_space *space, const struct log *log, struct memory_trace **trace,
                        struct error *err);

/* Ends it, without a line. NULL is allowed. */
void memory_trace_destroy(struct memory_trace *trace);
