/*
 * What godwit wants to know of the CPU it runs on.
 */
#pragma once

#include <stdbool.h>

/* Whether the CPU has virtualization in hardware (Intel VMX or AMD SVM) and this system may use it. */
bool host_cpu_has_virtualization(void);

/* The bits of a physical address. */
unsigned host_cpu_address_bits(void);
