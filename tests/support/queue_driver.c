#include "tests/support/queue_driver.h"

#include <stdlib.h>
#include <string.h>

#define NEXT              1
#define WRITE             2
#define INDIRECT          4
#define AVAIL             (1 << 7)
#define USED              (1 << 15)
#define RESERVED          (NEXT | INDIRECT) /* in a packed indirect table: the device ignores them */

#define GET(field)        __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define SET(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

struct split_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

struct avail_ring {
    uint16_t flags, index, ring[];
};

struct used_ring {
    uint16_t flags, index;
    struct {
        uint32_t id, length;
    } ring[];
};

struct packed_descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t id, flags;
};

struct event {
    uint16_t position, flags;
};

static void *at(const struct queue_driver *driver, uint64_t address)
{
    return driver->config.memory + address;
}

static struct avail_ring *avail_ring(const struct queue_driver *driver)
{
    return at(driver, driver->config.driver);
}

static struct used_ring *used_ring(const struct queue_driver *driver)
{
    return at(driver, driver->config.device);
}

static uint16_t *used_event(const struct queue_driver *driver)
{
    return &avail_ring(driver)->ring[driver->config.size];
}

static uint16_t *avail_event(const struct queue_driver *driver)
{
    return (uint16_t *)(void *)&used_ring(driver)->ring[driver->config.size];
}

static struct packed_descriptor *packed_ring(const struct queue_driver *driver)
{
    return at(driver, driver->config.descriptors);
}

void queue_driver_init(struct queue_driver *driver, const struct queue_driver_config *config)
{
    *driver = (struct queue_driver){.config = *config, .avail_wrap = true, .used_wrap = true};
    driver->chains = calloc(config->size, sizeof(*driver->chains));
    driver->free_count = driver->free_ids = config->size;
    for (unsigned i = 0; i < config->size; i++)
        driver->free[i] = (uint16_t)(config->size - 1 - i);
    memset(at(driver, config->descriptors), 0, (size_t)16 * config->size);
    if (config->packed) {
        memset(at(driver, config->driver), 0, sizeof(struct event));
        memset(at(driver, config->device), 0, sizeof(struct event));
        return;
    }
    memset(at(driver, config->driver), 0, 6 + (size_t)2 * config->size);
    memset(at(driver, config->device), 0, 6 + (size_t)8 * config->size);
    driver->avail = driver->used = config->start;
    avail_ring(driver)->index = used_ring(driver)->index = config->start;
    if (config->event_idx)
        *used_event(driver) = *avail_event(driver) = config->start;
}

void queue_driver_free(struct queue_driver *driver)
{
    free(driver->chains);
    driver->chains = NULL;
}

/* With IN_ORDER descriptors are used in ring order, so those that come back go to the far end. */
static uint16_t take_free(struct queue_driver *driver, unsigned *count)
{
    return driver->free[--*count];
}

static void put_free(struct queue_driver *driver, unsigned *count, uint16_t item)
{
    unsigned place = *count;
    if (driver->config.in_order) {
        memmove(driver->free + 1, driver->free, *count * sizeof(*driver->free));
        place = 0;
    }
    driver->free[place] = item;
    ++*count;
}

static void remember(struct queue_driver *driver, uint16_t id, unsigned token)
{
    driver->chains[id].out = true;
    driver->chains[id].token = token;
    driver->order[(driver->order_first + driver->order_count++) % driver->config.size] = id;
}

/* ---- Split ---- */

static void fill_split(struct split_descriptor *descriptor, const struct queue_driver_buffer *buffer,
                       bool last, unsigned next)
{
    *descriptor = (struct split_descriptor){
        .address = buffer->address,
        .length = buffer->length,
        .flags = (uint16_t)((buffer->writable ? WRITE : 0) | (last ? 0 : NEXT)),
        .next = last ? 0xABCD : (uint16_t)next,
    };
}

/* Indirect tables need no alignment. */
static void put_entry(const struct queue_driver *driver, uint64_t table, unsigned index, const void *entry)
{
    memcpy((uint8_t *)at(driver, table) + (size_t)index * 16, entry, 16);
}

static bool offer_split(struct queue_driver *driver, unsigned token,
                        const struct queue_driver_buffer *buffers, unsigned count, unsigned indirect,
                        uint64_t table)
{
    unsigned direct = indirect == QUEUE_DRIVER_NONE ? count : indirect;
    unsigned needed = indirect == QUEUE_DRIVER_NONE ? count : indirect + 1;
    if (needed > driver->free_count)
        return false;
    uint16_t used[QUEUE_DRIVER_MAX];
    for (unsigned i = 0; i < needed; i++)
        used[i] = take_free(driver, &driver->free_count);
    struct split_descriptor *ring = at(driver, driver->config.descriptors);
    for (unsigned i = 0; i < direct; i++)
        fill_split(&ring[used[i]], &buffers[i], i + 1 == needed, i + 1 < needed ? used[i + 1] : 0);
    for (unsigned i = direct; i < count; i++) {
        struct split_descriptor entry;
        fill_split(&entry, &buffers[i], i + 1 == count, i - direct + 1);
        put_entry(driver, table, i - direct, &entry);
    }
    if (direct < needed)
        ring[used[direct]] = (struct split_descriptor){
            .address = table,
            .length = 16 * (count - direct),
            .flags = INDIRECT | (token & 1 ? WRITE : 0), /* which the device ignores */
        };
    struct queue_driver_chain *chain = &driver->chains[used[0]];
    memcpy(chain->descriptors, used, needed * sizeof(*used));
    chain->count = needed;
    remember(driver, used[0], token);
    SET(avail_ring(driver)->ring[driver->avail % driver->config.size], used[0]);
    driver->avail++;
    driver->added++;
    SET(avail_ring(driver)->index, driver->avail);
    return true;
}

static bool must_kick_split(struct queue_driver *driver)
{
    if (!driver->config.event_idx)
        return driver->added && !(GET(used_ring(driver)->flags) & 1);
    uint16_t event = GET(*avail_event(driver));
    for (unsigned i = 0; i < driver->added; i++)
        if ((uint16_t)(driver->avail - 1 - i) == event)
            return true;
    return false;
}

static bool used_split(const struct queue_driver *driver)
{
    return GET(used_ring(driver)->index) != driver->used;
}

/* ---- Packed ---- */

static void forward(const struct queue_driver *driver, uint16_t *index, bool *wrap)
{
    if (++*index == driver->config.size) {
        *index = 0;
        *wrap = !*wrap;
    }
}

static void back(const struct queue_driver *driver, uint16_t *index, bool *wrap)
{
    if (*index == 0) {
        *index = driver->config.size;
        *wrap = !*wrap;
    }
    --*index;
}

static uint16_t availability(const struct queue_driver *driver)
{
    return driver->avail_wrap ? AVAIL : USED;
}

static void fill_packed(struct packed_descriptor *descriptor, const struct queue_driver_buffer *buffer,
                        uint16_t id)
{
    __atomic_store_n(&descriptor->address, buffer->address, __ATOMIC_RELAXED);
    __atomic_store_n(&descriptor->length, buffer->length, __ATOMIC_RELAXED);
    __atomic_store_n(&descriptor->id, id, __ATOMIC_RELAXED);
}

static void fill_packed_table(const struct queue_driver *driver, uint64_t table,
                              const struct queue_driver_buffer *buffers, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        put_entry(driver, table, i,
                  &(struct packed_descriptor){
                      .address = buffers[i].address,
                      .length = buffers[i].length,
                      .id = 0xABCD,
                      .flags = (uint16_t)((buffers[i].writable ? WRITE : 0) | NEXT | INDIRECT),
                  });
}

/* A chain is all direct or all indirect. */
static bool offer_packed(struct queue_driver *driver, unsigned token,
                         const struct queue_driver_buffer *buffers, unsigned count, unsigned indirect,
                         uint64_t table)
{
    struct queue_driver_buffer whole = {table, 16 * count, token & 1};
    if (indirect != QUEUE_DRIVER_NONE) {
        fill_packed_table(driver, table, buffers, count);
        buffers = &whole;
        count = 1;
    }
    if (count > driver->free_count)
        return false;
    driver->free_count -= count;
    uint16_t id = take_free(driver, &driver->free_ids), first_flags = 0;
    struct packed_descriptor *first = &packed_ring(driver)[driver->avail];
    for (unsigned i = 0; i < count; i++) {
        struct packed_descriptor *descriptor = &packed_ring(driver)[driver->avail];
        bool last = i + 1 == count;
        fill_packed(descriptor, &buffers[i], last ? id : 0xABCD);
        uint16_t flags = (uint16_t)(availability(driver) | (buffers[i].writable ? WRITE : 0) |
                                    (last ? 0 : NEXT) | (indirect != QUEUE_DRIVER_NONE ? INDIRECT : 0));
        if (descriptor == first)
            first_flags = flags;
        else
            __atomic_store_n(&descriptor->flags, flags, __ATOMIC_RELAXED);
        forward(driver, &driver->avail, &driver->avail_wrap);
    }
    driver->chains[id].count = count;
    driver->added += count;
    remember(driver, id, token);
    SET(first->flags, first_flags);
    return true;
}

static bool must_kick_packed(struct queue_driver *driver)
{
    struct event *event = at(driver, driver->config.device);
    uint16_t flags = GET(event->flags) & 3;
    if (flags != 2 || !driver->config.event_idx)
        return driver->added && flags != 1;
    uint16_t wanted = GET(event->position), index = driver->avail;
    bool wrap = driver->avail_wrap;
    for (unsigned i = 0; i < driver->added; i++) {
        back(driver, &index, &wrap);
        if (wanted == (index | (wrap ? 0x8000 : 0)))
            return true;
    }
    return false;
}

static bool used_packed(const struct queue_driver *driver)
{
    uint16_t flags = GET(packed_ring(driver)[driver->used].flags);
    bool avail = flags & AVAIL, used = flags & USED;
    return avail == used && used == driver->used_wrap;
}

/* ---- Both ---- */

bool queue_driver_offer(struct queue_driver *driver, unsigned token,
                        const struct queue_driver_buffer *buffers, unsigned count, unsigned indirect,
                        uint64_t table)
{
    return (driver->config.packed ? offer_packed : offer_split)(driver, token, buffers, count, indirect,
                                                                table);
}

bool queue_driver_must_kick(struct queue_driver *driver)
{
    __sync_synchronize();
    bool must = driver->config.packed ? must_kick_packed(driver) : must_kick_split(driver);
    driver->added = 0;
    return must;
}

static bool is_used(const struct queue_driver *driver)
{
    return driver->config.packed ? used_packed(driver) : used_split(driver);
}

static void release(struct queue_driver *driver, uint16_t id)
{
    struct queue_driver_chain *chain = &driver->chains[id];
    chain->out = false;
    if (!driver->config.packed) {
        for (unsigned i = 0; i < chain->count; i++)
            put_free(driver, &driver->free_count, chain->descriptors[i]);
        driver->used++;
        return;
    }
    for (unsigned i = 0; i < chain->count; i++)
        forward(driver, &driver->used, &driver->used_wrap);
    driver->free_count += chain->count;
    put_free(driver, &driver->free_ids, id);
}

/* Takes `id` out of the order; with IN_ORDER it must be the first. */
static bool leave_order(struct queue_driver *driver, uint32_t id)
{
    unsigned size = driver->config.size, place = 0;
    while (place < driver->order_count && driver->order[(driver->order_first + place) % size] != id)
        place++;
    if (place == driver->order_count || (driver->config.in_order && place > 0))
        return false;
    for (; place > 0; place--)
        driver->order[(driver->order_first + place) % size] =
            driver->order[(driver->order_first + place - 1) % size];
    driver->order_first = (driver->order_first + 1) % size;
    driver->order_count--;
    return true;
}

bool queue_driver_collect(struct queue_driver *driver, unsigned *token, uint32_t *written)
{
    if (!is_used(driver))
        return false;
    uint32_t id;
    if (driver->config.packed) {
        const struct packed_descriptor *descriptor = &packed_ring(driver)[driver->used];
        id = GET(descriptor->id);
        bool wrote = GET(descriptor->flags) & WRITE;
        *written = wrote ? GET(descriptor->length) : 0;
        driver->failed |= wrote && !*written;
    } else {
        unsigned entry = driver->used % driver->config.size;
        id = GET(used_ring(driver)->ring[entry].id);
        *written = GET(used_ring(driver)->ring[entry].length);
    }
    if (id >= driver->config.size || !driver->chains[id].out || !leave_order(driver, id)) {
        driver->failed = true;
        return false;
    }
    *token = driver->chains[id].token;
    release(driver, (uint16_t)id);
    return true;
}

void queue_driver_mask(struct queue_driver *driver)
{
    struct event *event = at(driver, driver->config.driver);
    if (driver->config.packed)
        SET(event->flags, 1);
    else if (driver->config.event_idx)
        SET(*used_event(driver), (uint16_t)(driver->used - 1));
    else
        SET(avail_ring(driver)->flags, 1);
}

static void unmask_packed(struct queue_driver *driver, unsigned skip)
{
    struct event *event = at(driver, driver->config.driver);
    uint16_t index = driver->used;
    bool wrap = driver->used_wrap;
    for (unsigned i = 0; i < skip; i++)
        forward(driver, &index, &wrap);
    SET(event->position, (uint16_t)(index | (wrap ? 0x8000 : 0)));
    SET(event->flags, driver->config.event_idx ? 2 : 0);
}

bool queue_driver_unmask(struct queue_driver *driver, unsigned skip)
{
    if (driver->config.packed)
        unmask_packed(driver, skip);
    else if (driver->config.event_idx)
        SET(*used_event(driver), (uint16_t)(driver->used + skip));
    else
        SET(avail_ring(driver)->flags, 0);
    __sync_synchronize();
    return is_used(driver);
}

static bool is_owed_packed(const struct queue_driver *driver, uint16_t used, bool wrap, unsigned count)
{
    const struct event *event = at(driver, driver->config.driver);
    if (event->flags != 2)
        return count && event->flags != 1;
    for (unsigned i = 0; i < count; i++) {
        back(driver, &used, &wrap);
        if (event->position == (used | (wrap ? 0x8000 : 0)))
            return true;
    }
    return false;
}

bool queue_driver_is_owed(const struct queue_driver *driver, uint16_t used, bool wrap, unsigned count)
{
    if (driver->config.packed)
        return is_owed_packed(driver, used, wrap, count);
    if (!driver->config.event_idx)
        return count && !(avail_ring(driver)->flags & 1);
    for (unsigned i = 0; i < count; i++)
        if ((uint16_t)(used - 1 - i) == *used_event(driver))
            return true;
    return false;
}
