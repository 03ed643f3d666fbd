/* A network device under attack, whose backend sends every frame back. */
#pragma once

#include "guest/hostile/target.h"

/* Finds one. `memory` has room for its three queues. False if there is none. */
bool net_find(const struct target *like, struct target_memory *memory);

/* One attack: frames, buffers and commands that make no sense, and a few that do. */
void net_attack(void);

/* Whether a reset brings it back, and a frame comes back. */
bool net_works(void);
