/* The guest `dirtier` (guest/dirtier.h), driven from the host. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/dirtier.h"
#include "vmm/dirty_log.h"

struct error;
struct guest_vm;

/* Boots it on a VM whose memory there is. All of its RAM is mapped. */
int dirtier_boot(struct guest_vm *vm, enum dirty_log_choice dirty_log, struct error *err);

/* Orders `count` writes to `pages` pages from `area` on, and takes back what was ordered before. */
void dirtier_order(struct guest_vm *vm, uint64_t area, uint64_t pages, uint64_t count);

/* Waits until the last order is done. False if the guest ended. */
bool dirtier_wait(struct guest_vm *vm);

/* Has it end its writes, and waits. */
bool dirtier_stop(struct guest_vm *vm);

/* How many writes are done; one more may be. */
uint64_t dirtier_written(const struct guest_vm *vm);

/* Has it quit, and waits. Its exit status. */
int dirtier_quit(struct guest_vm *vm);
