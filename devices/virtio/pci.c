#include "devices/virtio/pci.h"

#include <errno.h>
#include <linux/pci_regs.h>
#include <linux/virtio_ids.h>
#include <linux/virtio_pci.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/pci/function.h"
#include "devices/pci/msix.h"
#include "devices/virtio/device.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "memory/mmio.h"
#include "memory/region.h"

#define VENDOR          0x1AF4
#define DEVICE_BASE     0x1040
#define SUBSYSTEM       0x1100
#define REVISION        1
#define PIN_A           1

/* Where the structures are in the BAR. Each is on a page of its own. */
#define BAR             0
#define BAR_SIZE        0x8000
#define COMMON_OFFSET   0x0000
#define COMMON_SIZE     60 /* up to and with queue_reset */
#define ISR_OFFSET      0x1000
#define ISR_SIZE        1
#define CONFIG_OFFSET   0x2000
#define CONFIG_SIZE     0x1000
#define NOTIFY_OFFSET   0x3000
#define NOTIFY_SIZE     0x1000
#define REGISTERS_SIZE  0x4000
#define MSIX_OFFSET     0x4000

#define NOTIFY_STEP     4 /* bytes of each queue's register */

/* Of the capability VIRTIO_PCI_CAP_PCI_CFG. */
#define CAP_WINDOW_SIZE 20
#define CAP_WINDOW_DATA 16

#define ISR_QUEUE       1
#define ISR_CONFIG      2

struct virtio_pci {
    struct virtio_pci_config config;
    struct virtio_device *device;
    struct pci_function function;
    struct memory_region bar, registers;
    struct msix *msix; /* NULL: none */
    unsigned vectors;
    unsigned window; /* offset of the capability for accesses through configuration space */
    pthread_mutex_t isr_lock;
    uint8_t isr;
    _Atomic uint32_t device_feature_select, driver_feature_select;
    _Atomic uint16_t queue_select;
    _Atomic uint16_t config_vector;
    _Atomic uint16_t queue_vectors[VIRTIO_QUEUES_MAX];
};

/* ---- Interrupts ---- */

static bool uses_msix(struct virtio_pci *pci)
{
    return pci->msix && msix_enabled(pci->msix);
}

/* With the lock held. */
static void update_pin(struct virtio_pci *pci)
{
    pci_function_set_intx(&pci->function, pci->isr && !uses_msix(pci));
}

static void interrupt(struct virtio_pci *pci, uint16_t vector, uint8_t cause)
{
    if (uses_msix(pci)) {
        msix_raise(pci->msix, vector);
        return;
    }
    pthread_mutex_lock(&pci->isr_lock);
    pci->isr |= cause;
    update_pin(pci);
    pthread_mutex_unlock(&pci->isr_lock);
}

static void interrupt_queue(void *opaque, unsigned index)
{
    struct virtio_pci *pci = opaque;
    interrupt(pci, pci->queue_vectors[index], ISR_QUEUE);
}

static void interrupt_config(void *opaque)
{
    struct virtio_pci *pci = opaque;
    interrupt(pci, pci->config_vector, ISR_CONFIG);
}

static uint8_t take_isr(struct virtio_pci *pci)
{
    pthread_mutex_lock(&pci->isr_lock);
    uint8_t isr = pci->isr;
    pci->isr = 0;
    update_pin(pci);
    pthread_mutex_unlock(&pci->isr_lock);
    return isr;
}

/* A vector that is not there reads back as none, which tells the driver (section 4.1.5.1.2.1). */
static uint16_t valid_vector(const struct virtio_pci *pci, uint64_t vector)
{
    return vector < pci->vectors ? (uint16_t)vector : VIRTIO_NO_VECTOR;
}

static void forget_vectors(struct virtio_pci *pci)
{
    pci->config_vector = VIRTIO_NO_VECTOR;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        pci->queue_vectors[i] = VIRTIO_NO_VECTOR;
}

/* ---- Common configuration (section 4.1.4.3) ---- */

/* Of its fields; two words of 4 bytes for one of 8. */
static unsigned field_size(uint64_t offset)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_STATUS:
    case VIRTIO_PCI_COMMON_CFGGENERATION:
        return 1;
    case VIRTIO_PCI_COMMON_MSIX:
    case VIRTIO_PCI_COMMON_NUMQ:
    case VIRTIO_PCI_COMMON_Q_SELECT:
    case VIRTIO_PCI_COMMON_Q_SIZE:
    case VIRTIO_PCI_COMMON_Q_MSIX:
    case VIRTIO_PCI_COMMON_Q_ENABLE:
    case VIRTIO_PCI_COMMON_Q_NOFF:
    case VIRTIO_PCI_COMMON_Q_NDATA:
    case VIRTIO_PCI_COMMON_Q_RESET:
        return 2;
    default:
        return offset < VIRTIO_PCI_COMMON_Q_NDATA && offset % 4 == 0 ? 4 : 0;
    }
}

static uint32_t offered_features(struct virtio_pci *pci)
{
    uint32_t half = pci->device_feature_select;
    return half <= 1 ? (uint32_t)(virtio_offered_features(pci->device) >> 32 * half) : 0;
}

static uint32_t accepted_features(struct virtio_pci *pci)
{
    uint32_t half = pci->driver_feature_select;
    return half <= 1 ? (uint32_t)(virtio_accepted_features(pci->device) >> 32 * half) : 0;
}

/* Which of the three addresses a word belongs to. */
static uint64_t *queue_address(struct virtio_queue_setup *setup, uint64_t offset)
{
    if (offset < VIRTIO_PCI_COMMON_Q_AVAILLO)
        return &setup->descriptors;
    return offset < VIRTIO_PCI_COMMON_Q_USEDLO ? &setup->driver : &setup->device;
}

static uint32_t read_queue(struct virtio_pci *pci, uint64_t offset)
{
    uint16_t queue = pci->queue_select;
    struct virtio_queue_setup setup = virtio_queue_get_setup(pci->device, queue);
    bool exists = virtio_queue_size_max(pci->device, queue);
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_SIZE:
        return setup.size;
    case VIRTIO_PCI_COMMON_Q_MSIX:
        return exists ? pci->queue_vectors[queue] : VIRTIO_NO_VECTOR;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        return setup.enabled && !setup.resetting;
    case VIRTIO_PCI_COMMON_Q_NOFF:
        return exists ? queue : 0;
    case VIRTIO_PCI_COMMON_Q_NDATA:
        return 0;
    case VIRTIO_PCI_COMMON_Q_RESET:
        return setup.resetting;
    default:
        return (uint32_t)(*queue_address(&setup, offset) >> (offset & 4 ? 32 : 0));
    }
}

static uint32_t read_common(struct virtio_pci *pci, uint64_t offset)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        return pci->device_feature_select;
    case VIRTIO_PCI_COMMON_DF:
        return offered_features(pci);
    case VIRTIO_PCI_COMMON_GFSELECT:
        return pci->driver_feature_select;
    case VIRTIO_PCI_COMMON_GF:
        return accepted_features(pci);
    case VIRTIO_PCI_COMMON_MSIX:
        return pci->config_vector;
    case VIRTIO_PCI_COMMON_NUMQ:
        return pci->device->queue_count;
    case VIRTIO_PCI_COMMON_STATUS:
        return virtio_get_status(pci->device);
    case VIRTIO_PCI_COMMON_CFGGENERATION:
        return virtio_config_generation(pci->device);
    case VIRTIO_PCI_COMMON_Q_SELECT:
        return pci->queue_select;
    default:
        return read_queue(pci, offset);
    }
}

static void set_status(struct virtio_pci *pci, uint8_t status)
{
    virtio_set_status(pci->device, status);
    if (status != 0)
        return;
    forget_vectors(pci);
    take_isr(pci);
    pci->device_feature_select = 0;
    pci->driver_feature_select = 0;
    pci->queue_select = 0;
}

static void reset_queue(struct virtio_pci *pci, uint16_t queue)
{
    virtio_queue_reset(pci->device, queue);
    if (virtio_queue_size_max(pci->device, queue) && !virtio_queue_get_setup(pci->device, queue).enabled)
        pci->queue_vectors[queue] = VIRTIO_NO_VECTOR;
}

static void set_up_queue(struct virtio_pci *pci, uint64_t offset, uint32_t value)
{
    uint16_t queue = pci->queue_select;
    struct virtio_queue_setup setup = virtio_queue_get_setup(pci->device, queue);
    if (offset == VIRTIO_PCI_COMMON_Q_SIZE) {
        setup.size = (uint16_t)value;
    } else {
        uint64_t *address = queue_address(&setup, offset);
        unsigned shift = offset & 4 ? 32 : 0;
        *address = (*address & ~((uint64_t)UINT32_MAX << shift)) | (uint64_t)value << shift;
    }
    virtio_queue_set_setup(pci->device, queue, &setup);
}

static void write_queue(struct virtio_pci *pci, uint64_t offset, uint32_t value)
{
    uint16_t queue = pci->queue_select;
    switch (offset) {
    case VIRTIO_PCI_COMMON_Q_MSIX:
        if (virtio_queue_size_max(pci->device, queue))
            pci->queue_vectors[queue] = valid_vector(pci, value);
        break;
    case VIRTIO_PCI_COMMON_Q_ENABLE:
        if (value == 1)
            virtio_queue_enable(pci->device, queue);
        break;
    case VIRTIO_PCI_COMMON_Q_RESET:
        if (value == 1)
            reset_queue(pci, queue);
        break;
    case VIRTIO_PCI_COMMON_Q_NOFF:
    case VIRTIO_PCI_COMMON_Q_NDATA:
        break;
    default:
        set_up_queue(pci, offset, value);
        break;
    }
}

static void write_common(struct virtio_pci *pci, uint64_t offset, uint32_t value)
{
    switch (offset) {
    case VIRTIO_PCI_COMMON_DFSELECT:
        pci->device_feature_select = value;
        break;
    case VIRTIO_PCI_COMMON_GFSELECT:
        pci->driver_feature_select = value;
        break;
    case VIRTIO_PCI_COMMON_GF:
        virtio_accept_features(pci->device, pci->driver_feature_select, value);
        break;
    case VIRTIO_PCI_COMMON_MSIX:
        pci->config_vector = valid_vector(pci, value);
        break;
    case VIRTIO_PCI_COMMON_STATUS:
        set_status(pci, (uint8_t)value);
        break;
    case VIRTIO_PCI_COMMON_Q_SELECT:
        pci->queue_select = (uint16_t)value;
        break;
    case VIRTIO_PCI_COMMON_DF:
    case VIRTIO_PCI_COMMON_NUMQ:
    case VIRTIO_PCI_COMMON_CFGGENERATION:
        break;
    default:
        write_queue(pci, offset, value);
        break;
    }
}

/* ---- The structures as one region ---- */

static uint64_t registers_read(void *opaque, uint64_t offset, unsigned size)
{
    struct virtio_pci *pci = opaque;
    uint64_t value = 0;
    if (offset < ISR_OFFSET)
        return read_common(pci, offset - COMMON_OFFSET);
    if (offset < CONFIG_OFFSET)
        return offset == ISR_OFFSET ? take_isr(pci) : 0;
    if (offset < NOTIFY_OFFSET)
        virtio_read_config(pci->device, (uint32_t)(offset - CONFIG_OFFSET), &value, size);
    return value;
}

static void registers_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct virtio_pci *pci = opaque;
    if (offset < ISR_OFFSET)
        write_common(pci, offset - COMMON_OFFSET, (uint32_t)value);
    else if (offset >= NOTIFY_OFFSET)
        virtio_queue_kick(pci->device, (unsigned)(offset - NOTIFY_OFFSET) / NOTIFY_STEP);
    else if (offset >= CONFIG_OFFSET)
        virtio_write_config(pci->device, (uint32_t)(offset - CONFIG_OFFSET), &value, size);
}

/* Fields of the common configuration are accessed as wholes (section 4.1.3.1). */
static bool registers_accept(void *opaque, uint64_t offset, unsigned size, bool is_write)
{
    if (offset >= ISR_OFFSET)
        return true;
    return size == 8 ? field_size(offset) == 4 && field_size(offset + 4) == 4 : field_size(offset) == size;
}

/* ---- The window in configuration space (section 4.1.4.9) ---- */

/* What the window is aimed at, in the BAR; false where that is nothing. */
static bool find_window(struct virtio_pci *pci, uint32_t *offset, uint32_t *length)
{
    struct virtio_pci_cap cap;
    pci_function_get(&pci->function, pci->window, &cap, sizeof(cap));
    *offset = cap.offset;
    *length = cap.length;
    bool valid_length = cap.length == 1 || cap.length == 2 || cap.length == 4;
    return cap.bar == BAR && valid_length && cap.offset < REGISTERS_SIZE && cap.offset % cap.length == 0;
}

static bool touches_window(const struct virtio_pci *pci, unsigned offset, unsigned size)
{
    unsigned data = pci->window + CAP_WINDOW_DATA;
    return offset < data + 4 && data < offset + size;
}

static void config_reading(struct pci_function *function, unsigned offset, unsigned size)
{
    struct virtio_pci *pci = container_of(function, struct virtio_pci, function);
    uint8_t data[4];
    uint32_t target, length;
    if (!touches_window(pci, offset, size) || !find_window(pci, &target, &length))
        return;
    mmio_read(&pci->registers, target, data, length);
    pci_function_set(function, pci->window + CAP_WINDOW_DATA, data, length);
}

static void config_written(struct pci_function *function, unsigned offset, unsigned size)
{
    struct virtio_pci *pci = container_of(function, struct virtio_pci, function);
    uint8_t data[4];
    uint32_t target, length;
    if (pci->msix) {
        msix_config_written(pci->msix, offset, size);
        pthread_mutex_lock(&pci->isr_lock);
        update_pin(pci);
        pthread_mutex_unlock(&pci->isr_lock);
    }
    if (!touches_window(pci, offset, size) || !find_window(pci, &target, &length))
        return;
    pci_function_get(function, pci->window + CAP_WINDOW_DATA, data, length);
    mmio_write(&pci->registers, target, data, length);
}

/* ---- Creation ---- */

static unsigned add_structure(struct virtio_pci *pci, uint8_t type, uint32_t offset, uint32_t length,
                              uint32_t multiplier)
{
    bool is_window = type == VIRTIO_PCI_CAP_PCI_CFG;
    struct virtio_pci_notify_cap cap = {
        .cap = {.cfg_type = type, .bar = BAR, .offset = offset, .length = length},
        .notify_off_multiplier = multiplier,
    };
    unsigned size = is_window || type == VIRTIO_PCI_CAP_NOTIFY_CFG ? sizeof(cap) : sizeof(cap.cap);
    uint8_t writable[sizeof(cap)] = {0};
    if (is_window) {
        writable[VIRTIO_PCI_CAP_BAR] = 0xFF;
        memset(writable + VIRTIO_PCI_CAP_OFFSET, 0xFF, CAP_WINDOW_SIZE - VIRTIO_PCI_CAP_OFFSET);
    }
    cap.cap.cap_len = (uint8_t)size;
    return pci_function_add_capability(&pci->function, PCI_CAP_ID_VNDR,
                                       (uint8_t *)&cap + PCI_CAPABILITY_HEADER,
                                       writable + PCI_CAPABILITY_HEADER, size - PCI_CAPABILITY_HEADER);
}

static void add_structures(struct virtio_pci *pci)
{
    uint32_t notify_size = pci->device->queue_count * NOTIFY_STEP;
    add_structure(pci, VIRTIO_PCI_CAP_COMMON_CFG, COMMON_OFFSET, COMMON_SIZE, 0);
    add_structure(pci, VIRTIO_PCI_CAP_ISR_CFG, ISR_OFFSET, ISR_SIZE, 0);
    if (pci->device->config_size)
        add_structure(pci, VIRTIO_PCI_CAP_DEVICE_CFG, CONFIG_OFFSET, pci->device->config_size, 0);
    add_structure(pci, VIRTIO_PCI_CAP_NOTIFY_CFG, NOTIFY_OFFSET, notify_size, NOTIFY_STEP);
    pci->window = add_structure(pci, VIRTIO_PCI_CAP_PCI_CFG, 0, 0, 0);
}

static uint32_t class_code(uint16_t id)
{
    switch (id) {
    case VIRTIO_ID_NET:
        return 0x020000; /* Ethernet controller */
    case VIRTIO_ID_BLOCK:
        return 0x018000; /* mass storage, other */
    case VIRTIO_ID_CONSOLE:
        return 0x078000; /* communication, other */
    default:
        return 0xFF0000; /* in no class */
    }
}

static void init_function(struct virtio_pci *pci)
{
    static const struct pci_function_ops ops = {
        .config_reading = config_reading,
        .config_written = config_written,
    };
    const struct virtio_device_ops *device = pci->device->ops;
    struct pci_identity identity = {
        .vendor = VENDOR,
        .device = (uint16_t)(DEVICE_BASE + device->id),
        .subsystem_vendor = VENDOR,
        .subsystem = SUBSYSTEM,
        .class_code = class_code(device->id),
        .revision = REVISION,
        .interrupt_pin = PIN_A,
    };
    pci_function_init(&pci->function, device->name, &identity, &ops, pci->config.log);
    pci_function_add_bar(&pci->function, BAR, PCI_BAR_MEMORY_64, &pci->bar);
    add_structures(pci);
}

static int add_ioeventfds(struct virtio_pci *pci, struct error *err)
{
    int result = 0;
    memory_transaction_begin(pci->config.memory);
    for (unsigned i = 0; i < pci->device->queue_count && result == 0; i++)
        result = memory_region_add_ioeventfd(&pci->registers, NOTIFY_OFFSET + (uint64_t)i * NOTIFY_STEP, 0,
                                             false, 0, virtio_queue_kick_fd(pci->device, i), err);
    int committed = memory_transaction_commit(pci->config.memory, result ? NULL : err);
    return result ? result : committed;
}

static int init_regions(struct virtio_pci *pci, struct error *err)
{
    static const struct memory_region_ops ops = {
        .read = registers_read,
        .write = registers_write,
        .valid = {.min = 1, .max = 8},
        .impl = {.min = 1, .max = 4},
        .accepts = registers_accept,
    };
    struct memory *memory = pci->config.memory;
    const char *name = pci->device->ops->name;
    int result = memory_region_init_container(&pci->bar, memory, name, BAR_SIZE, err);
    if (result == 0)
        result = memory_region_init_mmio(&pci->registers, memory, name, &ops, pci, REGISTERS_SIZE, err);
    if (result == 0)
        result = add_ioeventfds(pci, err);
    return result < 0 ? result : memory_region_add_subregion(&pci->bar, 0, &pci->registers, 0, err);
}

static int add_msix(struct virtio_pci *pci, struct error *err)
{
    struct msix_config config = {
        .memory = pci->config.memory,
        .function = &pci->function,
        .ops = pci->config.msi,
        .opaque = pci->config.msi_opaque,
        .name = pci->device->ops->name,
        .log = pci->config.log,
        .vectors = pci->device->queue_count + 1,
        .bar = BAR,
        .container = &pci->bar,
        .offset = MSIX_OFFSET,
    };
    if (!pci->config.msi)
        return 0;
    int result = msix_create(&config, &pci->msix, err);
    if (result == 0)
        pci->vectors = config.vectors;
    return result;
}

/* What has been made of the transport; zeroed regions may be destroyed too. */
static void destroy(struct virtio_pci *pci)
{
    msix_destroy(pci->msix);
    if (pci->registers.memory)
        memory_region_remove_subregion(&pci->registers, NULL);
    memory_region_destroy(&pci->registers);
    memory_region_destroy(&pci->bar);
    pthread_mutex_destroy(&pci->isr_lock);
    free(pci);
}

int virtio_pci_create(const struct virtio_pci_config *config, struct virtio_pci **out, struct error *err)
{
    static const struct virtio_transport_ops transport_ops = {
        .interrupt_queue = interrupt_queue,
        .interrupt_config = interrupt_config,
    };
    struct virtio_pci *pci = calloc(1, sizeof(*pci));
    if (!pci)
        return error_set(err, ENOMEM, "not enough memory for the registers of %s", config->device->ops->name);
    pci->config = *config;
    pci->device = config->device;
    pthread_mutex_init(&pci->isr_lock, NULL);
    forget_vectors(pci);
    int result = init_regions(pci, err);
    if (result < 0) {
        destroy(pci);
        return result;
    }
    init_function(pci);
    result = add_msix(pci, err);
    if (result < 0) {
        pci_function_destroy(&pci->function);
        destroy(pci);
        return result;
    }
    virtio_set_transport(pci->device, &transport_ops, pci);
    *out = pci;
    return 0;
}

struct pci_function *virtio_pci_function(struct virtio_pci *pci)
{
    return &pci->function;
}

void virtio_pci_destroy(struct virtio_pci *pci)
{
    if (!pci)
        return;
    virtio_set_status(pci->device, 0);
    virtio_set_transport(pci->device, NULL, NULL);
    pci_function_destroy(&pci->function);
    memory_synchronize(pci->config.memory);
    destroy(pci);
}
