#include "devices/pci/msix.h"

#include <assert.h>
#include <errno.h>
#include <linux/pci_regs.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/pci/function.h"
#include "memory/region.h"

#define PAGE_SIZE      4096
#define PENDING_BITS   64

/* A guest whose routes are refused over and over does not fill the log. */
#define COMPLAINTS_MAX 16

struct vector {
    int fd;
    bool masked; /* by its entry */
    bool attached;
    uint32_t route;             /* MSI_NO_ROUTE: none yet */
    struct msi_message message; /* as the guest has written it */
    struct msi_message routed;  /* what the route sends */
};

struct msix {
    struct msix_config config;
    struct memory_region table, pending;
    unsigned capability; /* its offset */
    pthread_mutex_t lock;
    _Atomic bool enabled; /* written with the lock held */
    bool all_masked;
    unsigned complaints;
    struct vector *vectors;
};

static uint32_t table_size(unsigned vectors)
{
    return (uint32_t)align_up((uint64_t)vectors * PCI_MSIX_ENTRY_SIZE, PAGE_SIZE);
}

static uint32_t pending_size(unsigned vectors)
{
    return (uint32_t)align_up(vectors, PENDING_BITS) / 8;
}

uint32_t msix_size(unsigned vectors)
{
    return table_size(vectors) + (uint32_t)align_up(pending_size(vectors), PAGE_SIZE);
}

/* ---- Routes, with the lock held ---- */

static void complain(struct msix *msix, const struct vector *vector, const struct error *err)
{
    unsigned complaints = msix->complaints++;
    if (complaints < COMPLAINTS_MAX)
        log_write(msix->config.log, LOG_WARN, "%s: interrupt %u stays silent: %s%s", msix->config.name,
                  (unsigned)(vector - msix->vectors), err->message,
                  complaints == COMPLAINTS_MAX - 1 ? " (more of this is not shown)" : "");
}

static int bring_route_up_to_date(struct msix *msix, struct vector *vector, struct error *err)
{
    const struct msi_message *wanted = &vector->message, *routed = &vector->routed;
    if (vector->route != MSI_NO_ROUTE && wanted->address == routed->address && wanted->data == routed->data)
        return 0;
    int result = msix->config.ops->set_route(msix->config.opaque, wanted, &vector->route, err);
    if (result == 0)
        vector->routed = *wanted;
    return result;
}

static void attach(struct msix *msix, struct vector *vector)
{
    struct error err;
    int result = bring_route_up_to_date(msix, vector, &err);
    if (result == 0)
        result = msix->config.ops->attach(msix->config.opaque, vector->fd, vector->route, &err);
    if (result < 0)
        complain(msix, vector, &err);
    else
        vector->attached = true;
}

static void detach(struct msix *msix, struct vector *vector)
{
    msix->config.ops->detach(msix->config.opaque, vector->fd, vector->route);
    vector->attached = false;
}

static void update_vector(struct msix *msix, struct vector *vector)
{
    bool sends = msix->enabled && !msix->all_masked && !vector->masked;
    if (sends && !vector->attached)
        attach(msix, vector);
    else if (!sends && vector->attached)
        detach(msix, vector);
}

static bool is_pending(const struct vector *vector)
{
    struct pollfd look = {.fd = vector->fd, .events = POLLIN};
    return !vector->attached && poll(&look, 1, 0) == 1;
}

static void forget_pending(struct vector *vector)
{
    eventfd_t count;
    eventfd_read(vector->fd, &count);
}

void msix_config_written(struct msix *msix, unsigned offset, unsigned size)
{
    unsigned flags_at = msix->capability + PCI_MSIX_FLAGS;
    uint8_t flags[2];
    if (offset >= flags_at + sizeof(flags) || offset + size <= flags_at)
        return;
    pthread_mutex_lock(&msix->lock);
    /* With the lock held: of two vCPUs that write, the last to come here sees the last that was written. */
    pci_function_get(msix->config.function, flags_at, flags, sizeof(flags));
    bool was_enabled = msix->enabled;
    msix->enabled = flags[1] & PCI_MSIX_FLAGS_ENABLE >> 8;
    msix->all_masked = flags[1] & PCI_MSIX_FLAGS_MASKALL >> 8;
    for (unsigned i = 0; i < msix->config.vectors; i++) {
        update_vector(msix, &msix->vectors[i]);
        if (was_enabled && !msix->enabled)
            forget_pending(&msix->vectors[i]);
    }
    pthread_mutex_unlock(&msix->lock);
}

/* ---- The table and the pending bits (section 6.8.2) ---- */

static uint32_t read_entry(const struct vector *vector, unsigned field)
{
    switch (field) {
    case PCI_MSIX_ENTRY_LOWER_ADDR:
        return (uint32_t)vector->message.address;
    case PCI_MSIX_ENTRY_UPPER_ADDR:
        return (uint32_t)(vector->message.address >> 32);
    case PCI_MSIX_ENTRY_DATA:
        return vector->message.data;
    default:
        return vector->masked ? PCI_MSIX_ENTRY_CTRL_MASKBIT : 0;
    }
}

static void write_entry(struct msix *msix, struct vector *vector, unsigned field, uint32_t value)
{
    uint64_t address = vector->message.address;
    switch (field) {
    case PCI_MSIX_ENTRY_LOWER_ADDR:
        vector->message.address = (address & ~(uint64_t)UINT32_MAX) | (value & ~3u);
        break;
    case PCI_MSIX_ENTRY_UPPER_ADDR:
        vector->message.address = (address & UINT32_MAX) | (uint64_t)value << 32;
        break;
    case PCI_MSIX_ENTRY_DATA:
        vector->message.data = value;
        break;
    default:
        vector->masked = value & PCI_MSIX_ENTRY_CTRL_MASKBIT;
        update_vector(msix, vector);
        break;
    }
}

static struct vector *find_vector(struct msix *msix, uint64_t offset)
{
    uint64_t index = offset / PCI_MSIX_ENTRY_SIZE;
    return index < msix->config.vectors ? &msix->vectors[index] : NULL;
}

static uint64_t table_read(void *opaque, uint64_t offset, unsigned size)
{
    struct msix *msix = opaque;
    const struct vector *vector = find_vector(msix, offset);
    if (!vector)
        return 0;
    pthread_mutex_lock(&msix->lock);
    uint32_t value = read_entry(vector, offset % PCI_MSIX_ENTRY_SIZE);
    pthread_mutex_unlock(&msix->lock);
    return value;
}

static void table_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct msix *msix = opaque;
    struct vector *vector = find_vector(msix, offset);
    if (!vector)
        return;
    pthread_mutex_lock(&msix->lock);
    write_entry(msix, vector, offset % PCI_MSIX_ENTRY_SIZE, (uint32_t)value);
    pthread_mutex_unlock(&msix->lock);
}

static uint64_t pending_read(void *opaque, uint64_t offset, unsigned size)
{
    struct msix *msix = opaque;
    uint64_t value = 0, first = offset * 8;
    pthread_mutex_lock(&msix->lock);
    for (unsigned i = 0; i < size * 8 && first + i < msix->config.vectors; i++)
        value |= (uint64_t)is_pending(&msix->vectors[first + i]) << i;
    pthread_mutex_unlock(&msix->lock);
    return value;
}

/* What is there cannot be written (section 6.8.2.10). */
static void pending_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
}

/* ---- For devices ---- */

bool msix_enabled(struct msix *msix)
{
    return msix->enabled;
}

int msix_fd(const struct msix *msix, unsigned vector)
{
    return vector < msix->config.vectors ? msix->vectors[vector].fd : -1;
}

void msix_raise(struct msix *msix, unsigned vector)
{
    int fd = msix_fd(msix, vector);
    if (fd >= 0)
        eventfd_write(fd, 1);
}

static int create_vectors(struct msix *msix, struct error *err)
{
    unsigned count = msix->config.vectors;
    msix->vectors = calloc(count, sizeof(*msix->vectors));
    if (!msix->vectors)
        return error_set(err, ENOMEM, "not enough memory for the interrupts of %s", msix->config.name);
    for (unsigned i = 0; i < count; i++)
        msix->vectors[i] = (struct vector){.fd = -1, .masked = true, .route = MSI_NO_ROUTE};
    for (unsigned i = 0; i < count; i++) {
        int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (fd < 0)
            return error_set_errno(err, errno, "cannot create an eventfd for an interrupt of %s",
                                   msix->config.name);
        msix->vectors[i].fd = fd;
    }
    return 0;
}

static int create_regions(struct msix *msix, struct error *err)
{
    static const struct memory_region_ops table_ops = {
        .read = table_read,
        .write = table_write,
        .valid = {.min = 4, .max = 8},
        .impl = {.min = 4, .max = 4},
    };
    static const struct memory_region_ops pending_ops = {
        .read = pending_read,
        .write = pending_write,
        .valid = {.min = 4, .max = 8},
        .impl = {.min = 4, .max = 8},
    };
    const struct msix_config *config = &msix->config;
    uint32_t size = table_size(config->vectors), pending = pending_size(config->vectors);
    int result =
        memory_region_init_mmio(&msix->table, config->memory, "msix-table", &table_ops, msix, size, err);
    if (result == 0)
        result = memory_region_init_mmio(&msix->pending, config->memory, "msix-pending", &pending_ops, msix,
                                         pending, err);
    if (result == 0)
        result = memory_region_add_subregion(config->container, config->offset, &msix->table, 0, err);
    if (result == 0)
        result =
            memory_region_add_subregion(config->container, config->offset + size, &msix->pending, 0, err);
    return result;
}

static void add_capability(struct msix *msix)
{
    static const uint8_t writable[10] = {0, (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8};
    const struct msix_config *config = &msix->config;
    uint16_t flags = (uint16_t)(config->vectors - 1);
    uint32_t table = config->offset | config->bar;
    uint32_t pending = (config->offset + table_size(config->vectors)) | config->bar;
    uint8_t body[10];
    memcpy(body, &flags, sizeof(flags));
    memcpy(body + 2, &table, sizeof(table));
    memcpy(body + 6, &pending, sizeof(pending));
    msix->capability =
        pci_function_add_capability(config->function, PCI_CAP_ID_MSIX, body, writable, sizeof(body));
}

int msix_create(const struct msix_config *config, struct msix **out, struct error *err)
{
    assert(config->vectors > 0 && config->vectors <= MSIX_VECTORS_MAX && config->offset % PAGE_SIZE == 0);
    struct msix *msix = calloc(1, sizeof(*msix));
    if (!msix)
        return error_set(err, ENOMEM, "not enough memory for the interrupts of %s", config->name);
    msix->config = *config;
    pthread_mutex_init(&msix->lock, NULL);
    int result = create_vectors(msix, err);
    if (result == 0)
        result = create_regions(msix, err);
    if (result < 0) {
        msix_destroy(msix);
        return result;
    }
    add_capability(msix);
    *out = msix;
    return 0;
}

static void destroy_vector(struct msix *msix, struct vector *vector)
{
    if (vector->attached)
        detach(msix, vector);
    if (vector->route != MSI_NO_ROUTE)
        msix->config.ops->drop_route(msix->config.opaque, vector->route);
    if (vector->fd >= 0)
        close(vector->fd);
}

void msix_destroy(struct msix *msix)
{
    if (!msix)
        return;
    for (unsigned i = 0; i < msix->config.vectors && msix->vectors; i++)
        destroy_vector(msix, &msix->vectors[i]);
    struct memory_region *const regions[] = {&msix->table, &msix->pending};
    for (unsigned i = 0; i < ARRAY_SIZE(regions); i++) {
        if (regions[i]->memory)
            memory_region_remove_subregion(regions[i], NULL);
        memory_region_destroy(regions[i]);
    }
    free(msix->vectors);
    pthread_mutex_destroy(&msix->lock);
    free(msix);
}
