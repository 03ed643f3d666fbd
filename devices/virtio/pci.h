/*
 * Virtio over PCI: a virtio device as a function on a PCI bus (pci/bus.h).
 *
 * It has one BAR, number 0, 64 bits of memory, in which all structures of the specification are: the common
 * configuration, the interrupt status, the device's configuration, a notify register of 4 bytes for each
 * queue, and behind these the MSI-X table. A capability points to each. A notification is an ioeventfd that
 * takes a write of any value and width, and follows the BAR where the guest moves it; where there is no
 * accelerator, or it cannot do that, the write arrives here and does the same. The structures are reached
 * through configuration space too (VIRTIO_PCI_CAP_PCI_CFG), also while no BAR is anywhere.
 *
 * Interrupts are MSI-X messages, one vector for each queue and one more, as the driver distributes them; as
 * long as MSI-X is off, or where the machine has none, it is the interrupt pin (INTA), with the cause in the
 * interrupt status, which a read clears.
 *
 * Threads and locks. The interrupt status has a lock, within which the bus's lock of lines is taken; loops
 * take it. Selectors are single words, so vCPUs that use them at the same time confuse nobody but themselves.
 *
 * Specification: VIRTIO 1.2, section 4.1. Devices are not transitional; there is no shared memory, and no
 * notification data.
 */
#pragma once

struct error;
struct log;
struct memory;
struct msi_ops;
struct pci_function;
struct virtio_device;
struct virtio_pci;

struct virtio_pci_config {
    struct memory *memory;
    struct virtio_device *device; /* it outlives the transport, as all else here */
    const struct msi_ops *msi;    /* pci/msix.h; NULL: the machine has no MSI-X */
    void *msi_opaque;
    const struct log *log; /* NULL: none */
};

/* Becomes the transport of the device. -errno with a message. */
int virtio_pci_create(const struct virtio_pci_config *config, struct virtio_pci **pci, struct error *err);

/* For the board to add to a bus. */
struct pci_function *virtio_pci_function(struct virtio_pci *pci);

/* Resets the device, takes the function off its bus and frees the transport. No vCPU runs. NULL is allowed.
 */
void virtio_pci_destroy(struct virtio_pci *pci);
