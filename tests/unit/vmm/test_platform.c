/*
 * Where PCI is on machines of all sizes: apart from RAM and from everything at a fixed address.
 */
#include <criterion/criterion.h>

#include "base/macros.h"
#include "vmm/x86/platform.h"

#define FIXED 0xFEB00000ull /* devices, interrupt controllers and what KVM keeps for itself, up to 4 GiB */

static void check_apart(uint64_t base, uint64_t size, uint64_t other, uint64_t other_size)
{
    cr_assert(base >= other + other_size || other >= base + size, "%lx+%lx %lx+%lx", base, size, other,
              other_size);
}

static void check(uint64_t memory, unsigned bits)
{
    struct platform platform = {.cpus = 1, .memory = memory};
    platform_add_pci(&platform, bits);
    const struct pci_windows *windows = &platform.pci.windows;
    const struct pci_window memory_windows[] = {
        windows->low, windows->high, {platform.pci.ecam, PCI_ECAM_SIZE}};
    for (size_t i = 0; i < ARRAY_SIZE(memory_windows); i++) {
        uint64_t base = memory_windows[i].base, size = memory_windows[i].size;
        check_apart(base, size, 0, platform_ram_low(&platform));
        check_apart(base, size, 4 * GIB, platform_ram_high(&platform));
        check_apart(base, size, FIXED, 4 * GIB - FIXED);
        cr_assert_leq(base + size, (uint64_t)1 << bits);
        for (size_t j = 0; j < i; j++)
            check_apart(base, size, memory_windows[j].base, memory_windows[j].size);
    }
    cr_assert(platform.pci.present && windows->low.base + windows->low.size <= 4 * GIB);
    cr_assert_geq(windows->low.size, 256 * MIB);
    cr_assert(windows->ports.base > 0xCFF && windows->ports.base + windows->ports.size == 0x10000);
    /* Where there is an aligned GiB behind RAM, it is for BARs. */
    uint64_t end = 4 * GIB + platform_ram_high(&platform);
    cr_assert_eq(windows->high.size != 0, end + GIB <= (uint64_t)1 << bits);
}

Test(platform, pci_is_apart_from_everything)
{
    const uint64_t sizes[] = {2 * MIB, 512 * MIB, 3 * GIB,  3 * GIB + 4096,
                              5 * GIB, 62 * GIB,  63 * GIB, 2048 * GIB};
    const unsigned bits[] = {36, 39, 40, 46, 48, 52};
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        for (size_t j = 0; j < ARRAY_SIZE(bits); j++) {
            if (sizes[i] + GIB <= (uint64_t)1 << bits[j])
                check(sizes[i], bits[j]);
        }
    }
}
