/*
 * The virtio devices of a machine: each is made from its row of the configuration and put into a slot, which
 * is the transport by which the guest reaches it. Neither knows the other: kinds of devices are made by
 * vmm/virtio_NAME.c, and where registers and interrupts are is the board's business.
 *
 * A new kind of device is a function virtio_NAME_create() as described here, and a line in the table `kinds`
 * of virtio_devices.c.
 *
 * Made, used and freed by the machine's thread.
 */
#pragma once

struct address_space;
struct backends;
struct config;
struct error;
struct event_loop;
struct io_threads;
struct kvm_vm;
struct log;
struct memory;
struct memory_region;
struct msi_ops;
struct pci_host;
struct virtio_device;
struct virtio_devices;

/* ---- For kinds of devices ---- */

/* What a device is made with: all of it is borrowed and outlives the device. */
struct virtio_environment {
    const struct config *config;
    const struct backends *backends; /* what devices stand on in the host */
    const struct log *log;
    struct address_space *space; /* in which the guest's queues are */
    struct event_loop *loop;     /* the machine's */
    struct io_threads *threads;  /* that give each queue its loop */
};

/*
 * A device, and how to free it with all that belongs to it. By then it has been reset, and has no transport.
 *
 * virtio_NAME_create() fills one in for entry `index` of its option: 0, or -errno with a message (which need
 * not name the option).
 */
struct virtio_unit {
    struct virtio_device *device;
    void (*destroy)(void *opaque);
    void *opaque;
};

/* ---- For boards ---- */

/* All borrowed. */
struct virtio_devices_config {
    const struct config *config;
    const struct backends *backends;
    const struct log *log;
    struct event_loop *loop;
    struct memory *memory;
    struct address_space *space;
    /* Over PCI: the host, to which they are added, and who sends their messages. */
    struct pci_host *pci; /* NULL: over MMIO */
    const struct msi_ops *msi;
    void *msi_opaque;
    /* Over MMIO: places for registers, by the interrupt line of each, which is edge-triggered. `place` maps a
     * region in one of them, and describes it to the guest. -errno with a message. */
    const struct kvm_vm *vm;
    const unsigned *irqs;
    unsigned irq_count;
    int (*place)(void *opaque, struct memory_region *registers, unsigned index, struct error *err);
    void *opaque;
};

/* How many devices a configuration asks for. */
unsigned virtio_devices_count(const struct config *config);

/* Makes all of them, and the I/O threads that serve them. The VM has interrupt controllers. -errno with a
 * message, and what has been made so far is to be destroyed. */
int virtio_devices_create(const struct virtio_devices_config *config, struct virtio_devices **devices,
                          struct error *err);

/*
 * Resets all devices: cancels the requests under way and waits for them, which blocks for as long as the
 * host's kernel can neither carry out nor cancel one. No vCPU runs, nor will. NULL is allowed, as it is next.
 */
void virtio_devices_stop(struct virtio_devices *devices);

/* Frees everything. They are stopped, and no region is mapped any more. */
void virtio_devices_destroy(struct virtio_devices *devices);
