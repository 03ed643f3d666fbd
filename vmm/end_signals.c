#include "vmm/end_signals.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/log.h"
#include "base/macros.h"
#include "vmm/exit_status.h"

#define GRACE_MS 1000

struct end_signals {
    struct log log;
    int signal_fd, first_fd, stop_fd;
    pthread_t thread;
    bool started;
    _Atomic int64_t ending_since; /* milliseconds; 0: not yet */
};

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

void end_signals_ending(struct end_signals *signals)
{
    int64_t before = 0;
    atomic_compare_exchange_strong(&signals->ending_since, &before, now_ms());
}

/* Returns only where everything has ended meanwhile. */
static void end_at_once(const struct end_signals *signals, int number)
{
    struct pollfd stop = {.fd = signals->stop_fd, .events = POLLIN};
    int64_t left = signals->ending_since + GRACE_MS - now_ms();
    if (poll(&stop, 1, left > 0 ? (int)left : 0) != 0)
        return;
    log_write(&signals->log, LOG_ERROR,
              "ended at once by a further signal: the host has not finished what the guest asked for");
    _exit(EXIT_STATUS_SIGNAL + number);
}

static void take_signal(struct end_signals *signals)
{
    struct signalfd_siginfo info;
    if (read(signals->signal_fd, &info, sizeof(info)) != sizeof(info))
        return;
    if (signals->ending_since) {
        end_at_once(signals, (int)info.ssi_signo);
    } else {
        end_signals_ending(signals);
        eventfd_write(signals->first_fd, info.ssi_signo);
    }
}

static void *watch(void *opaque)
{
    struct end_signals *signals = opaque;
    struct pollfd fds[] = {
        {.fd = signals->stop_fd, .events = POLLIN},
        {.fd = signals->signal_fd, .events = POLLIN},
    };
    pthread_setname_np(pthread_self(), "signals");
    while (poll(fds, 2, -1) < 0 || !fds[0].revents) {
        if (fds[1].revents)
            take_signal(signals);
    }
    return NULL;
}

int end_signals_create(struct end_signals **out, struct error *err)
{
    struct end_signals *signals = calloc(1, sizeof(*signals));
    if (!signals)
        return error_set(err, ENOMEM, "not enough memory for signals");
    sigset_t ending;
    sigemptyset(&ending);
    sigaddset(&ending, SIGINT);
    sigaddset(&ending, SIGTERM);
    sigaddset(&ending, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &ending, NULL);
    signals->signal_fd = signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK);
    signals->first_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    signals->stop_fd = eventfd(0, EFD_CLOEXEC);
    if (signals->signal_fd < 0 || signals->first_fd < 0 || signals->stop_fd < 0) {
        int code = errno;
        end_signals_destroy(signals);
        return error_set_errno(err, code, "cannot create a descriptor for signals");
    }
    *out = signals;
    return 0;
}

int end_signals_start(struct end_signals *signals, const struct log *log, struct error *err)
{
    signals->log = *log;
    int result = pthread_create(&signals->thread, NULL, watch, signals);
    if (result)
        return error_set_errno(err, result, "cannot start a thread for signals");
    signals->started = true;
    return 0;
}

int end_signals_fd(const struct end_signals *signals)
{
    return signals->first_fd;
}

void end_signals_destroy(struct end_signals *signals)
{
    if (!signals)
        return;
    if (signals->started) {
        eventfd_write(signals->stop_fd, 1);
        pthread_join(signals->thread, NULL);
    }
    const int fds[] = {signals->signal_fd, signals->first_fd, signals->stop_fd};
    for (unsigned i = 0; i < ARRAY_SIZE(fds); i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    free(signals);
}
