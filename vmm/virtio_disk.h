/*
 * A disk of the machine: the virtio device that shows an image, its registers over MMIO and its interrupt,
 * put together and taken apart in the right order.
 *
 * Made and freed by the machine's thread.
 */
#pragma once

struct address_space;
struct config_disk;
struct disk;
struct error;
struct io_threads;
struct kvm_vm;
struct log;
struct memory;
struct memory_region;
struct virtio_disk;

struct virtio_disk_config {
    const struct config_disk *disk;
    struct disk *image;
    const struct log *log;
    const struct kvm_vm *vm;
    struct memory *memory;
    struct address_space *space; /* in which the guest's queues are; borrowed, as is all before */
    struct io_threads *threads;  /* that give each queue its loop; outlives the disk */
    unsigned irq;                /* its interrupt line, edge-triggered */
};

/* -errno with a message. */
int virtio_disk_create(const struct virtio_disk_config *config, struct virtio_disk **disk, struct error *err);

/* Its registers, for the board to map. */
struct memory_region *virtio_disk_region(struct virtio_disk *disk);

/* Connects its interrupt, once the VM has interrupt controllers. -errno with a message. */
int virtio_disk_connect(struct virtio_disk *disk, struct error *err);

/*
 * Resets the device: cancels the requests under way and waits for them, which blocks for as long as the
 * host's kernel can neither carry out nor cancel one. No vCPU runs, nor will.
 */
void virtio_disk_stop(struct virtio_disk *disk);

/* Frees everything but the image. It is stopped, and its region is mapped nowhere. NULL is allowed. */
void virtio_disk_destroy(struct virtio_disk *disk);
