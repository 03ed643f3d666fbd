#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "devices/chardev_backend.h"

#define READ_AHEAD MIB /* with a filter */

struct chardev_stdio {
    struct chardev chardev;
    int reopened; /* `output` for this process alone; -1: none */
};

static void input_ended(struct chardev *chardev)
{
    chardev_end_input(chardev);
}

static void output_failed(struct chardev *chardev, int error)
{
    chardev_close_output(chardev);
    if (!chardev->config.failed)
        return;
    struct error err;
    if (error == EPIPE)
        error_set(&err, error, "standard output is closed: nobody reads it any more");
    else
        error_set_errno(&err, error, "cannot write to standard output");
    chardev->config.failed(chardev->config.opaque, err.message);
}

static void destroy(struct chardev *chardev)
{
    struct chardev_stdio *stdio = container_of(chardev, struct chardev_stdio, chardev);
    chardev_release(chardev);
    if (stdio->reopened >= 0)
        close(stdio->reopened);
    free(stdio);
}

/*
 * Opens what `fd` stands for once more, non-blocking: O_NONBLOCK belongs to the open file, which `fd` shares
 * with the shell and others, so it cannot be set there. Works for terminals and pipes that this user may
 * open; files never block, and sockets cannot be opened. Returns -1 where it does not work.
 */
static int open_again(int fd)
{
    struct stat status;
    if (fstat(fd, &status) || !(S_ISFIFO(status.st_mode) || isatty(fd)))
        return -1;
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
}

static int check_output(int output, struct error *err)
{
    int flags = fcntl(output, F_GETFL);
    if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return error_set(err, EBADF,
                         "standard output is closed, or not open for writing: redirect it to a file, or use "
                         "another --serial");
    return 0;
}

int chardev_create_stdio(const struct chardev_config *config, int input, int output, struct chardev **out,
                         struct error *err)
{
    static const struct chardev_ops ops = {
        .input_ended = input_ended,
        .output_failed = output_failed,
        .destroy = destroy,
    };
    int result = check_output(output, err);
    if (result)
        return result;
    size_t read_ahead = config->filter ? READ_AHEAD : CHARDEV_BUFFER;
    struct chardev_stdio *stdio = calloc(1, sizeof(*stdio));
    if (!stdio || chardev_init(&stdio->chardev, &ops, config, read_ahead, CHARDEV_BUFFER)) {
        free(stdio);
        return error_set(err, ENOMEM, "not enough memory for the console");
    }
    stdio->reopened = open_again(output);
    stdio->chardev.output_may_block = stdio->reopened < 0;
    bool has_input = fcntl(input, F_GETFL) >= 0;
    result = chardev_connect(&stdio->chardev, has_input ? input : -1,
                             stdio->reopened >= 0 ? stdio->reopened : output);
    if (result) {
        destroy(&stdio->chardev);
        return error_set_errno(err, -result, "cannot watch standard input and output");
    }
    *out = &stdio->chardev;
    return 0;
}
