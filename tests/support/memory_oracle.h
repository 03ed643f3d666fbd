/*
 * What an address space must show, found out the naive way: one unit of address after the other, by asking
 * the tree from the root what lies there. It shares no code and no method with memory/, and keeps a tree of
 * its own, in which nodes are numbers. All places and sizes are multiples of the unit, but for those that
 * reach to 2^64.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "memory/region.h"

#define ORACLE_NODES      24
#define ORACLE_NONE       (-1)
#define ORACLE_IOEVENTFDS 4
#define ORACLE_ZONES      2
#define ORACLE_UNITS      32 /* that are looked at */
#define ORACLE_ITEMS      (ORACLE_UNITS * ORACLE_IOEVENTFDS)

struct oracle_ioeventfd {
    uint64_t place; /* in a region, or an address */
    unsigned length;
    bool match;
    uint64_t data;
    int fd;
};

struct oracle_zone {
    uint64_t place;
    memory_size size;
};

struct oracle_node {
    bool alive;
    enum memory_region_kind kind;
    bool enabled, readonly, unmergeable, romd;
    memory_size size;
    unsigned log; /* mask of the clients that want to know of writes to its RAM */
    int parent, target;
    uint64_t address, order, alias_offset, block_offset;
    int priority;
    struct oracle_ioeventfd ioeventfds[ORACLE_IOEVENTFDS];
    unsigned ioeventfd_count;
    struct oracle_zone zones[ORACLE_ZONES];
    unsigned zone_count;
};

struct oracle_tree {
    uint64_t unit;
    unsigned units;  /* of each root, that are looked at */
    uint64_t base;   /* address at which a space shows its root's first byte */
    uint64_t order;  /* the last one given */
    bool lower_wins; /* a wrong answer, to see that somebody notices */
    struct oracle_node nodes[ORACLE_NODES];
};

/* What lies at an address. */
struct oracle_answer {
    int node; /* ORACLE_NONE: nothing */
    uint64_t offset;
    bool readonly, unmergeable, romd;
    unsigned log;
    uint64_t path; /* differs with the way from the root */
};

struct oracle_range {
    struct oracle_answer first;
    uint64_t start;
    memory_size size;
};

/* All that a space shows: at each unit, and in the order in which listeners hear of it. */
struct oracle_view {
    struct oracle_answer answers[ORACLE_UNITS];
    unsigned range_count, ioeventfd_count, zone_count;
    struct oracle_range ranges[ORACLE_UNITS];
    struct oracle_ioeventfd ioeventfds[ORACLE_ITEMS];
    struct oracle_zone zones[ORACLE_UNITS * ORACLE_ZONES];
};

void oracle_look(const struct oracle_tree *tree, int root, struct oracle_view *view);

/* Whether they are the same, whoever logs them. */
bool oracle_range_equal(const struct oracle_range *a, const struct oracle_range *b);
bool oracle_ioeventfd_equal(const struct oracle_ioeventfd *a, const struct oracle_ioeventfd *b);

/* Whether `node` contains `other`, or shows it by an alias, at any depth; or is it. */
bool oracle_shows(const struct oracle_tree *tree, int node, int other);

/* Whether `node` is mapped as host memory where it shows so. */
bool oracle_mapped(const struct oracle_tree *tree, const struct oracle_answer *answer, bool write);
