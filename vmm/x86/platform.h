/*
 * The description of one x86 machine from which everything that tells a guest about its hardware is written:
 * the memory map, ACPI tables, MP table and device tree. The machine (vmm/machine.h) fills it in; the writers
 * only read it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/pci_host.h"

enum platform_device_kind {
    PLATFORM_SERIAL,
    PLATFORM_RTC,
    PLATFORM_RESET, /* the i8042 reset line */
    PLATFORM_PM,    /* ACPI power management */
    PLATFORM_EXIT_PORT,
    PLATFORM_TEST_MMIO,
    PLATFORM_VIRTIO_MMIO,
};

struct platform_range {
    bool mmio; /* false: ports */
    uint64_t base, size;
};

struct platform_device {
    enum platform_device_kind kind;
    struct platform_range ranges[4];
    unsigned range_count;
    int irq; /* ISA interrupt, the same number at the IOAPIC; -1: none */
};

/* What all devices of one kind have in common. */
struct platform_device_type {
    const char *title;      /* what a person calls it */
    const char *name;       /* of its node in the device tree */
    const char *compatible; /* the device tree's word for it */
    const char *acpi_hid;   /* NULL: the DSDT does not list it */
    bool level_triggered;   /* its interrupt is level, active high; otherwise edge, rising */
};

/* PCI: bus 0 alone, by ECAM and by the ports of mechanism 1. */
struct platform_pci {
    bool present;
    uint64_t ecam;
    struct pci_windows windows;
    uint8_t irqs[PCI_LINES]; /* level-triggered; wired by pci_line() */
};

#define PLATFORM_DEVICES_MAX 16

struct platform {
    unsigned cpus;   /* APIC ids 0 to cpus - 1 */
    uint64_t memory; /* bytes of RAM */
    bool acpi;
    struct platform_device devices[PLATFORM_DEVICES_MAX];
    unsigned device_count;
    struct platform_pci pci;
    uint8_t rng_seed[64];
    const char *command_line; /* borrowed; never NULL */
    /* Set while the kernel is loaded. */
    uint64_t initrd_start, initrd_size;
};

/*
 * The kernel's command line, from malloc: what the person gave and, without ACPI, before it a
 * virtio_mmio.device= for each virtio device over MMIO, as Linux wants it (its Documentation/admin-guide/
 * kernel-parameters.txt). NULL when memory is short.
 */
char *platform_compose_command_line(const struct platform *platform, const char *append);

/* Adds PCI to the description of a machine whose RAM is known, on a CPU with so many bits of physical
 * address. */
void platform_add_pci(struct platform *platform, unsigned address_bits);

/* RAM below the device hole, and from 4 GiB on. */
uint64_t platform_ram_low(const struct platform *platform);
uint64_t platform_ram_high(const struct platform *platform);

const struct platform_device_type *platform_device_type(const struct platform_device *device);
