#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/chardev_backend.h"

#define KEPT_OUTPUT MIB
#define BACKLOG     8

struct chardev_unix {
    struct chardev chardev;
    int listener;
    struct event_source *source; /* watched while a client may come */
    struct sockaddr_un address;
    struct stat created; /* the socket in the file system, if it is ours; st_ino is 0 otherwise */
};

static void drop_client(struct chardev_unix *server)
{
    int client = server->chardev.input;
    chardev_disconnect(&server->chardev);
    if (client >= 0)
        close(client);
    event_loop_modify(server->chardev.config.loop, server->source, POLLIN);
}

/* The client will send nothing more, but may still read, unless it has gone altogether. */
static void input_ended(struct chardev *chardev)
{
    struct chardev_unix *server = container_of(chardev, struct chardev_unix, chardev);
    struct pollfd client = {.fd = chardev->input};
    if (poll(&client, 1, 0) != 0)
        drop_client(server);
    else
        chardev_end_input(chardev);
}

/*
 * The client has gone. What it sent is left to be read as the guest finds time for it, but another client may
 * come and end that.
 */
static void hung_up(struct chardev *chardev)
{
    struct chardev_unix *server = container_of(chardev, struct chardev_unix, chardev);
    if (chardev->input_at_end) {
        drop_client(server);
        return;
    }
    pthread_mutex_lock(&chardev->lock);
    chardev_close_output(chardev);
    if (chardev->input_paused)
        event_loop_modify(chardev->config.loop, chardev->input_source, 0);
    pthread_mutex_unlock(&chardev->lock);
    chardev_tell_writable(chardev);
    event_loop_modify(chardev->config.loop, server->source, POLLIN);
}

/* The event loop will see the client's end and drop it; until then, and after, output is kept. */
static void output_failed(struct chardev *chardev, int error)
{
    chardev_close_output(chardev);
}

static void client_waiting(void *opaque, unsigned events)
{
    struct chardev_unix *server = opaque;
    const struct chardev_config *config = &server->chardev.config;
    int client = accept4(server->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (client < 0 && (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED))
        return;
    int result = client < 0 ? -errno : 0;
    if (!result) {
        drop_client(server);
        result = chardev_connect(&server->chardev, client, client);
    }
    event_loop_modify(config->loop, server->source, 0);
    if (result) {
        log_write(config->log, LOG_ERROR, "cannot serve a client of %s, and will serve no more: %s",
                  server->address.sun_path, strerrordesc_np(-result));
        if (client >= 0)
            close(client);
    }
}

/* Nobody has seen yet whether a client waits, when the event loop has just ended. */
static void flushing(struct chardev *chardev)
{
    struct chardev_unix *server = container_of(chardev, struct chardev_unix, chardev);
    if (chardev->output < 0)
        client_waiting(server, POLLIN);
}

/* Removes the socket unless something else has taken its place. */
static void remove_socket(const struct chardev_unix *server)
{
    struct stat found;
    if (server->created.st_ino && !lstat(server->address.sun_path, &found) &&
        found.st_dev == server->created.st_dev && found.st_ino == server->created.st_ino)
        unlink(server->address.sun_path);
}

static void destroy(struct chardev *chardev)
{
    struct chardev_unix *server = container_of(chardev, struct chardev_unix, chardev);
    event_loop_remove(chardev->config.loop, server->source);
    int client = chardev->input;
    chardev_release(chardev);
    if (client >= 0)
        close(client);
    remove_socket(server);
    if (server->listener >= 0)
        close(server->listener);
    free(server);
}

static int set_address(struct sockaddr_un *address, const char *path, struct error *err)
{
    size_t length = strlen(path);
    if (length == 0)
        return error_set(err, EINVAL, "the path of the Unix socket is empty");
    if (length >= sizeof(address->sun_path))
        return error_set(err, ENAMETOOLONG,
                         "the path of a Unix socket has at most %zu bytes, and this one has %zu: %s; "
                         "use a shorter one, or one relative to the current directory",
                         sizeof(address->sun_path) - 1, length, path);
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length + 1);
    return 0;
}

/* Finds out what is at the address, and removes it if it is a socket that nobody listens on. */
static int remove_stale_socket(const struct sockaddr_un *address, struct error *err)
{
    const char *path = address->sun_path;
    struct stat found;
    if (lstat(path, &found))
        return errno == ENOENT ? 0 : error_set_errno(err, errno, "cannot listen on %s", path);
    if (!S_ISSOCK(found.st_mode))
        return error_set(err, EEXIST,
                         "cannot listen on %s: it exists and is not a socket; remove it, or use another path",
                         path);
    /* Of the wrong type, so that a live listener refuses it rather than taking it for a client. */
    int probe = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (probe < 0)
        return error_set_errno(err, errno, "cannot create a Unix socket");
    int result = connect(probe, (const struct sockaddr *)address, sizeof(*address)) ? errno : 0;
    close(probe);
    if (result == ECONNREFUSED)
        return unlink(path) ? error_set_errno(err, errno, "cannot replace the unused socket %s", path) : 0;
    return error_set(err, EADDRINUSE,
                     "cannot listen on %s: another process does; stop it, or use another path", path);
}

static int start_listening(struct chardev_unix *server, struct error *err)
{
    const char *path = server->address.sun_path;
    int result = remove_stale_socket(&server->address, err);
    if (result)
        return result;
    server->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (server->listener < 0)
        return error_set_errno(err, errno, "cannot create a Unix socket");
    /* bind() gives the file the mode that the socket has: nobody else can connect at any moment. */
    if (fchmod(server->listener, S_IRUSR | S_IWUSR) ||
        bind(server->listener, (const struct sockaddr *)&server->address, sizeof(server->address)))
        return error_set_errno(err, errno, "cannot listen on %s", path);
    if (lstat(path, &server->created) || listen(server->listener, BACKLOG))
        return error_set_errno(err, errno, "cannot listen on %s", path);
    result = event_loop_add(server->chardev.config.loop, server->listener, POLLIN, client_waiting, server,
                            &server->source);
    return result ? error_set_errno(err, -result, "cannot watch %s", path) : 0;
}

int chardev_create_unix(const struct chardev_config *config, const char *path, struct chardev **out,
                        struct error *err)
{
    static const struct chardev_ops ops = {
        .input_ended = input_ended,
        .hung_up = hung_up,
        .output_failed = output_failed,
        .flushing = flushing,
        .destroy = destroy,
    };
    struct chardev_unix *server = calloc(1, sizeof(*server));
    if (!server || chardev_init(&server->chardev, &ops, config, CHARDEV_BUFFER, KEPT_OUTPUT)) {
        free(server);
        return error_set(err, ENOMEM, "not enough memory for a serial port's back end");
    }
    server->listener = -1;
    server->chardev.idle_events = POLLHUP;
    server->chardev.keeps_output = true;
    int result = set_address(&server->address, path, err);
    if (!result)
        result = start_listening(server, err);
    if (result) {
        destroy(&server->chardev);
        return result;
    }
    *out = &server->chardev;
    return 0;
}
