/*
 * Listeners: who is told what changed in an address space. KVM's memslots, and the memory tables of device
 * back ends, are kept by listeners.
 *
 * A commit goes through these steps, the same for all; in each, spaces come in the order of their creation:
 *
 *   1. prepare, by rising priority: everybody sees the old and the new view and may refuse.
 *   2. for each space that changed:
 *      a. coalesced_del   zones that are gone         (by falling priority)
 *      b. range_del       ranges gone or changed      (by falling priority)
 *      c. for each range within the windows of the change that is the same before and after:
 *         range_nop       it is still there           (by rising priority)
 *         log_start       clients now log its writes  (by rising priority)
 *         log_stop        clients no longer do        (by falling priority)
 *      d. range_add       ranges new or changed       (by rising priority)
 *      e. coalesced_add   new zones                   (by rising priority)
 *      f. ioeventfd_del   ioeventfds that are gone    (by falling priority)
 *      g. ioeventfd_add   new ioeventfds              (by rising priority)
 *      h. apply           for listeners that work on whole views (by rising priority)
 *      Within a step items come by rising address, and each goes to all listeners before the next one.
 * Listeners of one priority are in order of registration when it rises and in the reverse order when it
 * falls.
 *   3. the new views are published: until then every access sees the old ones.
 *   4. commit, by rising priority; the regions that have gone may still have readers.
 *
 * If a listener fails in step 1 or 2, the calls of step 2 are taken back in exactly the reverse order (a
 * range_add by a range_del and so on, an apply by a revert; a range_nop by nothing), then those that had
 * prepared are told abort in reverse order, and the tree is put back. A listener whose call failed must have
 * undone that call itself.
 *
 * All callbacks run on the committing thread with the lock of `struct memory` held. They may read memory and
 * take views; a change to any region fails with -EBUSY. They must not take a lock that somebody holds while
 * he begins a transaction.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "memory/flat_view.h"

struct address_space;
struct error;
struct memory_listener;

/* Addresses from `start` up to and without `end`. Never empty. */
struct memory_window {
    uint64_t start;
    memory_size end;
};

/*
 * What a commit, a registration or its end changes. Outside of the windows the views agree; a range of either
 * view lies in one window as a whole or in none. A range that differs in nothing but who logs its writes is
 * the same range.
 */
struct memory_change {
    struct address_space *space;
    const struct flat_view *old_view, *new_view;
    const struct memory_window *windows; /* rising; they do not touch each other */
    size_t window_count;
    const struct flat_range *old_first, *new_first; /* private to memory/: where walks begin */
    unsigned unchanged; /* private to memory/: kinds of items that are known to be the same in both views */
};

/*
 * Every callback is optional. Those that return int return 0, or -errno and a message that names the region
 * and the reason. When calls are taken back the change is turned round: what was the new view is the old one.
 */
struct memory_listener_ops {
    int (*prepare)(struct memory_listener *listener, const struct memory_change *change, struct error *err);
    int (*coalesced_del)(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err);
    int (*range_del)(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, struct error *err);
    void (*range_nop)(struct memory_listener *listener, const struct memory_change *change,
                      const struct flat_range *range);
    /* `range` is of the new view; `old` and range->log are masks of clients. One of both is called, or none,
     * by whether bits were won or all that changed is that bits were lost. */
    int (*log_start)(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, unsigned old, struct error *err);
    int (*log_stop)(struct memory_listener *listener, const struct memory_change *change,
                    const struct flat_range *range, unsigned old, struct error *err);
    /* Who logs a new range is in range->log. */
    int (*range_add)(struct memory_listener *listener, const struct memory_change *change,
                     const struct flat_range *range, struct error *err);
    int (*coalesced_add)(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err);
    int (*ioeventfd_del)(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err);
    int (*ioeventfd_add)(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err);
    int (*apply)(struct memory_listener *listener, const struct memory_change *change, struct error *err);
    int (*revert)(struct memory_listener *listener, const struct memory_change *change, struct error *err);
    void (*commit)(struct memory_listener *listener, const struct memory_change *change);
    void (*abort)(struct memory_listener *listener, const struct memory_change *change);
};

#define MEMORY_LISTENER_PRIORITY_ACCELERATOR 10
#define MEMORY_LISTENER_PRIORITY_BACK_END    20
#define MEMORY_LISTENER_PRIORITY_LOG         30 /* a log that back ends write: after they know the new view */

/* Embedded in whoever listens, who sets the first three fields. */
struct memory_listener {
    const char *name; /* for errors; borrowed */
    int priority;
    const struct memory_listener_ops *ops;

    struct address_space *space; /* private from here on */
    struct memory_listener *next;
};

/*
 * Registers a listener (borrowed, until it is unregistered) and plays the current view to it as a change from
 * an empty one, by the steps above. If it refuses or fails it is not registered and its error is returned.
 * Any thread that may begin a transaction; within one the changes so far follow at its commit.
 */
int memory_listener_register(struct memory_listener *listener, struct address_space *space,
                             struct error *err);

/*
 * Plays a change from the current view to an empty one, whose refusals and failures count for nothing, and
 * forgets the listener. One that is not registered is left alone. Not from a callback.
 */
void memory_listener_unregister(struct memory_listener *listener);
