#include "vmm/virtio_devices.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/virtio/device.h"
#include "devices/virtio/mmio.h"
#include "devices/virtio/pci.h"
#include "vmm/config.h"
#include "vmm/io_threads.h"
#include "vmm/irqfd.h"
#include "vmm/pci_host.h"
#include "vmm/virtio_disk.h"
#include "vmm/virtio_nic.h"

/* Every kind of virtio device: a new one is a line here. */
static const struct kind {
    const char *option;
    size_t count; /* offset of the number of entries in the configuration */
    int (*create)(const struct virtio_environment *environment, unsigned index, struct virtio_unit *unit,
                  struct error *err);
} kinds[] = {
    {"--disk", offsetof(struct config, disk_count), virtio_disk_create},
    {"--net", offsetof(struct config, net_count), virtio_nic_create},
};

/* A device with its transport: PCI, or MMIO and an interrupt. */
struct slot {
    struct virtio_unit unit;
    struct virtio_pci *pci;
    struct virtio_mmio *mmio;
    struct irqfd irqfd;
};

struct virtio_devices {
    struct virtio_devices_config config;
    struct io_threads *threads;
    unsigned slot_count;
    struct slot slots[];
};

static unsigned count_of(const struct config *config, const struct kind *kind)
{
    return *(const unsigned *)((const char *)config + kind->count);
}

unsigned virtio_devices_count(const struct config *config)
{
    unsigned count = 0;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        count += count_of(config, &kinds[i]);
    return count;
}

static int connect_to_pci(struct virtio_devices *devices, struct slot *slot, struct error *err)
{
    const struct virtio_devices_config *config = &devices->config;
    const struct virtio_pci_config pci = {
        .memory = config->memory,
        .device = slot->unit.device,
        .msi = config->msi,
        .msi_opaque = config->msi_opaque,
        .log = config->log,
    };
    int result = virtio_pci_create(&pci, &slot->pci, err);
    return result < 0 ? result : pci_host_add(config->pci, virtio_pci_function(slot->pci), err);
}

static int connect_to_mmio(struct virtio_devices *devices, struct slot *slot, struct error *err)
{
    const struct virtio_devices_config *config = &devices->config;
    unsigned index = (unsigned)(slot - devices->slots);
    if (index == config->irq_count)
        return error_set(err, ENOSPC,
                         "a machine has at most %u virtio devices over MMIO: use --transport pci",
                         config->irq_count);
    int result = irqfd_init(&slot->irqfd, config->vm, config->irqs[index], err);
    if (result == 0)
        result = virtio_mmio_create(config->memory, slot->unit.device, slot->irqfd.fd, &slot->mmio, err);
    return result < 0 ? result : config->place(config->opaque, virtio_mmio_region(slot->mmio), index, err);
}

static int add(struct virtio_devices *devices, const struct kind *kind, unsigned index, struct error *err)
{
    const struct virtio_environment environment = {
        .config = devices->config.config,
        .backends = devices->config.backends,
        .log = devices->config.log,
        .space = devices->config.space,
        .loop = devices->config.loop,
        .threads = devices->threads,
    };
    struct slot *slot = &devices->slots[devices->slot_count];
    slot->irqfd.fd = -1;
    int result = kind->create(&environment, index, &slot->unit, err);
    if (result == 0) {
        devices->slot_count++;
        result =
            devices->config.pci ? connect_to_pci(devices, slot, err) : connect_to_mmio(devices, slot, err);
    }
    return error_prefix(err, result, "%s", kind->option);
}

static int add_all(struct virtio_devices *devices, struct error *err)
{
    const struct config *config = devices->config.config;
    int result = io_threads_create(config->io_threads, devices->config.loop, &devices->threads, err);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
        for (unsigned index = 0; index < count_of(config, &kinds[i]) && result == 0; index++)
            result = add(devices, &kinds[i], index, err);
    }
    return result;
}

int virtio_devices_create(const struct virtio_devices_config *config, struct virtio_devices **out,
                          struct error *err)
{
    unsigned count = virtio_devices_count(config->config);
    struct virtio_devices *devices = calloc(1, sizeof(*devices) + count * sizeof(devices->slots[0]));
    if (!devices)
        return error_set(err, ENOMEM, "not enough memory for virtio devices");
    devices->config = *config;
    *out = devices;
    return add_all(devices, err);
}

void virtio_devices_stop(struct virtio_devices *devices)
{
    for (unsigned i = 0; devices && i < devices->slot_count; i++)
        virtio_set_status(devices->slots[i].unit.device, 0);
}

void virtio_devices_destroy(struct virtio_devices *devices)
{
    if (!devices)
        return;
    for (unsigned i = 0; i < devices->slot_count; i++) {
        struct slot *slot = &devices->slots[i];
        virtio_pci_destroy(slot->pci);
        virtio_mmio_destroy(slot->mmio);
        slot->unit.destroy(slot->unit.opaque);
        irqfd_release(&slot->irqfd);
    }
    io_threads_destroy(devices->threads);
    free(devices);
}
