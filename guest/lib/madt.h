/* The CPUs that ACPI's MADT lists. */
#pragma once

#include <stdint.h>

/*
 * Fills `apic_ids` with the APIC ids of the enabled CPUs, at most `limit`, and returns how many there are. 0:
 * no ACPI.
 */
unsigned madt_cpus(uint8_t *apic_ids, unsigned limit);
