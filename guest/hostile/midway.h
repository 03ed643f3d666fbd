/* The second CPU of the attacks that want one. */
#pragma once

#include <stdbool.h>

struct target;

/* Starts it, where there is one. */
bool midway_start_cpu(struct target *target);
