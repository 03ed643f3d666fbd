#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/support/fake_kvm_internal.h"

#define FIRST_BUCKETS 64

/* Those at one address, ports apart, are in one bucket. There are at least as many buckets as ioeventfds. */
static uint32_t *bucket_of(const struct fake_kvm *kvm, const struct kvm_ioeventfd *ioeventfd)
{
    uint64_t key = ioeventfd->addr ^ (ioeventfd->flags & KVM_IOEVENTFD_FLAG_PIO ? (uint64_t)1 << 63 : 0);
    return &kvm->buckets[(key * 0x9e3779b97f4a7c15u >> 32) & (kvm->bucket_count - 1)];
}

static void link_ioeventfd(struct fake_kvm *kvm, size_t index)
{
    uint32_t *bucket = bucket_of(kvm, &kvm->ioeventfds[index]);
    kvm->next_ioeventfd[index] = *bucket;
    *bucket = (uint32_t)index + 1;
}

static void unlink_ioeventfd(struct fake_kvm *kvm, size_t index)
{
    uint32_t *place = bucket_of(kvm, &kvm->ioeventfds[index]);
    while (*place != index + 1)
        place = &kvm->next_ioeventfd[*place - 1];
    *place = kvm->next_ioeventfd[index];
}

static bool reserve_ioeventfd(struct fake_kvm *kvm)
{
    if (kvm->ioeventfd_count < kvm->bucket_count)
        return true;
    size_t wanted = kvm->bucket_count ? 2 * kvm->bucket_count : FIRST_BUCKETS;
    if (!fake_reserve(&kvm->ioeventfds, wanted, sizeof(*kvm->ioeventfds)) ||
        !fake_reserve(&kvm->next_ioeventfd, wanted, sizeof(*kvm->next_ioeventfd)) ||
        !fake_reserve(&kvm->buckets, wanted, sizeof(*kvm->buckets)))
        return false;
    kvm->bucket_count = wanted;
    memset(kvm->buckets, 0, wanted * sizeof(*kvm->buckets));
    for (size_t i = 0; i < kvm->ioeventfd_count; i++)
        link_ioeventfd(kvm, i);
    return true;
}

/* Whether KVM would not know which of both to signal. */
static bool collide(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b)
{
    if (((a->flags ^ b->flags) & KVM_IOEVENTFD_FLAG_PIO) || a->addr != b->addr)
        return false;
    if (!a->len || !b->len)
        return true;
    bool both_match = a->flags & b->flags & KVM_IOEVENTFD_FLAG_DATAMATCH;
    return a->len == b->len && (!both_match || a->datamatch == b->datamatch);
}

static bool same(const struct kvm_ioeventfd *a, const struct kvm_ioeventfd *b)
{
    unsigned flags = KVM_IOEVENTFD_FLAG_PIO | KVM_IOEVENTFD_FLAG_DATAMATCH;
    return a->addr == b->addr && a->len == b->len && a->fd == b->fd && !((a->flags ^ b->flags) & flags) &&
           (!(a->flags & KVM_IOEVENTFD_FLAG_DATAMATCH) || a->datamatch == b->datamatch);
}

/* The first one that is `like` the wanted one; NULL: none. */
static struct kvm_ioeventfd *find(const struct fake_kvm *kvm, const struct kvm_ioeventfd *wanted,
                                  bool (*like)(const struct kvm_ioeventfd *, const struct kvm_ioeventfd *))
{
    if (!kvm->bucket_count)
        return NULL;
    for (uint32_t at = *bucket_of(kvm, wanted); at; at = kvm->next_ioeventfd[at - 1])
        if (like(&kvm->ioeventfds[at - 1], wanted))
            return &kvm->ioeventfds[at - 1];
    return NULL;
}

static int deassign(struct fake_kvm *kvm, const struct kvm_ioeventfd *request)
{
    struct kvm_ioeventfd *found = find(kvm, request, same);
    if (!found)
        return fake_broken(kvm, ENOENT, "no such ioeventfd");
    size_t index = (size_t)(found - kvm->ioeventfds), last = kvm->ioeventfd_count - 1;
    unlink_ioeventfd(kvm, index);
    if (index != last) {
        unlink_ioeventfd(kvm, last);
        *found = kvm->ioeventfds[last];
        link_ioeventfd(kvm, index);
    }
    kvm->ioeventfd_count = last;
    return 0;
}

static int assign(struct fake_kvm *kvm, const struct kvm_ioeventfd *request)
{
    if (find(kvm, request, collide)) {
        /* No rule of the listener's: only the whole machine can know. What takes it back must not fail. */
        kvm->fail_at = 0;
        return -EEXIST;
    }
    if (!reserve_ioeventfd(kvm))
        return -ENOMEM;
    kvm->ioeventfds[kvm->ioeventfd_count] = *request;
    link_ioeventfd(kvm, kvm->ioeventfd_count++);
    return 0;
}

int fake_ioeventfd(void *opaque, const struct kvm_ioeventfd *request)
{
    struct fake_kvm *kvm = opaque;
    if (fake_call(kvm))
        return kvm->fail_with;
    if (request->len > 8 || (request->len & (request->len - 1)) ||
        (!request->len && (request->flags & KVM_IOEVENTFD_FLAG_DATAMATCH)))
        return fake_broken(kvm, EINVAL, "bad length of an ioeventfd");
    if (request->addr + request->len < request->addr || request->fd < 0)
        return fake_broken(kvm, EINVAL, "bad ioeventfd");
    return request->flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? deassign(kvm, request) : assign(kvm, request);
}

static bool reserve_zones(struct fake_kvm *kvm, size_t count)
{
    if (count <= kvm->zone_capacity)
        return true;
    if (!fake_reserve(&kvm->zones, 2 * count, sizeof(*kvm->zones)))
        return false;
    kvm->zone_capacity = 2 * count;
    return true;
}

int fake_register_zone(void *opaque, const struct kvm_coalesced_mmio_zone *zone)
{
    struct fake_kvm *kvm = opaque;
    if (fake_call(kvm))
        return kvm->fail_with;
    if (zone->pio > 1)
        return fake_broken(kvm, EINVAL, "bad coalesced zone");
    if (!reserve_zones(kvm, kvm->zone_count + 1))
        return -ENOMEM;
    kvm->zones[kvm->zone_count++] = *zone;
    return 0;
}

static struct kvm_coalesced_mmio_zone *find_zone(const struct fake_kvm *kvm,
                                                 const struct kvm_coalesced_mmio_zone *wanted)
{
    for (size_t i = 0; i < kvm->zone_count; i++) {
        struct kvm_coalesced_mmio_zone *zone = &kvm->zones[i];
        if (zone->addr == wanted->addr && zone->size == wanted->size && zone->pio == wanted->pio)
            return zone;
    }
    return NULL;
}

int fake_unregister_zone(void *opaque, const struct kvm_coalesced_mmio_zone *zone)
{
    struct fake_kvm *kvm = opaque;
    if (fake_call(kvm))
        return kvm->fail_with;
    struct kvm_coalesced_mmio_zone *found = find_zone(kvm, zone);
    if (!found)
        return fake_broken(kvm, ENOENT, "no such coalesced zone");
    *found = kvm->zones[--kvm->zone_count];
    return 0;
}

void fake_items_copy(struct fake_kvm *to, const struct fake_kvm *from)
{
    to->ioeventfd_count = 0;
    if (to->bucket_count)
        memset(to->buckets, 0, to->bucket_count * sizeof(*to->buckets));
    for (size_t i = 0; i < from->ioeventfd_count; i++) {
        if (!reserve_ioeventfd(to))
            abort();
        to->ioeventfds[to->ioeventfd_count] = from->ioeventfds[i];
        link_ioeventfd(to, to->ioeventfd_count++);
    }
    if (!reserve_zones(to, from->zone_count))
        abort();
    to->zone_count = from->zone_count;
    if (from->zone_count)
        memcpy(to->zones, from->zones, from->zone_count * sizeof(*to->zones));
}

bool fake_items_equal(const struct fake_kvm *a, const struct fake_kvm *b)
{
    if (a->ioeventfd_count != b->ioeventfd_count || a->zone_count != b->zone_count)
        return false;
    for (size_t i = 0; i < a->ioeventfd_count; i++)
        if (!find(b, &a->ioeventfds[i], same))
            return false;
    for (size_t i = 0; i < a->zone_count; i++)
        if (!find_zone(b, &a->zones[i]))
            return false;
    return true;
}

void fake_items_free(struct fake_kvm *kvm)
{
    free(kvm->ioeventfds);
    free(kvm->next_ioeventfd);
    free(kvm->buckets);
    free(kvm->zones);
}
