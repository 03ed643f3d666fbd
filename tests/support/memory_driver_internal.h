/*
 * What the parts of the driver share: memory_driver.c runs it and judges how transactions end,
 * memory_driver_tree.c and memory_driver_items.c make changes, memory_driver_dirty.c tracks what is written,
 * memory_driver_log.c knows what listeners must hear, memory_driver_check.c compares what there is with what
 * there must be, memory_driver_print.c tells.
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

#define SIDES       2 /* address spaces */
#define RECORDERS   2 /* listeners of each */
#define LOG_MAX     16384
#define NAME_SIZE   24
#define WINDOWS_MAX 64
#define BLOCK_PAGES 88 /* more than a word of a dirty bitmap has */
#define CLIENTS     3
#define ITEM        7

enum stage {
    PREPARE,
    ZONE_DEL,
    ZONE_ADD,
    RANGE_DEL,
    RANGE_ADD,
    RANGE_NOP,
    LOG_START,
    LOG_STOP,
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
    uint64_t item[ITEM];
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
    /* The space shows `top`, which shows the root at the tree's base; or the root itself. */
    bool windowed;
    struct memory_region top, window;
    struct address_space *space;
    struct recorder recorders[RECORDERS];
    struct recorder *order[RECORDERS]; /* those registered, as they are called when priority rises */
    unsigned order_count;
    struct oracle_view shown;                  /* by the last commit */
    struct memory_window windows[WINDOWS_MAX]; /* of the last change that a listener heard of */
    size_t window_count;
};

/* Pages of the block, the first in the lowest bit. */
typedef unsigned __int128 page_set;

/*
 * A client of memory/dirty.h, and what it is to find. The pages that it must find are among those that it may
 * find; of each some are known, and some are so only to KVM and are known after the next dirty_sync().
 */
struct client {
    struct dirty_client *client; /* NULL: none */
    unsigned bit;                /* in masks of clients */
    page_set must_known, must_pending, may_known, may_pending;
};

struct driver {
    const uint8_t *step; /* the one that is being taken, from where it has not been used yet */
    size_t left;         /* of it */
    unsigned flags;
    /* The tree; as it was before the open transaction; and before the operation under way. */
    struct oracle_tree now, begun, saved;
    unsigned depth;
    struct memory *memory;
    struct ram_block *block;
    struct memory_region regions[ORACLE_NODES];
    char names[ORACLE_NODES][NAME_SIZE];
    struct side sides[SIDES];
    struct kvm_listener *kvm_listener; /* of side 0; NULL: none */
    struct fake_kvm kvm, kvm_begun;
    struct client clients[CLIENTS];
    page_set meanwhile;        /* pages that the guest has written during calls of KVM, in this step */
    unsigned meanwhile_unit;   /* that it writes next */
    unsigned meanwhile_stride; /* from there to the next one; 0: it writes none */
    bool refused;              /* a transaction has failed in this step */
    struct log log, expected;
    unsigned fail_at; /* the call of a recorder, counted from 1, that fails; 0: none */
    bool failed;      /* it has */
    bool registering; /* a recorder is told of what is there already */
    bool settled;     /* a transaction has ended since the last check */
    bool dirty;       /* it is more about pages than about regions */
    bool huge;        /* regions may reach to 2^64 */
    struct error err;
};

/* Says what is wrong, shows everything, and aborts. */
void driver_fail(struct driver *driver, const char *file, int line, const char *what);

#define EXPECT(driver, condition)                                                                            \
    do {                                                                                                     \
        if (!(condition))                                                                                    \
            driver_fail(driver, __FILE__, __LINE__, #condition);                                             \
    } while (0)

/* Tells of what is being done, if somebody wants to know. */
void narrate(const struct driver *driver, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* A size in words: "2^64", "0x1000". */
struct size_text {
    char text[32];
};
struct size_text size_text(memory_size size);

/* A number below `limit`; 0 when the step is used up. */
unsigned pick(struct driver *driver, unsigned limit);

/* A node that lives (there always is one: the roots do), or one that does not (ORACLE_NONE: all live). */
int pick_node(struct driver *driver);
int pick_dead(struct driver *driver);

/* Mostly one that suits, if there is one. */
int pick_suitable(struct driver *driver, bool (*suits)(const struct oracle_node *node));

/* Mostly few places, so that regions meet. */
uint64_t pick_place(struct driver *driver);

/*
 * A call that changes the tree has returned; the model has changed if that was predicted (0). Judges the end
 * of the transaction if it was one.
 */
void made(struct driver *driver, int predicted, int result);

/* Initialises the region for `node`, and a node that is alive. */
void create(struct driver *driver, int index, struct oracle_node node);

/* Which node the region is. */
uint64_t driver_node(const struct driver *driver, const struct memory_region *region);

/* Whether a failing transaction, or another region, still needs this one. */
bool needed(const struct oracle_tree *tree, int index);

/* Where the spaces show this unit of their roots. */
static inline uint64_t unit_address(const struct driver *driver, unsigned unit)
{
    return driver->begun.base + unit * driver->begun.unit;
}

/* Where in the block's host memory an answer is. */
char *host_of(const struct driver *driver, const struct oracle_answer *answer);

/* What devices do: a byte says which node and offset it is. */
extern const struct memory_region_ops driver_device_ops;

/* Begin and end a transaction, and so can be part of other operations. */
void op_begin(struct driver *driver);
void op_commit(struct driver *driver);

/* Operations on the tree; and on ioeventfds, zones and listeners. */
void op_create(struct driver *driver);
void op_add(struct driver *driver);
void op_crowd(struct driver *driver);
void op_flag(struct driver *driver);
void op_continue(struct driver *driver);
void op_remove(struct driver *driver);
void op_empty(struct driver *driver);
void op_enable(struct driver *driver);
void op_move(struct driver *driver);
void op_swap(struct driver *driver);
void op_resize(struct driver *driver);
void op_alias_offset(struct driver *driver);
void op_destroy(struct driver *driver);
void op_add_ioeventfd(struct driver *driver);
void op_remove_ioeventfd(struct driver *driver);
void op_coalesced(struct driver *driver);
void op_register(struct driver *driver);

void op_dirty_start(struct driver *driver);
void op_dirty_stop(struct driver *driver);
void op_dirty_sync(struct driver *driver);
void op_dirty_take(struct driver *driver);
void op_dirty_pass(struct driver *driver);
void op_store(struct driver *driver);
void op_guest_store(struct driver *driver);
void op_guest_meanwhile(struct driver *driver);
void op_reap(struct driver *driver);

/* Lets a call of KVM fail, the first being 1; and what is done when something has failed in what is no
 * change. */
void driver_arm_kvm(struct driver *driver, unsigned call);
void driver_end_failure(struct driver *driver);

/* What the guest does during a call of KVM. */
void guest_meanwhile(struct fake_kvm *kvm);

/* Something that keeps KVM's dirty bits has failed: any page may be marked too often. */
void dirty_inexact(struct driver *driver);

/* Ends all clients. */
void dirty_finish(struct driver *driver);

/* Mask of all clients. */
unsigned dirty_clients(const struct driver *driver);

/* The block has just got its first region. */
void dirty_block_comes(struct driver *driver);

bool has_block(enum memory_region_kind kind);

/* Whether some region is logged for others than the clients, because their end could not be told. */
bool log_differs(const struct driver *driver);

/* A transaction has ended with `result`. */
void settle(struct driver *driver, int result);

/*
 * Something that was to make the tree `attempted` has failed in part: the listeners heard that it failed; or
 * that it went well, and then of a change to the tree that is now. NULL: nobody can say what they heard.
 */
void settle_attempt(struct driver *driver, const struct oracle_tree *attempted);

/* Whether something that was to fail has failed. */
bool has_failed(const struct driver *driver);

/* Puts a listener among those registered; and the reverse of op_register(). */
void enlist(struct side *side, struct recorder *recorder);
void unregister(struct driver *driver, struct recorder *recorder);

extern const struct memory_listener_ops recorder_ops;

/* Adds what `recorders` must hear of a change, up to and without the end of it; and that end. */
void log_expect_prepare(struct driver *driver, unsigned side);
void log_expect_steps(struct driver *driver, unsigned side, const struct oracle_view *old,
                      const struct oracle_view *new, struct recorder *const *recorders, unsigned count);
void log_expect_commit(struct driver *driver, unsigned side);
void log_expect(struct driver *driver, const struct recorder *recorder, enum stage stage);

/*
 * Cuts the expected calls off at the one that failed, and adds how all is taken back. Where no recorder's
 * call failed, but something between two of them, the calls that were heard tell where that was.
 */
void log_expect_failure(struct driver *driver);

/* Whether any recorder was called so. */
bool log_heard(const struct driver *driver, enum stage stage);

/* Compares the calls that came with those expected, and forgets both. */
void log_check(struct driver *driver);

bool oracle_view_equal(const struct oracle_view *a, const struct oracle_view *b);

/* Compares views, accesses and mappings with the oracle; and KVM. */
void check_side(struct driver *driver, struct side *side);
void check_kvm(struct driver *driver);

/* Compares KVM with what it was `before` a commit: slots that are right are the very same ones. */
void check_kept(struct driver *driver, const struct fake_kvm *before);

/* Prints the calls of a listener, in words. */
void print_log(const struct driver *driver, const char *title, const struct log *log);
