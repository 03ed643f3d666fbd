/*
 * Virtio devices: what a kind of device (block, network, ...) has in common with all others, and what lies
 * between it and its transport (virtio/mmio.h, virtio/pci.h), neither of which knows the other.
 *
 * A kind of device fills in `struct virtio_device_ops` and works on queues; the transport shows registers to
 * the guest and calls the functions here. Negotiation of features, the status register, the life of queues
 * and NEEDS_RESET are here, once.
 *
 * Threads. Registers are accessed by vCPU threads. Each queue is served by one event loop (that of the
 * machine, or of an I/O thread): kicks arrive there by an eventfd, and ops->kicked is called there. Starts,
 * stops and resets of queues are carried to that loop and waited for, so a kind of device needs no lock for
 * what belongs to a queue: once it has answered `stop_queue`, no request of it is under way and none of its
 * memory is used. Interrupts may be raised from any thread.
 *
 * Locks. The device's lock guards its registers and configuration and is held for as long as one access
 * takes. It is not held during a change that waits for loops: changes (status, enabling, disabling, resetting
 * a queue) are made one at a time, and a vCPU that comes with another one waits until the first is done. So
 * the functions for transports are called with no lock held that a callback of a loop may take, nor on a
 * thread that a callback of a loop waits for; and a loop may take the device's lock at any time. A loop that
 * nobody runs (the machine is being built or taken down) is no obstacle: what is to be done there is done in
 * place, and requests under way are waited for (event_loop_wait()). For that reason stop_queue's answer may
 * depend on requests of the loop, but not on its sources.
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

/* One kind of device. All but `name`, `id` and `kicked` are optional. */
struct virtio_device_ops {
    const char *name; /* "virtio-blk" */
    uint16_t id;      /* VIRTIO 1.2, section 5 */
    /* The device's configuration space; `offset` and `size` lie within its config_size. With the device's
     * lock held. */
    void (*read_config)(struct virtio_device *device, uint32_t offset, void *data, uint32_t size);
    void (*write_config)(struct virtio_device *device, uint32_t offset, const void *data, uint32_t size);
    /* Whether these features, all of them offered, can be accepted together: none lacks one that it requires
     * (section 2.2.1). With the lock held. */
    bool (*accepts)(struct virtio_device *device, uint64_t features);
    /* DRIVER_OK has been written, with `device->features` accepted; the queues are started next, unless it
     * fails: then the device needs a reset. With the lock held, on a vCPU thread. */
    int (*start)(struct virtio_device *device, struct error *err);
    /* The device has been reset: all its queues are stopped. With the lock held, on a vCPU thread. */
    void (*reset)(struct virtio_device *device);
    /* On the queue's loop: it is enabled and the driver is ready. `kicked` is called next. */
    void (*start_queue)(struct virtio_device *device, unsigned index, struct virtqueue *queue);
    /* On the queue's loop: requests may have come. Called again for a kick that comes meanwhile; not for a
     * queue that broke. */
    void (*kicked)(struct virtio_device *device, unsigned index, struct virtqueue *queue);
    /*
     * On the queue's loop: ends everything that uses the queue, also a broken one: completes, cancels or
     * drops each chain, and calls virtio_queue_stopped() when no request is under way any more, at once or
     * later. Without it, every chain is pushed by the time that `kicked` returns.
     */
    void (*stop_queue)(struct virtio_device *device, unsigned index, struct virtqueue *queue);
};

/* How the device reaches its transport. Any thread, without the device's lock; must not block. */
struct virtio_transport_ops {
    /* Interrupts the driver for queue `index`. */
    void (*interrupt_queue)(void *opaque, unsigned index);
    /* Interrupts it because of its configuration. */
    void (*interrupt_config)(void *opaque);
};

struct virtio_queue; /* the device's side of one queue: private */

/* Embedded in its kind of device, zeroed. Private but for the fields described as public. */
struct virtio_device {
    const struct virtio_device_ops *ops;
    const struct log *log;
    struct address_space *space;
    uint64_t offered;  /* public: set before virtio_device_init(), which adds VERSION_1 and what rings do */
    uint64_t features; /* public: accepted; from FEATURES_OK until a reset, otherwise 0 */
    uint32_t config_size; /* public: bytes of configuration space; set before virtio_device_init() */
    unsigned queue_count;
    uint16_t queue_size_max;
    struct virtio_queue *queues;
    pthread_mutex_t lock;     /* public: guards what read_config shows */
    pthread_cond_t unchanged; /* `changing` has become false */
    bool changing;
    bool started;             /* ops->start has succeeded */
    uint64_t driver_features; /* as the driver writes them */
    _Atomic uint8_t status;
    _Atomic uint8_t generation; /* of the configuration */
    _Atomic unsigned complaints;
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

/* Creates what is common, eventfds included. -errno with a message. The loops outlive the device. */
int virtio_device_init(struct virtio_device *device, const struct virtio_device_config *config,
                       struct error *err);

/* Stops all queues and frees what virtio_device_init() made. No vCPU runs, nor anything that calls it. */
void virtio_device_destroy(struct virtio_device *device);

/* ---- For kinds of devices ---- */

/* Accepted by the driver. */
static inline bool virtio_has_feature(const struct virtio_device *device, unsigned bit)
{
    return device->features >> bit & 1;
}

/* On the queue's loop, while it is started: interrupts the driver if it wants to know of what was pushed. */
void virtio_queue_interrupt(struct virtio_device *device, unsigned index);

/*
 * On the queue's loop, in `kicked`, when nothing is left to pop and kicks are declined: asks for them, now or
 * when the loop has looked at the queue for a while (base/event_loop.h) and goes to sleep. Returns whether
 * there is something to pop after all, for which `kicked` may not be called again. The queues of a device
 * that never calls it are not looked at.
 */
bool virtio_queue_drained(struct virtio_device *device, unsigned index);

/* On the queue's loop: answers stop_queue. */
void virtio_queue_stopped(struct virtio_device *device, unsigned index);

/* On the queue's loop, while it is started: the queue is broken, for the reason given, until it is reset:
 * logs it, sets NEEDS_RESET, tells the driver. Once is enough; more does nothing. */
void virtio_queue_broke(struct virtio_device *device, unsigned index, const struct error *why);

/* Any thread, without the lock: the configuration space has changed. */
void virtio_config_changed(struct virtio_device *device);

/* ---- For transports ---- */

/* Before a guest sees the device. */
void virtio_set_transport(struct virtio_device *device, const struct virtio_transport_ops *ops, void *opaque);

/*
 * Status register (section 2.1). Writing 0 resets, and waits until all queues are stopped. Anything else can
 * only add bits: FEATURES_OK is refused (stays clear) for features that cannot be served, DRIVER_OK without
 * FEATURES_OK; NEEDS_RESET is the device's own.
 */
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
    uint16_t size; /* queue_size_max after a reset */
    uint64_t descriptors, driver, device;
    /* Not set by virtio_queue_set_setup(): */
    bool enabled;
    bool resetting; /* virtio_queue_reset() waits */
};

/* A queue that is not there has a size of 0, and whatever is done to it does nothing. */
uint16_t virtio_queue_size_max(struct virtio_device *device, unsigned index);
struct virtio_queue_setup virtio_queue_get_setup(struct virtio_device *device, unsigned index);
void virtio_queue_set_setup(struct virtio_device *device, unsigned index,
                            const struct virtio_queue_setup *setup);

/* Enables it, unless its size is out of range; it is started when DRIVER_OK is written, or now. A set-up that
 * the specification does not allow is found at the start, and breaks the device. */
void virtio_queue_enable(struct virtio_device *device, unsigned index);

/* Stops this queue alone, waits, and forgets its set-up: for a transport where drivers may disable a queue,
 * and where VIRTIO_F_RING_RESET was accepted (otherwise ignored; section 2.6.1). */
void virtio_queue_disable(struct virtio_device *device, unsigned index);
void virtio_queue_reset(struct virtio_device *device, unsigned index);

/* The eventfd that a write to the queue's notify register signals, for an ioeventfd; and the same by hand. -1
 * for a queue that is not there. */
int virtio_queue_kick_fd(struct virtio_device *device, unsigned index);
void virtio_queue_kick(struct virtio_device *device, unsigned index);
