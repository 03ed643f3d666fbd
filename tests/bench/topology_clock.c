/*
 * topology-clock: how long commits of the memory core take (tests/bench/topology makes a table of it).
 *
 *   topology-clock commits SHAPE ROUNDS
 *       switches one region off and on in trees of that shape with 10 to 100,000 regions, in turn. Prints
 *       "commit REGIONS TIME"; "random REGIONS TIME" for another region each time; "scratch REGIONS TIME" for
 *       rendering the whole tree
 *   topology-clock ioeventfds ROUNDS
 *       adds 16,000 ioeventfds to 1,000 regions, a commit each, with a KVM that does nothing. Prints
 *       "per-commit COUNT TIME" for so many of them; "first 1000 TIME" and "last 1000 TIME"
 *   topology-clock kvm ROUNDS
 *       adds 1,000 with the KVM of this host. Prints "inside 1000 TIME" and "outside 1000 TIME" of the ioctl
 *
 * Times are nanoseconds a commit; each line is of one round. A listener is told of all changes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/kvm_listener.h"
#include "memory/listener.h"
#include "memory/memory.h"
#include "memory/region.h"

#define PAGE      UINT64_C(0x1000)
#define FAN_OUT   10
#define COMMITS   400 /* of one measurement */
#define SCRATCHES 5   /* rounds in which the whole tree is rendered too */

#define REGIONS   1000
#define EACH      16 /* ioeventfds of a region */

static int64_t read_clock(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* Time that this thread has computed: what else the host does is not in it. */
static int64_t computed(void)
{
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* Time that has passed: for calls of KVM, which wait. */
static int64_t passed(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "topology-clock: %s\n", what);
    exit(1);
}

static void expect(bool holds, const char *what)
{
    if (!holds)
        die(what);
}

/* ---- trees ---------------------------------------------------------------- */

struct counter {
    struct memory_listener listener;
    uint64_t calls;
};

static int count_range(struct memory_listener *listener, const struct memory_change *change,
                       const struct flat_range *range, struct error *err)
{
    container_of(listener, struct counter, listener)->calls++;
    return 0;
}

static const struct memory_listener_ops counter_ops = {.range_del = count_range, .range_add = count_range};

static const struct memory_region_ops device_ops = {0};

/* A memory system of `count` regions that can be switched, and whatever their shape needs beside them. */
struct tree {
    struct memory *memory;
    struct memory_region root;
    struct address_space *space;
    struct counter counter;
    struct memory_region *regions;
    unsigned count;
    struct memory_region *boxes; /* containers and aliases */
    unsigned box_count;
    unsigned middle; /* the region to switch */
};

static struct memory_region *add_box(struct tree *tree, struct memory_region *parent, uint64_t offset,
                                     memory_size size)
{
    struct memory_region *box = &tree->boxes[tree->box_count++];
    expect(!memory_region_init_container(box, tree->memory, "box", size, NULL), "container");
    if (parent)
        expect(!memory_region_add_subregion(parent, offset, box, 0, NULL), "add a container");
    return box;
}

static struct memory_region *add_alias(struct tree *tree, struct memory_region *parent, uint64_t offset,
                                       struct memory_region *target, uint64_t from, memory_size size)
{
    struct memory_region *alias = &tree->boxes[tree->box_count++];
    expect(!memory_region_init_alias(alias, tree->memory, "alias", target, from, size, NULL), "alias");
    if (parent)
        expect(!memory_region_add_subregion(parent, offset, alias, 0, NULL), "add an alias");
    return alias;
}

static void add_region(struct tree *tree, struct memory_region *parent, unsigned number, uint64_t offset,
                       memory_size size, int priority)
{
    struct memory_region *region = &tree->regions[number];
    expect(!memory_region_init_mmio(region, tree->memory, "region", &device_ops, NULL, size, NULL), "region");
    expect(!memory_region_add_subregion(parent, offset, region, priority, NULL), "add a region");
}

/* Siblings beside each other. */
static void make_flat(struct tree *tree)
{
    for (unsigned i = 0; i < tree->count; i++)
        add_region(tree, &tree->root, i, i * PAGE, PAGE, 0);
}

/* Containers of ten containers of ten, and so on; those at the bottom hold ten regions each. */
static void nest(struct tree *tree, struct memory_region *parent, unsigned first, unsigned count)
{
    unsigned part = count / FAN_OUT;
    for (unsigned i = 0; i < FAN_OUT; i++)
        if (part == 1)
            add_region(tree, parent, first + i, i * PAGE, PAGE, 0);
        else
            nest(tree, add_box(tree, parent, i * part * PAGE, part * PAGE), first + i * part, part);
}

static void make_nested(struct tree *tree)
{
    nest(tree, &tree->root, 0, tree->count);
}

/* A container that is in none, an alias of it, and for each region an alias of its piece of that alias. */
static void make_aliases(struct tree *tree)
{
    struct memory_region *store = add_box(tree, NULL, 0, tree->count * PAGE);
    struct memory_region *whole = add_alias(tree, NULL, 0, store, 0, tree->count * PAGE);
    for (unsigned i = 0; i < tree->count; i++) {
        add_region(tree, store, i, i * PAGE, PAGE, 0);
        add_alias(tree, &tree->root, 2 * i * PAGE, whole, i * PAGE, PAGE);
    }
}

/* Each region reaches from its place to the end, over all before it. */
static void make_staircase(struct tree *tree)
{
    for (unsigned i = 0; i < tree->count; i++)
        add_region(tree, &tree->root, i, i * PAGE, (tree->count - i) * PAGE, (int)i);
}

/* All regions have the same extent; what lies over their middle is not one of them. */
static void make_pile(struct tree *tree)
{
    for (unsigned i = 0; i < tree->count; i++)
        add_region(tree, &tree->root, i, 0, 16 * PAGE, (int)i);
    struct memory_region *cover = &tree->boxes[tree->box_count++];
    expect(!memory_region_init_mmio(cover, tree->memory, "cover", &device_ops, NULL, PAGE, NULL), "cover");
    expect(!memory_region_add_subregion(&tree->root, 8 * PAGE, cover, (int)tree->count, NULL),
           "add the cover");
}

static void make_pile_top(struct tree *tree)
{
    make_pile(tree);
    tree->middle = tree->count - 1;
}

static const struct shape {
    const char *name;
    void (*make)(struct tree *tree);
} shapes[] = {
    {"flat", make_flat},           {"nested", make_nested},    {"aliases", make_aliases},
    {"staircase", make_staircase}, {"hidden-pile", make_pile}, {"pile-top", make_pile_top},
};

static void make_tree(struct tree *tree, const struct shape *shape, unsigned count)
{
    *tree = (struct tree){
        .memory = memory_create(),
        .count = count,
        .middle = count / 2,
        .regions = calloc(count, sizeof(struct memory_region)),
        .boxes = calloc(count + 2, sizeof(struct memory_region)),
        .counter = {.listener = {.name = "counter", .ops = &counter_ops}},
    };
    expect(tree->memory && tree->regions && tree->boxes, "no memory");
    expect(!memory_region_init_container(&tree->root, tree->memory, "root", MEMORY_SIZE_MAX, NULL), "root");
    memory_transaction_begin(tree->memory);
    shape->make(tree);
    expect(!memory_transaction_commit(tree->memory, NULL), "commit");
    expect(!address_space_create(tree->memory, "space", &tree->root, &tree->space, NULL), "address space");
    expect(!memory_listener_register(&tree->counter.listener, tree->space, NULL), "listener");
}

static void unmake_tree(struct tree *tree)
{
    memory_listener_unregister(&tree->counter.listener);
    address_space_destroy(tree->space);
    for (unsigned i = 0; i < tree->box_count; i++)
        memory_region_remove_subregion(&tree->boxes[i], NULL);
    for (unsigned i = 0; i < tree->count; i++)
        memory_region_remove_subregion(&tree->regions[i], NULL);
    for (unsigned i = tree->box_count; i-- > 0;)
        memory_region_destroy(&tree->boxes[i]);
    for (unsigned i = 0; i < tree->count; i++)
        memory_region_destroy(&tree->regions[i]);
    memory_region_destroy(&tree->root);
    memory_destroy(tree->memory);
    free(tree->regions);
    free(tree->boxes);
}

/* ---- measuring commits ----------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Switches one region off and on, or another each time. */
static int64_t time_commits(struct tree *tree, uint64_t *random)
{
    int64_t began = computed();
    for (unsigned i = 0; i < COMMITS; i += 2) {
        unsigned at = random ? (unsigned)(next_random(random) % tree->count) : tree->middle;
        expect(!memory_region_set_enabled(&tree->regions[at], false, NULL), "switch off");
        expect(!memory_region_set_enabled(&tree->regions[at], true, NULL), "switch on");
    }
    return (computed() - began) / COMMITS;
}

/* Another space with the same root has to be rendered as a whole. */
static int64_t time_scratch(struct tree *tree)
{
    struct address_space *space;
    int64_t began = computed();
    expect(!address_space_create(tree->memory, "again", &tree->root, &space, NULL), "another space");
    int64_t time = computed() - began;
    address_space_destroy(space);
    return time;
}

static void measure_commits(const struct shape *shape, unsigned rounds)
{
    static const unsigned counts[] = {10, 100, 1000, 10000, 100000};
    struct tree trees[ARRAY_SIZE(counts)];
    uint64_t random = 1;
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++)
        make_tree(&trees[i], shape, counts[i]);
    for (unsigned round = 0; round < rounds; round++)
        for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
            time_commits(&trees[i], NULL); /* so that each begins with its own data in the caches */
            printf("commit %u %lld\n", counts[i], (long long)time_commits(&trees[i], NULL));
            printf("random %u %lld\n", counts[i], (long long)time_commits(&trees[i], &random));
            if (round < SCRATCHES)
                printf("scratch %u %lld\n", counts[i], (long long)time_scratch(&trees[i]));
        }
    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++)
        unmake_tree(&trees[i]);
}

/* ---- measuring ioeventfds -------------------------------------------------- */

/* A KVM whose calls are counted and timed. */
struct kvm {
    int vm; /* -1: none, nothing is done */
    unsigned ioeventfds;
    int64_t inside;
};

static int set_slot(void *opaque, const struct kvm_userspace_memory_region *region)
{
    return 0;
}

static int set_ioeventfd(void *opaque, const struct kvm_ioeventfd *ioeventfd)
{
    struct kvm *kvm = opaque;
    kvm->ioeventfds += ioeventfd->flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? -1u : 1u;
    if (kvm->vm < 0)
        return 0;
    int64_t began = passed();
    int result = ioctl(kvm->vm, KVM_IOEVENTFD, ioeventfd) ? -errno : 0;
    kvm->inside += passed() - began;
    return result;
}

static const struct kvm_listener_ops kvm_ops = {.set_user_memory_region = set_slot,
                                                .ioeventfd = set_ioeventfd};

/* Adds `each` ioeventfds to each region, a commit each. The times for 1,000 of them go to `times`. */
static void add_ioeventfds(struct tree *tree, struct kvm *kvm, unsigned each, int64_t (*clock)(void),
                           int64_t *times)
{
    int fd = eventfd(0, EFD_CLOEXEC);
    struct kvm_listener_config config = {.ops = &kvm_ops, .opaque = kvm, .slots_max = 32};
    struct kvm_listener *listener;
    struct error err = {0};
    expect(fd >= 0 && !kvm_listener_create(tree->space, &config, &listener, &err), "KVM listener");
    for (unsigned i = 0; i < each; i++) {
        int64_t began = clock();
        for (unsigned j = 0; j < REGIONS; j++)
            expect(!memory_region_add_ioeventfd(&tree->regions[j], 4 * i, 4, false, 0, fd, &err),
                   err.message);
        times[i] = clock() - began;
    }
    expect(kvm->ioeventfds == each * REGIONS, "ioeventfds are missing");
    int64_t inside = kvm->inside;
    kvm_listener_destroy(listener);
    kvm->inside = inside; /* without the removals */
    close(fd);
}

static void measure_ioeventfds(unsigned rounds)
{
    for (unsigned round = 0; round < rounds; round++) {
        struct tree tree;
        struct kvm kvm = {.vm = -1};
        int64_t times[EACH], total = 0;
        make_tree(&tree, &shapes[0], REGIONS);
        add_ioeventfds(&tree, &kvm, EACH, computed, times);
        for (unsigned i = 1; i <= EACH; i++) {
            total += times[i - 1];
            if ((i & (i - 1)) == 0 && i != 2 && i != 8)
                printf("per-commit %u %lld\n", i * REGIONS, (long long)(total / (i * REGIONS)));
        }
        printf("first 1000 %lld\n", (long long)(times[0] / REGIONS));
        printf("last 1000 %lld\n", (long long)(times[EACH - 1] / REGIONS));
        unmake_tree(&tree);
    }
}

static void measure_kvm(unsigned rounds)
{
    int system = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (system < 0)
        die(strerror(errno));
    for (unsigned round = 0; round < rounds; round++) {
        struct tree tree;
        int64_t time;
        struct kvm kvm = {.vm = ioctl(system, KVM_CREATE_VM, 0)};
        expect(kvm.vm >= 0, "KVM makes no VM");
        make_tree(&tree, &shapes[0], REGIONS);
        add_ioeventfds(&tree, &kvm, 1, passed, &time);
        unmake_tree(&tree);
        close(kvm.vm);
        printf("inside 1000 %lld\n", (long long)(kvm.inside / REGIONS));
        printf("outside 1000 %lld\n", (long long)((time - kvm.inside) / REGIONS));
    }
    close(system);
}

int main(int count, char **words)
{
    unsigned rounds = count > 2 ? (unsigned)strtoul(words[count - 1], NULL, 10) : 0;
    if (rounds && count == 4 && strcmp(words[1], "commits") == 0)
        for (unsigned i = 0; i < ARRAY_SIZE(shapes); i++)
            if (strcmp(words[2], shapes[i].name) == 0) {
                measure_commits(&shapes[i], rounds);
                return 0;
            }
    if (rounds && count == 3 && strcmp(words[1], "ioeventfds") == 0) {
        measure_ioeventfds(rounds);
        return 0;
    }
    if (rounds && count == 3 && strcmp(words[1], "kvm") == 0) {
        measure_kvm(rounds);
        return 0;
    }
    fputs("usage: topology-clock commits SHAPE ROUNDS | ioeventfds ROUNDS | kvm ROUNDS\n", stderr);
    return 2;
}
