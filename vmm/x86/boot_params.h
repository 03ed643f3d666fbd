/*
 * boot_params, the "zero page" in which Linux finds what its loader knows: memory map, initrd, command line,
 * RSDP, and the chain of setup_data. Linux Documentation/arch/x86/{boot,zero-page}.rst.
 */
#pragma once

struct address_space;
struct error;
struct kernel;
struct platform;

/*
 * Writes boot_params at LAYOUT_BOOT_PARAMS, with the RNG seed as setup_data at LAYOUT_SETUP_DATA and behind
 * it in the chain what the caller has put at LAYOUT_DEVICE_TREE.
 */
int boot_params_write(const struct kernel *kernel, const struct platform *platform,
                      struct address_space *memory, struct error *err);
