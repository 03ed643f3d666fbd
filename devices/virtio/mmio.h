/*
 * Virtio over MMIO: registers for a virtio device at an address that the guest is told (by ACPI, a device
 * tree, its command line).
 *
 * One region of 0x200 bytes: registers, 4 bytes wide and aligned, then the device's configuration space from
 * 0x100 on, in aligned accesses of 1, 2 or 4 bytes. Anything else is refused. A notification is an
 * ioeventfd, one for each queue, told apart by the value written; where there is no accelerator, or it cannot
 * do that, the write arrives here and does the same. Interrupts are written to an eventfd, which an irqfd
 * leads to an edge-triggered interrupt; what they were for is in InterruptStatus before.
 *
 * It has no lock: queue and feature selectors are single words, so vCPUs that use them at the same time
 * confuse nobody but themselves.
 *
 * Specification: VIRTIO 1.2, section 4.2, version 2 of the registers. There is no shared memory.
 */
#pragma once

struct error;
struct memory;
struct memory_region;
struct virtio_device;
struct virtio_mmio;

#define VIRTIO_MMIO_REGION_SIZE 0x200

/*
 * Becomes the transport of `device` (borrowed, as its eventfds are; it outlives the transport). `irq_fd`
 * (borrowed, non-blocking) is an eventfd. -errno with a message.
 */
int virtio_mmio_create(struct memory *memory, struct virtio_device *device, int irq_fd,
                       struct virtio_mmio **mmio, struct error *err);

/* The region, for the board to map. */
struct memory_region *virtio_mmio_region(struct virtio_mmio *mmio);

/* Resets the device, then frees the transport. The region is in no view any more, and no access to it under
 * way. NULL is allowed. */
void virtio_mmio_destroy(struct virtio_mmio *mmio);
