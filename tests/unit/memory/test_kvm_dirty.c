#include "memory/dirty.h"
#include "memory/kvm_listener.h"
#include "memory/listener.h"
#include "tests/support/fake_kvm.h"
#include "tests/unit/memory/fixture.h"

/*
 * Dirty tracking by KVM in each of its modes, against a model that knows for each client and page what was
 * written when: what was written must be taken, and nothing else.
 */
#define CLIENTS    3
#define PAGES      300 /* of the block: not a whole number of words */
#define WORDS      5
#define LOW_FIRST  3 /* the low region does not begin with a word of the block */
#define LOW_PAGES  140
#define HIGH_FIRST 100 /* and the high one shows some pages of it again */
#define HIGH_PAGES 200
#define HIGH       0x200000
#define WINDOW     0x400000

/* What a client must, or may, find of a page. */
struct expected {
    bool must;    /* written, and synced since */
    bool written; /* since the last sync */
    bool may;     /* written before it was taken, but after the sync before: once more than needed */
    bool may_yet; /* the same, since the last sync */
};

struct mode {
    const char *name;
    enum kvm_dirty_mode mode;
    bool initially_set, pml, with_bitmap;
};

static const struct mode modes[] = {
    {"get", KVM_DIRTY_GET, false, false, false},
    {"clear", KVM_DIRTY_CLEAR, false, false, false},
    {"clear, initially set", KVM_DIRTY_CLEAR, true, false, false},
    {"ring", KVM_DIRTY_RING, false, false, false},
    {"ring with PML", KVM_DIRTY_RING, false, true, false},
    {"ring with bitmap", KVM_DIRTY_RING, false, false, true},
};

static struct fixture f;
static struct fake_kvm kvm;
static struct kvm_listener *listener;
static const struct mode *mode;
static struct ram_block *block;
static struct memory_region *low, *high, *window, *hole;
static struct dirty_client *clients[CLIENTS];
static struct expected expected[CLIENTS][PAGES];
static uint64_t state; /* of the random numbers */

#define CHECK(condition, ...) cr_assert(condition, "mode %s: " __VA_ARGS__)

static unsigned below(unsigned limit)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(state >> 33) % limit;
}

static struct memory_region *part(const char *name, unsigned first, unsigned pages)
{
    struct memory_region *region = next_region(&f);
    cr_assert_eq(memory_region_init_ram(region, f.memory, name, block, first * PAGE, pages * PAGE, NULL), 0);
    return region;
}

static void begin(const struct mode *wanted)
{
    mode = wanted;
    fixture_start(&f);
    cr_assert_eq(ram_block_create("dirty", PAGES * PAGE, 0, &block, NULL), 0);
    low = part("low", LOW_FIRST, LOW_PAGES);
    high = part("high", HIGH_FIRST, HIGH_PAGES);
    window = alias(&f, "window", high, 7 * PAGE, 50 * PAGE);
    hole = mmio(&f, "hole", 2 * PAGE);
    kvm = (struct fake_kvm){
        .slots_max = 32,
        .manual_protect = mode->mode == KVM_DIRTY_CLEAR,
        .initially_set = mode->initially_set,
        .dirty_ring = mode->mode == KVM_DIRTY_RING,
        .ring_with_bitmap = mode->with_bitmap,
        .pml = mode->pml,
    };
    struct kvm_listener_config config = {
        .ops = &fake_kvm_ops,
        .opaque = &kvm,
        .slots_max = kvm.slots_max,
        .dirty_mode = mode->mode,
        .initially_set = mode->initially_set,
        .ring_with_bitmap = mode->with_bitmap,
    };
    cr_assert_eq(kvm_listener_create(f.space, &config, &listener, NULL), 0);
    if (mode->mode == KVM_DIRTY_RING)
        cr_assert_eq(kvm_listener_add_ring(listener, fake_kvm_add_ring(&kvm, 64), 64, NULL), 0);
    add(&f.root, 0, low, 0);
    add(&f.root, HIGH, high, 0);
    memset(expected, 0, sizeof(expected));
}

static void end(void)
{
    kvm.fail_at = 0;
    kvm.meanwhile = NULL;
    CHECK(!kvm.broken && !kvm.stopped, "%s", mode->name, kvm.rule);
    for (unsigned i = 0; i < CLIENTS; i++) {
        dirty_stop(clients[i]);
        clients[i] = NULL;
    }
    kvm_listener_destroy(listener);
    CHECK(fake_kvm_slot_count(&kvm) == 0 && !kvm.broken && !kvm.stopped, "%s", mode->name, kvm.rule);
    fake_kvm_free(&kvm);
    fixture_end(&f);
    ram_block_destroy(block);
}

static void note_write(const struct kvm_userspace_memory_region *slot, uint64_t address)
{
    uint64_t host = slot->userspace_addr + (address - slot->guest_phys_addr);
    uint64_t page = (host - (uintptr_t)block->host) / PAGE;
    for (unsigned i = 0; i < CLIENTS; i++)
        if (clients[i])
            expected[i][page].written = true;
}

/* A store by the guest. A full ring is reaped by the vCPU's thread. */
static void guest_write(uint64_t address)
{
    const struct kvm_userspace_memory_region *slot = fake_kvm_find(&kvm, address);
    int result = fake_kvm_write(&kvm, address);
    if (result == -EAGAIN) {
        CHECK(kvm_listener_reap(listener, NULL) > 0, "nothing reaped", mode->name);
        result = fake_kvm_write(&kvm, address);
    }
    if (result == 0)
        note_write(slot, address);
}

/* What the guest does while a commit is under way; it waits for its end if its ring is full. */
static void write_meanwhile(struct fake_kvm *self)
{
    uint64_t address = (below(3) ? below(2 * LOW_PAGES) : HIGH / PAGE + below(HIGH_PAGES)) * (uint64_t)PAGE;
    const struct kvm_userspace_memory_region *slot = fake_kvm_find(self, address);
    if (fake_kvm_write(self, address) == 0)
        note_write(slot, address);
}

static void note_sync(void)
{
    for (unsigned client = 0; client < CLIENTS; client++) {
        for (unsigned page = 0; page < PAGES; page++) {
            struct expected *of = &expected[client][page];
            *of = (struct expected){.must = of->must || of->written, .may = of->may || of->may_yet};
        }
    }
}

static void start_client(unsigned client, enum dirty_first first)
{
    struct error err = {""};
    bool everything = first == DIRTY_EVERYTHING; /* also what was written before and is not synced yet */
    if (!everything)
        note_sync();
    int result = dirty_start(f.memory, "client", first, &clients[client], &err);
    CHECK(result == 0, "%s", mode->name, err.message);
    for (unsigned page = 0; page < PAGES; page++)
        expected[client][page] =
            (struct expected){.must = everything, .may_yet = everything || kvm.meanwhile};
}

static void stop_client(unsigned client)
{
    dirty_stop(clients[client]);
    clients[client] = NULL;
}

static void sync_all(void)
{
    struct error err = {""};
    note_sync(); /* what is written meanwhile need not be there */
    int result = dirty_sync(f.memory, &err);
    CHECK(result == 0, "%s", mode->name, err.message);
}

static void judge(unsigned client, unsigned page, bool found)
{
    struct expected *of = &expected[client][page];
    CHECK(found || !of->must, "client %u missed page %u", mode->name, client, page);
    CHECK(!found || of->must || of->written || of->may || of->may_yet, "client %u found page %u in vain",
          mode->name, client, page);
    if (!found)
        return;
    of->may_yet = of->may_yet || of->written;
    of->must = of->may = of->written = false;
}

/* Takes words of the bitmap, and judges them. */
static int take_words(unsigned client, unsigned first, unsigned count, struct error *err)
{
    uint64_t bitmap[WORDS], pages = 64 * (first + count) < PAGES ? 64 * count : PAGES - 64 * first;
    int result = dirty_take(clients[client], block, 64 * (uint64_t)first, pages, bitmap, err);
    for (unsigned i = 0; i < pages && !result; i++)
        judge(client, 64 * first + i, bitmap[i / 64] >> i % 64 & 1);
    return result;
}

/* One pass of a client: nothing is written meanwhile, so each page that was is found exactly once. */
static void pass(unsigned client)
{
    sync_all();
    cr_assert_eq(take_words(client, 0, WORDS, NULL), 0);
}

static unsigned marked(unsigned client)
{
    return (unsigned)dirty_count(clients[client], block);
}

static void write_some(void)
{
    for (unsigned i = 0; i < 10; i++) {
        guest_write((uint64_t)below(LOW_PAGES) * PAGE);
        guest_write(HIGH + (uint64_t)below(HIGH_PAGES) * PAGE);
        if (window->state.container)
            guest_write(WINDOW + (uint64_t)below(50) * PAGE);
    }
}

/* Has `test` run in each mode. */
static void in_all_modes(void (*test)(void))
{
    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        begin(&modes[i]);
        test();
        end();
    }
}

static void test_passes(void)
{
    write_some();
    start_client(0, DIRTY_FROM_NOW);
    CHECK(marked(0) == 0, "dirty at first", mode->name);
    pass(0);
    for (unsigned i = 0; i < 5; i++) {
        write_some();
        pass(0);
        pass(0);
    }
    start_client(1, DIRTY_EVERYTHING);
    CHECK(marked(1) == PAGES, "clean at first", mode->name);
    pass(1);
    write_some();
    pass(1);
    pass(0);
}

Test(kvm_dirty, every_page_once_per_pass)
{
    in_all_modes(test_passes);
}

static void test_clients(void)
{
    start_client(0, DIRTY_EVERYTHING);
    write_some();
    pass(0);
    write_some();
    sync_all();
    start_client(1, DIRTY_FROM_NOW); /* with bits that are reported and not yet cleared */
    write_some();
    pass(1);
    write_some();
    pass(1);
    pass(0);
    start_client(2, DIRTY_EVERYTHING);
    write_some();
    stop_client(0);
    write_some();
    pass(2);
    pass(1);
    start_client(0, DIRTY_FROM_NOW);
    write_some();
    pass(0);
    pass(1);
    pass(2);
}

Test(kvm_dirty, clients_do_not_disturb_each_other)
{
    in_all_modes(test_clients);
}

static void set_address(struct memory_region *region, uint64_t address)
{
    cr_assert_eq(memory_region_set_address(region, address, NULL), 0);
}

static void test_slots_that_change(void)
{
    start_client(0, DIRTY_FROM_NOW);
    start_client(1, DIRTY_EVERYTHING);
    pass(1);
    write_some();
    set_address(low, 5 * PAGE); /* moves */
    write_some();
    pass(0);
    write_some();
    add(&f.root, 20 * PAGE, hole, 1); /* splits */
    write_some();
    pass(0);
    cr_assert_eq(memory_region_set_readonly(high, true, NULL), 0);
    write_some();
    add(&f.root, WINDOW, window, 0);
    pass(1);
    cr_assert_eq(memory_region_set_readonly(high, false, NULL), 0);
    write_some();
    cr_assert_eq(memory_region_set_size(high, 120 * PAGE, NULL), 0);
    write_some();
    pass(0);
    write_some();
    cr_assert_eq(memory_region_set_size(high, HIGH_PAGES * PAGE, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(hole, NULL), 0);
    write_some();
    cr_assert_eq(memory_region_remove_subregion(low, NULL), 0);
    pass(0);
    pass(1);
    add(&f.root, 0, low, 0);
    pass(0);
    write_some();
    pass(0);
    pass(1);
}

Test(kvm_dirty, nothing_is_lost_over_changes_of_slots)
{
    in_all_modes(test_slots_that_change);
}

static int swap_and_split(void)
{
    memory_transaction_begin(f.memory);
    cr_assert_eq(memory_region_set_address(low, HIGH, NULL), 0);
    cr_assert_eq(memory_region_set_address(high, 0, NULL), 0);
    add(&f.root, HIGH + 30 * PAGE, hole, 1);
    return memory_transaction_commit(f.memory, NULL);
}

/* Each call of a commit fails once while the guest writes between any two calls. */
static void test_failed_commits(void)
{
    start_client(0, DIRTY_FROM_NOW);
    start_client(1, DIRTY_FROM_NOW);
    kvm.fail_with = -EIO;
    for (unsigned call = 1;; call++) {
        write_some();
        kvm.meanwhile = write_meanwhile;
        kvm.fail_at = kvm.calls + call;
        kvm.failed_move = false;
        int result = swap_and_split();
        kvm.meanwhile = NULL;
        kvm.fail_at = 0;
        CHECK(result == 0 || result == -EIO, "%d", mode->name, result);
        if (result == 0)
            break;
        write_some();
        pass(call % 2);
    }
    for (unsigned client = 0; client < 2; client++)
        for (unsigned page = 0; page < PAGES; page++)
            expected[client][page].may = true; /* a clear has failed, in one of the modes */
    pass(0);
    pass(1);
    write_some();
    pass(0);
}

Test(kvm_dirty, nothing_is_lost_over_failed_commits)
{
    in_all_modes(test_failed_commits);
}

/* What is not said is said the next time. */
static void test_failing_sync(void)
{
    start_client(0, DIRTY_FROM_NOW);
    write_some();
    kvm.fail_at = kvm.calls + 1;
    kvm.fail_with = -EIO;
    cr_assert_eq(dirty_sync(f.memory, &f.err), -EIO);
    cr_assert_not_null(strstr(f.err.message, "KVM"));
    cr_assert_eq(take_words(0, 0, WORDS, NULL), 0);
    write_some();
    pass(0);
}

Test(kvm_dirty, failing_sync)
{
    in_all_modes(test_failing_sync);
}

static void test_clear_fails(void)
{
    start_client(0, DIRTY_FROM_NOW);
    write_some();
    sync_all();
    unsigned count = marked(0);
    kvm.fail_at = kvm.calls + 2; /* of two slots the second */
    kvm.fail_with = -EIO;
    int result = take_words(0, 0, WORDS, &f.err);
    if (mode->mode == KVM_DIRTY_CLEAR) {
        cr_assert_eq(result, -EIO);
        cr_assert_not_null(strstr(f.err.message, "dirty"));
        cr_assert_eq(marked(0), count);
    }
    kvm.fail_at = 0;
    write_some();
    pass(0);
    write_some();
    pass(0);
}

Test(kvm_dirty, failing_clear)
{
    in_all_modes(test_clear_fails);
}

/* Only what is taken is cleared, and no more calls are made than there are slots. */
Test(kvm_dirty, clears_are_few_and_late)
{
    begin(&modes[2]);
    start_client(0, DIRTY_EVERYTHING);
    cr_assert_eq(kvm.clear_calls, 0, "nothing is protected before it is taken");
    sync_all();
    cr_assert_eq(kvm.get_calls, 2);
    cr_assert_eq(kvm.clear_calls, 0);
    cr_assert_eq(take_words(0, 0, 1, NULL), 0);
    cr_assert_eq(kvm.clear_calls, 1);
    cr_assert_eq(take_words(0, 0, 1, NULL), 0);
    cr_assert_eq(kvm.clear_calls, 1, "nothing was left to be cleared");
    cr_assert_eq(take_words(0, 1, WORDS - 1, NULL), 0);
    cr_assert_eq(kvm.clear_calls, 3);
    pass(0);
    cr_assert_eq(kvm.clear_calls, 3);
    cr_assert_eq(kvm.stops, 0);
    end();
}

Test(kvm_dirty, vcpus_leave_the_guest_for_rings_only)
{
    for (unsigned i = 0; i < ARRAY_SIZE(modes); i++) {
        begin(&modes[i]);
        start_client(0, DIRTY_EVERYTHING);
        write_some();
        pass(0);
        CHECK(kvm.stops == (mode->mode == KVM_DIRTY_RING), "%u stops", mode->name, kvm.stops);
        end();
    }
}

/* What was written before a client starts does not count, whatever is left of it in KVM. */
static void test_leftovers(void)
{
    start_client(0, DIRTY_EVERYTHING);
    cr_assert_eq(take_words(0, 0, WORDS, NULL), 0);
    write_some();
    stop_client(0);
    start_client(0, DIRTY_EVERYTHING);
    cr_assert_eq(take_words(0, 0, WORDS, NULL), 0);
    sync_all();
    CHECK(marked(0) == 0, "%u pages left over", mode->name, marked(0));
}

Test(kvm_dirty, leftovers)
{
    in_all_modes(test_leftovers);
}

static int refuse_and_break(struct memory_listener *self, const struct memory_change *change,
                            struct error *err)
{
    kvm.fail_at = kvm.calls + 1;
    kvm.fail_with = -EIO;
    return error_set(err, EPERM, "no");
}

/* The way back goes on where bits cannot be read; then all pages count as dirty. */
static void test_failing_on_the_way_back(void)
{
    static const struct memory_listener_ops willing = {0}, refusing = {.apply = refuse_and_break};
    struct memory_listener late = {.name = "late", .priority = 100, .ops = &willing};
    cr_assert_eq(memory_listener_register(&late, f.space, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(high, NULL), 0);
    start_client(0, DIRTY_FROM_NOW);
    guest_write(0);
    pass(0);
    late.ops = &refusing;
    cr_assert_eq(memory_region_add_subregion(&f.root, HIGH, high, 0, &f.err), -EPERM);
    cr_assert_str_eq(f.err.message, "no");
    late.ops = &willing;
    cr_assert_eq(fake_kvm_slot_count(&kvm), 1);
    CHECK(marked(0) == (kvm.get_calls ? HIGH_PAGES : 0), "%u marked", mode->name, marked(0));
    memory_listener_unregister(&late);
}

Test(kvm_dirty, failing_on_the_way_back)
{
    for (unsigned i = 0; i < 3; i++) {
        begin(&modes[i]);
        test_failing_on_the_way_back();
        end();
    }
}

/* With bits that KVM sets initially, new slots of tracked RAM are clean nonetheless. */
static void test_new_slots(void)
{
    start_client(0, DIRTY_FROM_NOW);
    cr_assert_eq(memory_region_set_readonly(window, true, NULL), 0);
    add(&f.root, WINDOW, window, 0);
    add(&f.root, 40 * PAGE, hole, 1);
    pass(0);
    cr_assert_eq(memory_region_set_readonly(window, false, NULL), 0);
    cr_assert_eq(memory_region_remove_subregion(hole, NULL), 0);
    pass(0);
    write_some();
    pass(0);
}

Test(kvm_dirty, new_slots_are_clean)
{
    in_all_modes(test_new_slots);
}

/* What KVM itself writes, as an interrupt controller does. */
static void test_without_vcpu(void)
{
    if (mode->mode == KVM_DIRTY_RING && !mode->with_bitmap)
        return;
    start_client(0, DIRTY_FROM_NOW);
    cr_assert_eq(fake_kvm_write_without_vcpu(&kvm, HIGH), 0);
    note_write(fake_kvm_find(&kvm, HIGH), HIGH);
    pass(0);
    cr_assert_eq(fake_kvm_write_without_vcpu(&kvm, HIGH + PAGE), 0);
    note_write(fake_kvm_find(&kvm, HIGH), HIGH + PAGE);
    cr_assert_eq(memory_region_remove_subregion(high, NULL), 0);
    pass(0);
}

Test(kvm_dirty, without_a_vcpu)
{
    in_all_modes(test_without_vcpu);
}

/* A ring that cannot come from KVM harms nobody. */
Test(kvm_dirty, nonsense_in_a_ring)
{
    begin(&modes[3]);
    start_client(0, DIRTY_FROM_NOW);
    struct kvm_dirty_gfn *entries = kvm.rings[0].entries;
    static const struct {
        uint32_t slot;
        uint64_t offset;
    } nonsense[] = {{0, LOW_PAGES}, {0, UINT64_MAX}, {7, 0}, {0x10000, 0}, {UINT32_MAX, 0}};
    for (unsigned i = 0; i < ARRAY_SIZE(nonsense); i++)
        entries[i] = (struct kvm_dirty_gfn){
            .flags = KVM_DIRTY_GFN_F_DIRTY, .slot = nonsense[i].slot, .offset = nonsense[i].offset};
    kvm.rings[0].next_dirty = ARRAY_SIZE(nonsense);
    cr_assert_eq(kvm_listener_reap(listener, NULL), ARRAY_SIZE(nonsense));
    pass(0);
    /* All entries full at once, and again: a turn of the ring each time. */
    for (unsigned turn = 0; turn < 3; turn++) {
        for (unsigned i = 0; i < 64; i++)
            guest_write(i * PAGE);
        pass(0);
    }
    cr_assert_eq(kvm_listener_reap(listener, NULL), 0);
    end();
}

/* Rings that KVM has not taken back: nobody may take pages that are not protected again. */
Test(kvm_dirty, failing_reset)
{
    begin(&modes[3]);
    start_client(0, DIRTY_FROM_NOW);
    guest_write(0);
    kvm.fail_at = kvm.calls + 1;
    kvm.fail_with = -EIO;
    cr_assert_eq(kvm_listener_reap(listener, &f.err), -EIO);
    kvm.fail_at = kvm.calls + 1;
    cr_assert_eq(take_words(0, 0, 1, NULL), -EIO);
    guest_write(0);
    cr_assert_eq(take_words(0, 0, 1, NULL), 0);
    guest_write(0);
    pass(0);
    end();
}

/* ---- Anything, in any order ---- */

static void change_topology(void)
{
    struct memory_region *regions[] = {low, high, window, hole};
    struct memory_region *region = regions[below(4)];
    uint64_t place = below(2) ? below(60) * (uint64_t)PAGE : HIGH + below(60) * (uint64_t)PAGE;
    switch (below(6)) {
    case 0:
    case 1:
        if (region->state.container)
            memory_region_set_address(region, place, NULL);
        else
            memory_region_add_subregion(&f.root, place, region, (int)below(3), NULL);
        break;
    case 2:
        if (below(3) == 0)
            memory_region_remove_subregion(region, NULL);
        break;
    case 3:
        memory_region_set_readonly(region, below(2), NULL);
        break;
    case 4:
        memory_region_set_enabled(region, below(4), NULL);
        break;
    default:
        memory_region_set_size(high, (HIGH_PAGES - below(3) * 40) * PAGE, NULL);
    }
}

/* A clear or a move that failed was made up for: by marks that nobody needs, or in another way. */
static void forgive_all(void)
{
    for (unsigned client = 0; client < CLIENTS; client++)
        for (unsigned page = 0; page < PAGES; page++)
            expected[client][page].may_yet = true;
}

static void commit_changes(void)
{
    unsigned changes = 1 + below(3);
    bool fails = below(4) == 0;
    kvm.failed_move = false;
    memory_transaction_begin(f.memory);
    while (changes--)
        change_topology();
    kvm.meanwhile = write_meanwhile;
    kvm.fail_at = fails ? kvm.calls + 1 + below(12) : 0;
    kvm.fail_with = -EIO;
    int result = memory_transaction_commit(f.memory, &f.err);
    bool failed = kvm.fail_at && kvm.calls >= kvm.fail_at;
    kvm.meanwhile = NULL;
    kvm.fail_at = 0;
    CHECK(result == 0 || (result == -EIO && failed), "%s", mode->name, f.err.message);
    if (failed && result == 0)
        forgive_all();
}

static void do_anything(void)
{
    unsigned client = below(CLIENTS), first = below(WORDS);
    kvm.meanwhile = below(2) ? write_meanwhile : NULL;
    switch (below(12)) {
    case 0:
        if (clients[client] && below(3) == 0)
            stop_client(client);
        else if (!clients[client])
            start_client(client, below(2) ? DIRTY_FROM_NOW : DIRTY_EVERYTHING);
        break;
    case 1:
    case 2:
    case 3:
        commit_changes();
        break;
    case 4:
        sync_all();
        break;
    case 5:
    case 6:
        if (clients[client])
            cr_assert_eq(take_words(client, first, 1 + below(WORDS - first), NULL), 0);
        break;
    case 7:
        if (clients[client])
            pass(client);
        break;
    default:
        for (unsigned i = 0; i < 20; i++)
            guest_write(i % 2 ? below(250) * (uint64_t)PAGE : HIGH + below(260) * (uint64_t)PAGE);
    }
    kvm.meanwhile = NULL;
    CHECK(!kvm.broken, "%s", mode->name, kvm.rule);
}

static void test_anything(void)
{
    for (unsigned i = 0; i < 2000; i++)
        do_anything();
}

Test(kvm_dirty, anything_in_any_order)
{
    for (unsigned seed = 0; seed < 20; seed++) {
        state = seed;
        in_all_modes(test_anything);
    }
}
