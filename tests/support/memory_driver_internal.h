/*
 * What the parts of the driver share: memory_driver.c makes changes, memory_driver_log.c knows what listeners
 * must hear, memory_driver_check.c compares what there is with what there must be.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "memory/address_space.h"
#include "memory/listener.h"
#include "memory/region.h"
#include "tests/support/fake_kvm.h"
#include "tests/support/memory_oracle.h"

#define SIDES     2 /* address spaces */
#define RECORDERS 2 /* listeners of each */
#define LOG_MAX   16384

enum stage {
    PREPARE,
    ZONE_DEL,
    ZONE_ADD,
    RANGE_DEL,
    RANGE_ADD,
    IOEVENTFD_DEL,
    IOEVENTFD_ADD,
    APPLY,
    REVERT,
    COMMIT,
    ABORT,
};

/* One call of a listener: whom, what, and the item in plain numbers. */
struct entry {
    uint64_t side, recorder, stage;
    uint64_t item[6];
};

struct log {
    unsigned count;
    struct entry entries[LOG_MAX];
};

struct driver;

struct recorder {
    struct memory_listener listener;
    struct driver *driver;
    unsigned side, number;
};

struct side {
    int root;
    struct address_space *space;
    struct recorder recorders[RECORDERS];
    struct recorder *order[RECORDERS]; /* those registered, as they are called when priority rises */
    unsigned order_count;
    struct oracle_view shown; /* by the last commit */
};

struct driver {
    const uint8_t *data;
    size_t left;
    struct oracle_tree now, begun; /* the tree, and as it was before the open transaction */
    unsigned depth;
    struct memory *memory;
    struct ram_block *block;
    struct memory_region regions[ORACLE_NODES];
    struct side sides[SIDES];
    struct kvm_listener *kvm_listener; /* of side 0; NULL: none */
    struct fake_kvm kvm, kvm_begun;
    struct log log, expected;
    unsigned fail_at; /* the call of a recorder, counted from 1, that fails; 0: none */
    bool failed;      /* it has */
    bool settled;     /* a transaction has ended since the last check */
    struct error err;
};

/* Says what is wrong, shows everything, and aborts. */
void driver_fail(struct driver *driver, const char *file, int line, const char *what);

#define EXPECT(driver, condition)                                                                            \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            driver_fail(driver, __FILE__, __LINE__, #condition);                                             \
    } while (0)

/* Which node the region is. */
uint64_t driver_node(const struct driver *driver, const struct memory_region *region);

extern const struct memory_listener_ops recorder_ops;

/* Adds what `recorders` must hear of a change, up to and without the end of it; and that end. */
void log_expect_prepare(struct driver *driver, unsigned side);
void log_expect_steps(struct driver *driver, unsigned side, const struct oracle_view *old,
                      const struct oracle_view *new, struct recorder *const *recorders, unsigned count);
void log_expect_commit(struct driver *driver, unsigned side);
void log_expect(struct driver *driver, const struct recorder *recorder, enum stage stage);

/* Cuts the expected calls off at the one that failed, and adds how all is taken back. */
void log_expect_failure(struct driver *driver);

/* Compares the calls that came with those expected, and forgets both. */
void log_check(struct driver *driver);

bool oracle_view_equal(const struct oracle_view *a, const struct oracle_view *b);

/* Compares views, accesses and mappings with the oracle; and KVM. */
void check_side(struct driver *driver, struct side *side);
void check_kvm(struct driver *driver);

/* Compares KVM with what it was `before` a commit: slots that are right are the very same ones. */
void check_kept(struct driver *driver, const struct fake_kvm *before);
