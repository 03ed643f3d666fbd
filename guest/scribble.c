/* scribble: reads and writes random values at random ports and MMIO addresses, as a hostile guest does. */
#include <libfdt.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/io.h"
#include "guest/lib/tree.h"

#define HOLE_START   0xc0000000 /* no RAM from here */
#define HOLE_END     0x100000000
#define PAGE_SIZE    0x1000
#define FIRST_VECTOR 32
#define VECTOR_NMI   2

#define RANGES_MAX   64
#define STRING_MAX   64

struct scribble {
    uint64_t random;
    struct tree_range near[RANGES_MAX]; /* where devices are */
    unsigned near_count;
    struct tree_range spared[RANGES_MAX]; /* what ends the machine */
    unsigned spared_count;
    uint64_t accesses;
    uint8_t bytes[STRING_MAX * 4];
};

static uint64_t next_random(struct scribble *s)
{
    s->random ^= s->random << 13;
    s->random ^= s->random >> 7;
    s->random ^= s->random << 17;
    return s->random;
}

static uint64_t random_below(struct scribble *s, uint64_t limit)
{
    return next_random(s) % limit;
}

/* A random number that is often small, all ones or has few bits set: those reach further into devices. */
static uint64_t random_value(struct scribble *s)
{
    uint64_t value = next_random(s);

    switch (random_below(s, 4)) {
    case 0:
        return value;
    case 1:
        return value & 0xff;
    case 2:
        return 1ull << value % 64;
    default:
        return value & next_random(s) & next_random(s);
    }
}

static void add(struct tree_range *ranges, unsigned *count, uint64_t start, uint64_t size, bool is_port)
{
    if (*count < RANGES_MAX)
        ranges[(*count)++] = (struct tree_range){.start = start, .size = size, .is_port = is_port};
}

static void add_near(struct scribble *s, uint64_t start, uint64_t size, bool is_port)
{
    add(s->near, &s->near_count, start, size, is_port);
}

static void spare(struct scribble *s, uint64_t start, uint64_t size, bool is_port)
{
    add(s->spared, &s->spared_count, start, size, is_port);
}

static void find_devices(struct scribble *s)
{
    static const struct tree_range pc_ports[] = {
        {0x20, 2, true},  {0xa0, 2, true}, {0x40, 4, true},  {0x60, 5, true},   {0x70, 2, true},
        {0x80, 16, true}, {0x92, 1, true}, {0x3f8, 8, true}, {0x600, 12, true}, {0xcf8, 8, true},
    };
    const void *tree = boot_tree();
    struct tree_range range;

    for (unsigned i = 0; i < sizeof(pc_ports) / sizeof(pc_ports[0]); i++)
        add_near(s, pc_ports[i].start, pc_ports[i].size, true);
    add_near(s, IOAPIC_BASE, PAGE_SIZE, false);
    add_near(s, LAPIC_BASE, PAGE_SIZE, false);
    for (int node = tree ? fdt_next_node(tree, -1, NULL) : -1; node >= 0;
         node = fdt_next_node(tree, node, NULL)) {
        for (unsigned i = 0; fdt_getprop(tree, node, "compatible", NULL) && tree_range(node, i, &range); i++)
            add_near(s, range.start, range.size, range.is_port);
    }
}

static void spare_node(struct scribble *s, const char *compatible, unsigned index)
{
    struct tree_range range;

    if (tree_range(tree_find(compatible), index, &range))
        spare(s, range.start, range.size, range.is_port);
}

/* What ends or resets the machine, unless `end=yes` asks for it. */
static void spare_ends(struct scribble *s)
{
    spare_node(s, "godwit,exit-port", 0);
    spare_node(s, "godwit,acpi-pm", 1);
    spare(s, 0x64, 1, true);
    spare(s, 0x92, 1, true);
    spare(s, 0x604, 2, true);
    spare(s, 0xcf9, 1, true);
}

static bool is_spared(const struct scribble *s, uint64_t start, uint64_t size, bool is_port)
{
    for (unsigned i = 0; i < s->spared_count; i++) {
        const struct tree_range *range = &s->spared[i];
        if (range->is_port == is_port && start < range->start + range->size && range->start < start + size)
            return true;
    }
    return false;
}

/* Mostly an address in a device of the wanted kind, or up to 8 bytes before it; else any of the whole space.
 */
static uint64_t random_address(struct scribble *s, bool is_port, unsigned width)
{
    uint64_t first = is_port ? 0 : HOLE_START, end = is_port ? 0x10000 : HOLE_END;
    uint64_t address = first + random_below(s, end - first);
    const struct tree_range *range;

    do
        range = &s->near[random_below(s, s->near_count)];
    while (range->is_port != is_port);
    if (random_below(s, 8))
        address = range->start + random_below(s, range->size + 8) - 8;
    return address < first || address + width > end ? first : address;
}

static void access_port(uint16_t port, unsigned width, bool write, uint32_t value)
{
    if (width == 1)
        write ? out8(port, value) : (void)in8(port);
    else if (width == 2)
        write ? out16(port, value) : (void)in16(port);
    else
        write ? out32(port, value) : (void)in32(port);
}

static void access_port_string(struct scribble *s, uint16_t port, unsigned width, bool write)
{
    uint64_t count = 1 + random_below(s, STRING_MAX);
    uint8_t *bytes = s->bytes;

    if (width == 1 && write)
        __asm__ volatile("rep outsb" : "+S"(bytes), "+c"(count) : "d"(port) : "memory");
    else if (width == 1)
        __asm__ volatile("rep insb" : "+D"(bytes), "+c"(count) : "d"(port) : "memory");
    else if (width == 2 && write)
        __asm__ volatile("rep outsw" : "+S"(bytes), "+c"(count) : "d"(port) : "memory");
    else if (width == 2)
        __asm__ volatile("rep insw" : "+D"(bytes), "+c"(count) : "d"(port) : "memory");
    else if (write)
        __asm__ volatile("rep outsl" : "+S"(bytes), "+c"(count) : "d"(port) : "memory");
    else
        __asm__ volatile("rep insl" : "+D"(bytes), "+c"(count) : "d"(port) : "memory");
}

static void scribble_port(struct scribble *s)
{
    unsigned width = 1u << random_below(s, 3);
    uint64_t port = random_address(s, true, width);
    bool write = random_below(s, 2);

    if (is_spared(s, port, width, true))
        return;
    if (random_below(s, 16) == 0)
        access_port_string(s, port, width, write);
    else
        access_port(port, width, write, random_value(s));
    s->accesses++;
}

static void access_mmio(uint64_t address, unsigned width, bool write, uint64_t value)
{
    if (width == 1)
        write ? mmio_write8(address, value) : (void)mmio_read8(address);
    else if (width == 2)
        write ? mmio_write16(address, value) : (void)mmio_read16(address);
    else if (width == 4)
        write ? mmio_write32(address, value) : (void)mmio_read32(address);
    else
        write ? mmio_write64(address, value) : (void)mmio_read64(address);
}

static void scribble_mmio(struct scribble *s)
{
    unsigned width = 1u << random_below(s, 4);
    uint64_t address = random_address(s, false, width);
    bool write = random_below(s, 2);

    if (is_spared(s, address, width, false))
        return;
    access_mmio(address, width, write, random_value(s));
    s->accesses++;
}

static void ignore_nmi(struct interrupt_frame *frame)
{
}

static void ignore(struct interrupt_frame *frame)
{
    lapic_end_of_interrupt();
}

/* Whatever the interrupt controllers are made to send is ignored. */
static void ignore_interrupts(void)
{
    interrupt_set(VECTOR_NMI, ignore_nmi);
    for (unsigned vector = FIRST_VECTOR; vector < 256; vector++)
        interrupt_set(vector, ignore);
}

int main(void)
{
    static struct scribble s;
    uint64_t seed = argument_number("seed", 1), count = argument_number("count", 10000);
    bool ports = argument_is("space", "ports", true), mmio = argument_is("space", "mmio", true);

    s.random = (seed + 1) * 0x9e3779b97f4a7c15 | 1;
    find_devices(&s);
    if (!argument_is("end", "yes", false))
        spare_ends(&s);
    if (argument_is("apic", "no", false)) {
        spare(&s, IOAPIC_BASE, PAGE_SIZE, false);
        spare(&s, LAPIC_BASE, PAGE_SIZE, false);
    }
    ignore_interrupts();
    print("scribble: seed %lu\n", seed);
    while (s.accesses < count) {
        if (ports && (!mmio || random_below(&s, 2)))
            scribble_port(&s);
        else if (mmio)
            scribble_mmio(&s);
    }
    console_use(console_port());
    print("\nscribble: done after %lu accesses\n", s.accesses);
    return 0;
}
