#include "vmm/x86/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"

#define LEAF_VENDOR            0
#define LEAF_FEATURES          1
#define LEAF_CACHES            4
#define LEAF_STRUCTURED        7
#define LEAF_PMU               0xA
#define LEAF_TOPOLOGY          0xB
#define LEAF_SGX               0x12
#define LEAF_TSC               0x15
#define LEAF_FREQUENCY         0x16
#define LEAF_TOPOLOGY_V2       0x1F
#define LEAF_PMU_EXTENDED      0x23
#define LEAF_AMD_FEATURES      0x80000001
#define LEAF_BRAND             0x80000002 /* and the next two */
#define LEAF_BRAND_END         0x80000005
#define LEAF_POWER             0x80000007
#define LEAF_AMD_SIZES         0x80000008
#define LEAF_SVM               0x8000000A
#define LEAF_AMD_CACHES        0x8000001D
#define LEAF_AMD_CORE          0x8000001E
#define LEAF_AMD_PMU           0x80000022
#define LEAF_AMD_TOPOLOGY      0x80000026

/* Leaf 1 */
#define ECX_VMX                (1u << 5)
#define ECX_PDCM               (1u << 15)
#define ECX_TSC_DEADLINE       (1u << 24)
#define ECX_OSXSAVE            (1u << 27)
#define ECX_HYPERVISOR         (1u << 31)
#define EDX_HTT                (1u << 28)

/* Leaf 7, subleaves 0 and 1 */
#define EBX_SGX                (1u << 2)
#define ECX_SGX_LC             (1u << 30)
#define EAX_ARCH_PERFMON_EXT   (1u << 8)

/* Leaves 0x80000001 and 0x80000007 */
#define ECX_CMP_LEGACY         (1u << 1)
#define ECX_SVM                (1u << 2)
#define ECX_PERFCTR            (1u << 23 | 1u << 24 | 1u << 28) /* core, northbridge, last-level cache */
#define EDX_INVARIANT_TSC      (1u << 8)

/* Level types in ECX[15:8] of the topology leaves */
#define TOPOLOGY_LEVEL_INVALID 0
#define TOPOLOGY_LEVEL_THREAD  1
#define TOPOLOGY_LEVEL_CORE    2
#define TOPOLOGY_LEVELS        3

/* Leaf 4 has six bits for the cores of a package. */
#define CACHES_CORES_MAX       64

struct guest_cpu {
    const struct cpuid_options *options;
    unsigned id;
    unsigned id_bits; /* of the APIC ids of one package */
    bool amd;
};

static const struct kvm_cpuid_entry2 *find(const struct kvm_cpuid2 *table, uint32_t leaf)
{
    for (uint32_t i = 0; i < table->nent; i++) {
        if (table->entries[i].function == leaf)
            return &table->entries[i];
    }
    return NULL;
}

static bool vendor_is(const struct kvm_cpuid_entry2 *leaf, const char name[12])
{
    const uint32_t vendor[] = {leaf->ebx, leaf->edx, leaf->ecx};
    return memcmp(vendor, name, sizeof(vendor)) == 0;
}

static unsigned bits_for(unsigned count)
{
    unsigned bits = 0;
    while (1u << bits < count)
        bits++;
    return bits;
}

/*
 * Left out, so that they read as zeroes: what the guest shall not have, and what is written anew. The host's
 * TSC and crystal frequencies are no use to a guest whose APIC timer runs at KVM's 1 GHz; kvmclock tells it
 * what it needs.
 */
static bool is_dropped(uint32_t leaf)
{
    static const uint32_t dropped[] = {
        LEAF_PMU,       LEAF_PMU_EXTENDED, LEAF_AMD_PMU,     LEAF_SGX,      LEAF_SVM,          LEAF_TSC,
        LEAF_FREQUENCY, LEAF_TOPOLOGY,     LEAF_TOPOLOGY_V2, LEAF_AMD_CORE, LEAF_AMD_TOPOLOGY,
    };
    for (size_t i = 0; i < ARRAY_SIZE(dropped); i++) {
        if (dropped[i] == leaf)
            return true;
    }
    return false;
}

static void set_features(struct kvm_cpuid_entry2 *entry, const struct guest_cpu *cpu)
{
    unsigned cpus = cpu->options->cpus;
    entry->ebx = (entry->ebx & 0xFFFF) | cpus << 16 | cpu->id << 24;
    entry->ecx &= ~(ECX_VMX | ECX_PDCM | ECX_TSC_DEADLINE | ECX_OSXSAVE);
    entry->ecx |= ECX_HYPERVISOR;
    if (cpu->options->tsc_deadline)
        entry->ecx |= ECX_TSC_DEADLINE;
    entry->edx = cpus > 1 ? entry->edx | EDX_HTT : entry->edx & ~EDX_HTT;
}

static void set_structured_features(struct kvm_cpuid_entry2 *entry)
{
    if (entry->index == 0) {
        entry->ebx &= ~EBX_SGX;
        entry->ecx &= ~ECX_SGX_LC;
    } else if (entry->index == 1) {
        entry->eax &= ~EAX_ARCH_PERFMON_EXT;
    }
}

/* Caches of level 1 and 2 belong to one core, those beyond to all of them. */
static void set_cache_sharing(struct kvm_cpuid_entry2 *entry, const struct guest_cpu *cpu)
{
    unsigned type = entry->eax & 0x1F;
    unsigned level = entry->eax >> 5 & 7;
    unsigned ids = 1u << cpu->id_bits;
    if (type == 0)
        return;
    entry->eax &= 0x3FFF;
    if (level > 2)
        entry->eax |= (ids - 1) << 14;
    if (entry->function == LEAF_CACHES)
        entry->eax |= ((ids < CACHES_CORES_MAX ? ids : CACHES_CORES_MAX) - 1) << 26;
}

static void set_amd_features(struct kvm_cpuid_entry2 *entry, const struct guest_cpu *cpu)
{
    entry->ecx &= ~(ECX_SVM | ECX_PERFCTR | ECX_CMP_LEGACY);
    if (cpu->amd && cpu->options->cpus > 1)
        entry->ecx |= ECX_CMP_LEGACY;
}

static void set_brand(struct kvm_cpuid_entry2 *entry, const char brand[CPUID_BRAND_SIZE])
{
    uint32_t part[4];
    memcpy(part, brand + (entry->function - LEAF_BRAND) * sizeof(part), sizeof(part));
    entry->eax = part[0];
    entry->ebx = part[1];
    entry->ecx = part[2];
    entry->edx = part[3];
}

static void set_amd_sizes(struct kvm_cpuid_entry2 *entry, const struct guest_cpu *cpu)
{
    if (cpu->amd)
        entry->ecx = (cpu->options->cpus - 1) | cpu->id_bits << 12;
}

static void adapt(struct kvm_cpuid_entry2 *entry, const struct guest_cpu *cpu)
{
    switch (entry->function) {
    case LEAF_VENDOR:
        if (entry->eax < LEAF_TOPOLOGY)
            entry->eax = LEAF_TOPOLOGY;
        break;
    case LEAF_FEATURES:
        set_features(entry, cpu);
        break;
    case LEAF_STRUCTURED:
        set_structured_features(entry);
        break;
    case LEAF_CACHES:
    case LEAF_AMD_CACHES:
        set_cache_sharing(entry, cpu);
        break;
    case LEAF_AMD_FEATURES:
        set_amd_features(entry, cpu);
        break;
    case LEAF_BRAND ... LEAF_BRAND_END - 1:
        set_brand(entry, cpu->options->brand);
        break;
    case LEAF_POWER:
        entry->edx &= ~EDX_INVARIANT_TSC;
        break;
    case LEAF_AMD_SIZES:
        set_amd_sizes(entry, cpu);
        break;
    }
}

static struct kvm_cpuid_entry2 *append(struct kvm_cpuid2 *table, uint32_t leaf)
{
    struct kvm_cpuid_entry2 *entry = &table->entries[table->nent++];
    entry->function = leaf;
    return entry;
}

/* Leaf 0xB or 0x1F: a level of threads (one a core), a level of cores, and the end. */
static void append_topology(struct kvm_cpuid2 *table, uint32_t leaf, const struct guest_cpu *cpu)
{
    const struct {
        unsigned type, shift, count;
    } levels[TOPOLOGY_LEVELS] = {
        {TOPOLOGY_LEVEL_THREAD, 0, 1},
        {TOPOLOGY_LEVEL_CORE, cpu->id_bits, cpu->options->cpus},
        {TOPOLOGY_LEVEL_INVALID, 0, 0},
    };
    for (unsigned i = 0; i < TOPOLOGY_LEVELS; i++) {
        struct kvm_cpuid_entry2 *entry = append(table, leaf);
        entry->index = i;
        entry->flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX;
        entry->eax = levels[i].shift;
        entry->ebx = levels[i].count;
        entry->ecx = i | levels[i].type << 8;
        entry->edx = cpu->id;
    }
}

/* Extended APIC id, core id, one thread a core, one node. */
static void append_amd_core(struct kvm_cpuid2 *table, const struct guest_cpu *cpu)
{
    struct kvm_cpuid_entry2 *entry = append(table, LEAF_AMD_CORE);
    entry->eax = cpu->id;
    entry->ebx = cpu->id;
}

void cpuid_host_brand(char brand[CPUID_BRAND_SIZE])
{
    uint32_t parts[CPUID_BRAND_SIZE / sizeof(uint32_t)] = {0};
    for (uint32_t i = 0, leaf = LEAF_BRAND; leaf < LEAF_BRAND_END; i += 4, leaf++)
        __get_cpuid(leaf, &parts[i], &parts[i + 1], &parts[i + 2], &parts[i + 3]);
    memcpy(brand, parts, sizeof(parts));
}

int cpuid_build(const struct kvm_cpuid2 *supported, const struct cpuid_options *options, unsigned cpu_id,
                struct kvm_cpuid2 **result, struct error *err)
{
    const struct kvm_cpuid_entry2 *vendor = find(supported, LEAF_VENDOR);
    if (!vendor || !find(supported, LEAF_FEATURES))
        return error_set(err, EINVAL, "this host's KVM reports no CPUID leaf %d: its kernel is too old",
                         vendor ? LEAF_FEATURES : LEAF_VENDOR);
    size_t room = supported->nent + 2 * TOPOLOGY_LEVELS + 1;
    struct kvm_cpuid2 *table = calloc(1, sizeof(*table) + room * sizeof(table->entries[0]));
    if (!table)
        return error_set(err, ENOMEM, "no memory for a CPUID table of %zu entries", room);

    const struct guest_cpu cpu = {
        .options = options,
        .id = cpu_id,
        .id_bits = bits_for(options->cpus),
        .amd = vendor_is(vendor, "AuthenticAMD") || vendor_is(vendor, "HygonGenuine"),
    };
    for (uint32_t i = 0; i < supported->nent; i++) {
        if (is_dropped(supported->entries[i].function))
            continue;
        table->entries[table->nent] = supported->entries[i];
        adapt(&table->entries[table->nent++], &cpu);
    }
    append_topology(table, LEAF_TOPOLOGY, &cpu);
    if (!cpu.amd && vendor->eax >= LEAF_TOPOLOGY_V2)
        append_topology(table, LEAF_TOPOLOGY_V2, &cpu);
    if (cpu.amd && find(supported, LEAF_AMD_CORE))
        append_amd_core(table, &cpu);
    *result = table;
    return 0;
}
