/*
 * A platform with a device of each kind, for tests of the tables that describe one.
 */
#pragma once

#include "base/macros.h"
#include "vmm/x86/platform.h"

static inline struct platform sample_platform(unsigned cpus)
{
    return (struct platform){
        .cpus = cpus,
        .memory = 5 * GIB,
        .acpi = true,
        .devices =
            {
                {PLATFORM_SERIAL, {{false, 0x3F8, 8}}, 1, 4},
                {PLATFORM_RTC, {{false, 0x70, 2}}, 1, 8},
                {PLATFORM_RESET, {{false, 0x64, 1}}, 1, -1},
                {PLATFORM_PM, {{false, 0x600, 4}, {false, 0x604, 2}, {false, 0x608, 4}}, 3, 9},
                {PLATFORM_EXIT_PORT, {{false, 0xF4, 1}}, 1, -1},
                {PLATFORM_TEST_MMIO, {{true, 0xFEB00000, 0x1000}, {true, 0xFEB01000, 0x1000}}, 2, -1},
                {PLATFORM_VIRTIO_MMIO, {{true, 0xFEB40000, 0x200}}, 1, 5},
                {PLATFORM_VIRTIO_MMIO, {{true, 0xFEB40200, 0x200}}, 1, 10},
            },
        .device_count = 8,
        .rng_seed = {0xA5, 0x5A},
        .command_line = "console=ttyS0 quiet",
        .initrd_start = 0x123456000,
        .initrd_size = 0x789,
    };
}

/* The same with its virtio devices on a PCI bus. */
static inline struct platform sample_platform_with_pci(unsigned cpus)
{
    struct platform platform = sample_platform(cpus);
    platform.device_count = 6;
    platform.pci = (struct platform_pci){
        .present = true,
        .ecam = 0xE0000000,
        .windows = {{0x1000, 0xF000}, {0xC0000000, 0x20000000}, {0x180000000, 0x1000000000}},
        .irqs = {5, 10, 11, 12},
    };
    return platform;
}
