/*
 * smp: starts every CPU of the device tree (or, without one, of the MADT) and has them work: in turn, then
 * all at once.
 */
#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/checksum.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/layout.h"
#include "guest/lib/madt.h"
#include "guest/lib/sequence.h"
#include "guest/lib/smp.h"
#include "guest/lib/string.h"
#include "guest/lib/tree.h"

static uint8_t apic_ids[MAX_CPUS];
static uint64_t bytes, additions;
static volatile uint64_t reported; /* CPUs that have done their work in turn */
static volatile bool all_started;
static uint64_t total, locked_total, finished;
static bool lock;

/* The checksum of the first `bytes` bytes of seq(1), computed by this CPU. */
static uint32_t work(void)
{
    struct checksum sum;
    struct sequence text;
    char chunk[64];

    sequence_begin(&text, 1);
    checksum_begin(&sum);
    for (uint64_t left = bytes; left > 0;) {
        uint64_t size = left < sizeof(chunk) ? left : sizeof(chunk);
        sequence_read(&text, chunk, size);
        checksum_add(&sum, chunk, size);
        left -= size;
    }
    return checksum_end(&sum);
}

static void add_once(void)
{
    __atomic_fetch_add(&total, 1, __ATOMIC_RELAXED);
    while (__atomic_test_and_set(&lock, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
    locked_total++;
    __atomic_clear(&lock, __ATOMIC_RELEASE);
}

static void program(uint64_t index)
{
    print("smp: cpu %lu, apic id %u: cksum %u %lu\n", index, lapic_id(), work(), bytes);
    if (lapic_id() != apic_ids[index])
        guest_panic("this is not the CPU that was started");
    reported = index + 1;
    while (!all_started)
        __builtin_ia32_pause();
    for (uint64_t i = 0; i < additions; i++)
        add_once();
    __atomic_fetch_add(&finished, 1, __ATOMIC_RELEASE);
}

/* How many CPUs to start. The tree and the MADT must agree where both are there. */
static unsigned find_cpus(void)
{
    uint8_t madt_ids[MAX_CPUS];
    unsigned tree = tree_cpus(apic_ids, MAX_CPUS);
    unsigned madt = madt_cpus(madt_ids, MAX_CPUS);

    print("smp: %u cpus in the device tree, %u in the madt\n", tree, madt);
    if (tree && madt && (tree != madt || memcmp(apic_ids, madt_ids, tree)))
        guest_panic("the device tree and the madt differ");
    if (tree)
        return tree;
    memcpy(apic_ids, madt_ids, madt);
    return madt ? madt : 1;
}

/* The CPU that runs already works first; the first entry is put in order with it. */
static void take_own_id(unsigned count)
{
    uint8_t own = lapic_id();

    for (unsigned i = 1; i < count; i++) {
        if (apic_ids[i] == own)
            apic_ids[i] = apic_ids[0];
    }
    apic_ids[0] = own;
}

int main(void)
{
    unsigned count = find_cpus();

    bytes = argument_number("bytes", 64 << 10);
    additions = argument_number("additions", 10000);
    lapic_enable();
    take_own_id(count);
    for (unsigned i = 1; i < count; i++) {
        smp_start(i, apic_ids[i], program, i);
        while (reported != i + 1)
            __builtin_ia32_pause();
    }
    all_started = true;
    program(0);
    while (__atomic_load_n(&finished, __ATOMIC_ACQUIRE) < count)
        __builtin_ia32_pause();
    print("smp: %u cpus made %lu and %lu of %lu additions\n", count, total, locked_total, count * additions);
    return total == count * additions && locked_total == total ? 0 : 1;
}
