/* Starting the other CPUs. */
#pragma once

#include <stdint.h>

typedef void cpu_program(uint64_t argument);

/*
 * Starts the CPU with this APIC id as CPU `index` (1 to MAX_CPUS - 1, each once), which runs
 * `program(argument)` in user mode and then halts. Returns when the program has begun.
 */
void smp_start(unsigned index, uint8_t apic_id, cpu_program *program, uint64_t argument);
