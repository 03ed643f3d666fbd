#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/io_thread.h"
#include "base/macros.h"

#define EXCHANGES 20000
#define PAUSE_US  300 /* longer than any loop looks */

/* ---- Edges ---- */

struct edge {
    struct event_loop *loop;
    struct event_source *source;
    int fd;
    _Atomic unsigned calls, events;
};

static void note_edge(void *opaque, unsigned events)
{
    struct edge *edge = opaque;
    edge->events |= events;
    edge->calls++;
}

static void add_edge(void *opaque)
{
    struct edge *edge = opaque;
    cr_assert_eq(event_loop_add(edge->loop, edge->fd, POLLIN | EVENT_EDGE, note_edge, edge, &edge->source),
                 0);
}

static void remove_edge(void *opaque)
{
    struct edge *edge = opaque;
    event_loop_remove(edge->loop, edge->source);
}

/* Not by event_loop_wait(), which serves no sources while the thread has not begun. */
static void wait_for_call(struct edge *edge)
{
    while (edge->calls == 0)
        sched_yield();
    cr_assert_eq(edge->events, POLLIN);
}

static struct io_thread *start(struct event_loop **loop)
{
    struct error err;
    struct io_thread *thread;
    cr_assert_eq(io_thread_create("io", &thread, &err), 0, "%s", err.message);
    *loop = io_thread_loop(thread);
    return thread;
}

/* Nothing reads the eventfd, so that a source which went by its level would be called without end. */
Test(event_loop_polling, an_edge_is_told_once_and_each_is_told)
{
    struct edge edge = {.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    struct io_thread *thread = start(&edge.loop);
    event_loop_call(edge.loop, add_edge, &edge);
    for (unsigned i = 0; i < 1000; i++) {
        edge.calls = 0;
        eventfd_write(edge.fd, 1);
        wait_for_call(&edge);
        cr_assert_leq(edge.calls, 2, "call %u", i); /* the first write is also what is there at first */
    }
    event_loop_call(edge.loop, remove_edge, &edge);
    io_thread_destroy(thread);
    close(edge.fd);
}

static void silence(void *opaque)
{
    struct edge *edge = opaque;
    event_loop_modify(edge->loop, edge->source, 0);
}

static void listen(void *opaque)
{
    struct edge *edge = opaque;
    event_loop_modify(edge->loop, edge->source, POLLIN | EVENT_EDGE);
}

/* What was written to a silent source is told when it is listened to again. */
Test(event_loop_polling, an_edge_can_be_silenced)
{
    struct edge edge = {.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    struct io_thread *thread = start(&edge.loop);
    event_loop_call(edge.loop, add_edge, &edge);
    for (unsigned i = 0; i < 200; i++) {
        event_loop_call(edge.loop, silence, &edge);
        event_loop_call(edge.loop, silence, &edge); /* what was under way before has been told */
        edge.calls = 0;
        eventfd_write(edge.fd, 1);
        event_loop_call(edge.loop, silence, &edge);
        cr_assert_eq(edge.calls, 0);
        event_loop_call(edge.loop, listen, &edge);
        wait_for_call(&edge);
    }
    event_loop_call(edge.loop, remove_edge, &edge);
    io_thread_destroy(thread);
    close(edge.fd);
}

/* ---- Pollers ---- */

/*
 * A number that one thread counts up and the loop's follows. As with virtqueues, the loop is woken only where
 * it has asked for that.
 */
struct mailbox {
    struct event_poller poller;
    struct event_loop *loop;
    struct event_source *source;
    int fd;
    _Atomic unsigned sent, seen;
    _Atomic bool asked;
    unsigned rests, looks; /* of the loop's thread */
};

static bool take(struct mailbox *mailbox)
{
    unsigned sent = mailbox->sent;
    bool more = sent != mailbox->seen;
    mailbox->seen = sent;
    return more;
}

static bool look(struct event_poller *poller)
{
    struct mailbox *mailbox = container_of(poller, struct mailbox, poller);
    return take(mailbox);
}

static bool rest(struct event_poller *poller)
{
    struct mailbox *mailbox = container_of(poller, struct mailbox, poller);
    mailbox->rests++;
    mailbox->asked = true;
    bool more = take(mailbox);
    if (more)
        mailbox->asked = false;
    return more;
}

static void wake(struct event_poller *poller)
{
    struct mailbox *mailbox = container_of(poller, struct mailbox, poller);
    mailbox->asked = false;
}

static void on_mail(void *opaque, unsigned events)
{
    take(opaque);
}

static void open_mailbox(void *opaque)
{
    struct mailbox *mailbox = opaque;
    cr_assert_eq(
        event_loop_add(mailbox->loop, mailbox->fd, POLLIN | EVENT_EDGE, on_mail, mailbox, &mailbox->source),
        0);
    event_loop_poll(mailbox->loop, &mailbox->poller);
}

static void close_mailbox(void *opaque)
{
    struct mailbox *mailbox = opaque;
    event_loop_unpoll(mailbox->loop, &mailbox->poller);
    event_loop_remove(mailbox->loop, mailbox->source);
}

static void init(struct mailbox *mailbox)
{
    mailbox->poller = (struct event_poller){.look = look, .rest = rest, .wake = wake};
    mailbox->fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
}

static void send(struct mailbox *mailbox)
{
    mailbox->sent++;
    if (mailbox->asked)
        eventfd_write(mailbox->fd, 1);
}

static void exchange(unsigned count, unsigned boxes, unsigned pause)
{
    struct event_loop *loop;
    struct io_thread *thread = start(&loop);
    struct mailbox *mailboxes = calloc(boxes, sizeof(*mailboxes));
    for (unsigned i = 0; i < boxes; i++) {
        init(&mailboxes[i]);
        mailboxes[i].loop = loop;
        event_loop_call(loop, open_mailbox, &mailboxes[i]);
    }
    for (unsigned i = 0; i < count; i++) {
        struct mailbox *mailbox = &mailboxes[i % boxes];
        send(mailbox);
        while (mailbox->seen != mailbox->sent)
            sched_yield(); /* for ever, where a wake-up is lost */
        if (pause)
            usleep(pause);
    }
    for (unsigned i = 0; i < boxes; i++) {
        event_loop_call(loop, close_mailbox, &mailboxes[i]);
        cr_assert_gt(mailboxes[i].rests, 0);
        close(mailboxes[i].fd);
    }
    io_thread_destroy(thread);
    free(mailboxes);
}

Test(event_loop_polling, loses_nothing_that_comes_fast)
{
    exchange(EXCHANGES, 1, 0);
}

Test(event_loop_polling, loses_nothing_that_comes_in_several_places)
{
    exchange(EXCHANGES, 5, 0);
}

Test(event_loop_polling, loses_nothing_that_comes_slowly)
{
    exchange(500, 2, PAUSE_US);
}

static bool count_looks(struct event_poller *poller)
{
    struct mailbox *mailbox = container_of(poller, struct mailbox, poller);
    mailbox->looks++;
    return take(mailbox);
}

/* How often a loop looks that is created with these processors. */
static unsigned looks_on(const cpu_set_t *processors)
{
    cpu_set_t before;
    cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
    cr_assert_eq(sched_setaffinity(0, sizeof(*processors), processors), 0);
    struct mailbox mailbox = {.looks = 0};
    struct io_thread *thread = start(&mailbox.loop);
    init(&mailbox);
    mailbox.poller.look = count_looks;
    event_loop_call(mailbox.loop, open_mailbox, &mailbox);
    for (unsigned i = 0; i < 2000; i++) {
        send(&mailbox);
        while (mailbox.seen != mailbox.sent)
            sched_yield();
    }
    event_loop_call(mailbox.loop, close_mailbox, &mailbox);
    io_thread_destroy(thread);
    close(mailbox.fd);
    sched_setaffinity(0, sizeof(before), &before);
    return mailbox.looks;
}

Test(event_loop_polling, does_not_look_on_a_single_processor)
{
    cpu_set_t all, one;
    cr_assert_eq(sched_getaffinity(0, sizeof(all), &all), 0);
    CPU_ZERO(&one);
    for (int i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++)
        if (CPU_ISSET(i, &all))
            CPU_SET(i, &one);
    cr_assert_eq(looks_on(&one), 0);
}

/* Answers to the calls below while it is looked at: the loop goes on with everything else. */
Test(event_loop_polling, does_not_keep_the_loop_from_its_other_work)
{
    struct event_loop *loop;
    struct io_thread *thread = start(&loop);
    struct mailbox mailbox = {.loop = loop};
    init(&mailbox);
    event_loop_call(loop, open_mailbox, &mailbox);
    struct edge edge = {.loop = loop, .fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    event_loop_call(loop, add_edge, &edge);
    for (unsigned i = 0; i < 2000; i++) {
        send(&mailbox);
        edge.calls = 0;
        eventfd_write(edge.fd, 1);
        wait_for_call(&edge);
    }
    event_loop_call(loop, close_mailbox, &mailbox);
    event_loop_call(loop, remove_edge, &edge);
    io_thread_destroy(thread);
    close(mailbox.fd);
    close(edge.fd);
}

/* A loop that nobody runs calls no poller: what is done in place is no life of its own. */
static bool must_not_look(struct event_poller *poller)
{
    cr_assert_fail("nobody runs the loop");
    return false;
}

static bool is_over(void *opaque)
{
    return --*(int *)opaque == 0;
}

Test(event_loop_polling, rests_where_nobody_runs_the_loop)
{
    struct event_loop *loop;
    struct error err;
    int countdown = 1;
    cr_assert_eq(event_loop_create(&loop, &err), 0, "%s", err.message);
    struct event_poller poller = {.look = must_not_look, .rest = must_not_look};
    event_loop_poll(loop, &poller);
    event_loop_wait(loop, is_over, &countdown);
    event_loop_unpoll(loop, &poller);
    event_loop_destroy(loop);
}
