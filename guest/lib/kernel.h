// Calls into kernel mode. A guest's program runs in user mode (CPL 3), which a KVM without hardware support
// runs at full speed; what needs CPL 0 is a short function that is called through here.
#ifndef GUEST_KERNEL_H
#define GUEST_KERNEL_H

#include <stdint.h>

#include "lib/layout.h"

typedef uint64_t kernel_function(uint64_t argument);

// Runs `function` at CPL 0 with interrupts off and returns what it returns. May itself be called at CPL 0.
static inline uint64_t in_kernel(kernel_function *function, uint64_t argument)
{
    uint64_t result;

    __asm__ volatile("int %1"
                     : "=a"(result)
                     : "i"(VECTOR_KERNEL_CALL), "D"(function), "S"(argument)
                     : "memory", "cc");
    return result;
}

#endif
