/*
 * dirty-cost: what dirty tracking costs on this host's KVM, beside the bare ioctls on the same virtual
 * machine.
 *
 *   dirty-cost tracking MODE GIB PERCENT ROUNDS [PERCENT ROUNDS]...   a line "STEP PERCENT WHO NANOSECONDS"
 * for each step of each round: STEP is start, pass or stop, PERCENT how much of the guest's RAM was dirty,
 * WHO godwit or bare. dirty-cost slowdown MODE ROUNDS       a line "WRITES_PER_SECOND WRITES_PER_SECOND" for
 * each round: the guest's without tracking, and with a pass every 100 ms.
 *
 * The guest is `dirtier`. While a step is measured its vCPU is paused, so that nothing but the step is. In
 * each round both do all steps, in turn, so that what disturbs the host disturbs both alike.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/dirty.h"
#include "memory/ram_block.h"
#include "tests/support/dirtier.h"
#include "tests/support/guest_vm.h"
#include "vmm/vcpu.h"

#define FIRST         (16 * MIB) /* below is the guest itself */
#define RING_PORTION  32768      /* writes that fit into a ring without filling it up */
#define NS            INT64_C(1000000000)
#define PASS_PERIOD   (NS / 10)
#define SLOWDOWN_TIME (2 * NS)

struct bench {
    struct guest_vm vm;
    uint64_t pages;
    uint64_t *taken; /* a bit for each page of RAM */
    struct dirty_client *client;
    uint64_t *bitmaps[GUEST_VM_SLOTS]; /* the bare way's */
    uint32_t ring_next, ring_used;     /* its place, and how far it has come */
};

/* The two contestants. */
struct way {
    const char *name;
    void (*start)(struct bench *bench);
    void (*pass)(struct bench *bench);
    void (*stop)(struct bench *bench);
};

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * NS + time.tv_nsec;
}

static _Noreturn void die(const char *what)
{
    fprintf(stderr, "dirty-cost: %s\n", what);
    exit(1);
}

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        struct error err = {0};                                                                              \
        if ((call) < 0)                                                                                      \
            die(err.message);                                                                                \
    } while (0)

static enum kvm_dirty_mode mode_of(const struct bench *bench)
{
    return bench->vm.kvm.dirty_log.mode;
}

/* ---- godwit ---- */

static void godwit_start(struct bench *bench)
{
    MUST(dirty_start(bench->vm.memory, "bench", DIRTY_EVERYTHING, &bench->client, &err));
}

static void godwit_pass(struct bench *bench)
{
    MUST(dirty_sync(bench->vm.memory, &err));
    MUST(dirty_take(bench->client, bench->vm.ram, 0, bench->pages, bench->taken, &err));
}

static void godwit_stop(struct bench *bench)
{
    dirty_stop(bench->client);
}

/* ---- The bare ioctls ---- */

static void vm_ioctl(struct bench *bench, unsigned long request, void *argument)
{
    if (ioctl(bench->vm.kvm.vm_fd, request, argument) < 0)
        die(strerror(errno));
}

static void set_slots(struct bench *bench, uint32_t flags)
{
    for (size_t i = 0; i < GUEST_VM_SLOTS; i++) {
        struct kvm_userspace_memory_region slot = bench->vm.slots[i];
        slot.flags = flags;
        if (slot.memory_size)
            vm_ioctl(bench, KVM_SET_USER_MEMORY_REGION, &slot);
    }
}

static uint64_t slot_pages(const struct bench *bench, size_t slot)
{
    return bench->vm.slots[slot].memory_size / RAM_PAGE_SIZE;
}

static void bare_start(struct bench *bench)
{
    for (size_t i = 0; i < GUEST_VM_SLOTS; i++)
        bench->bitmaps[i] = calloc(slot_pages(bench, i) / DIRTY_WORD_PAGES + 1, sizeof(uint64_t));
    set_slots(bench, KVM_MEM_LOG_DIRTY_PAGES);
}

static void bare_pass_bitmap(struct bench *bench, size_t i)
{
    struct kvm_dirty_log log = {.slot = (uint32_t)i, .dirty_bitmap = bench->bitmaps[i]};
    vm_ioctl(bench, KVM_GET_DIRTY_LOG, &log);
    if (mode_of(bench) != KVM_DIRTY_CLEAR)
        return;
    struct kvm_clear_dirty_log clear = {
        .slot = (uint32_t)i, .num_pages = (uint32_t)slot_pages(bench, i), .dirty_bitmap = bench->bitmaps[i]};
    vm_ioctl(bench, KVM_CLEAR_DIRTY_LOG, &clear);
}

static struct kvm_dirty_gfn *ring_entry(const struct bench *bench, uint32_t index)
{
    return &bench->vm.kvm.dirty_rings[0][index & (bench->vm.kvm.dirty_log.ring_entries - 1)];
}

static bool is_dirty(const struct kvm_dirty_gfn *entry)
{
    return __atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_DIRTY;
}

/* godwit keeps its place in the ring to itself: ours is where entries begin to be dirty. */
static void find_place(struct bench *bench)
{
    for (uint32_t i = 0; i < bench->vm.kvm.dirty_log.ring_entries; i++)
        if (is_dirty(ring_entry(bench, i)) && !is_dirty(ring_entry(bench, i - 1)))
            bench->ring_next = i;
}

static void bare_pass_ring(struct bench *bench)
{
    struct kvm_dirty_gfn *entry;
    for (; is_dirty(entry = ring_entry(bench, bench->ring_next)); bench->ring_next++, bench->ring_used++) {
        bench->bitmaps[entry->slot][entry->offset / DIRTY_WORD_PAGES] |= (uint64_t)1
                                                                         << entry->offset % DIRTY_WORD_PAGES;
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
    }
    vm_ioctl(bench, KVM_RESET_DIRTY_RINGS, NULL);
}

static void bare_pass(struct bench *bench)
{
    if (mode_of(bench) == KVM_DIRTY_RING) {
        bare_pass_ring(bench);
        return;
    }
    for (size_t i = 0; i < GUEST_VM_SLOTS; i++)
        if (slot_pages(bench, i))
            bare_pass_bitmap(bench, i);
}

static void bare_stop(struct bench *bench)
{
    set_slots(bench, 0);
    for (size_t i = 0; i < GUEST_VM_SLOTS; i++)
        free(bench->bitmaps[i]);
}

static const struct way ways[] = {
    {"godwit", godwit_start, godwit_pass, godwit_stop},
    {"bare", bare_start, bare_pass, bare_stop},
};

/* ---- Rounds ---- */

/* How long `step` takes while the vCPU is paused. */
static int64_t measure(struct bench *bench, void (*step)(struct bench *bench))
{
    vcpu_request_pause(bench->vm.vcpu);
    vcpu_wait_paused(bench->vm.vcpu);
    if (mode_of(bench) == KVM_DIRTY_RING)
        find_place(bench);
    int64_t begin = now();
    step(bench);
    int64_t end = now();
    vcpu_resume(bench->vm.vcpu);
    return end - begin;
}

static void write_pages(struct bench *bench, uint64_t area, uint64_t pages, uint64_t count)
{
    dirtier_order(&bench->vm, area, pages, count);
    if (!dirtier_wait(&bench->vm))
        die("the guest has failed");
}

/* Writes `percent` of a range whose length is a power of two. Returns what the passes took that had to come
 * between because the ring would have been full; `portion` counts what is in it. */
static int64_t write_range(struct bench *bench, uint64_t area, uint64_t size, unsigned percent,
                           const struct way *way, uint64_t *portion)
{
    uint64_t pages = size / RAM_PAGE_SIZE, left = pages * percent / 100;
    int64_t time = 0;
    while (left > 0) {
        uint64_t count = left;
        if (way && mode_of(bench) == KVM_DIRTY_RING) {
            if (*portion == RING_PORTION) {
                time += measure(bench, way->pass);
                *portion = 0;
            }
            count = left < RING_PORTION - *portion ? left : RING_PORTION - *portion;
            *portion += count;
        }
        write_pages(bench, area, pages, count);
        left -= count;
    }
    return time;
}

/* Writes `percent` of RAM, in ranges as large as a power of two can be. */
static int64_t write_ram(struct bench *bench, unsigned percent, const struct way *way)
{
    const struct memory_region *low = &bench->vm.ram_low, *high = &bench->vm.ram_high;
    const uint64_t ranges[][2] = {
        {FIRST, (uint64_t)low->state.size},
        {GUEST_VM_RAM_HIGH, GUEST_VM_RAM_HIGH + (uint64_t)high->state.size},
    };
    uint64_t portion = 0;
    int64_t time = 0;
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        for (uint64_t at = ranges[i][0], size; at < ranges[i][1]; at += size) {
            size = at & -at;
            while (size > ranges[i][1] - at)
                size /= 2;
            time += write_range(bench, at, size, percent, way, &portion);
        }
    }
    return time;
}

static void print_step(const char *step, unsigned percent, const struct way *way, int64_t time)
{
    printf("%s %u %s %lld\n", step, percent, way->name, (long long)time);
    fflush(stdout);
}

/* Has the bare way come round the ring, so that godwit finds its place again: each order dirties one page
 * more than it says, that of the orders. */
static void come_round(struct bench *bench)
{
    uint32_t entries = bench->vm.kvm.dirty_log.ring_entries;
    for (uint32_t left; (left = entries - bench->ring_used % entries) != entries;) {
        write_pages(bench, GIB / 2, GIB / 2 / RAM_PAGE_SIZE, smaller(left, RING_PORTION) - 1);
        measure(bench, bare_pass_ring);
    }
}

/* The first pass takes what is dirty because it never was clean; it is not measured. */
static void track(struct bench *bench, unsigned percent, const struct way *way)
{
    int64_t start = measure(bench, way->start);
    measure(bench, way->pass);
    int64_t pass = write_ram(bench, percent, way);
    pass += measure(bench, way->pass);
    if (mode_of(bench) == KVM_DIRTY_RING && way->pass == bare_pass)
        come_round(bench);
    int64_t stop = measure(bench, way->stop);
    print_step("start", percent, way, start);
    print_step("pass", percent, way, pass);
    print_step("stop", percent, way, stop);
}

static void create(struct bench *bench, const char *mode, uint64_t size)
{
    enum dirty_log_choice choice;
    memset(bench, 0, sizeof(*bench));
    if (dirty_log_parse(mode, &choice) < 0)
        die("there is no such mode");
    bench->pages = size / RAM_PAGE_SIZE;
    bench->taken = calloc(bench->pages / DIRTY_WORD_PAGES, sizeof(uint64_t));
    MUST(guest_vm_create(&bench->vm, size, NULL, &err));
    memset(bench->vm.ram->host, 1, size); /* the host's own page faults are not what is measured */
    MUST(dirtier_boot(&bench->vm, choice, &err));
    write_ram(bench, 100, NULL);
}

static void destroy(struct bench *bench)
{
    guest_vm_destroy(&bench->vm);
    free(bench->taken);
}

static unsigned number(const char *text)
{
    return (unsigned)strtoul(text, NULL, 10);
}

/* `plan` has pairs of words: PERCENT ROUNDS. */
static void tracking(const char *mode, uint64_t gib, char *const *plan)
{
    struct bench bench;
    create(&bench, mode, gib * GIB);
    for (; plan[0] && plan[1]; plan += 2)
        for (unsigned round = 0; round < number(plan[1]); round++)
            for (size_t turn = 0; turn < ARRAY_SIZE(ways); turn++)
                track(&bench, number(plan[0]), &ways[(round + turn) % ARRAY_SIZE(ways)]);
    destroy(&bench);
}

/* The guest's writes a second; with passes, if `passes`. */
static double throughput(struct bench *bench, bool passes)
{
    uint64_t before = dirtier_written(&bench->vm);
    int64_t begin = now(), next = begin;
    while (now() < begin + SLOWDOWN_TIME) {
        if (passes)
            godwit_pass(bench);
        next += PASS_PERIOD;
        int64_t left = next - now();
        struct timespec time = {.tv_nsec = left > 0 ? left : 0};
        nanosleep(&time, NULL);
    }
    return (double)(dirtier_written(&bench->vm) - before) * NS / (double)(now() - begin);
}

static void slowdown(const char *mode, unsigned rounds)
{
    struct bench bench;
    create(&bench, mode, GIB);
    for (unsigned round = 0; round < rounds; round++) {
        /* Once round, because what was tracked before is still protected. */
        write_pages(&bench, GIB / 2, GIB / 2 / RAM_PAGE_SIZE, GIB / 2 / RAM_PAGE_SIZE);
        dirtier_order(&bench.vm, GIB / 2, GIB / 2 / RAM_PAGE_SIZE, DIRTIER_FOREVER);
        double without = throughput(&bench, false);
        godwit_start(&bench);
        godwit_pass(&bench);
        double with = throughput(&bench, true);
        godwit_stop(&bench);
        printf("%.0f %.0f\n", without, with);
        fflush(stdout);
    }
    destroy(&bench);
}

int main(int argc, char *argv[])
{
    if (argc > 5 && strcmp(argv[1], "tracking") == 0)
        tracking(argv[2], number(argv[3]), &argv[4]);
    else if (argc == 4 && strcmp(argv[1], "slowdown") == 0)
        slowdown(argv[2], number(argv[3]));
    else
        die("usage: dirty-cost tracking MODE GIB PERCENT ROUNDS... | dirty-cost slowdown MODE ROUNDS");
    return 0;
}
