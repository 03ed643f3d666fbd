#include "vmm/x86/host_cpu.h"

#include <cpuid.h>

#define LEAF_AMD_FEATURES    0x80000001
#define LEAF_ADDRESS_SIZES   0x80000008
#define ECX_VMX              (1u << 5)
#define ECX_SVM              (1u << 2)

#define DEFAULT_ADDRESS_BITS 36 /* of a CPU that does not tell */

bool host_cpu_has_virtualization(void)
{
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & ECX_VMX))
        return true;
    return __get_cpuid(LEAF_AMD_FEATURES, &eax, &ebx, &ecx, &edx) && (ecx & ECX_SVM);
}

unsigned host_cpu_address_bits(void)
{
    unsigned eax, ebx, ecx, edx;
    if (!__get_cpuid(LEAF_ADDRESS_SIZES, &eax, &ebx, &ecx, &edx))
        return DEFAULT_ADDRESS_BITS;
    return eax & 0xFF;
}
