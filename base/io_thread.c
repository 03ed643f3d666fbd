#include "base/io_thread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/event_loop.h"

#define NAME_MAX_BYTES 15

struct io_thread {
    struct event_loop *loop;
    pthread_t thread;
};

static void *run(void *opaque)
{
    struct io_thread *thread = opaque;
    event_loop_run(thread->loop);
    return NULL;
}

/* The thread begins with the signal mask of its creator. */
static int start(struct io_thread *thread)
{
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int result = pthread_create(&thread->thread, NULL, run, thread);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return -result;
}

static void set_name(struct io_thread *thread, const char *name)
{
    char shown[NAME_MAX_BYTES + 1] = "";
    for (size_t i = 0; i < NAME_MAX_BYTES && name[i]; i++)
        shown[i] = name[i];
    pthread_setname_np(thread->thread, shown);
}

int io_thread_create(const char *name, struct io_thread **out, struct error *err)
{
    struct io_thread *thread = calloc(1, sizeof(*thread));
    if (!thread)
        return error_set(err, ENOMEM, "not enough memory for the I/O thread %s", name);
    int result = event_loop_create(&thread->loop, err);
    if (result == 0) {
        result = start(thread);
        if (result < 0)
            error_set_errno(err, -result, "cannot start the I/O thread %s", name);
    }
    if (result < 0) {
        event_loop_destroy(thread->loop);
        free(thread);
        return result;
    }
    set_name(thread, name);
    *out = thread;
    return 0;
}

struct event_loop *io_thread_loop(struct io_thread *thread)
{
    return thread->loop;
}

void io_thread_destroy(struct io_thread *thread)
{
    if (!thread)
        return;
    event_loop_quit(thread->loop);
    pthread_join(thread->thread, NULL);
    event_loop_destroy(thread->loop);
    free(thread);
}
