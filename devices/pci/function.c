#include "devices/pci/function.h"

#include <assert.h>
#include <linux/pci_regs.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/pci/internal.h"
#include "memory/memory.h"
#include "memory/region.h"

#define BAR_SIZE       4 /* of one register */
#define HEADER_SIZE    PCI_STD_HEADER_SIZEOF

/* A guest whose BARs are refused over and over does not fill the log. */
#define COMPLAINTS_MAX 16

/* What a write can change and a refusal puts back. */
struct header {
    uint8_t config[HEADER_SIZE];
    unsigned sizing;
};

/* Where a BAR is to be. */
struct bar_place {
    uint64_t address;
    bool mapped;
};

static void put16(uint8_t *bytes, uint16_t value)
{
    bytes[0] = (uint8_t)value;
    bytes[1] = (uint8_t)(value >> 8);
}

static void put32(uint8_t *bytes, uint32_t value)
{
    put16(bytes, (uint16_t)value);
    put16(bytes + 2, (uint16_t)(value >> 16));
}

static uint16_t get16(const uint8_t *bytes)
{
    return (uint16_t)(bytes[0] | bytes[1] << 8);
}

static uint32_t get32(const uint8_t *bytes)
{
    return get16(bytes) | (uint32_t)get16(bytes + 2) << 16;
}

/* Whether an access touches [first, first + count). */
static bool touches(unsigned offset, unsigned size, unsigned first, unsigned count)
{
    return offset < first + count && first < offset + size;
}

/* ---- BARs ---- */

static struct bar_place wanted_place(const struct pci_function *function, unsigned index)
{
    const struct pci_bar *bar = &function->bars[index];
    const uint8_t *registers = function->config + PCI_BASE_ADDRESS_0 + (size_t)index * BAR_SIZE;
    uint16_t decode = bar->kind == PCI_BAR_IO ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
    unsigned used = bar->kind == PCI_BAR_MEMORY_64 ? 3u << index : 1u << index;
    uint64_t address = get32(registers);
    if (bar->kind == PCI_BAR_IO)
        address &= PCI_BASE_ADDRESS_IO_MASK;
    else
        address &= PCI_BASE_ADDRESS_MEM_MASK;
    if (bar->kind == PCI_BAR_MEMORY_64)
        address |= (uint64_t)get32(registers + BAR_SIZE) << 32;
    return (struct bar_place){
        .address = address,
        .mapped = get16(function->config + PCI_COMMAND) & decode && !(function->sizing & used),
    };
}

/* Within a transaction a region that has been changed once can be changed again: only the first of these can
 * fail. */
static int place(struct memory_region *region, struct bar_place where, struct error *err)
{
    int result = memory_region_set_address(region, where.address, err);
    return result < 0 ? result : memory_region_set_enabled(region, where.mapped, err);
}

static bool is_in_place(const struct pci_bar *bar, struct bar_place where)
{
    return bar->mapped == where.mapped && (!bar->mapped || bar->address == where.address);
}

static int place_bars(struct pci_function *function, const struct bar_place *places, struct error *err)
{
    int result = 0;
    for (unsigned i = 0; i < PCI_BARS && result == 0; i++) {
        const struct pci_bar *bar = &function->bars[i];
        if (bar->region && !is_in_place(bar, places[i]))
            result = place(bar->region, places[i], err);
    }
    for (unsigned i = 0; i < PCI_BARS && result < 0; i++) {
        const struct pci_bar *bar = &function->bars[i];
        if (bar->region && !is_in_place(bar, places[i]))
            place(bar->region, (struct bar_place){bar->address, bar->mapped}, NULL);
    }
    return result;
}

/* One transaction for all that a write has changed. */
static int update_bars(struct pci_function *function, struct error *err)
{
    struct bar_place places[PCI_BARS];
    bool in_place = true;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        places[i] = wanted_place(function, i);
        if (function->bars[i].region)
            in_place &= is_in_place(&function->bars[i], places[i]);
    }
    if (in_place || !function->bus)
        return 0;
    struct memory *memory = function->bus->config.memory;
    memory_transaction_begin(memory);
    int result = place_bars(function, places, err);
    int committed = memory_transaction_commit(memory, result < 0 ? NULL : err);
    if (result < 0 || committed < 0)
        return result < 0 ? result : committed;
    for (unsigned i = 0; i < PCI_BARS; i++) {
        if (!function->bars[i].region)
            continue;
        function->bars[i].address = places[i].address;
        function->bars[i].mapped = places[i].mapped;
    }
    return 0;
}

static void complain(struct pci_function *function, const struct error *err)
{
    unsigned complaints = function->complaints++;
    if (complaints < COMPLAINTS_MAX)
        log_write(function->log, LOG_WARN, "%s: the guest's write is refused: %s%s", function->name,
                  err->message, complaints == COMPLAINTS_MAX - 1 ? " (more of this is not shown)" : "");
}

/* ---- Accesses ---- */

/* Bits that are no state of configuration space. With the lock held. */
static uint8_t read_byte(struct pci_function *function, unsigned offset)
{
    uint8_t value = function->config[offset];
    if (offset == PCI_STATUS && function->bus) {
        pthread_mutex_lock(&function->bus->lines_lock);
        value |= function->intx ? PCI_STATUS_INTERRUPT : 0;
        pthread_mutex_unlock(&function->bus->lines_lock);
    }
    return value;
}

uint32_t pci_function_read_config(struct pci_function *function, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    if (offset >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - offset)
        return 0;
    if (function->ops->config_reading)
        function->ops->config_reading(function, offset, size);
    pthread_mutex_lock(&function->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)read_byte(function, offset + i) << 8 * i;
    pthread_mutex_unlock(&function->lock);
    return value;
}

static void write_bytes(struct pci_function *function, unsigned offset, uint32_t value, unsigned size)
{
    for (unsigned i = 0; i < size; i++) {
        uint8_t mask = function->writable[offset + i];
        uint8_t byte = (uint8_t)(value >> 8 * i);
        function->config[offset + i] = (uint8_t)((function->config[offset + i] & ~mask) | (byte & mask));
    }
    if (!touches(offset, size, PCI_BASE_ADDRESS_0, PCI_BARS * BAR_SIZE))
        return;
    unsigned bit = 1u << (offset - PCI_BASE_ADDRESS_0) / BAR_SIZE;
    if (size == BAR_SIZE && value == UINT32_MAX)
        function->sizing |= bit;
    else
        function->sizing &= ~bit;
}

static void update_intx(struct pci_function *function)
{
    struct pci_bus *bus = function->bus;
    if (!bus)
        return;
    pthread_mutex_lock(&bus->lines_lock);
    function->intx_disabled = get16(function->config + PCI_COMMAND) & PCI_COMMAND_INTX_DISABLE;
    pci_bus_update_line(bus, function);
    pthread_mutex_unlock(&bus->lines_lock);
}

static void write_header(struct pci_function *function, unsigned offset, uint32_t value, unsigned size)
{
    struct header old = {.sizing = function->sizing};
    struct error err;
    memcpy(old.config, function->config, HEADER_SIZE);
    write_bytes(function, offset, value, size);
    if (update_bars(function, &err) < 0) {
        memcpy(function->config, old.config, HEADER_SIZE);
        function->sizing = old.sizing;
        complain(function, &err);
    }
    update_intx(function);
}

void pci_function_write_config(struct pci_function *function, unsigned offset, uint32_t value, unsigned size)
{
    if (offset >= PCI_CONFIG_SIZE || size > PCI_CONFIG_SIZE - offset)
        return;
    pthread_mutex_lock(&function->lock);
    if (offset < HEADER_SIZE)
        write_header(function, offset, value, size);
    else
        write_bytes(function, offset, value, size);
    pthread_mutex_unlock(&function->lock);
    if (function->ops->config_written)
        function->ops->config_written(function, offset, size);
}

/* ---- For devices ---- */

void pci_function_get(struct pci_function *function, unsigned offset, void *data, unsigned size)
{
    pthread_mutex_lock(&function->lock);
    memcpy(data, function->config + offset, size);
    pthread_mutex_unlock(&function->lock);
}

void pci_function_set(struct pci_function *function, unsigned offset, const void *data, unsigned size)
{
    assert(offset >= HEADER_SIZE);
    pthread_mutex_lock(&function->lock);
    memcpy(function->config + offset, data, size);
    pthread_mutex_unlock(&function->lock);
}

void pci_function_set_intx(struct pci_function *function, bool level)
{
    struct pci_bus *bus = function->bus;
    if (!bus)
        return;
    pthread_mutex_lock(&bus->lines_lock);
    function->intx = level;
    pci_bus_update_line(bus, function);
    pthread_mutex_unlock(&bus->lines_lock);
}

void pci_function_init(struct pci_function *function, const char *name, const struct pci_identity *identity,
                       const struct pci_function_ops *ops, const struct log *log)
{
    *function = (struct pci_function){
        .name = name,
        .ops = ops,
        .log = log,
        .capabilities_end = HEADER_SIZE,
        .last_link = &function->config[PCI_CAPABILITY_LIST],
    };
    pthread_mutex_init(&function->lock, NULL);
    uint8_t *config = function->config;
    put16(config + PCI_VENDOR_ID, identity->vendor);
    put16(config + PCI_DEVICE_ID, identity->device);
    put32(config + PCI_CLASS_REVISION, identity->class_code << 8 | identity->revision);
    put16(config + PCI_SUBSYSTEM_VENDOR_ID, identity->subsystem_vendor);
    put16(config + PCI_SUBSYSTEM_ID, identity->subsystem);
    config[PCI_INTERRUPT_PIN] = identity->interrupt_pin;
    put16(function->writable + PCI_COMMAND, PCI_COMMAND_MASTER);
    if (identity->interrupt_pin) {
        function->writable[PCI_INTERRUPT_LINE] = 0xFF;
        put16(function->writable + PCI_COMMAND, PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
    }
}

void pci_function_add_bar(struct pci_function *function, unsigned index, enum pci_bar_kind kind,
                          struct memory_region *region)
{
    uint64_t size = (uint64_t)memory_region_size(region);
    uint64_t mask = ~(size - 1);
    unsigned offset = PCI_BASE_ADDRESS_0 + index * BAR_SIZE;
    assert(!function->bus && index < (kind == PCI_BAR_MEMORY_64 ? PCI_BARS - 1 : PCI_BARS));
    assert(size && !(size & (size - 1)) && size >= (kind == PCI_BAR_IO ? 4 : 16));
    function->bars[index] = (struct pci_bar){.region = region, .kind = kind};
    put32(function->writable + offset, (uint32_t)mask);
    if (kind == PCI_BAR_IO) {
        function->config[offset] = PCI_BASE_ADDRESS_SPACE_IO;
        function->writable[PCI_COMMAND] |= PCI_COMMAND_IO;
    } else {
        function->writable[PCI_COMMAND] |= PCI_COMMAND_MEMORY;
    }
    if (kind == PCI_BAR_MEMORY_64) {
        function->config[offset] = PCI_BASE_ADDRESS_MEM_TYPE_64;
        put32(function->writable + offset + BAR_SIZE, (uint32_t)(mask >> 32));
    }
}

unsigned pci_function_add_capability(struct pci_function *function, uint8_t id, const void *body,
                                     const void *writable, unsigned size)
{
    unsigned offset = function->capabilities_end;
    assert(size <= PCI_CONFIG_SIZE && offset + PCI_CAPABILITY_HEADER + size <= PCI_CONFIG_SIZE);
    uint8_t *header = function->config + offset;
    *function->last_link = (uint8_t)offset;
    header[PCI_CAP_LIST_ID] = id;
    function->last_link = &header[PCI_CAP_LIST_NEXT];
    memcpy(header + PCI_CAPABILITY_HEADER, body, size);
    if (writable)
        memcpy(function->writable + offset + PCI_CAPABILITY_HEADER, writable, size);
    function->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
    function->capabilities_end = (unsigned)align_up(offset + PCI_CAPABILITY_HEADER + size, 4);
    return offset;
}

void pci_function_destroy(struct pci_function *function)
{
    struct pci_bus *bus = function->bus;
    for (unsigned i = 0; i < PCI_BARS && bus; i++) {
        if (function->bars[i].region)
            memory_region_remove_subregion(function->bars[i].region, NULL);
    }
    if (bus) {
        pci_function_set_intx(function, false);
        bus->functions[function->devfn] = NULL;
    }
    pthread_mutex_destroy(&function->lock);
}
