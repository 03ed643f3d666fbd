/*
 * What the tests of the block device share: a disk in a temporary file, a guest that has it, and two I/O
 * threads that serve its two queues.
 */
#pragma once

#include <criterion/criterion.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>

#include "base/io_thread.h"
#include "base/macros.h"
#include "devices/virtio/block.h"
#include "memory/address_space.h"
#include "tests/support/mmio_guest.h"
#include "tests/unit/devices/disk_file.h"

#define QUEUES      2
#define DISK_SIZE   (1 << 20)
#define BIT(number) ((uint64_t)1 << (number))

struct block_fixture {
    struct disk_file file;
    struct disk *disk;
    struct io_thread *threads[QUEUES];
    struct mmio_guest guest;
    struct virtio_block *block;
};

static inline void fixture_start(struct block_fixture *f, enum disk_cache cache, bool readonly)
{
    struct event_loop *loops[QUEUES];
    disk_file_create(&f->file, DISK_SIZE);
    f->disk = disk_file_open(&f->file, cache, readonly);
    for (unsigned i = 0; i < QUEUES; i++) {
        cr_assert_eq(io_thread_create("block", &f->threads[i], NULL), 0);
        loops[i] = io_thread_loop(f->threads[i]);
    }
    mmio_guest_create(&f->guest);
    struct virtio_block_config config = {
        .disk = f->disk,
        .serial = "godwit-disk",
        .space = f->guest.guest.space,
        .queue_count = QUEUES,
        .loops = loops,
    };
    cr_assert_eq(virtio_block_create(&config, &f->block, NULL), 0);
    mmio_guest_plug(&f->guest, virtio_block_device(f->block), QUEUES);
}

static inline void fixture_end(struct block_fixture *f)
{
    mmio_guest_unplug(&f->guest);
    virtio_block_destroy(f->block);
    mmio_guest_destroy(&f->guest);
    for (unsigned i = 0; i < QUEUES; i++)
        io_thread_destroy(f->threads[i]);
    disk_close(f->disk);
    disk_file_destroy(&f->file);
}

static inline void wait_for_interrupt(struct block_fixture *f)
{
    struct pollfd wait = {.fd = f->guest.irq_fd, .events = POLLIN};
    eventfd_t count;
    cr_assert_eq(poll(&wait, 1, -1), 1);
    eventfd_read(f->guest.irq_fd, &count);
}

/* Waits for the next chain that a queue gives back. Returns its token. */
static inline unsigned wait_for_chain(struct block_fixture *f, unsigned queue, uint32_t *written)
{
    struct queue_driver *driver = &f->guest.drivers[queue];
    unsigned token;
    while (!queue_driver_collect(driver, &token, written)) {
        cr_assert(!driver->failed);
        if (!queue_driver_unmask(driver, 0))
            wait_for_interrupt(f);
    }
    return token;
}

static inline struct virtio_blk_outhdr block_header(uint32_t type, uint64_t sector)
{
    return (struct virtio_blk_outhdr){.type = type, .sector = sector};
}
