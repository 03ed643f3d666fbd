#include <criterion/criterion.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "devices/ring.h"

Test(ring, takes_what_fits_and_gives_it_in_order)
{
    struct ring ring;
    cr_assert_eq(ring_init(&ring, 4, 4), 0);
    char out[8];
    cr_assert_eq(ring_put(&ring, "abcdef", 6), 4);
    cr_assert_eq(ring_get(&ring, out, 3), 3);
    cr_assert_eq(memcmp(out, "abc", 3), 0);
    cr_assert_eq(ring_put(&ring, "ghi", 3), 3);
    cr_assert_eq(ring_put(&ring, "j", 1), 0);
    cr_assert_eq(ring_get(&ring, out, sizeof(out)), 4);
    cr_assert_eq(memcmp(out, "dghi", 4), 0);
    ring_free(&ring);
}

Test(ring, grows_to_its_limit_and_no_further)
{
    struct ring ring;
    cr_assert_eq(ring_init(&ring, 2, 1000), 0);
    char data[2000];
    memset(data, 'x', sizeof(data));
    cr_assert_eq(ring_put(&ring, data, 3), 3);
    cr_assert_eq(ring_put(&ring, data, sizeof(data)), 997);
    cr_assert_eq(ring.capacity, 1000);
    ring_free(&ring);
}

/* Against a queue that never wraps: a long array with two indices. */
Test(ring, behaves_as_a_queue)
{
    enum {
        STEPS = 20000,
        LIMIT = 100
    };
    static uint8_t queue[STEPS * LIMIT];
    size_t head = 0, tail = 0;
    struct ring ring;
    cr_assert_eq(ring_init(&ring, 1, LIMIT), 0);
    unsigned seed = 1;
    for (int step = 0; step < STEPS; step++) {
        uint8_t data[LIMIT];
        size_t count = (size_t)rand_r(&seed) % LIMIT;
        if (rand_r(&seed) % 2) {
            for (size_t i = 0; i < count; i++)
                data[i] = (uint8_t)rand_r(&seed);
            size_t room = LIMIT - (tail - head);
            size_t expected = count < room ? count : room;
            cr_assert_eq(ring_put(&ring, data, count), expected);
            memcpy(queue + tail, data, expected);
            tail += expected;
        } else {
            size_t expected = count < tail - head ? count : tail - head;
            cr_assert_eq(ring_get(&ring, data, count), expected);
            cr_assert_eq(memcmp(data, queue + head, expected), 0);
            head += expected;
        }
        const uint8_t *oldest;
        size_t together = ring_peek(&ring, &oldest);
        cr_assert_eq(together > 0, tail > head);
        cr_assert_eq(memcmp(oldest, queue + head, together), 0);
        cr_assert_eq(ring.count, tail - head);
    }
    ring_free(&ring);
}
