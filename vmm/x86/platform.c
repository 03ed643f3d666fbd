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
