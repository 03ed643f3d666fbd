/*
 * The registers of a virtio device, over MMIO or PCI, for a driver that keeps to no rule: each function is
 * one or a few accesses, in whatever state the device is.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/pci.h"

#define STATUS_ACKNOWLEDGE 0x01
#define STATUS_DRIVER      0x02
#define STATUS_DRIVER_OK   0x04
#define STATUS_FEATURES_OK 0x08
#define STATUS_NEEDS_RESET 0x40
#define STATUS_FAILED      0x80

struct device {
    bool pci;
    uint64_t registers; /* PCI: the common configuration */
    uint64_t config;    /* its configuration space */
    uint64_t offered;   /* features */
    /* PCI alone: */
    struct pci_function function;
    uint64_t notify, notify_step;
};

#define DEVICE_NETWORK 1
#define DEVICE_DISK    2

/* The `index`-th device of a kind. False if there is none. */
bool device_find(uint32_t kind, unsigned index, struct device *device);

/* A disk's capacity. */
uint64_t device_sectors(const struct device *device);

uint32_t device_status(const struct device *device);
void device_set_status(const struct device *device, uint32_t status);

/* PCI has fewer bits for queues and sizes: what is left of a number there. */
uint32_t device_number(const struct device *device, uint32_t number);

/* What the driver says it has accepted; not FEATURES_OK. */
void device_accept(const struct device *device, uint64_t features);

/* Of the selected queue. */
void device_select(const struct device *device, uint32_t queue);
uint32_t device_queue_size_max(const struct device *device);
void device_set_queue_size(const struct device *device, uint32_t size);
void device_set_queue_areas(const struct device *device, uint64_t descriptors, uint64_t driver,
                            uint64_t area_of_device);
void device_enable_queue(const struct device *device);
bool device_queue_enabled(const struct device *device);

/* Take the selected queue away: with VIRTIO_F_RING_RESET, or as MMIO allows by itself. */
void device_reset_queue(const struct device *device);
void device_disable_queue(const struct device *device);

void device_notify(const struct device *device, uint32_t queue);

/* Where its registers and its configuration space are, and how many bytes are worth a try. */
struct span {
    uint64_t start, size;
};
struct span device_registers(const struct device *device);
struct span device_config(const struct device *device);
