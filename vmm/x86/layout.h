/*
 * Where things are in the guest physical address space of an x86 machine, and what godwit puts in low memory
 * before the first instruction. RAM begins at 0; what does not fit below LAYOUT_RAM_LOW_MAX goes on at
 * LAYOUT_RAM_HIGH.
 */
#pragma once

#include <stdint.h>

#define LAYOUT_RAM_LOW_MAX      0xC0000000ull /* RAM below the 32-bit device hole ends here at the latest */
#define LAYOUT_RAM_HIGH         0x100000000ull

/* Low memory: free RAM of which boot structures take what they need. */
#define LAYOUT_GDT              0x500
#define LAYOUT_START_INFO       0x6000 /* PVH start info, or multiboot information */
#define LAYOUT_BOOT_PARAMS      0x7000
#define LAYOUT_SETUP_DATA       0x8000 /* chain of setup_data: RNG seed */
#define LAYOUT_PAGE_TABLES      0x9000 /* PML4, PDPT and four page directories */
#define LAYOUT_COMMAND_LINE     0x20000
#define LAYOUT_COMMAND_LINE_MAX 0x10000
#define LAYOUT_DEVICE_TREE      0x30000 /* as setup_data: a header of 16 bytes, then the tree */
#define LAYOUT_MP_TABLE                                                                                      \
    0x9FC00 /* in the last KiB of base memory, where the MP specification has systems look */
#define LAYOUT_BASE_MEMORY_END 0x9FC00 /* usable RAM below the legacy hole */

/* The legacy hole, 0xA0000 to 1 MiB: RAM that the memory map reports as reserved. */
#define LAYOUT_FIRMWARE        0xE0000 /* RSDP first, then the other ACPI tables */
#define LAYOUT_FIRMWARE_END    0x100000
#define LAYOUT_KERNEL          0x100000

#define LAYOUT_PCI_MEMORY      0xC0000000 /* BARs */
#define LAYOUT_PCI_MEMORY_SIZE 0x20000000
#define LAYOUT_PCI_ECAM        0xE0000000 /* of bus 0; nothing else lies below 0xF0000000, where 255 more end */
#define LAYOUT_TEST_MMIO       0xFEB00000 /* the test device */
#define LAYOUT_VIRTIO_MMIO     0xFEB40000 /* virtio devices over MMIO, one after the other */
#define LAYOUT_IOAPIC          0xFEC00000
#define LAYOUT_LAPIC           0xFEE00000
#define LAYOUT_IDENTITY_MAP    0xFEFFC000 /* one page, then three of TSS: Intel's real-mode emulation */
#define LAYOUT_TSS             0xFEFFD000

/* BARs that do not fit below 4 GiB, behind RAM. */
#define LAYOUT_PCI_HIGH_ALIGN  0x40000000ull
#define LAYOUT_PCI_HIGH_SIZE   0x1000000000ull /* where physical addresses reach so far */

/* Ports and interrupts */
#define LAYOUT_COM1            0x3F8
#define LAYOUT_COM1_IRQ        4
#define LAYOUT_RTC             0x70
#define LAYOUT_RTC_IRQ         8
#define LAYOUT_I8042_COMMAND   0x64
#define LAYOUT_PM1A_EVENT      0x600
#define LAYOUT_PM1A_CONTROL    0x604
#define LAYOUT_PM_TIMER        0x608
#define LAYOUT_SCI_IRQ         9
#define LAYOUT_PCI_PORTS       0x1000 /* BARs, up to the last port */
#define LAYOUT_PCI_PORTS_SIZE  0xF000
/* Of virtio devices over MMIO, or of PCI: ISA lines, which every description of a machine can name, and the
 * PICs have. */
#define LAYOUT_PCI_IRQS        5, 10, 11, 12
#define LAYOUT_VIRTIO_IRQS     LAYOUT_PCI_IRQS, 6, 7, 14, 15
#define LAYOUT_RESET           0xCF9
#define LAYOUT_RESET_VALUE     6
#define LAYOUT_S5_SLEEP_TYPE   5
