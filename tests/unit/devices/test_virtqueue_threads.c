/*
 * Virtqueues with the driver on a thread of its own: at full speed no kick and no interrupt is lost, where
 * one lost would leave both sides waiting for ever, while views of memory come and go; and with a driver that
 * scribbles over the rings at any moment.
 */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/support/queue_driver.h"
#include "tests/unit/devices/virtqueue_fixture.h"

#define REQUESTS 20000
#define SLOT     64 /* bytes of a request: what it says, and room for the answer */
#define ANSWER   32

struct pair {
    struct fixture f;
    struct queue_driver driver;
    int kick, interrupt;
    bool masks; /* the device declines kicks while it is busy */
    atomic_bool over;
    uint64_t kicks, interrupts;
};

static void signal_event(int fd)
{
    uint64_t one = 1;
    cr_assert_eq(write(fd, &one, sizeof(one)), (ssize_t)sizeof(one));
}

static void wait_event(int fd)
{
    uint64_t count;
    cr_assert_eq(read(fd, &count, sizeof(count)), (ssize_t)sizeof(count));
}

/* ---- The device ---- */

static void answer(struct pair *pair, struct virtqueue_chain *chain)
{
    uint64_t question;
    cr_assert_eq(virtqueue_read(chain, 0, &question, sizeof(question)), sizeof(question));
    question = ~question;
    cr_assert_eq(virtqueue_write(chain, 0, &question, sizeof(question)), sizeof(question));
    virtqueue_push(pair->f.queue, chain, sizeof(question));
}

static unsigned answer_all(struct pair *pair)
{
    struct virtqueue_chain *chain;
    struct error err;
    unsigned count = 0;
    int result;
    while ((result = virtqueue_pop(pair->f.queue, &chain, &err)) == 1) {
        answer(pair, chain);
        if (++count % 4 == 0 && virtqueue_wants_interrupt(pair->f.queue))
            signal_event(pair->interrupt);
    }
    cr_assert_eq(result, 0, "%s", err.message);
    if (virtqueue_wants_interrupt(pair->f.queue))
        signal_event(pair->interrupt);
    return count;
}

static void *run_device(void *opaque)
{
    struct pair *pair = opaque;
    for (unsigned done = 0; done < REQUESTS;) {
        wait_event(pair->kick);
        if (!pair->masks) {
            done += answer_all(pair);
            continue;
        }
        do {
            virtqueue_set_kicks(pair->f.queue, false);
            done += answer_all(pair);
        } while (virtqueue_set_kicks(pair->f.queue, true));
    }
    return NULL;
}

/* ---- The driver ---- */

static bool ask(struct pair *pair, unsigned number)
{
    uint64_t address = DATA + (uint64_t)(number % (2 * QUEUE_DRIVER_MAX)) * SLOT, question = number;
    struct queue_driver_buffer buffers[] = {{address, sizeof(question), false},
                                            {address + ANSWER, sizeof(question), true}};
    memcpy(pair->f.host + address, &question, sizeof(question));
    unsigned indirect = number % 3 ? QUEUE_DRIVER_NONE : 0;
    return queue_driver_offer(&pair->driver, number, buffers, 2, indirect,
                              TABLES + number % QUEUE_DRIVER_MAX * 32);
}

static unsigned collect_all(struct pair *pair)
{
    unsigned count = 0, number;
    for (uint32_t written; queue_driver_collect(&pair->driver, &number, &written); count++) {
        uint64_t address = DATA + (uint64_t)(number % (2 * QUEUE_DRIVER_MAX)) * SLOT, got;
        memcpy(&got, pair->f.host + address + ANSWER, sizeof(got));
        cr_assert(got == ~(uint64_t)number && written == sizeof(got));
    }
    cr_assert(!pair->driver.failed);
    return count;
}

/* Waits until something has come back: for an interrupt, unless it is there already. */
static unsigned collect_some(struct pair *pair)
{
    unsigned count;
    while (!(count = collect_all(pair))) {
        if (queue_driver_unmask(&pair->driver, 0))
            continue;
        wait_event(pair->interrupt);
        pair->interrupts++;
        queue_driver_mask(&pair->driver);
    }
    return count;
}

static void kick(struct pair *pair)
{
    if (!queue_driver_must_kick(&pair->driver))
        return;
    signal_event(pair->kick);
    pair->kicks++;
}

static void *run_driver(void *opaque)
{
    struct pair *pair = opaque;
    queue_driver_mask(&pair->driver);
    unsigned asked = 0, answered = 0;
    while (answered < REQUESTS) {
        bool full = asked == REQUESTS || !ask(pair, asked);
        if (!full)
            asked++;
        if (full || asked % 5 == 0)
            kick(pair);
        if (full)
            answered += collect_some(pair);
    }
    atomic_store(&pair->over, true);
    return NULL;
}

static void *run_commits(void *opaque)
{
    struct pair *pair = opaque;
    for (unsigned i = 0; !atomic_load(&pair->over); i++)
        cr_assert_eq(memory_region_set_enabled(&pair->f.other, i % 2, NULL), 0);
    return NULL;
}

static void run(unsigned features, uint16_t size)
{
    struct pair *pair = calloc(1, sizeof(*pair));
    fixture_start(&pair->f);
    pair->f.config.size = size;
    pair->f.config.packed = features & 1;
    pair->f.config.event_idx = features & 2;
    pair->masks = features & 4;
    fixture_queue(&pair->f);
    queue_driver_init(&pair->driver, &(struct queue_driver_config){
                                         .memory = pair->f.host,
                                         .size = size,
                                         .descriptors = DESCRIPTORS,
                                         .driver = DRIVER,
                                         .device = DEVICE,
                                         .packed = pair->f.config.packed,
                                         .event_idx = pair->f.config.event_idx,
                                     });
    pair->kick = eventfd(0, 0);
    pair->interrupt = eventfd(0, 0);
    void *(*const roles[])(void *) = {run_device, run_driver, run_commits};
    pthread_t threads[ARRAY_SIZE(roles)];
    for (unsigned i = 0; i < ARRAY_SIZE(roles); i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, roles[i], pair), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(roles); i++)
        pthread_join(threads[i], NULL);
    cr_assert(pair->kicks && pair->interrupts);
    close(pair->kick);
    close(pair->interrupt);
    queue_driver_free(&pair->driver);
    fixture_end(&pair->f);
    free(pair);
}

Test(virtqueue_threads, nothing_is_lost)
{
    for (unsigned features = 0; features < 8; features++) {
        run(features, 4);
        run(features, 128);
    }
}

/* ---- Just in time ---- */

#ifndef __SANITIZE_THREAD__ /* which puts the handler off until the store is done */

/* A driver that offers a chain just before the device's wish for kicks gets into memory, where it finds the
 * one before that: the page faults. */
static struct {
    struct queue_driver *driver;
    uint8_t *page;
    bool offered, kicked;
} moment;

static void offer_at_the_fault(int number)
{
    if (moment.offered)
        _exit(3);
    moment.offered = true;
    if (mprotect(moment.page, RAM_PAGE_SIZE, PROT_READ | PROT_WRITE))
        _exit(4);
    struct queue_driver_buffer buffer = {DATA, 16, true};
    queue_driver_offer(moment.driver, 0, &buffer, 1, QUEUE_DRIVER_NONE, 0);
    moment.kicked = queue_driver_must_kick(moment.driver);
}

static void run_moment(bool packed, bool event_idx, bool by_pop)
{
    struct fixture f;
    struct queue_driver driver;
    fixture_start(&f);
    f.config.packed = packed;
    f.config.event_idx = event_idx;
    fixture_queue(&f);
    queue_driver_init(&driver, &(struct queue_driver_config){
                                   .memory = f.host,
                                   .size = f.config.size,
                                   .descriptors = DESCRIPTORS,
                                   .driver = DRIVER,
                                   .device = DEVICE,
                                   .packed = packed,
                                   .event_idx = event_idx,
                               });
    virtqueue_set_kicks(f.queue, false);
    moment = (typeof(moment)){.driver = &driver, .page = f.host + DEVICE};
    struct virtqueue_chain *chain;
    if (by_pop) { /* the wish is that of somebody before */
        virtqueue_destroy(f.queue);
        fixture_queue(&f);
    }
    cr_assert_eq(mprotect(moment.page, RAM_PAGE_SIZE, PROT_READ), 0);
    if (!by_pop)
        cr_assert(virtqueue_set_kicks(f.queue, true), "it has come meanwhile, without a kick");
    cr_assert_eq(virtqueue_pop(f.queue, &chain, NULL), 1);
    cr_assert(moment.offered && !moment.kicked);
    virtqueue_push(f.queue, chain, 0);
    queue_driver_free(&driver);
    fixture_end(&f);
}

Test(virtqueue_threads, chain_that_comes_as_kicks_are_asked_for)
{
    struct sigaction action = {.sa_handler = offer_at_the_fault};
    cr_assert_eq(sigaction(SIGSEGV, &action, NULL), 0);
    for (unsigned i = 0; i < 8; i++)
        run_moment(i & 1, i & 2, i & 4);
}

#endif

/* ---- Scribbling ---- */

struct scribbler {
    struct fixture f;
    atomic_bool over;
};

/* Stores mostly what looks right, over both layouts' rings and tables. */
static void *scribble(void *opaque)
{
    struct scribbler *self = opaque;
    struct fixture f = {.random = 4711};
    while (!atomic_load(&self->over)) {
        static const uint64_t areas[] = {DESCRIPTORS, DESCRIPTORS, DRIVER, DEVICE, TABLES};
        uint64_t address = areas[pick(&f, ARRAY_SIZE(areas))] + 8 * (uint64_t)pick(&f, 32);
        uint64_t values[] = {
            DATA + pick(&f, 0x10000),
            TABLES,
            (uint64_t)pick(&f, 64) << 48 | (uint64_t)pick(&f, 8) << 32 | pick(&f, 0x1000),
            (uint64_t)pick(&f, 0x10000) << 48 | (uint64_t)pick(&f, 10) << 32 | 16 * pick(&f, 10),
            (uint64_t)pick(&f, 0x10000) << 16 | pick(&f, 8),
        };
        __atomic_store_n((uint64_t *)(void *)(self->f.host + address), values[pick(&f, ARRAY_SIZE(values))],
                         __ATOMIC_RELAXED);
    }
    return NULL;
}

static void check_pieces(const struct fixture *f, const struct iovec *iov, unsigned count, uint32_t bytes)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < count; i++) {
        const uint8_t *piece = iov[i].iov_base;
        cr_assert(iov[i].iov_len && piece >= f->host && piece + iov[i].iov_len <= f->host + RAM_SIZE);
        sum += iov[i].iov_len;
    }
    cr_assert_eq(sum, bytes);
}

/* Serves what comes until the queue breaks; returns how many chains that were. */
static unsigned serve(struct fixture *f)
{
    struct virtqueue_chain *chain;
    unsigned count = 0;
    int result = 0;
    for (unsigned i = 0; i < 100 && result >= 0; i++) {
        while ((result = virtqueue_pop(f->queue, &chain, NULL)) == 1) {
            check_pieces(f, chain->out, chain->out_count, chain->out_bytes);
            check_pieces(f, chain->in, chain->in_count, chain->in_bytes);
            virtqueue_push(f->queue, chain, chain->in_bytes);
            count++;
        }
        virtqueue_wants_interrupt(f->queue);
        virtqueue_set_kicks(f->queue, i % 2);
    }
    cr_assert(result == 0 || result == -EPROTO);
    return count;
}

Test(virtqueue_threads, rings_that_change_while_they_are_read)
{
    struct scribbler self = {.over = false};
    fixture_start(&self.f);
    pthread_t thread;
    cr_assert_eq(pthread_create(&thread, NULL, scribble, &self), 0);
    for (unsigned round = 0, served = 0; round < 2000 || !served; round++) {
        self.f.config.packed = round & 1;
        self.f.config.event_idx = round & 2;
        self.f.config.in_order = round & 4;
        fixture_queue(&self.f);
        uint16_t index;
        __atomic_load((uint16_t *)(void *)(self.f.host + DRIVER + 2), &index, __ATOMIC_RELAXED);
        if (!self.f.config.packed)
            virtqueue_set_position(self.f.queue, index - 2, index - 2);
        served += serve(&self.f);
        virtqueue_destroy(self.f.queue);
    }
    atomic_store(&self.over, true);
    pthread_join(thread, NULL);
    self.f.queue = NULL;
    fixture_end(&self.f);
}
