#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/block/disk_internal.h"
#include "devices/block/disk_lock.h"

#define BLOCK_SIZE_MAX     4096
#define FILE_PHYSICAL_SIZE 4096
/* What direct I/O needs of buffers where the kernel does not say. */
#define DIRECT_ALIGNMENT   4096

static bool is_power_of_two(uint64_t value)
{
    return value && !(value & (value - 1));
}

static int say_why_not_open(const struct disk_config *config, int code, struct error *err)
{
    const char *path = config->path;
    if (code == EISDIR)
        return error_set(err, EISDIR, "disk image %s is a directory", path);
    if (code == EINVAL && config->cache == DISK_CACHE_NONE)
        return error_set(
            err, EINVAL,
            "the file system of disk image %s has no direct I/O: use another cache mode than none", path);
    if (!config->readonly && (code == EACCES || code == EPERM || code == EROFS || code == ETXTBSY))
        return error_set_errno(err, code,
                               "cannot open disk image %s for writing (read-only would do with ro)", path);
    return error_set_errno(err, code, "cannot open disk image %s", path);
}

/* Without waiting for a FIFO's other end; io_uring takes that flag for a wish not to wait ever. */
static int open_file(struct disk *disk, const struct disk_config *config, struct error *err)
{
    int flags = (config->readonly || config->look_only ? O_RDONLY : O_RDWR) |
                (config->cache == DISK_CACHE_NONE ? O_DIRECT : 0);
    disk->fd = open(config->path, flags | O_CLOEXEC | O_NONBLOCK);
    if (disk->fd < 0)
        return say_why_not_open(config, errno, err);
    if (fcntl(disk->fd, F_SETFL, flags) < 0)
        return error_set_errno(err, errno, "cannot set up disk image %s", config->path);
    return 0;
}

static uint64_t read_queue_limit(dev_t device, const char *folder, const char *name)
{
    char path[96];
    unsigned long long value = 0;
    snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(device), minor(device), folder,
             name);
    FILE *file = fopen(path, "re");
    if (!file)
        return 0;
    if (fscanf(file, "%llu", &value) != 1) /* NOLINT(cert-err34-c) */
        value = 0;
    fclose(file);
    return value;
}

/* A partition has its disk's limits. */
static uint64_t queue_limit(dev_t device, const char *name)
{
    uint64_t value = read_queue_limit(device, "", name);
    return value ? value : read_queue_limit(device, "../", name);
}

static int measure_device(struct disk *disk, const struct disk_config *config, const struct stat *status,
                          struct error *err)
{
    struct disk_geometry *geometry = &disk->geometry;
    int logical = 0;
    unsigned physical = 0, optimal = 0;
    if (ioctl(disk->fd, BLKGETSIZE64, &disk->size) < 0 || ioctl(disk->fd, BLKSSZGET, &logical) < 0 ||
        ioctl(disk->fd, BLKPBSZGET, &physical) < 0 || ioctl(disk->fd, BLKIOOPT, &optimal) < 0)
        return error_set_errno(err, errno, "cannot measure the disk %s", config->path);
    geometry->block_size = (uint32_t)logical;
    geometry->physical_size = physical;
    geometry->optimal_size = optimal;
    geometry->discards = queue_limit(status->st_rdev, "discard_max_bytes") > 0;
    geometry->discard_granularity = (uint32_t)queue_limit(status->st_rdev, "discard_granularity");
    return 0;
}

static void measure_file(struct disk *disk, const struct disk_config *config, const struct stat *status)
{
    struct disk_geometry *geometry = &disk->geometry;
    disk->size = (uint64_t)status->st_size;
    geometry->block_size = DISK_SECTOR_SIZE;
    geometry->physical_size = FILE_PHYSICAL_SIZE;
    geometry->discard_granularity = (uint32_t)status->st_blksize;
    /* A hole behind the end of a file changes nothing. */
    geometry->discards = !config->readonly && !config->look_only &&
                         fallocate(disk->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                   (off_t)align_up(disk->size, BLOCK_SIZE_MAX), BLOCK_SIZE_MAX) == 0;
}

/* Whether one sector alone can be read directly; 4096 bytes can be wherever that is at all. */
static bool reads_sectors(struct disk *disk)
{
    void *buffer = aligned_alloc(DIRECT_ALIGNMENT, DIRECT_ALIGNMENT);
    bool can = buffer && pread(disk->fd, buffer, DISK_SECTOR_SIZE, 0) == DISK_SECTOR_SIZE;
    free(buffer);
    return can;
}

static void measure_direct(struct disk *disk)
{
    struct statx status = {0};
    uint32_t *block_size = &disk->geometry.block_size;
    disk->buffer_alignment = DIRECT_ALIGNMENT;
    if (statx(disk->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        status.stx_mask & STATX_DIOALIGN && status.stx_dio_offset_align) {
        disk->buffer_alignment = status.stx_dio_mem_align;
        if (status.stx_dio_offset_align > *block_size)
            *block_size = status.stx_dio_offset_align;
    } else if (*block_size < DIRECT_ALIGNMENT && !reads_sectors(disk)) {
        *block_size = DIRECT_ALIGNMENT;
    }
}

/* What disks and file systems say has been strange at times. */
static void tidy_geometry(struct disk_geometry *geometry)
{
    if (geometry->physical_size < geometry->block_size || !is_power_of_two(geometry->physical_size))
        geometry->physical_size = geometry->block_size;
    if (geometry->optimal_size % geometry->block_size)
        geometry->optimal_size = 0;
    if (geometry->discard_granularity < geometry->block_size ||
        geometry->discard_granularity % geometry->block_size)
        geometry->discard_granularity = geometry->block_size;
}

static int check_geometry(const struct disk *disk, const char *path, struct error *err)
{
    uint32_t block_size = disk->geometry.block_size;
    unsigned long long size = disk->size;
    if (block_size < DISK_SECTOR_SIZE || block_size > BLOCK_SIZE_MAX || !is_power_of_two(block_size))
        return error_set(err, EINVAL, "disk image %s has blocks of %u bytes: 512 to 4096 are possible", path,
                         block_size);
    if (size == 0)
        return error_set(err, EINVAL, "disk image %s is empty: give it a size with truncate(1)", path);
    if (size < block_size)
        return error_set(err, EINVAL, "disk image %s has %llu bytes, less than one block of %u", path, size,
                         block_size);
    if (size % block_size)
        return error_set(
            err, EINVAL,
            "disk image %s has %llu bytes, not a multiple of its block size %u: truncate -s %%%u "
            "makes it one",
            path, size, block_size, block_size);
    return 0;
}

static int check_kind(const struct disk_config *config, const struct stat *status, struct error *err)
{
    if (S_ISDIR(status->st_mode))
        return say_why_not_open(config, EISDIR, err);
    if (S_ISBLK(status->st_mode) || S_ISREG(status->st_mode))
        return 0;
    return error_set(err, EINVAL, "disk image %s is neither a file nor a block device", config->path);
}

static int measure(struct disk *disk, const struct disk_config *config, struct error *err)
{
    struct stat status;
    int result = 0;
    if (fstat(disk->fd, &status) < 0)
        return error_set_errno(err, errno, "cannot measure disk image %s", config->path);
    if (S_ISBLK(status.st_mode))
        result = measure_device(disk, config, &status, err);
    else
        measure_file(disk, config, &status);
    if (result < 0)
        return result;
    disk->buffer_alignment = 1;
    if (config->cache == DISK_CACHE_NONE)
        measure_direct(disk);
    result = check_geometry(disk, config->path, err);
    if (result == 0)
        tidy_geometry(&disk->geometry);
    return result;
}

/* Nothing is measured, and no hole made, before the disk is known to be ours. */
static int set_up(struct disk *disk, const struct disk_config *config, struct error *err)
{
    struct stat status;
    int result = open_file(disk, config, err);
    if (result == 0 && fstat(disk->fd, &status) < 0)
        result = error_set_errno(err, errno, "cannot look at disk image %s", config->path);
    if (result == 0)
        result = check_kind(config, &status, err);
    if (result == 0 && !config->look_only)
        result = disk_lock(disk->fd, config->path, !config->readonly, err);
    if (result == 0)
        result = measure(disk, config, err);
    if (result < 0)
        return result;
    disk->geometry.sectors = disk->size / DISK_SECTOR_SIZE;
    disk->geometry.readonly = config->readonly;
    if (config->readonly)
        disk->geometry.discards = false;
    /* Memory that is only read costs none: it is the kernel's page of zeroes over and over. */
    disk->zeroes = mmap(NULL, ZEROES_SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (disk->zeroes == MAP_FAILED) {
        disk->zeroes = NULL;
        return error_set(err, ENOMEM, "not enough memory for disk image %s", config->path);
    }
    return 0;
}

int disk_open(const struct disk_config *config, struct disk **out, struct error *err)
{
    struct disk *disk = calloc(1, sizeof(*disk));
    if (!disk)
        return error_set(err, ENOMEM, "not enough memory for disk image %s", config->path);
    disk->fd = -1;
    disk->direct = config->cache == DISK_CACHE_NONE;
    disk->ignores_flushes = config->cache == DISK_CACHE_UNSAFE;
    int result = set_up(disk, config, err);
    if (result < 0) {
        disk_close(disk);
        return result;
    }
    *out = disk;
    return 0;
}

void disk_close(struct disk *disk)
{
    if (!disk)
        return;
    if (disk->zeroes)
        munmap(disk->zeroes, ZEROES_SIZE);
    if (disk->fd >= 0)
        close(disk->fd);
    free(disk);
}

const struct disk_geometry *disk_geometry(const struct disk *disk)
{
    return &disk->geometry;
}
