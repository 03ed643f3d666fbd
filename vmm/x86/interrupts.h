/*
 * The interrupt controllers of a machine, which are KVM's: two PICs, an IOAPIC, a local APIC for each vCPU,
 * and the interval timer.
 *
 * Lines 0 to 15 lead to the pins of their numbers at PICs and IOAPIC, 16 to 23 to the IOAPIC alone; GSIs from
 * INTERRUPT_LINES on are for messages (vmm/msi_routes.h).
 *
 * Called on the machine's thread.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct error;
struct kvm_vm;
struct msi_routes;

#define INTERRUPT_LINES 24

/* Creates them. After the memory slots. -errno with a message, here and below. */
int interrupts_create(const struct kvm_vm *vm, struct error *err);

/* Says, as firmware does, which lines below 16 are level-triggered at the PICs, for systems that use these.
 */
int interrupts_set_level(const struct kvm_vm *vm, const uint8_t *lines, size_t count, struct error *err);

/* Routes for messages beside those of the lines; to be destroyed by the caller. */
int interrupts_create_msi(struct kvm_vm *vm, struct msi_routes **routes, struct error *err);
