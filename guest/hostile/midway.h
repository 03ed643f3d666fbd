/* Requests under way, and the second CPU of the attacks that want one. */
#pragma once

#include <stdbool.h>

struct target;

/* Starts it, where there is one. */
bool midway_start_cpu(struct target *target);

/* Has it kick all the time, or rest. */
void midway_kick(bool on);

/* Many requests of many kinds, some in tables, and one kick. */
void set_going(struct target *target);
