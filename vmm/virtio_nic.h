/*
 * The network cards of a machine: virtio network devices on the networks of its backends.
 */
#pragma once

struct error;
struct virtio_environment;
struct virtio_unit;

/* As vmm/virtio_devices.h says. */
int virtio_nic_create(const struct virtio_environment *environment, unsigned index, struct virtio_unit *unit,
                      struct error *err);
