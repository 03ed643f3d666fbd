#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fake_kvm_internal.h"

static size_t words_of(uint64_t pages)
{
    return (size_t)((pages + 63) / 64);
}

static void free_log(struct fake_log *log)
{
    free(log->bits);
    free(log->backup);
    *log = (struct fake_log){0};
}

static int allocate_log(struct fake_log *log, uint64_t pages)
{
    log->bits = calloc(words_of(pages), sizeof(uint64_t));
    log->backup = calloc(words_of(pages), sizeof(uint64_t));
    if (log->bits && log->backup)
        return 0;
    free_log(log);
    return -ENOMEM;
}

static void set_all(struct fake_log *log, uint64_t pages)
{
    for (uint64_t page = 0; page < pages; page++)
        log->bits[page / 64] |= (uint64_t)1 << page % 64;
}

/* What a vCPU has not told of a slot, and nobody wants to know any more. */
static void drop_pml(struct fake_kvm *kvm, uint32_t slot)
{
    unsigned kept = 0;
    for (unsigned i = 0; i < kvm->pml_count; i++)
        if (kvm->pml_entries[i].slot != slot)
            kvm->pml_entries[kept++] = kvm->pml_entries[i];
    kvm->pml_count = kept;
}

int fake_log_change(struct fake_kvm *kvm, uint32_t slot, bool logs, uint64_t pages)
{
    struct fake_log *log = &kvm->logs[slot];
    if (!logs) {
        free_log(log);
        drop_pml(kvm, slot);
    }
    if (!logs || log->bits)
        return 0;
    int result = allocate_log(log, pages);
    if (!result && kvm->manual_protect && kvm->initially_set)
        set_all(log, pages);
    return result;
}

static uint64_t pages_of(const struct fake_kvm *kvm, uint32_t slot)
{
    return kvm->slots[slot].memory_size / FAKE_PAGE;
}

int fake_get_dirty_log(void *opaque, struct kvm_dirty_log *request)
{
    struct fake_kvm *kvm = opaque;
    kvm->get_calls++;
    if (fake_call(kvm))
        return kvm->fail_with;
    if (kvm->dirty_ring && !kvm->ring_with_bitmap)
        return fake_broken(kvm, ENXIO, "dirty log asked for beside rings");
    struct fake_log *log = fake_log_of(kvm, request->slot);
    if (!log)
        return fake_broken(kvm, ENOENT, "dirty log of a slot that does not log");
    size_t size = words_of(pages_of(kvm, request->slot)) * sizeof(uint64_t);
    uint64_t *bits = kvm->dirty_ring ? log->backup : log->bits;
    memcpy(request->dirty_bitmap, bits, size);
    if (!kvm->manual_protect)
        memset(bits, 0, size);
    fake_meanwhile(kvm);
    return 0;
}

static int check_clear(struct fake_kvm *kvm, const struct kvm_clear_dirty_log *request)
{
    if (!kvm->manual_protect || kvm->dirty_ring)
        return fake_broken(kvm, ENXIO, "dirty log cleared without manual protect");
    if (!fake_log_of(kvm, request->slot))
        return fake_broken(kvm, ENOENT, "dirty log cleared of a slot that does not log");
    uint64_t pages = pages_of(kvm, request->slot);
    if (request->first_page % 64 || request->first_page > pages ||
        request->num_pages > pages - request->first_page ||
        (request->num_pages % 64 && request->num_pages < pages - request->first_page))
        return fake_broken(kvm, EINVAL, "dirty log not cleared in words");
    return 0;
}

int fake_clear_dirty_log(void *opaque, struct kvm_clear_dirty_log *request)
{
    struct fake_kvm *kvm = opaque;
    kvm->clear_calls++;
    if (fake_call(kvm)) {
        kvm->failed_clear = true;
        return kvm->fail_with;
    }
    int result = check_clear(kvm, request);
    if (result)
        return result;
    uint64_t *bits = kvm->logs[request->slot].bits + request->first_page / 64;
    const uint64_t *clear = request->dirty_bitmap;
    for (size_t i = 0; i < words_of(request->num_pages); i++)
        bits[i] &= ~clear[i];
    fake_meanwhile(kvm);
    return 0;
}

/* Whether there will be room in vCPU 0's ring. */
static bool ring_full(const struct fake_kvm *kvm)
{
    const struct fake_ring *ring = &kvm->rings[0];
    return ring->next_dirty - ring->next_reset + kvm->pml_count >= ring->count;
}

static void push(struct fake_kvm *kvm, uint32_t slot, uint64_t page)
{
    struct fake_ring *ring = &kvm->rings[0];
    struct kvm_dirty_gfn *entry = &ring->entries[ring->next_dirty++ & (ring->count - 1)];
    entry->slot = slot;
    entry->offset = page;
    __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_DIRTY, __ATOMIC_RELEASE);
}

static void flush_pml(struct fake_kvm *kvm)
{
    for (unsigned i = 0; i < kvm->pml_count; i++)
        push(kvm, kvm->pml_entries[i].slot, kvm->pml_entries[i].offset);
    kvm->pml_count = 0;
}

static void report(struct fake_kvm *kvm, uint32_t slot, uint64_t page)
{
    if (kvm->pml) {
        if (kvm->pml_count == FAKE_KVM_PML_MAX)
            flush_pml(kvm);
        kvm->pml_entries[kvm->pml_count++] = (struct kvm_dirty_gfn){.slot = slot, .offset = page};
    } else {
        push(kvm, slot, page);
    }
}

/* The slot that a store goes to, and the page of it; or -errno. */
static int find_target(struct fake_kvm *kvm, uint64_t address, uint64_t *page)
{
    const struct kvm_userspace_memory_region *slot = fake_kvm_find(kvm, address);
    if (!slot)
        return -ENOENT;
    if (slot->flags & KVM_MEM_READONLY)
        return -EACCES;
    *page = (address - slot->guest_phys_addr) / FAKE_PAGE;
    return (int)slot->slot;
}

int fake_kvm_write(struct fake_kvm *kvm, uint64_t address)
{
    uint64_t page;
    int slot = kvm->stopped ? -EBUSY : find_target(kvm, address, &page);
    if (slot < 0)
        return slot;
    struct fake_log *log = fake_log_of(kvm, (uint32_t)slot);
    uint64_t bit = (uint64_t)1 << page % 64;
    if (!log || (log->bits[page / 64] & bit))
        return 0;
    if (kvm->dirty_ring) {
        if (ring_full(kvm)) {
            flush_pml(kvm); /* the vCPU leaves the guest */
            return -EAGAIN;
        }
        report(kvm, (uint32_t)slot, page);
    }
    log->bits[page / 64] |= bit;
    return 0;
}

int fake_kvm_write_without_vcpu(struct fake_kvm *kvm, uint64_t address)
{
    uint64_t page;
    int slot = find_target(kvm, address, &page);
    if (slot < 0)
        return slot;
    struct fake_log *log = fake_log_of(kvm, (uint32_t)slot);
    if (log)
        (kvm->dirty_ring ? log->backup : log->bits)[page / 64] |= (uint64_t)1 << page % 64;
    return 0;
}

struct kvm_dirty_gfn *fake_kvm_add_ring(struct fake_kvm *kvm, uint32_t count)
{
    struct fake_ring *ring = &kvm->rings[kvm->ring_count++];
    *ring = (struct fake_ring){.entries = calloc(count, sizeof(*ring->entries)), .count = count};
    if (!ring->entries)
        abort();
    return ring->entries;
}

static void protect_again(struct fake_kvm *kvm, const struct kvm_dirty_gfn *entry)
{
    struct fake_log *log = fake_log_of(kvm, entry->slot);
    if (log && entry->offset < pages_of(kvm, entry->slot))
        log->bits[entry->offset / 64] &= ~((uint64_t)1 << entry->offset % 64);
}

static void reset_ring(struct fake_kvm *kvm, struct fake_ring *ring)
{
    for (;; ring->next_reset++) {
        struct kvm_dirty_gfn *entry = &ring->entries[ring->next_reset & (ring->count - 1)];
        if (!(__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_RESET))
            return;
        protect_again(kvm, entry);
        entry->flags = 0;
    }
}

int fake_reset_dirty_rings(void *opaque)
{
    struct fake_kvm *kvm = opaque;
    kvm->reset_calls++;
    if (fake_call(kvm)) {
        kvm->failed_clear = true;
        return kvm->fail_with;
    }
    if (!kvm->dirty_ring)
        return fake_broken(kvm, EINVAL, "rings reset where there are none");
    for (unsigned i = 0; i < kvm->ring_count; i++)
        reset_ring(kvm, &kvm->rings[i]);
    fake_meanwhile(kvm);
    return 0;
}

void fake_stop_vcpus(void *opaque)
{
    struct fake_kvm *kvm = opaque;
    if (kvm->stopped)
        fake_broken(kvm, EBUSY, "vCPUs stopped that are stopped");
    kvm->stopped = true;
    kvm->stops++;
    flush_pml(kvm);
}

void fake_resume_vcpus(void *opaque)
{
    struct fake_kvm *kvm = opaque;
    if (!kvm->stopped)
        fake_broken(kvm, EBUSY, "vCPUs resumed that run");
    kvm->stopped = false;
}

void fake_dirty_free(struct fake_kvm *kvm)
{
    for (unsigned i = 0; i < kvm->slot_numbers; i++)
        if (kvm->logs)
            free_log(&kvm->logs[i]);
    for (unsigned i = 0; i < kvm->ring_count; i++)
        free(kvm->rings[i].entries);
}
