/*
 * Virtqueues against drivers that keep the rules: a simulated driver (tests/support/queue_driver.h) offers
 * random chains, and every byte, length, order, kick and interrupt must be as the specification says.
 */
#include <assert.h>
#include <stdlib.h>

#include "tests/support/queue_driver.h"
#include "tests/unit/devices/virtqueue_fixture.h"

#define BUFFERS_MAX 8
#define SLOT        0x800 /* bytes of RAM for the data of a request */
#define PIECE_MAX   0xC0
#define REQUESTS    VIRTQUEUE_SIZE_MAX
#define GROUP_MAX   5 /* chains that are given back at once */

static_assert(DATA + REQUESTS * SLOT <= RAM_SIZE, "requests fit into RAM");

struct request {
    bool used;
    unsigned count;
    struct queue_driver_buffer buffers[BUFFERS_MAX];
    uint32_t out_bytes, in_bytes, written;
    unsigned entries;              /* of a packed ring */
    struct virtqueue_chain *chain; /* while the device has it */
};

struct trial {
    struct fixture f;
    struct queue_driver driver;
    struct request *requests;
    unsigned next_token;
    unsigned offered[REQUESTS]; /* and not yet taken, from `first` on */
    unsigned first, offered_count;
    unsigned taken[REQUESTS], taken_count;                       /* by the device and not yet given back */
    unsigned expected[REQUESTS], expected_first, expected_count; /* in which they must come back */
    unsigned finished[REQUESTS], finished_count; /* IN_ORDER: given back by the device, not yet visible */
    uint16_t used;                               /* where the device puts the next */
    bool used_wrap;
    unsigned pushed; /* since interrupts were looked at */
    bool kicks;      /* wanted */
    bool asked;      /* and the device has seen an empty ring since, so the next one offered must be told */
};

static uint8_t pattern(unsigned token, uint32_t byte)
{
    return (uint8_t)(token * 37 + byte * 11 + (byte >> 8));
}

/* Fills what the device is to read, and what it is to write with something else. */
static void fill(struct trial *t, unsigned token)
{
    struct request *request = &t->requests[token];
    uint32_t out = 0;
    for (unsigned i = 0; i < request->count; i++)
        for (uint32_t byte = 0; byte < request->buffers[i].length; byte++)
            t->f.host[request->buffers[i].address + byte] =
                request->buffers[i].writable ? 0xEE : pattern(token, out++);
}

static void make_request(struct trial *t, unsigned token)
{
    struct request *request = &t->requests[token];
    *request = (struct request){.used = true, .count = 1 + pick(&t->f, BUFFERS_MAX)};
    unsigned outs = pick(&t->f, request->count + 1);
    uint64_t address = DATA + (uint64_t)token * SLOT;
    for (unsigned i = 0; i < request->count; i++) {
        address += pick(&t->f, 16);
        uint32_t length = i && pick(&t->f, 8) == 0 ? 0 : 1 + pick(&t->f, PIECE_MAX);
        request->buffers[i] = (struct queue_driver_buffer){address, length, i >= outs};
        *(i >= outs ? &request->in_bytes : &request->out_bytes) += length;
        address += length;
    }
}

static unsigned free_token(const struct trial *t)
{
    unsigned token = t->next_token % REQUESTS, tried = 0;
    while (t->requests[token].used && ++tried < REQUESTS)
        token = (token + 1) % REQUESTS;
    return tried < REQUESTS ? token : REQUESTS;
}

static unsigned pick_indirect(struct trial *t, unsigned count)
{
    if (!t->f.config.indirect || pick(&t->f, 3) == 0)
        return QUEUE_DRIVER_NONE;
    return t->f.config.packed || pick(&t->f, 2) ? 0 : pick(&t->f, count);
}

static void offer(struct trial *t)
{
    unsigned token = free_token(t);
    if (token == REQUESTS)
        return;
    make_request(t, token);
    struct request *request = &t->requests[token];
    uint64_t table = TABLES + (uint64_t)token * 256 + (token % 3 == 2 ? 4 : 0);
    unsigned indirect = pick_indirect(t, request->count);
    request->entries = indirect == QUEUE_DRIVER_NONE ? request->count : 1;
    if (!queue_driver_offer(&t->driver, token, request->buffers, request->count, indirect, table)) {
        request->used = false;
        return;
    }
    fill(t, token);
    t->next_token = token + 1;
    t->offered[(t->first + t->offered_count++) % REQUESTS] = token;
    if (pick(&t->f, 3)) /* or else the next one's kick is this one's too */
        return;
    bool kick = queue_driver_must_kick(&t->driver);
    if (!t->kicks)
        cr_assert(!kick, "declined");
    if (t->asked)
        cr_assert(kick, "asked for, and the ring was empty");
    t->asked = false;
}

static void offer_many(struct trial *t)
{
    for (unsigned i = 0; i < t->f.config.size; i++)
        offer(t);
}

/* What the device is shown must be the request's buffers, but for empty ones. */
static void check_shown(struct trial *t, const struct request *request)
{
    const struct virtqueue_chain *chain = request->chain;
    unsigned out = 0, in = 0;
    for (unsigned i = 0; i < request->count; i++) {
        const struct queue_driver_buffer *buffer = &request->buffers[i];
        if (!buffer->length)
            continue;
        const struct iovec *piece = buffer->writable ? &chain->in[in++] : &chain->out[out++];
        cr_assert_eq(piece->iov_base, t->f.host + buffer->address);
        cr_assert_eq(piece->iov_len, buffer->length);
    }
    cr_assert(chain->out_count == out && chain->in_count == in);
    cr_assert(chain->out_bytes == request->out_bytes && chain->in_bytes == request->in_bytes);
}

static void check_read(struct trial *t, unsigned token)
{
    const struct request *request = &t->requests[token];
    uint8_t data[BUFFERS_MAX * PIECE_MAX], wanted[sizeof(data)];
    uint32_t offset = pick(&t->f, request->out_bytes + 2);
    size_t count = virtqueue_read(request->chain, offset, data, sizeof(data));
    cr_assert_eq(count, offset < request->out_bytes ? request->out_bytes - offset : 0);
    for (uint32_t byte = 0; byte < count; byte++)
        wanted[byte] = pattern(token, offset + byte);
    cr_assert_eq(memcmp(data, wanted, count), 0);
}

/* Whether there was one. */
static bool take(struct trial *t)
{
    struct virtqueue_chain *chain;
    int result = virtqueue_pop(t->f.queue, &chain, &t->f.err);
    cr_assert_eq(result, t->offered_count > 0, "%s", t->f.err.message);
    if (!result) {
        t->asked = t->asked || t->kicks;
        return false;
    }
    if (t->driver.config.event_idx)
        t->asked = false; /* the driver has passed where it was asked for */
    unsigned token = t->offered[t->first];
    t->requests[token].chain = chain;
    check_shown(t, &t->requests[token]);
    check_read(t, token);
    if (pick(&t->f, 8) == 0) {
        virtqueue_unpop(t->f.queue, chain);
        return true;
    }
    t->first = (t->first + 1) % REQUESTS;
    t->offered_count--;
    t->taken[t->taken_count++] = token;
    return true;
}

/* The driver may see this one now. */
static void expect(struct trial *t, unsigned token)
{
    t->expected[(t->expected_first + t->expected_count++) % REQUESTS] = token;
    unsigned entries = t->f.config.packed ? t->requests[token].entries : 1;
    t->pushed += entries;
    t->used = (uint16_t)(t->used + entries);
    if (t->f.config.packed && t->used >= t->f.config.size) {
        t->used = (uint16_t)(t->used - t->f.config.size);
        t->used_wrap = !t->used_wrap;
    }
}

static bool is_finished(const struct trial *t, unsigned token)
{
    for (unsigned i = 0; i < t->finished_count; i++)
        if (t->finished[i] == token)
            return true;
    return false;
}

static void forget(unsigned *tokens, unsigned *count, unsigned index)
{
    memmove(&tokens[index], &tokens[index + 1], (--*count - index) * sizeof(*tokens));
}

/* `taken` is in the order of taking; with IN_ORDER all of it stays there until it is visible. */
static void finish(struct trial *t, unsigned index)
{
    unsigned token = t->taken[index];
    if (!t->f.config.in_order) {
        forget(t->taken, &t->taken_count, index);
        expect(t, token);
        return;
    }
    t->finished[t->finished_count++] = token;
    while (t->taken_count && is_finished(t, t->taken[0])) {
        unsigned place = 0;
        while (t->finished[place] != t->taken[0])
            place++;
        forget(t->finished, &t->finished_count, place);
        expect(t, t->taken[0]);
        forget(t->taken, &t->taken_count, 0);
    }
}

/* As a device carries a request out. */
static void carry_out(struct trial *t, struct request *request, unsigned token)
{
    request->written = pick(&t->f, request->in_bytes + 1);
    uint8_t data[BUFFERS_MAX * PIECE_MAX];
    for (uint32_t byte = 0; byte < request->written; byte++)
        data[byte] = (uint8_t)~pattern(token, byte);
    uint32_t cut = pick(&t->f, request->written + 1);
    cr_assert_eq(virtqueue_write(request->chain, 0, data, cut), cut);
    cr_assert_eq(virtqueue_write(request->chain, cut, data + cut, request->written - cut),
                 request->written - cut);
    cr_assert_eq(virtqueue_write(request->chain, request->in_bytes, data, 1), 0);
}

static void give_back(struct trial *t)
{
    if (!t->taken_count)
        return;
    unsigned index = pick(&t->f, t->taken_count), token = t->taken[index];
    if (is_finished(t, token))
        return;
    struct request *request = &t->requests[token];
    carry_out(t, request, token);
    virtqueue_push(t->f.queue, request->chain, request->written);
    finish(t, index);
}

/* Some that were taken one after the other, at once. */
static void give_many_back(struct trial *t)
{
    struct virtqueue_chain *chains[GROUP_MAX];
    uint32_t written[GROUP_MAX];
    unsigned tokens[GROUP_MAX], count = 0, first = t->taken_count ? pick(&t->f, t->taken_count) : 0;
    while (first + count < t->taken_count && count < GROUP_MAX && !is_finished(t, t->taken[first + count])) {
        unsigned token = tokens[count] = t->taken[first + count];
        carry_out(t, &t->requests[token], token);
        chains[count] = t->requests[token].chain;
        written[count++] = t->requests[token].written;
    }
    virtqueue_push_all(t->f.queue, chains, written, count);
    for (unsigned i = 0; i < count; i++) {
        unsigned place = 0;
        while (t->taken[place] != tokens[i])
            place++;
        finish(t, place);
    }
}

/* What the driver finds: the bytes written, and nothing behind them. */
static void check_written(struct trial *t, unsigned token)
{
    const struct request *request = &t->requests[token];
    uint32_t in = 0;
    for (unsigned i = 0; i < request->count; i++) {
        const struct queue_driver_buffer *buffer = &request->buffers[i];
        uint8_t wanted[PIECE_MAX];
        for (uint32_t byte = 0; buffer->writable && byte < buffer->length; byte++, in++)
            wanted[byte] = in < request->written ? (uint8_t)~pattern(token, in) : 0xEE;
        cr_assert(!buffer->writable || !memcmp(t->f.host + buffer->address, wanted, buffer->length));
    }
}

static void collect(struct trial *t)
{
    unsigned token;
    uint32_t written;
    bool there = queue_driver_collect(&t->driver, &token, &written);
    cr_assert(!t->driver.failed);
    cr_assert_eq(there, t->expected_count > 0);
    if (!there)
        return;
    cr_assert_eq(token, t->expected[t->expected_first]);
    cr_assert_eq(written, t->requests[token].written);
    check_written(t, token);
    t->expected_first = (t->expected_first + 1) % REQUESTS;
    t->expected_count--;
    t->requests[token].used = false;
}

static void look_at_interrupt(struct trial *t)
{
    bool owed = queue_driver_is_owed(&t->driver, t->used, t->used_wrap, t->pushed);
    cr_assert_eq(virtqueue_wants_interrupt(t->f.queue), owed);
    t->pushed = 0;
    cr_assert(!virtqueue_wants_interrupt(t->f.queue), "asked once already");
}

static void change_interrupts(struct trial *t)
{
    if (pick(&t->f, 3) == 0)
        queue_driver_mask(&t->driver);
    else
        queue_driver_unmask(&t->driver, pick(&t->f, t->f.config.size));
}

static void change_kicks(struct trial *t)
{
    queue_driver_must_kick(&t->driver); /* what was offered before is not judged */
    t->kicks = pick(&t->f, 2);
    bool there = virtqueue_set_kicks(t->f.queue, t->kicks);
    cr_assert_eq(there, t->kicks && t->offered_count);
    t->asked = t->kicks && !there;
}

static void commit(struct trial *t)
{
    cr_assert_eq(memory_region_set_enabled(&t->f.other, pick(&t->f, 2), NULL), 0);
}

static void move_queue(struct trial *t)
{
    if (t->taken_count)
        return;
    look_at_interrupt(t);
    queue_driver_must_kick(&t->driver);
    uint16_t avail, used, again[2];
    virtqueue_get_position(t->f.queue, &avail, &used);
    cr_assert_eq(used, t->f.config.packed ? t->used | (t->used_wrap ? 0x8000 : 0) : t->used);
    virtqueue_destroy(t->f.queue);
    fixture_queue(&t->f);
    virtqueue_set_position(t->f.queue, avail, used);
    virtqueue_get_position(t->f.queue, &again[0], &again[1]);
    cr_assert(again[0] == avail && again[1] == used);
    change_kicks(t);
}

static void step(struct trial *t)
{
    switch (pick(&t->f, 16)) {
    case 0:
        change_interrupts(t);
        break;
    case 1:
        change_kicks(t);
        break;
    case 2:
        look_at_interrupt(t);
        break;
    case 3:
        commit(t);
        break;
    case 4:
        move_queue(t);
        break;
    case 5: /* all of it */
        while (take(t))
            ;
        break;
    case 6:
        offer_many(t);
        break;
    case 7:
    case 8:
        take(t);
        break;
    case 9:
    case 10:
        offer(t);
        break;
    case 11:
    case 12:
        give_back(t);
        break;
    case 13:
        give_many_back(t);
        break;
    default:
        collect(t);
        break;
    }
}

static void finish_all(struct trial *t)
{
    while (take(t))
        ;
    while (t->taken_count)
        give_back(t);
    look_at_interrupt(t);
    while (t->expected_count)
        collect(t);
    collect(t);
}

static void run(const struct virtqueue_config *shape, unsigned steps)
{
    struct trial *t = calloc(1, sizeof(*t));
    fixture_start(&t->f);
    t->f.random = 88172645463325252u + shape->size;
    t->requests = calloc(REQUESTS, sizeof(*t->requests));
    t->f.config.size = shape->size;
    t->f.config.packed = shape->packed;
    t->f.config.event_idx = shape->event_idx;
    t->f.config.indirect = shape->indirect;
    t->f.config.in_order = shape->in_order;
    fixture_queue(&t->f);
    uint16_t start = shape->packed ? 0 : 65500;
    queue_driver_init(&t->driver, &(struct queue_driver_config){
                                      .memory = t->f.host,
                                      .size = shape->size,
                                      .descriptors = DESCRIPTORS,
                                      .driver = DRIVER,
                                      .device = DEVICE,
                                      .packed = shape->packed,
                                      .event_idx = shape->event_idx,
                                      .in_order = shape->in_order,
                                      .start = start,
                                  });
    if (!shape->packed)
        virtqueue_set_position(t->f.queue, start, start);
    t->used = start;
    t->used_wrap = true;
    t->kicks = true;
    for (unsigned i = 0; i < steps; i++)
        step(t);
    finish_all(t);
    queue_driver_free(&t->driver);
    fixture_end(&t->f);
    free(t->requests);
    free(t);
}

/* With and without each feature. */
static void run_shapes(bool packed, const uint16_t *sizes, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        for (unsigned features = 0; features < 8; features++)
            run(
                &(struct virtqueue_config){
                    .size = sizes[i],
                    .packed = packed,
                    .event_idx = features & 1,
                    .indirect = features & 2,
                    .in_order = features & 4,
                },
                6000);
}

Test(virtqueue, serves_split_rings)
{
    run_shapes(false, (uint16_t[]){1, 2, 4, 16, 64, 256, 1024}, 7);
}

Test(virtqueue, serves_packed_rings)
{
    run_shapes(true, (uint16_t[]){1, 2, 3, 7, 16, 100, 256, 1024}, 8);
}
