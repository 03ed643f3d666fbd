#include "vmm/io_threads.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/io_thread.h"

struct io_threads {
    struct event_loop *loop; /* of the machine */
    unsigned count, next;
    struct io_thread *threads[];
};

int io_threads_create(unsigned count, struct event_loop *loop, struct io_threads **out, struct error *err)
{
    struct io_threads *threads = calloc(1, sizeof(*threads) + count * sizeof(struct io_thread *));
    if (!threads)
        return error_set(err, ENOMEM, "not enough memory for %u I/O threads", count);
    threads->loop = loop;
    int result = 0;
    while (result == 0 && threads->count < count) {
        char name[16];
        snprintf(name, sizeof(name), "io%u", threads->count);
        result = io_thread_create(name, &threads->threads[threads->count], err);
        if (result == 0)
            threads->count++;
    }
    if (result < 0) {
        io_threads_destroy(threads);
        return result;
    }
    *out = threads;
    return 0;
}

struct event_loop *io_threads_next(struct io_threads *threads)
{
    if (threads->count == 0)
        return threads->loop;
    return io_thread_loop(threads->threads[threads->next++ % threads->count]);
}

void io_threads_destroy(struct io_threads *threads)
{
    if (!threads)
        return;
    for (unsigned i = 0; i < threads->count; i++)
        io_thread_destroy(threads->threads[i]);
    free(threads);
}
