/*
 * A disk under attack, its memory, and what must hold after each attack.
 *
 * An attack spoils something and hands it to the device; its row says what the device must make of it.
 * Whatever that is, a reset must then bring the device back, a good request must work, memory must be the
 * guest's own again, and the other disk (the witness) must have answered meanwhile.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "guest/hostile/device.h"
#include "guest/hostile/ring.h"

#define SECTOR             512
#define DATA_SIZE          (1 << 20)
#define SLOTS              64 /* requests with a header and a status of their own */
#define TABLE_SIZE         1024

#define F_INDIRECT         (1ull << 28)
#define F_EVENT_IDX        (1ull << 29)
#define F_VERSION_1        (1ull << 32)
#define F_PACKED           (1ull << 34)
#define F_IN_ORDER         (1ull << 35)
#define F_RING_RESET       (1ull << 40)
#define F_FLUSH            (1ull << 9)
#define F_CONFIG_WCE       (1ull << 11)
#define F_DISCARD          (1ull << 13)
#define F_WRITE_ZEROES     (1ull << 14)

#define REQUEST_READ       0
#define REQUEST_WRITE      1
#define REQUEST_FLUSH      4
#define REQUEST_SERIAL     8
#define REQUEST_DISCARD    11
#define REQUEST_ZEROES     13

#define ANSWER_OK          0
#define ANSWER_ERROR       1
#define ANSWER_UNSUPPORTED 2
#define UNANSWERED         0xff

struct request_header {
    uint32_t type, reserved;
    uint64_t sector;
};

/* All that the device is told of; nothing of the guest is nearer than DATA_SIZE behind it. */
struct target_memory {
    struct ring_memory ring;
    struct request_header headers[SLOTS];
    uint8_t status[SLOTS];
    struct descriptor table[2 * TABLE_SIZE] __attribute__((aligned(4096)));
    uint8_t data[DATA_SIZE] __attribute__((aligned(4096)));
    uint8_t margin[DATA_SIZE];
};

struct target {
    struct device device;
    struct ring ring;
    struct target_memory *memory;
    const struct target *witness;
    uint64_t features; /* to be accepted, as far as the device offers them */
    uint64_t sectors;
    uint64_t ram_end;
    uint64_t random;
    unsigned slot;  /* of the next request */
    uint16_t queue; /* that it uses */
};

enum outcome {
    BREAKS,      /* the device needs a reset */
    OK,          /* the request is answered so */
    ERROR,       /* I/O error */
    UNSUPPORTED, /* the device does not know it */
    RETURNED,    /* the request comes back without an answer */
    ANY,         /* it breaks or it answers */
    DONE,        /* the attack itself has seen to it; what is left to say says the recovery */
};

#define SPLIT  1
#define PACKED 2

struct attack {
    const char *name;
    /* False where the device was wrong, which has been said. */
    bool (*run)(struct target *target, uint64_t value);
    uint64_t values; /* it is run with 0 to `values` - 1; 0 is as 1 */
    enum outcome outcome;
    unsigned layouts; /* that it is for; 0: both */
    uint64_t without; /* features that are left off */
};

/* Each ends with a row without a name. */
extern const struct attack chain_attacks[], table_attacks[], set_up_attacks[], midway_attacks[];

/* Something is not as it must be. Returns false. */
bool wrong(const char *format, ...) __attribute__((format(printf, 1, 2)));

uint64_t next_random(struct target *target);
/* Below `limit`. */
uint64_t random_below(struct target *target, uint64_t limit);

/* Addresses that are not RAM, not wholly at least, for `size` bytes up to 4096. */
#define PLACES 12
uint64_t bad_place(const struct target *target, uint64_t number, uint32_t size);

/* ---- The usual way, in steps ---- */

/* Resets the device and negotiates, up to FEATURES_OK. */
bool target_negotiate(struct target *target, uint64_t features);
/* Tells where the queue is, with an empty ring; does not enable it. */
void target_set_up_queue(struct target *target);
void target_driver_ok(struct target *target);
/* All of that. */
bool target_begin(struct target *target, uint64_t features);

/* Makes a request: header, data (unless there are none) and status, each a descriptor, numbers 0 to 2.
 * Returns its slot. */
unsigned target_request(struct target *target, uint32_t type, uint64_t sector, const void *data,
                        uint32_t size);
/* The same as an indirect table, which begins at entry `first`. */
unsigned target_indirect_request(struct target *target, unsigned first, uint32_t type, uint64_t sector,
                                 const void *data, uint32_t size);
/* Descriptor `n` of the chain that is being made. */
struct descriptor *target_part(struct target *target, unsigned n);
/* Hands it over, and kicks. */
void target_go(struct target *target);

/* Waits for this outcome of the request in `slot`, the last one that was handed over. */
bool target_await(struct target *target, enum outcome outcome, unsigned slot);

/* Waits until the device needs a reset, whatever it answers. */
bool target_await_break(const struct target *target);

/* Whether one request after another works: writes, and reads that again. The device is ready. */
bool target_works(struct target *target);
