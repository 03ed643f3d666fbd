/* Interrupt controllers: the local APIC of each CPU (xAPIC, memory-mapped), the IOAPIC, the PIT. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LAPIC_BASE     0xfee00000
#define IOAPIC_BASE    0xfec00000
#define PIT_HZ         1193182

/* Rate at which KVM's LAPIC timer counts with a divisor of 1. */
#define LAPIC_TIMER_HZ 1000000000

/* Local APIC of the calling CPU. lapic_enable() is needed before it delivers anything. */
void lapic_enable(void);
uint8_t lapic_id(void);
void lapic_end_of_interrupt(void);

/* Whether `vector` is in service: delivered and not ended yet. */
bool lapic_in_service(uint8_t vector);

/* Has the timer send `vector` `hz` times a second; 0 stops it. */
void lapic_timer(uint8_t vector, uint32_t hz);

/* Has it count once from `count` down to 0 by LAPIC_TIMER_HZ, without an interrupt; how far it has come. */
void lapic_timer_once(uint32_t count);
uint32_t lapic_timer_left(void);

/*
 * Send INIT, and a start-up interrupt that begins in real mode at `page` << 12, to the CPU with this APIC id.
 */
void lapic_send_init(uint8_t apic_id);
void lapic_send_startup(uint8_t apic_id, uint8_t page);

/* Masks the two PICs, so that interrupts arrive by the IOAPIC alone. */
void pic_mask(void);

/* Has IOAPIC pin `pin` deliver `vector` to the CPU with this APIC id: active high, edge or level. */
void ioapic_route(uint8_t pin, uint8_t vector, uint8_t apic_id, bool level);
void ioapic_mask(uint8_t pin);

/* Starts PIT channel 0 as a rate generator, or stops it for `hz` 0. `hz` is at least 19 otherwise. */
void pit_start(uint32_t hz);
