/*
 * The fixed hardware of ACPI power management: PM1a event and control registers, the PM timer and the reset
 * register, each a region of its own.
 *
 * The machine is always in ACPI mode (SCI_EN reads as one; the FADT names no SMI command port). The power
 * button is the only fixed event that ever happens. Writing SLP_EN with the sleep type of S5 asks for power
 * off; other sleep types do nothing. The PM timer counts at 3.579545 MHz in 32 bits (FADT: TMR_VAL_EXT) and
 * has no overflow interrupt.
 *
 * The device owns its lock, under which it sets its interrupt line.
 *
 * Specification: ACPI 6.4, section 4.8.
 */
#pragma once

#include <stdint.h>

#include "devices/irq_line.h"
#include "devices/shutdown.h"

struct acpi_pm;
struct error;
struct memory;
struct memory_region;

struct acpi_pm_config {
    struct irq_line sci; /* level-triggered */
    struct shutdown_handler shutdown;
    uint8_t s5_sleep_type; /* SLP_TYP of soft off, 0 to 7 */
    uint8_t reset_value;   /* bits that, written to the reset register, reset */
    /* Nanoseconds since any moment, never going back, from any thread. NULL: CLOCK_MONOTONIC. */
    int64_t (*clock)(void *opaque);
    void *opaque;
};

int acpi_pm_create(const struct acpi_pm_config *config, struct memory *memory, struct acpi_pm **out,
                   struct error *err);

/*
 * The regions are owned by the device and must be out of their container before acpi_pm_destroy(). The event
 * block has 4 bytes, the control block 2, the timer 4. The reset region has 4 too, the second of which is the
 * register: with the register at port 0xCF9 it covers 0xCF8 to 0xCFB, where guests look for PCI, so that
 * their wider writes cannot be taken for a reset.
 */
struct memory_region *acpi_pm_event_region(struct acpi_pm *pm);
struct memory_region *acpi_pm_control_region(struct acpi_pm *pm);
struct memory_region *acpi_pm_timer_region(struct acpi_pm *pm);
struct memory_region *acpi_pm_reset_region(struct acpi_pm *pm);

/* Presses the power button for a moment: the guest is told if it has asked to be. Any thread. */
void acpi_pm_press_power_button(struct acpi_pm *pm);

/* NULL is allowed. */
void acpi_pm_destroy(struct acpi_pm *pm);
