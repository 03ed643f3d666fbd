#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/chardev_backend.h"

struct chardev_file {
    struct chardev chardev;
    int fd;
    char *path;    /* for messages */
    uint64_t lost; /* bytes that could not be written since writing last succeeded */
};

/* A full disk may have room again some day; the guest does not wait for that. */
static void output_failed(struct chardev *chardev, int error)
{
    struct chardev_file *file = container_of(chardev, struct chardev_file, chardev);
    if (file->lost == 0)
        log_write(chardev->config.log, LOG_ERROR,
                  "cannot write to %s: %s; the guest's output is dropped until that changes", file->path,
                  strerrordesc_np(error));
    file->lost += chardev->out.count;
    ring_drop(&chardev->out, chardev->out.count);
}

static void output_succeeded(struct chardev *chardev)
{
    struct chardev_file *file = container_of(chardev, struct chardev_file, chardev);
    if (file->lost > 0)
        log_write(chardev->config.log, LOG_WARN, "%s can be written again; %llu bytes were dropped",
                  file->path, (unsigned long long)file->lost);
    file->lost = 0;
}

static void destroy(struct chardev *chardev)
{
    struct chardev_file *file = container_of(chardev, struct chardev_file, chardev);
    chardev_release(chardev);
    close(file->fd);
    free(file->path);
    free(file);
}

static int open_file(const char *path, struct error *err)
{
    /* O_NONBLOCK is for pipes with a name: without a reader they are an error, with a slow one they wait. */
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK | O_NOCTTY | O_CLOEXEC, 0666);
    if (fd >= 0)
        return fd;
    if (errno == ENXIO)
        return error_set(err, ENXIO, "cannot write the guest's output to %s: nobody has it open for reading",
                         path);
    return error_set_errno(err, errno, "cannot write the guest's output to %s", path);
}

int chardev_create_file(const struct chardev_config *config, const char *path, struct chardev **out,
                        struct error *err)
{
    static const struct chardev_ops ops = {
        .output_failed = output_failed,
        .output_succeeded = output_succeeded,
        .destroy = destroy,
    };
    int fd = open_file(path, err);
    if (fd < 0)
        return fd;
    struct chardev_file *file = calloc(1, sizeof(*file));
    if (!file || !(file->path = strdup(path)) ||
        chardev_init(&file->chardev, &ops, config, 1, CHARDEV_BUFFER)) {
        if (file)
            free(file->path);
        free(file);
        close(fd);
        return error_set(err, ENOMEM, "not enough memory for a serial port's back end");
    }
    file->fd = fd;
    int result = chardev_connect(&file->chardev, -1, fd);
    if (result) {
        destroy(&file->chardev);
        return error_set_errno(err, -result, "cannot watch %s", path);
    }
    *out = &file->chardev;
    return 0;
}
