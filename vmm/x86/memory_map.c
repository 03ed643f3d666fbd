#include "vmm/x86/memory_map.h"

#include "vmm/x86/layout.h"
#include "vmm/x86/platform.h"

unsigned memory_map_build(const struct platform *platform, struct memory_map_entry map[MEMORY_MAP_MAX])
{
    unsigned count = 0;
    map[count++] = (struct memory_map_entry){0, LAYOUT_BASE_MEMORY_END, true};
    map[count++] = (struct memory_map_entry){LAYOUT_BASE_MEMORY_END,
                                             LAYOUT_FIRMWARE_END - LAYOUT_BASE_MEMORY_END, false};
    map[count++] = (struct memory_map_entry){LAYOUT_FIRMWARE_END,
                                             platform_ram_low(platform) - LAYOUT_FIRMWARE_END, true};
    if (platform->pci.present)
        map[count++] = (struct memory_map_entry){platform->pci.ecam, PCI_ECAM_SIZE, false};
    /* No device may be put there: Intel's KVM keeps pages for real mode in it. */
    map[count++] =
        (struct memory_map_entry){LAYOUT_IDENTITY_MAP, LAYOUT_TSS + 0x3000 - LAYOUT_IDENTITY_MAP, false};
    if (platform_ram_high(platform))
        map[count++] = (struct memory_map_entry){LAYOUT_RAM_HIGH, platform_ram_high(platform), true};
    return count;
}
