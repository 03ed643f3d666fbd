/*
 * Virtio devices: what a kind of device (block, network, ...) has in common with all others, and what lies
 * between it and its transport (virtio/mmio.h, virtio/pci.h), neither of which knows the other.
 *
 * A kind of device fills in `struct virtio_device_ops` and works on queues; the transport shows registers to
 * the guest and calls the functions here. Negotiation of features, the status register, the life of queues
 * and NEEDS_RESET are here, once.
 *
 * Threads. Registers are accessed by vCPU threads, which take the device's lock. Each queue is served by one
 * event loop (that of the machine, or of an I/O thread): kicks arrive there by an eventfd, and ops->kicked is
 * called there, without the lock. Resets and changes of a queue's being enabled are carried to that loop and
 * waited for, so a kind of device needs no lock for what belongs to a queue: when `stop_queue` returns, no
 * request of it is under way and none of its memory is used. An interrupt may be raised from any thread.
 *
 * Specification: VIRTIO 1.2, sections 2.1 to 2.5, 3.1, and 4 for what transports share. Legacy drivers are
 * not served: VIRTIO_F_VERSION_1 is required.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct address_space;
struct error;
struct event_loop;
struct log;
struct virtio_device;
struct virtqueue;

#define VIRTIO_QUEUES_MAX 64
#define VIRTIO_NO_VECTOR  0xFFFF

/* One kind of device. All but `kicked` are optional. */
struct virtio_device_ops {
    const char *name; /* "virtio-blk" */
    uint16_t id;      /* VIRTIO 1.2, section 5 */
    /* The device's configuration space, without what changes by itself: bytes outside of it read as 0 and are
     * not written. With the device's lock held. */
    void (*read_config)(struct virtio_device *device, uint32_t offset, void *data, uint32_t size);
    void (*write_config)(struct virtio_device *device, uint32_t offset, const void *data, uint32_t size);
    /* The driver has accepted `device->features`; DRIVER_OK follows. With the lock held, on a vCPU thread. */
    int (*start)(struct virtio_device *device, struct error *err);
    /* The device has been reset: all its queues are stopped. With the lock held, on a vCPU thread. */
    void (*reset)(struct virtio_device *device);
    /* On the queue's loop: it is enabled and the driver is ready; requests may be there already. */
    void (*start_queue)(struct virtio_device *device, unsigned index, struct virtqueue *queue);
    /* On the queue's loop: requests may have come. Called again for a kick that comes meanwhile. */
    void (*kicked)(struct virtio_device *device, unsigned index, struct virtqueue *queue);
    /*
     * On the queue's loop: ends everything that uses the queue: completes, cancels or drops each chain, and
     * calls virtio_queue_stopped() when no request is under way any more, at once or later.
     */
    void (*stop_queue)(struct virtio_device *device, unsigned index, struct virtqueue *queue);
};

/* How the device reaches its transport. Any thread. */
struct virtio_transport_ops {
    /* Interrupts the driver for queue `index`. */
    void (*interrupt_queue)(void *opaque, unsigned index);
    /* Interrupts it because of its configuration. */
    void (*interrupt_config)(void *opaque);
};

struct virtio_queue; /* the device's side of one queue: private */

/* Embedded in its kind of device. Private but for the fields described as public. */
struct virtio_device {
    const struct virtio_device_ops *ops;
    const struct log *log;
    struct address_space *space;
    uint64_t offered;     /* public: set before virtio_device_init(); VERSION_1, ring features are added */
    uint64_t features;    /* public: accepted by the driver */
    uint32_t config_size; /* public: bytes of configuration space */
    unsigned queue_count;
    struct virtio_queue *queues;
    pthread_mutex_t lock;
    uint8_t status;
    uint8_t generation; /* of the configuration */
    const struct virtio_transport_ops *transport;
    void *transport_opaque;
};

struct virtio_device_config {
    const struct virtio_device_ops *ops;
    const struct log *log;       /* what a broken queue is told to; borrowed, as is the rest */
    struct address_space *space; /* in which the queues' addresses are */
    unsigned queue_count;
    uint16_t queue_size_max;         /* a power of two up to VIRTQUEUE_SIZE_MAX */
    struct event_loop *const *loops; /* one for each queue */
};

/* Creates what is common, eventfds included. -errno with a message. */
int virtio_device_init(struct virtio_device *device, const struct virtio_device_config *config,
                       struct error *err);

/* Stops all queues and frees it. No vCPU runs. */
void virtio_device_destroy(struct virtio_device *device);

/* ---- For kinds of devices ---- */

/* Accepted by the driver. */
static inline bool virtio_has_feature(const struct virtio_device *device, unsigned bit)
{
    return device->features >> bit & 1;
}

/* On the queue's loop: interrupts the driver if it wants to know of what was pushed. */
void virtio_queue_interrupt(struct virtio_device *device, unsigned index);

/* On the queue's loop: answers stop_queue. */
void virtio_queue_stopped(struct virtio_device *device, unsigned index);

/* On the queue's loop: the queue is broken, for the reason given: logs it, sets NEEDS_RESET, tells the
 * driver. */
void virtio_queue_broke(struct virtio_device *device, unsigned index, const struct error *why);

/* Any thread: the configuration space has changed. */
void virtio_config_changed(struct virtio_device *device);

/* ---- For transports ---- */

void virtio_set_transport(struct virtio_device *device, const struct virtio_transport_ops *ops, void *opaque);

/* Status register. Writing 0 resets, and waits until all queues are stopped. */
uint8_t virtio_get_status(struct virtio_device *device);
void virtio_set_status(struct virtio_device *device, uint8_t status);

uint64_t virtio_offered_features(struct virtio_device *device);
uint64_t virtio_accepted_features(struct virtio_device *device);
/* `half` 0: bits 0 to 31. Ignored from FEATURES_OK on. */
void virtio_accept_features(struct virtio_device *device, unsigned half, uint32_t bits);

uint8_t virtio_config_generation(struct virtio_device *device);
void virtio_read_config(struct virtio_device *device, uint32_t offset, void *data, uint32_t size);
void virtio_write_config(struct virtio_device *device, uint32_t offset, const void *data, uint32_t size);

/* What a driver sets up of a queue. Changes are ignored while it is enabled. */
struct virtio_queue_setup {
    uint16_t size;
    uint64_t descriptors, driver, device;
    bool enabled;
};

/* A queue that is not there has a size of 0. */
uint16_t virtio_queue_size_max(struct virtio_device *device, unsigned index);
struct virtio_queue_setup virtio_queue_get_setup(struct virtio_device *device, unsigned index);
void virtio_queue_set_setup(struct virtio_device *device, unsigned index,
                            const struct virtio_queue_setup *setup);

/* Enables it (served once DRIVER_OK is set); or resets this queue alone (VIRTIO_F_RING_RESET), and waits. */
void virtio_queue_enable(struct virtio_device *device, unsigned index);
void virtio_queue_reset(struct virtio_device *device, unsigned index);

/* The eventfd that a write to the queue's notify register signals: for an ioeventfd, or by hand. */
int virtio_queue_kick_fd(struct virtio_device *device, unsigned index);
