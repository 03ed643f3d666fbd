#include "vmm/x86/platform.h"

#include "vmm/x86/layout.h"

uint64_t platform_ram_low(const struct platform *platform)
{
    return platform->memory < LAYOUT_RAM_LOW_MAX ? platform->memory : LAYOUT_RAM_LOW_MAX;
}

uint64_t platform_ram_high(const struct platform *platform)
{
    return platform->memory - platform_ram_low(platform);
}

const struct platform_device_type *platform_device_type(const struct platform_device *device)
{
    static const struct platform_device_type types[] = {
        [PLATFORM_SERIAL] = {"serial port", "serial", "ns16550a", "PNP0501", false},
        [PLATFORM_RTC] = {"real-time clock", "rtc", "motorola,mc146818", "PNP0B00", false},
        [PLATFORM_RESET] = {"reset line", "reset", "godwit,i8042-reset", NULL, false},
        [PLATFORM_PM] = {"power management", "power", "godwit,acpi-pm", NULL, true},
        [PLATFORM_EXIT_PORT] = {"exit port", "exit", "godwit,exit-port", NULL, false},
        [PLATFORM_TEST_MMIO] = {"test device", "test", "godwit,test-mmio", NULL, false},
        [PLATFORM_VIRTIO_MMIO] = {"virtio device", "virtio", "virtio,mmio", "LNRO0005", false},
    };
    return &types[device->kind];
}
