/*
 * The CPUID tables of all vCPUs of a machine are read back the way the processor manuals tell operating
 * systems to: by leaf 0xB, by the legacy leaves 1 and 4, and by AMD's 0x80000008 and 0x8000001E. Each way
 * must find one package, one thread a core and as many cores as there are vCPUs.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/x86/cpuid.h"

#define ENTRIES_MAX 64
#define LEGACY_MAX  64 /* leaf 4 cannot tell of more cores */

union table {
    struct kvm_cpuid2 header;
    uint8_t room[sizeof(struct kvm_cpuid2) + ENTRIES_MAX * sizeof(struct kvm_cpuid_entry2)];
};

static const unsigned counts[] = {1, 2, 3, 4, 5, 8, 17, 63, 64, 65, 128, 200, 255};

static void put(union table *table, uint32_t leaf, uint32_t index, const uint32_t registers[4])
{
    table->header.entries[table->header.nent++] = (struct kvm_cpuid_entry2){
        .function = leaf,
        .index = index,
        .flags = leaf == 4 || leaf == 0xB || leaf == 0x8000001D ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
        .eax = registers[0],
        .ebx = registers[1],
        .ecx = registers[2],
        .edx = registers[3],
    };
}

#define PUT(table, leaf, index, ...) put(table, leaf, index, (const uint32_t[4]){__VA_ARGS__})

/* What both vendors have: a host of 16 threads, two a core, on which this is CPU 11. */
static void put_common(union table *table, uint32_t max_leaf, const char vendor[12])
{
    uint32_t name[3];
    memcpy(name, vendor, sizeof(name));
    PUT(table, 0, 0, max_leaf, name[0], name[2], name[1]);
    PUT(table, 1, 0, 0x806F8, 0x0B100800, 0xFFFFFFFF, 0xFFFFFFFF);
    PUT(table, 7, 0, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF);
    PUT(table, 0xA, 0, 0x08300805, 0, 0xF, 0x8603);
    PUT(table, 0xB, 0, 1, 2, 0x100, 11);
    PUT(table, 0xB, 1, 4, 16, 0x201, 11);
    PUT(table, 0x15, 0, 2, 168, 25000000, 0);
    PUT(table, 0x40000000, 0, 0x40000001, 0x4B4D564B, 0x564B4D56, 0x4D);
    PUT(table, 0x40000001, 0, 0x01007EFB, 0, 0, 0);
    PUT(table, 0x80000000, 0, 0x80000026, 0, 0, 0);
    PUT(table, 0x80000001, 0, 0, 0, 0xFFFFFFFF, 0xFFFFFFFF);
    for (uint32_t leaf = 0x80000002; leaf < 0x80000005; leaf++)
        PUT(table, leaf, 0, 0, 0, 0, 0); /* KVM leaves it to us */
    PUT(table, 0x80000007, 0, 0, 0, 0, 0x1FF);
}

static union table intel_host(void)
{
    union table table = {0};
    put_common(&table, 0x1F, "GenuineIntel");
    PUT(&table, 4, 0, 0xFC004121, 0x02C0003F, 0x3F, 0); /* L1 data, two threads share it */
    PUT(&table, 4, 1, 0xFC004122, 0x01C0003F, 0x3F, 0); /* L1 instructions */
    PUT(&table, 4, 2, 0xFC004143, 0x03C0003F, 0x7FF, 0);
    PUT(&table, 4, 3, 0xFC1FC163, 0x0380003F, 0x1FFFF, 4);
    PUT(&table, 4, 4, 0, 0, 0, 0);
    PUT(&table, 0x16, 0, 2100, 3000, 100, 0);
    PUT(&table, 0x80000008, 0, 0x3930, 0, 0, 0);
    return table;
}

static union table amd_host(uint32_t max_leaf)
{
    union table table = {0};
    put_common(&table, max_leaf, "AuthenticAMD");
    PUT(&table, 0x80000008, 0, 0x3030, 0x1000, 0x400F, 0);
    PUT(&table, 0x8000000A, 0, 1, 8, 0, 0xFF);
    PUT(&table, 0x8000001D, 0, 0x4121, 0x01C0003F, 0x3F, 0);
    PUT(&table, 0x8000001D, 3, 0x3C163, 0x03C0003F, 0x3FFF, 1);
    PUT(&table, 0x8000001E, 0, 11, 0x105, 0x100, 0);
    return table;
}

static struct kvm_cpuid2 *build(const union table *host, unsigned cpus, unsigned cpu)
{
    struct cpuid_options options = {.cpus = cpus, .tsc_deadline = true};
    struct kvm_cpuid2 *table = NULL;
    struct error err = {0};
    cr_assert_eq(cpuid_build(&host->header, &options, cpu, &table, &err), 0, "%s", err.message);
    return table;
}

/* CPUID as the guest executes it: what the table lacks reads as zeroes. */
static struct kvm_cpuid_entry2 cpuid(const struct kvm_cpuid2 *table, uint32_t leaf, uint32_t index)
{
    struct kvm_cpuid_entry2 none = {0};
    unsigned found = 0;
    for (uint32_t i = 0; i < table->nent; i++) {
        const struct kvm_cpuid_entry2 *entry = &table->entries[i];
        if (entry->function != leaf)
            continue;
        if ((entry->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) && entry->index != index)
            continue;
        none = *entry;
        found++;
    }
    cr_assert_leq(found, 1, "leaf %x.%x is there %u times", leaf, index, found);
    return none;
}

static unsigned log2_up(unsigned value)
{
    return value <= 1 ? 0 : 32 - (unsigned)__builtin_clz(value - 1);
}

struct place {
    unsigned package, core, thread;
};

static struct place split(unsigned id, unsigned thread_bits, unsigned package_bits)
{
    return (struct place){
        .package = id >> package_bits,
        .core = (id & ((1u << package_bits) - 1)) >> thread_bits,
        .thread = id & ((1u << thread_bits) - 1),
    };
}

/* SDM 3A, "Hierarchical Mapping of CPUID Extended Topology Leaf". */
static struct place place_by_leaf_b(const struct kvm_cpuid2 *table, uint32_t leaf, unsigned *logical)
{
    unsigned thread_bits = 0, package_bits = 0, id = 0;
    for (uint32_t level = 0;; level++) {
        struct kvm_cpuid_entry2 e = cpuid(table, leaf, level);
        unsigned type = e.ecx >> 8 & 0xFF;
        cr_assert_eq(e.ecx & 0xFF, level);
        id = e.edx;
        if (type == 0)
            break;
        package_bits = e.eax & 0x1F;
        *logical = e.ebx & 0xFFFF;
        if (type == 1)
            thread_bits = package_bits;
    }
    return split(id, thread_bits, package_bits);
}

/* SDM 3A, the same for CPUs without leaf 0xB. */
static struct place place_by_leaf_4(const struct kvm_cpuid2 *table, unsigned *logical)
{
    struct kvm_cpuid_entry2 features = cpuid(table, 1, 0);
    unsigned ids = features.edx >> 28 & 1 ? features.ebx >> 16 & 0xFF : 1;
    unsigned cores = (cpuid(table, 4, 0).eax >> 26) + 1;
    unsigned package_bits = log2_up(ids);
    *logical = ids;
    return split(features.ebx >> 24, package_bits - log2_up(cores), package_bits);
}

/* APM 3, appendix E.4.9 and E.4.15: extended APIC id, threads a core, and the bits of a package's ids. */
static struct place place_by_amd(const struct kvm_cpuid2 *table, unsigned *logical)
{
    struct kvm_cpuid_entry2 sizes = cpuid(table, 0x80000008, 0), core = cpuid(table, 0x8000001E, 0);
    unsigned size = sizes.ecx >> 12 & 0xF;
    unsigned threads = (core.ebx >> 8 & 0xFF) + 1;
    *logical = (sizes.ecx & 0xFF) + 1;
    struct place place = split(core.eax, log2_up(threads), size ? size : log2_up(*logical));
    cr_assert_eq(place.core, core.ebx & 0xFF);
    cr_assert_eq(core.ecx, 0, "one node");
    return place;
}

static void check_place(struct place place, unsigned logical, unsigned cpu, unsigned cpus, const char *by)
{
    cr_assert(place.package == 0 && place.core == cpu && place.thread == 0 && logical == cpus,
              "%s: CPU %u of %u is package %u core %u thread %u, of %u", by, cpu, cpus, place.package,
              place.core, place.thread, logical);
}

static void check_intel(const struct kvm_cpuid2 *table, unsigned cpu, unsigned cpus)
{
    unsigned logical;
    struct place place = place_by_leaf_b(table, 0xB, &logical);
    check_place(place, logical, cpu, cpus, "leaf 0xB");
    place = place_by_leaf_b(table, 0x1F, &logical);
    check_place(place, logical, cpu, cpus, "leaf 0x1F");
    if (cpus <= LEGACY_MAX) {
        place = place_by_leaf_4(table, &logical);
        check_place(place, logical, cpu, cpus, "leaf 4");
    }
}

Test(cpuid, intel_topology)
{
    union table host = intel_host();
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        for (unsigned cpu = 0; cpu < counts[i]; cpu++) {
            struct kvm_cpuid2 *table = build(&host, counts[i], cpu);
            check_intel(table, cpu, counts[i]);
            free(table);
        }
    }
}

Test(cpuid, amd_topology)
{
    union table host = amd_host(0x10);
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        for (unsigned cpu = 0; cpu < counts[i]; cpu++) {
            struct kvm_cpuid2 *table = build(&host, counts[i], cpu);
            unsigned logical;
            struct place place = place_by_amd(table, &logical);
            check_place(place, logical, cpu, counts[i], "leaf 0x8000001E");
            place = place_by_leaf_b(table, 0xB, &logical);
            check_place(place, logical, cpu, counts[i], "leaf 0xB");
            cr_assert_eq(cpuid(table, 1, 0).ebx >> 24, cpu);
            cr_assert_eq(cpuid(table, 1, 0).ebx >> 16 & 0xFF, counts[i]);
            cr_assert_eq(cpuid(table, 0x80000001, 0).ecx >> 1 & 1, counts[i] > 1, "CmpLegacy");
            free(table);
        }
    }
}

Test(cpuid, caches_are_shared_by_cores_of_the_guest)
{
    union table hosts[] = {intel_host(), amd_host(0x10)};
    const uint32_t leaves[] = {4, 0x8000001D};
    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        struct kvm_cpuid2 *table = build(&hosts[i], 6, 2);
        struct kvm_cpuid_entry2 l1 = cpuid(table, leaves[i], 0), l3 = cpuid(table, leaves[i], 3);
        cr_assert_eq(l1.eax >> 14 & 0xFFF, 0, "the first level is one core's own");
        cr_assert_eq(l3.eax >> 14 & 0xFFF, 7, "the third is shared by ids 0 to 7");
        cr_assert_eq(l1.eax & 0x3FFF, 0x121, "type, level and flags stay");
        cr_assert_eq(l1.ebx, cpuid(&hosts[i].header, leaves[i], 0).ebx, "geometry stays");
        free(table);
    }
}

Test(cpuid, end_of_the_cache_list_stays_empty)
{
    union table host = intel_host();
    struct kvm_cpuid2 *table = build(&host, 4, 0);
    struct kvm_cpuid_entry2 end = cpuid(table, 4, 4);
    cr_assert_eq(end.eax | end.ebx | end.ecx | end.edx, 0);
    free(table);
}

/* Only Intel has leaf 0x1F, and AMD's own list of levels describes the host. */
Test(cpuid, no_topology_of_the_host_is_left)
{
    union table host = amd_host(0x20);
    PUT(&host, 0x80000026, 0, 1, 2, 0x100, 11);
    struct kvm_cpuid2 *table = build(&host, 4, 1);
    cr_assert_eq(cpuid(table, 0x1F, 0).ebx, 0);
    cr_assert_eq(cpuid(table, 0x80000026, 0).ebx, 0);
    free(table);
}

Test(cpuid, leaf_0xb_is_within_the_announced_leaves)
{
    union table host = amd_host(7);
    struct kvm_cpuid2 *table = build(&host, 4, 1);
    cr_assert_eq(cpuid(table, 0, 0).eax, 0xB);
    free(table);

    host = intel_host();
    table = build(&host, 4, 1);
    cr_assert_eq(cpuid(table, 0, 0).eax, 0x1F);
    free(table);
}

Test(cpuid, hides_what_the_guest_cannot_have)
{
    union table hosts[] = {intel_host(), amd_host(0x10)};
    const uint32_t leaves[] = {0xA, 0x15, 0x16, 0x8000000A};
    for (size_t i = 0; i < ARRAY_SIZE(hosts); i++) {
        struct kvm_cpuid2 *table = build(&hosts[i], 2, 0);
        for (size_t j = 0; j < ARRAY_SIZE(leaves); j++) {
            struct kvm_cpuid_entry2 e = cpuid(table, leaves[j], 0);
            cr_assert_eq(e.eax | e.ebx | e.ecx | e.edx, 0, "leaf %x", leaves[j]);
        }
        cr_assert_eq(cpuid(table, 1, 0).ecx >> 5 & 1, 0, "VMX");
        cr_assert_eq(cpuid(table, 1, 0).ecx >> 15 & 1, 0, "PDCM");
        cr_assert_eq(cpuid(table, 7, 0).ebx >> 2 & 1, 0, "SGX");
        cr_assert_eq(cpuid(table, 0x80000001, 0).ecx >> 2 & 1, 0, "SVM");
        cr_assert_eq(cpuid(table, 0x80000007, 0).edx, 0xFF, "invariant TSC, and nothing else");
        free(table);
    }
}

Test(cpuid, keeps_what_kvm_supports)
{
    union table host = intel_host();
    struct kvm_cpuid2 *table = build(&host, 2, 1);
    const uint32_t leaves[] = {0x40000000, 0x40000001, 0x80000000};
    for (size_t i = 0; i < ARRAY_SIZE(leaves); i++) {
        struct kvm_cpuid_entry2 guest = cpuid(table, leaves[i], 0);
        struct kvm_cpuid_entry2 kvm = cpuid(&host.header, leaves[i], 0);
        cr_assert(memcmp(&guest, &kvm, sizeof(kvm)) == 0, "leaf %x", leaves[i]);
    }
    cr_assert_eq(cpuid(table, 1, 0).eax, 0x806F8, "family, model, stepping");
    cr_assert_eq(cpuid(table, 1, 0).ebx >> 8 & 0xFF, 8, "CLFLUSH line");
    cr_assert_eq(cpuid(table, 1, 0).ecx >> 21 & 1, 1, "x2APIC");
    cr_assert_eq(cpuid(table, 0x80000008, 0).ecx, 0, "reserved on Intel");
    free(table);
}

Test(cpuid, brand_string)
{
    union table host = intel_host();
    struct cpuid_options options = {.cpus = 1, .brand = "Bar-tailed Godwit CPU, 11,000 km at 60 km/h"};
    struct kvm_cpuid2 *table;
    cr_assert_eq(cpuid_build(&host.header, &options, 0, &table, NULL), 0);
    char brand[CPUID_BRAND_SIZE];
    for (uint32_t i = 0; i < 3; i++) {
        struct kvm_cpuid_entry2 e = cpuid(table, 0x80000002 + i, 0);
        const uint32_t part[] = {e.eax, e.ebx, e.ecx, e.edx};
        memcpy(brand + i * sizeof(part), part, sizeof(part));
    }
    cr_assert(memcmp(brand, options.brand, sizeof(brand)) == 0);
    free(table);
}

Test(cpuid, hypervisor_bit_and_threading)
{
    union table host = intel_host();
    host.header.entries[1].ecx = host.header.entries[1].edx = 0;
    for (unsigned cpus = 1; cpus <= 2; cpus++) {
        struct kvm_cpuid2 *table = build(&host, cpus, 0);
        cr_assert_eq(cpuid(table, 1, 0).ecx, 1u << 31 | 1u << 24);
        cr_assert_eq(cpuid(table, 1, 0).edx, cpus == 1 ? 0 : 1u << 28);
        free(table);
    }
}

Test(cpuid, tsc_deadline_only_where_kvm_has_it)
{
    union table host = intel_host();
    struct cpuid_options options = {.cpus = 1};
    struct kvm_cpuid2 *table;
    cr_assert_eq(cpuid_build(&host.header, &options, 0, &table, NULL), 0);
    cr_assert_eq(cpuid(table, 1, 0).ecx >> 24 & 1, 0);
    free(table);
}

Test(cpuid, refuses_a_table_without_the_basic_leaves)
{
    union table host = intel_host();
    struct cpuid_options options = {.cpus = 1};
    struct kvm_cpuid2 *table;
    struct error err;
    host.header.nent = 1;
    cr_assert_eq(cpuid_build(&host.header, &options, 0, &table, &err), -EINVAL);
    cr_assert(strstr(err.message, "leaf 1"));
    host.header.nent = 0;
    cr_assert_eq(cpuid_build(&host.header, &options, 0, &table, &err), -EINVAL);
    cr_assert(strstr(err.message, "leaf 0"));
}
