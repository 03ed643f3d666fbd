#include "vmm/x86/platform.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/macros.h"
#include "vmm/x86/layout.h"

uint64_t platform_ram_low(const struct platform *platform)
{
    return platform->memory < LAYOUT_RAM_LOW_MAX ? platform->memory : LAYOUT_RAM_LOW_MAX;
}

uint64_t platform_ram_high(const struct platform *platform)
{
    return platform->memory - platform_ram_low(platform);
}

void platform_add_pci(struct platform *platform, unsigned address_bits)
{
    uint64_t high = align_up(LAYOUT_RAM_HIGH + platform_ram_high(platform), LAYOUT_PCI_HIGH_ALIGN);
    uint64_t end = (uint64_t)1 << address_bits;
    platform->pci = (struct platform_pci){
        .present = true,
        .ecam = LAYOUT_PCI_ECAM,
        .windows =
            {
                .ports = {LAYOUT_PCI_PORTS, LAYOUT_PCI_PORTS_SIZE},
                .low = {LAYOUT_PCI_MEMORY, LAYOUT_PCI_MEMORY_SIZE},
            },
        .irqs = {LAYOUT_PCI_IRQS},
    };
    if (high < end)
        platform->pci.windows.high = (struct pci_window){high, smaller(end - high, LAYOUT_PCI_HIGH_SIZE)};
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

static void write_virtio_parameters(const struct platform *platform, FILE *out)
{
    for (unsigned i = 0; i < platform->device_count; i++) {
        const struct platform_device *device = &platform->devices[i];
        if (device->kind == PLATFORM_VIRTIO_MMIO)
            fprintf(out, "virtio_mmio.device=%llu@0x%llx:%d ", (unsigned long long)device->ranges[0].size,
                    (unsigned long long)device->ranges[0].base, device->irq);
    }
}

char *platform_compose_command_line(const struct platform *platform, const char *append)
{
    char *line = NULL;
    size_t size;
    FILE *out = open_memstream(&line, &size);
    if (!out)
        return NULL;
    if (!platform->acpi)
        write_virtio_parameters(platform, out);
    fputs(append, out);
    if (fclose(out) != 0) {
        free(line);
        return NULL;
    }
    return line;
}
