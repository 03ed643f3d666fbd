#include "vmm/terminal.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"

#define CTRL_A 1

struct terminal {
    struct terminal_config config;
    int fd; /* the terminal, for this process alone if possible */
    struct termios saved;
    int guardian_socket; /* the guardian restores the terminal when it ends without a byte sent */
    pid_t guardian;
    bool escape; /* the last key was Ctrl-A */
};

/* Closes all but the two descriptors, which become 0 and 1. Both are above 2. */
static void keep_two(int first, int second)
{
    dup2(first, 0);
    dup2(second, 1);
    close_range(2, ~0u, 0);
}

/*
 * Brings the settings back, unless whoever took the terminal over in the meantime, such as the shell, has set
 * it up as it wants it. Works from the background, too: with SIGTTOU blocked the kernel lets it.
 */
static void restore(const struct terminal *terminal, int fd)
{
    struct termios found;
    if (tcgetattr(fd, &found) || (found.c_lflag & (ICANON | ECHO | ISIG)))
        return;
    sigset_t background, before;
    sigemptyset(&background);
    sigaddset(&background, SIGTTOU);
    pthread_sigmask(SIG_BLOCK, &background, &before);
    tcsetattr(fd, TCSANOW, &terminal->saved);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}

/*
 * The guardian's life. It is in a session of its own, so that nothing sent to godwit's process group or typed
 * at the terminal ends it, and holds no descriptor that somebody may wait for the end of.
 */
static _Noreturn void guard(const struct terminal *terminal, int socket)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
    for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
        signal(ignored[i], SIG_IGN);
    setsid();
    keep_two(socket, terminal->fd);
    prctl(PR_SET_NAME, "tty-guardian");
    char done;
    ssize_t count;
    do {
        count = read(0, &done, 1);
    } while (count < 0 && errno == EINTR);
    if (count != 1)
        restore(terminal, 1);
    _exit(0);
}

static int start_guardian(struct terminal *terminal)
{
    int sockets[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets))
        return -errno;
    int theirs = fcntl(sockets[1], F_DUPFD_CLOEXEC, 3);
    int result = theirs < 0 ? -errno : 0;
    close(sockets[1]);
    if (!result) {
        terminal->guardian = fork();
        if (terminal->guardian == 0)
            guard(terminal, theirs);
        result = terminal->guardian < 0 ? -errno : 0;
        close(theirs);
    }
    if (result)
        close(sockets[0]);
    else
        terminal->guardian_socket = sockets[0];
    return result;
}

static void stop_guardian(struct terminal *terminal)
{
    send(terminal->guardian_socket, "", 1, MSG_NOSIGNAL);
    close(terminal->guardian_socket);
    while (waitpid(terminal->guardian, NULL, 0) < 0 && errno == EINTR)
        ;
}

/*
 * The terminal once more: so that help can be written to it (standard input may be open for reading only),
 * and without ever waiting for it.
 */
static int open_terminal(int fd)
{
    char path[32];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    int opened = open(path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    int result = fcntl(opened >= 0 ? opened : fd, F_DUPFD_CLOEXEC, 3);
    if (opened >= 0)
        close(opened);
    return result;
}

static int enter_raw_mode(const struct terminal *terminal)
{
    struct termios raw = terminal->saved;
    cfmakeraw(&raw);
    return tcsetattr(terminal->fd, TCSANOW, &raw) ? -errno : 0;
}

int terminal_create(const struct terminal_config *config, struct terminal **out, struct error *err)
{
    *out = NULL;
    if (!isatty(config->fd))
        return 0;
    struct terminal *terminal = malloc(sizeof(*terminal));
    if (!terminal)
        return error_set(err, ENOMEM, "not enough memory for the terminal");
    *terminal = (struct terminal){.config = *config, .fd = open_terminal(config->fd)};
    int result = terminal->fd < 0 || tcgetattr(terminal->fd, &terminal->saved) ? -errno : 0;
    if (!result)
        result = start_guardian(terminal);
    if (!result) {
        result = enter_raw_mode(terminal);
        if (result)
            stop_guardian(terminal);
    }
    if (result) {
        if (terminal->fd >= 0)
            close(terminal->fd);
        free(terminal);
        return error_set_errno(err, -result, "cannot put the terminal into raw mode");
    }
    *out = terminal;
    return 0;
}

static void show(const struct terminal *terminal, const char *text)
{
    ssize_t written = write(terminal->fd, text, strlen(text));
    (void)written;
}

/* Acts on the key behind Ctrl-A. Returns whether the guest gets a Ctrl-A. */
static bool take_escape(const struct terminal *terminal, uint8_t key)
{
    switch (key) {
    case 'a':
    case CTRL_A:
        return true;
    case 'x':
        terminal->config.command(terminal->config.opaque, TERMINAL_QUIT);
        break;
    case 'p':
        terminal->config.command(terminal->config.opaque, TERMINAL_POWER_BUTTON);
        break;
    case 'h':
        show(terminal, "\r\n"
                       "Ctrl-A x        ends godwit\r\n"
                       "Ctrl-A p        presses the power button of the guest\r\n"
                       "Ctrl-A Ctrl-A   sends Ctrl-A to the guest; so does Ctrl-A a\r\n"
                       "Ctrl-A h        shows this list\r\n");
        break;
    default:
        show(terminal, "\r\nUnknown key behind Ctrl-A; Ctrl-A h lists the keys.\r\n");
        break;
    }
    return false;
}

size_t terminal_filter(void *opaque, uint8_t *data, size_t count)
{
    struct terminal *terminal = opaque;
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        uint8_t key = data[i];
        bool wanted = terminal->escape ? take_escape(terminal, key) : key != CTRL_A;
        if (wanted)
            data[kept++] = terminal->escape ? CTRL_A : key;
        terminal->escape = !terminal->escape && key == CTRL_A;
    }
    return kept;
}

void terminal_destroy(struct terminal *terminal)
{
    if (!terminal)
        return;
    restore(terminal, terminal->fd);
    stop_guardian(terminal);
    close(terminal->fd);
    free(terminal);
}
