/* Configuration space, BARs, MSI-X and the window of a virtio function, in any state and at any moment. */
#include "guest/hostile/pci.h"

#include "guest/hostile/midway.h"
#include "guest/lib/apic.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/io.h"
#include "guest/lib/string.h"

#define CONFIG_SIZE       4096
#define BAR_SIZE          0x8000
#define HEADER_SIZE       64
#define CONFIG_ADDRESS    0xcf8
#define CONFIG_DATA       0xcfc

#define MSIX_ENABLE       0x80000000
#define MSIX_MASK_ALL     0x40000000
#define MSIX_ENTRY        16
#define MSI_ADDRESS       0xfee00000
#define NOBODY            0x55 /* no such APIC id */

#define REG_QUEUE_VECTOR  0x1a
#define REG_CONFIG_VECTOR 0x10

#define WINDOW_KIND       5
#define WINDOW_BAR        4
#define WINDOW_OFFSET     8
#define WINDOW_LENGTH     12
#define WINDOW_DATA       16

#define VECTOR_DISK       0x41
#define WAITS_MAX         1000
#define REQUESTS_MAX      16

static struct {
    uint32_t bar[2];
    unsigned msix, window; /* capabilities */
    uint64_t table;        /* of MSI-X */
    unsigned vectors;
} saved;

static volatile unsigned interrupts;

static uint32_t get(const struct target *target, unsigned offset)
{
    return pci_read(target->device.function, offset);
}

static void put(const struct target *target, unsigned offset, uint32_t value)
{
    pci_write(target->device.function, offset, value);
}

static void put_bar(const struct target *target, uint64_t address)
{
    put(target, PCI_BAR0, address);
    put(target, PCI_BAR0 + 4, address >> 32);
}

static unsigned find_window(const struct target *target)
{
    unsigned at = 0;

    while ((at = pci_capability(target->device.function, PCI_CAPABILITY_VENDOR, at))) {
        if (get(target, at) >> 24 == WINDOW_KIND)
            return at;
    }
    return 0;
}

void pci_save(const struct target *target)
{
    uint64_t bar = pci_bar(target->device.function, 0);

    saved.bar[0] = get(target, PCI_BAR0);
    saved.bar[1] = get(target, PCI_BAR0 + 4);
    saved.window = find_window(target);
    saved.msix = pci_capability(target->device.function, PCI_CAPABILITY_MSIX, 0);
    saved.table = bar + (get(target, saved.msix + 4) & ~7u);
    saved.vectors = (get(target, saved.msix) >> 16 & 0x7ff) + 1;
    if (!saved.window || !saved.msix)
        wrong("a capability is missing");
}

void pci_restore(const struct target *target)
{
    put(target, PCI_BAR0, saved.bar[0]);
    put(target, PCI_BAR0 + 4, saved.bar[1]);
    put(target, saved.msix, 0);
    put(target, PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

/* ---- BARs ---- */

static bool sizing(struct target *target, uint64_t value)
{
    set_going(target);
    for (unsigned i = 0; i < 8; i++) {
        put(target, PCI_BAR0 + 4 * (value & 1), UINT32_MAX);
        device_notify(&target->device, 0);
        if (value < 2 && get(target, PCI_BAR0 + 4 * value) != (value ? UINT32_MAX : 0xffff8004))
            return wrong("BAR %lu has a size of %x", value, get(target, PCI_BAR0 + 4 * value));
        put(target, PCI_BAR0 + 4 * (value & 1), saved.bar[value & 1]);
        device_notify(&target->device, 0);
    }
    return true;
}

/* Over the ring and the data of the target and of the witness, page tables, the program itself. */
static bool bar_over_ram(struct target *target, uint64_t value)
{
    uint8_t *data = target->memory->data + DATA_SIZE / 2;
    const uint64_t places[] = {
        (uint64_t)target->memory,
        (uint64_t)data,
        (uint64_t)target->witness->memory,
        (uint64_t)bar_over_ram,
        0,
        target->ram_end - BAR_SIZE,
        target->ram_end - BAR_SIZE / 2,
    };

    put_bar(target, places[value]);
    memset(data, 0x5a, BAR_SIZE);
    for (unsigned i = 0; i < BAR_SIZE; i++) {
        if (*(volatile uint8_t *)(data + i) != 0x5a)
            return wrong("there is no RAM under a BAR any more");
    }
    return true;
}

/* Where devices are, where nothing is, and where nothing can be. */
static bool bar_elsewhere(struct target *target, uint64_t value)
{
    const uint64_t places[] = {
        target->witness->device.registers,
        target->witness->device.registers + 0x4000,
        0xe0000000,
        0xe0000000 - 0x4000,
        IOAPIC_BASE,
        LAPIC_BASE,
        0xffff8000,
        1ull << 32,
        1ull << 40,
        1ull << 52,
        1ull << 63,
        -(uint64_t)0x8000,
        target->ram_end,
    };

    set_going(target);
    put_bar(target, places[value]);
    mmio_read32(places[value] < 1ull << 32 ? places[value] : places[0]);
    device_notify(&target->device, 0);
    return true;
}

static bool bar_wanders(struct target *target, uint64_t value)
{
    midway_kick(value);
    set_going(target);
    for (unsigned i = 0; i < 32; i++) {
        put_bar(target, i % 4 ? saved.bar[0] + 0x10000ull * i : saved.bar[0]);
        device_notify(&target->device, 0);
        if (i % 4 == 0)
            put(target, PCI_COMMAND, i);
        else
            put(target, PCI_COMMAND, PCI_COMMAND_MEMORY);
    }
    midway_kick(false);
    return true;
}

/* ---- The command register ---- */

static bool command(struct target *target, uint64_t value)
{
    set_going(target);
    for (unsigned i = 0; i < 16; i++) {
        put(target, PCI_COMMAND, value ? next_random(target) : i & 1 ? PCI_COMMAND_MEMORY : 0);
        device_notify(&target->device, 0);
        get(target, PCI_COMMAND);
    }
    return true;
}

/* All of configuration space at random: its own, by either way. */
static bool random_config(struct target *target, uint64_t value)
{
    uint32_t slot = target->device.function.slot;

    set_going(target);
    for (unsigned i = 0; i < 64; i++) {
        uint32_t limit = value ? HEADER_SIZE * 4 : CONFIG_SIZE, offset = random_below(target, limit);
        if (i % 2) {
            out32(CONFIG_ADDRESS, 0x80000000 | slot << 8 | (offset & 0xfc));
            out8(CONFIG_DATA + offset % 4, next_random(target));
            in16(CONFIG_DATA + (offset & 2));
        } else {
            put(target, offset & ~3u, next_random(target));
            get(target, offset & ~3u);
        }
    }
    /* What was written to the table of MSI-X through a BAR anywhere is nobody's interrupt. */
    return true;
}

/* The host bridge and functions that are not there. */
static bool others_config(struct target *target, uint64_t value)
{
    for (unsigned i = 0; i < 64; i++) {
        struct pci_function function = {value ? random_below(target, 256) : 0};
        unsigned offset = random_below(target, CONFIG_SIZE) & ~3u;
        if (function.slot >> 3 == target->witness->device.function.slot >> 3)
            continue;
        pci_write(function, offset, next_random(target));
        pci_read(function, offset);
    }
    return true;
}

/* ---- MSI-X ---- */

static void put_entry(unsigned entry, uint64_t address, uint32_t data, uint32_t control)
{
    uint64_t at = saved.table + entry * MSIX_ENTRY;

    mmio_write32(at, address);
    mmio_write32(at + 4, address >> 32);
    mmio_write32(at + 8, data);
    mmio_write32(at + 12, control);
}

static void use_vectors(const struct target *target, uint16_t vector)
{
    device_select(&target->device, 0);
    mmio_write16(target->device.registers + REG_QUEUE_VECTOR, vector);
    mmio_write16(target->device.registers + REG_CONFIG_VECTOR, vector);
}

/* Messages to where no interrupt controller is, and to processors that are not there. */
static bool nonsense_messages(struct target *target, uint64_t value)
{
    put(target, saved.msix, MSIX_ENABLE);
    use_vectors(target, 0);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t address = value ? MSI_ADDRESS | NOBODY << 12 | random_below(target, 4) << 2
                                 : next_random(target) | 1ull << 63;
        put_entry(i % saved.vectors, address, next_random(target), 0);
        target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);
        target_go(target);
    }
    /* An entry that changes while it is not masked. */
    put_entry(0, MSI_ADDRESS | NOBODY << 12, next_random(target), 0);
    return true;
}

/* The whole table and what is behind it, in any width. */
static bool garbage_in_table(struct target *target, uint64_t value)
{
    put(target, saved.msix, MSIX_ENABLE | (value ? MSIX_MASK_ALL : 0));
    use_vectors(target, 0);
    for (unsigned i = 0; i < 64; i++) {
        uint64_t at = saved.table + random_below(target, value ? 0x1010 : 16 * saved.vectors);
        /* Upper halves of addresses get a bit that makes them nonsense. */
        mmio_write32(saved.table + 4, 0x80000000);
        switch (i % 4) {
        case 0:
            mmio_write8(at, next_random(target));
            break;
        case 1:
            mmio_write16(at, next_random(target));
            break;
        case 2:
            mmio_write32(at & ~15ull, next_random(target));
            break;
        default:
            mmio_write64((at & ~15ull) + 8, next_random(target));
            break;
        }
        mmio_read64(at);
    }
    target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);
    target_go(target);
    return true;
}

static bool no_such_vector(struct target *target, uint64_t value)
{
    static const uint16_t vectors[] = {0xfffe, 0x7fff, 0x100};
    uint64_t registers = target->device.registers;

    use_vectors(target, value < 3 ? vectors[value] : saved.vectors);
    if (mmio_read16(registers + REG_QUEUE_VECTOR) != 0xffff ||
        mmio_read16(registers + REG_CONFIG_VECTOR) != 0xffff)
        return wrong("a vector that is not there is accepted");
    target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);
    target_go(target);
    return true;
}

static void count_interrupt(struct interrupt_frame *frame)
{
    interrupts++;
    lapic_end_of_interrupt();
}

/* With an event index it wants to hear of the next answer. */
static void request_and_wait(struct target *target)
{
    struct ring_memory *ring = &target->memory->ring;

    if (!target->ring.packed)
        ring->driver[AVAILABLE_EVENT] = __atomic_load_n(&ring->device[RING_INDEX], __ATOMIC_ACQUIRE);
    target_request(target, REQUEST_READ, 0, target->memory->data, SECTOR);
    target_go(target);
    for (unsigned i = 0; i < WAITS_MAX && !interrupts; i++)
        device_status(&target->device);
}

/* Masked and unmasked at all levels while requests are under way; then one comes through. */
static bool masked_midway(struct target *target, uint64_t value)
{
    interrupt_set(VECTOR_DISK, count_interrupt);
    interrupts = 0;
    use_vectors(target, 0);
    put_entry(0, MSI_ADDRESS | (uint64_t)lapic_id() << 12, VECTOR_DISK, 0);
    set_going(target);
    for (unsigned i = 0; i < 16; i++) {
        put(target, saved.msix, i & 1 ? MSIX_ENABLE : i & 2 ? MSIX_ENABLE | MSIX_MASK_ALL : 0);
        mmio_write32(saved.table + 12, i / 4 & 1);
    }
    mmio_write32(saved.table + 12, 0);
    put(target, saved.msix, MSIX_ENABLE);
    interrupts_on();
    for (unsigned i = 0; i < REQUESTS_MAX && !interrupts; i++)
        request_and_wait(target);
    interrupts_off();
    return interrupts ? true : wrong("no interrupt");
}

/* ---- The window in configuration space ---- */

static bool window(struct target *target, uint64_t value)
{
    set_going(target);
    for (unsigned i = 0; i < 64; i++) {
        put(target, saved.window + WINDOW_BAR, value == 1 ? next_random(target) : 0);
        put(target, saved.window + WINDOW_OFFSET, next_random(target) >> (value == 2 ? 32 : 50));
        put(target, saved.window + WINDOW_LENGTH, value == 3 ? next_random(target) : 1u << i % 4);
        get(target, saved.window + WINDOW_DATA);
        /* As with registers: no queue can be set up in memory of the guest. */
        put(target, saved.window + WINDOW_DATA, next_random(target) | 0xc0c0c0c0);
    }
    return true;
}

/* The device is reset, set up and kicked through the window, while its BAR is nowhere. */
static bool window_without_bar(struct target *target, uint64_t value)
{
    put(target, PCI_COMMAND, 0);
    put(target, saved.window + WINDOW_BAR, 0);
    put(target, saved.window + WINDOW_OFFSET, 0x14);
    put(target, saved.window + WINDOW_LENGTH, 1);
    if (!(get(target, saved.window + WINDOW_DATA) & STATUS_DRIVER_OK))
        return wrong("the window shows no status");
    put(target, saved.window + WINDOW_DATA, 0);
    if (get(target, saved.window + WINDOW_DATA) & 0xff)
        return wrong("the window does not reset the device");
    return true;
}

const struct attack pci_attacks[] = {
    {"sizing at any moment", sizing, 4, DONE, 0, 0},
    {"a BAR over RAM", bar_over_ram, 7, DONE, 0, 0},
    {"a BAR elsewhere", bar_elsewhere, 13, DONE, 0, 0},
    {"a BAR that wanders", bar_wanders, 2, DONE, 0, 0},
    {"the command register", command, 2, DONE, 0, 0},
    {"configuration space", random_config, 4, DONE, 0, 0},
    {"configuration space of others", others_config, 2, DONE, 0, 0},
    {"messages to nowhere", nonsense_messages, 2, DONE, 0, 0},
    {"garbage in the MSI-X table", garbage_in_table, 2, DONE, 0, 0},
    {"no such vector", no_such_vector, 4, OK, 0, 0},
    {"interrupts masked midway", masked_midway, 2, DONE, 0, 0},
    {"the window", window, 4, DONE, 0, 0},
    {"the window without a BAR", window_without_bar, 1, DONE, 0, 0},
    {0},
};
