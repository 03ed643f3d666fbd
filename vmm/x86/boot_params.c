#include "vmm/x86/boot_params.h"

#include <asm/bootparam.h>
#include <errno.h>

#include "base/error.h"
#include "memory/address_space.h"
#include "vmm/x86/kernel.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/memory_map.h"
#include "vmm/x86/platform.h"

#define LOADER_UNDEFINED 0xFF /* a loader without a number of its own */
#define E820_RAM         1
#define E820_RESERVED    2

/* The seed, and the link to the device tree behind it. */
static int write_seed(const struct platform *platform, struct address_space *memory)
{
    struct setup_data header = {
        .next = LAYOUT_DEVICE_TREE,
        .type = SETUP_RNG_SEED,
        .len = sizeof(platform->rng_seed),
    };
    int result = address_space_write(memory, LAYOUT_SETUP_DATA, &header, sizeof(header));
    return result ? result
                  : address_space_write(memory, LAYOUT_SETUP_DATA + sizeof(header), platform->rng_seed,
                                        sizeof(platform->rng_seed));
}

static void fill_e820(struct boot_params *params, const struct platform *platform)
{
    struct memory_map_entry map[MEMORY_MAP_MAX];
    params->e820_entries = (uint8_t)memory_map_build(platform, map);
    for (unsigned i = 0; i < params->e820_entries; i++)
        params->e820_table[i] = (struct boot_e820_entry){
            .addr = map[i].address,
            .size = map[i].size,
            .type = map[i].usable ? E820_RAM : E820_RESERVED,
        };
}

int boot_params_write(const struct kernel *kernel, const struct platform *platform,
                      struct address_space *memory, struct error *err)
{
    struct boot_params params = {
        .acpi_rsdp_addr = platform->acpi ? LAYOUT_FIRMWARE : 0,
        .hdr = kernel->header,
    };
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.cmd_line_ptr = LAYOUT_COMMAND_LINE;
    params.hdr.setup_data = LAYOUT_SETUP_DATA;
    params.hdr.ramdisk_image = (uint32_t)platform->initrd_start;
    params.hdr.ramdisk_size = (uint32_t)platform->initrd_size;
    fill_e820(&params, platform);

    int result = write_seed(platform, memory);
    if (!result)
        result = address_space_write(memory, LAYOUT_BOOT_PARAMS, &params, sizeof(params));
    return result ? error_set_errno(err, -result, "cannot write boot_params") : 0;
}
