#include <criterion/criterion.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/io_thread.h"
#include "base/macros.h"

#define MANY   5000 /* more than fit into any of the rings */
#define CHAINS 32
#define LINKS  500

struct probe {
    struct event_request request;
    struct batch *batch;
    unsigned calls;
    int result;
};

struct batch {
    struct event_loop *loop;
    unsigned under_way;
    struct probe probes[MANY];
};

static struct batch *create(void)
{
    struct error err;
    struct batch *batch = calloc(1, sizeof(*batch));
    cr_assert_eq(event_loop_create(&batch->loop, &err), 0, "%s", err.message);
    return batch;
}

static void destroy(struct batch *batch)
{
    event_loop_destroy(batch->loop);
    free(batch);
}

static void note(struct event_request *request, int result)
{
    struct probe *probe = container_of(request, struct probe, request);
    probe->calls++;
    probe->result = result;
    probe->batch->under_way--;
}

static struct io_uring_sqe *begin(struct batch *batch, unsigned index)
{
    struct probe *probe = &batch->probes[index];
    *probe = (struct probe){.request.done = note, .batch = batch};
    batch->under_way++;
    return event_loop_request(batch->loop, &probe->request);
}

static bool all_done(void *opaque)
{
    struct batch *batch = opaque;
    return batch->under_way == 0;
}

static void wait_for_all(struct batch *batch)
{
    event_loop_wait(batch->loop, all_done, batch);
}

Test(event_loop_requests, hand_over_what_the_system_call_returns)
{
    struct batch *batch = create();
    int fd = memfd_create("file", MFD_CLOEXEC);
    char text[8] = "";
    io_uring_prep_write(begin(batch, 0), fd, "godwit", 6, 0);
    wait_for_all(batch);
    io_uring_prep_read(begin(batch, 1), fd, text, sizeof(text), 2);
    io_uring_prep_read(begin(batch, 2), -1, text, 1, 0);
    io_uring_prep_fsync(begin(batch, 3), fd, IORING_FSYNC_DATASYNC);
    wait_for_all(batch);
    cr_assert_eq(batch->probes[0].result, 6);
    cr_assert_eq(batch->probes[1].result, 4);
    cr_assert_str_eq(text, "dwit");
    cr_assert_eq(batch->probes[2].result, -EBADF);
    cr_assert_eq(batch->probes[3].result, 0);
    close(fd);
    destroy(batch);
}

Test(event_loop_requests, are_never_lost_however_many_there_are)
{
    struct batch *batch = create();
    int fd = eventfd(0, EFD_SEMAPHORE);
    uint64_t values[MANY];
    for (unsigned i = 0; i < MANY; i++)
        io_uring_prep_read(begin(batch, i), fd, &values[i], sizeof(values[i]), 0);
    cr_assert_eq(write(fd, &(uint64_t){MANY}, sizeof(uint64_t)), sizeof(uint64_t));
    wait_for_all(batch);
    for (unsigned i = 0; i < MANY; i++) {
        cr_assert_eq(batch->probes[i].calls, 1);
        cr_assert_eq(batch->probes[i].result, sizeof(uint64_t));
        cr_assert_eq(values[i], 1);
    }
    close(fd);
    destroy(batch);
}

Test(event_loop_requests, end_early_when_cancelled)
{
    struct batch *batch = create();
    int fd = eventfd(0, 0);
    uint64_t value;
    for (unsigned i = 0; i < 300; i++)
        io_uring_prep_read(begin(batch, i), fd, &value, sizeof(value), 0);
    for (unsigned i = 0; i < 300; i++)
        event_loop_cancel(batch->loop, &batch->probes[i].request);
    wait_for_all(batch);
    for (unsigned i = 0; i < 300; i++)
        cr_assert_eq(batch->probes[i].result, -ECANCELED);
    close(fd);
    destroy(batch);
}

/* Ends the loop when all requests have been answered while a source was called all the time. */
struct beside {
    struct batch *batch;
    struct event_source *source;
    unsigned calls;
};

static void call(void *opaque, unsigned events)
{
    struct beside *beside = opaque;
    struct batch *batch = beside->batch;
    cr_assert_eq(events, POLLIN);
    if (beside->calls < MANY)
        io_uring_prep_nop(begin(batch, beside->calls++));
    else if (batch->under_way == 0)
        event_loop_quit(batch->loop);
}

Test(event_loop_requests, do_not_get_in_the_way_of_sources)
{
    struct beside beside = {.batch = create()};
    int fd = eventfd(1, 0);
    cr_assert_eq(event_loop_add(beside.batch->loop, fd, POLLIN, call, &beside, &beside.source), 0);
    cr_assert_eq(event_loop_run(beside.batch->loop), 0);
    for (unsigned i = 0; i < MANY; i++)
        cr_assert_eq(beside.batch->probes[i].calls, 1);
    destroy(beside.batch);
    close(fd);
}

/* Requests that begin the next one when they are done, on an I/O thread, with a task for each batch. */
struct chains {
    struct event_loop *loop;
    struct event_task task;
    struct chain {
        struct event_request request;
        struct chains *all;
        unsigned links;
    } chains[CHAINS];
    unsigned ended, runs, since_run, batch_max;
};

static void continue_chain(struct event_request *request, int result)
{
    struct chain *chain = container_of(request, struct chain, request);
    struct chains *all = chain->all;
    cr_assert_eq(result, 0);
    all->since_run++;
    event_loop_defer(all->loop, &all->task);
    if (++chain->links < LINKS)
        io_uring_prep_nop(event_loop_request(all->loop, request));
    else
        all->ended++;
}

static void begin_chains(void *opaque)
{
    struct chains *all = opaque;
    for (unsigned i = 0; i < CHAINS; i++) {
        all->chains[i] = (struct chain){.request.done = continue_chain, .all = all};
        io_uring_prep_nop(event_loop_request(all->loop, &all->chains[i].request));
    }
}

static void note_batch(struct event_task *task)
{
    struct chains *all = container_of(task, struct chains, task);
    cr_assert_gt(all->since_run, 0);
    if (all->since_run > all->batch_max)
        all->batch_max = all->since_run;
    all->since_run = 0;
    all->runs++;
}

static bool chains_ended(void *opaque)
{
    struct chains *all = opaque;
    return all->ended == CHAINS && all->since_run == 0;
}

Test(event_loop_requests, come_in_batches_with_one_task_for_each)
{
    struct io_thread *thread;
    cr_assert_eq(io_thread_create("io", &thread, NULL), 0);
    struct chains all = {.loop = io_thread_loop(thread), .task.run = note_batch};
    event_loop_call(all.loop, begin_chains, &all);
    event_loop_wait(all.loop, chains_ended, &all);
    io_thread_destroy(thread);
    cr_assert_leq(all.runs, CHAINS * LINKS);
    cr_assert_gt(all.batch_max, 1);
}

static void must_not_run(struct event_task *task)
{
    cr_assert_fail("it was forgotten");
}

static bool is_true(void *opaque)
{
    return *(bool *)opaque;
}

struct flag_task {
    struct event_task task;
    bool run;
    struct event_loop *loop;
};

/* That which comes last, so that the loop goes on after the others should have run. */
static void set_flag(struct event_task *task)
{
    struct flag_task *flag = container_of(task, struct flag_task, task);
    flag->run = true;
    event_loop_quit(flag->loop);
}

Test(event_loop_requests, tasks_can_be_forgotten)
{
    struct batch *batch = create();
    struct event_task first = {.run = must_not_run}, last = {.run = must_not_run};
    struct flag_task flag = {.task.run = set_flag, .loop = batch->loop};
    event_loop_defer(batch->loop, &first);
    event_loop_defer(batch->loop, &flag.task);
    event_loop_defer(batch->loop, &last);
    event_loop_forget(batch->loop, &first);
    event_loop_forget(batch->loop, &last);
    event_loop_forget(batch->loop, &last);
    event_loop_defer(batch->loop, &last);
    event_loop_forget(batch->loop, &last);
    event_loop_wait(batch->loop, is_true, &flag.run);
    cr_assert(flag.run);
    destroy(batch);
}
