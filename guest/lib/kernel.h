/*
 * Calls into kernel mode. A guest's program runs in user mode (CPL 3), which a KVM without hardware support
 * runs at full speed; what needs CPL 0 is a short function that is called through here.
 */
#pragma once

#include <stdint.h>

#include "guest/lib/interrupt.h"
#include "guest/lib/layout.h"

/* A function to run at CPL 0. `caller` is the state that the CPU goes back to; it may be changed. */
typedef uint64_t kernel_function(uint64_t argument, struct interrupt_frame *caller);

/*
 * Runs `function` at CPL 0 with interrupts off and returns what it returns. From CPL 0 it is a mere call;
 * `caller` is NULL then.
 */
uint64_t in_kernel(kernel_function *function, uint64_t argument);
