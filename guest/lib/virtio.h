/*
 * Virtio devices, as a driver in user mode sees them: over MMIO, which the device tree or the command line
 * (virtio_mmio.device=SIZE@ADDRESS:IRQ) tells, and over PCI (VIRTIO 1.2, sections 3.1, 4.1 and 4.2). Their
 * queues: guest/lib/virtqueue.h.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/pci.h"
#include "guest/lib/virtqueue.h"

#define VIRTIO_F_INDIRECT    (1ull << 28)
#define VIRTIO_F_EVENT_IDX   (1ull << 29)
#define VIRTIO_F_VERSION_1   (1ull << 32)
#define VIRTIO_F_RING_PACKED (1ull << 34)

#define VIRTIO_ACKNOWLEDGE   1 /* of the status */
#define VIRTIO_DRIVER        2
#define VIRTIO_DRIVER_OK     4
#define VIRTIO_FEATURES_OK   8
#define VIRTIO_NEEDS_RESET   0x40

struct virtio_device;

/* What differs between the two. */
struct virtio_transport {
    const char *name;
    uint8_t (*status)(const struct virtio_device *device);
    void (*set_status)(const struct virtio_device *device, uint8_t status);
    /* `half` 0: bits 0 to 31. */
    uint32_t (*offered)(const struct virtio_device *device, unsigned half);
    void (*accept)(const struct virtio_device *device, unsigned half, uint32_t features);
    /* Entries that queue `number` can have; 0: there is no such queue, or it is enabled. */
    uint16_t (*queue_size_max)(const struct virtio_device *device, unsigned number);
    /* Sets the queue up, enables it, and fills in how it is kicked. */
    bool (*enable_queue)(const struct virtio_device *device, struct virtqueue *queue);
    bool (*interrupt)(struct virtio_device *device, uint8_t vector);
    bool (*acknowledge)(const struct virtio_device *device);
};

struct virtio_device {
    const struct virtio_transport *transport;
    uint64_t base;     /* of its registers; PCI: of the common configuration */
    uint64_t config;   /* of its own configuration space */
    uint32_t irq;      /* MMIO: the pin of the IOAPIC */
    uint64_t features; /* that were negotiated */
    struct pci_function function;
    uint64_t notify; /* PCI: of the notification registers */
    uint32_t notify_step;
    bool by_msix;
};

/* Finds the `index`-th device of the kind `id`: those over MMIO in the order of addresses, then those of PCI.
 */
bool virtio_find(uint32_t id, unsigned index, struct virtio_device *device);

/* Resets the device, and waits until it has: then its queues' memory is the driver's again. */
void virtio_reset(const struct virtio_device *device);

/* Resets the device and negotiates those of the features `wanted` that it offers. False if it refuses them.
 */
bool virtio_negotiate(struct virtio_device *device, uint64_t wanted);

/*
 * The features of rings that the command line asks for, to be negotiated: ring=split (the default) or packed;
 * event=yes (the default) or no; indirect=no (the default) or yes.
 */
uint64_t virtio_ring_features(void);

/*
 * Sets up queue `number`, which is zeroed, with `size` entries, a power of two, or as many as it can have.
 * False if the device has no such queue.
 */
bool virtio_queue_setup(struct virtio_device *device, unsigned number, uint16_t size,
                        struct virtqueue *queue);

/* The driver is ready. */
void virtio_start(struct virtio_device *device);

uint8_t virtio_status(const struct virtio_device *device);

/* 32 bits of its configuration space, at a multiple of 4. */
uint32_t virtio_config(const struct virtio_device *device, uint32_t offset);

/* Has its interrupts arrive at this CPU as `vector`. Before its queues are set up. False if that cannot be.
 */
bool virtio_interrupt(struct virtio_device *device, uint8_t vector);

/* Whether it has interrupted since the last call, which ends the interrupt. At any CPL. */
bool virtio_acknowledge(const struct virtio_device *device);

/* Of the two transports: the first device from place `*place` on, which moves behind it. */
bool virtio_mmio_next(uint64_t *place, uint32_t *id, struct virtio_device *device);
bool virtio_pci_next(uint64_t *place, uint32_t *id, struct virtio_device *device);
