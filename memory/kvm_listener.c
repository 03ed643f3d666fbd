#include "memory/kvm_listener.h"

#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/internal.h"
#include "memory/kvm_dirty.h"
#include "memory/kvm_slots.h"

struct kvm_listener {
    struct memory_listener listener;
    struct kvm_listener_config config;
    struct kvm_slots slots;
    struct kvm_dirty dirty;
};

static struct kvm_listener *from_listener(struct memory_listener *listener)
{
    return container_of(listener, struct kvm_listener, listener);
}

static int prepare(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return kvm_slots_plan(&from_listener(listener)->slots, change, err);
}

static int apply(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return kvm_slots_apply(&from_listener(listener)->slots, err);
}

static int revert(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    return kvm_slots_revert(&from_listener(listener)->slots, err);
}

static void commit(struct memory_listener *listener, const struct memory_change *change)
{
    kvm_slots_commit(&from_listener(listener)->slots);
}

static void abort_change(struct memory_listener *listener, const struct memory_change *change)
{
    kvm_slots_forget(&from_listener(listener)->slots);
}

static int set_ioeventfd(struct memory_listener *listener, const struct flat_ioeventfd *ioeventfd,
                         uint32_t flags, struct error *err)
{
    const struct kvm_listener *self = from_listener(listener);
    flags |= self->config.ports ? KVM_IOEVENTFD_FLAG_PIO : 0;
    flags |= ioeventfd->match ? KVM_IOEVENTFD_FLAG_DATAMATCH : 0;
    struct kvm_ioeventfd request = {
        .datamatch = ioeventfd->data,
        .addr = ioeventfd->address,
        .len = ioeventfd->length,
        .fd = ioeventfd->fd,
        .flags = flags,
    };
    int result = self->config.ops->ioeventfd(self->config.opaque, &request);
    if (!result)
        return 0;
    return error_set_errno(err, -result, "region %s: KVM refuses to %s the ioeventfd at 0x%llx",
                           ioeventfd->region->name, flags & KVM_IOEVENTFD_FLAG_DEASSIGN ? "remove" : "add",
                           (unsigned long long)ioeventfd->address);
}

static int ioeventfd_del(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return set_ioeventfd(listener, ioeventfd, KVM_IOEVENTFD_FLAG_DEASSIGN, err);
}

static int ioeventfd_add(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    return set_ioeventfd(listener, ioeventfd, 0, err);
}

static int set_zone(struct memory_listener *listener, const struct flat_zone *zone,
                    int (*set)(void *, const struct kvm_coalesced_mmio_zone *), struct error *err)
{
    const struct kvm_listener *self = from_listener(listener);
    if (!set)
        return 0;
    struct kvm_coalesced_mmio_zone request = {
        .addr = zone->address,
        .size = (uint32_t)zone->size,
        .pio = self->config.ports,
    };
    int result = zone->size > UINT32_MAX ? -EINVAL : set(self->config.opaque, &request);
    if (!result)
        return 0;
    return error_set_errno(err, -result, "region %s: KVM refuses the coalesced range at 0x%llx",
                           zone->region->name, (unsigned long long)zone->address);
}

static int coalesced_del(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err)
{
    return set_zone(listener, zone, from_listener(listener)->config.ops->unregister_coalesced, err);
}

static int coalesced_add(struct memory_listener *listener, const struct memory_change *change,
                         const struct flat_zone *zone, struct error *err)
{
    return set_zone(listener, zone, from_listener(listener)->config.ops->register_coalesced, err);
}

static const struct memory_listener_ops memory_ops = {
    .prepare = prepare,
    .coalesced_del = coalesced_del,
    .coalesced_add = coalesced_add,
    .ioeventfd_del = ioeventfd_del,
    .ioeventfd_add = ioeventfd_add,
    .apply = apply,
    .revert = revert,
    .commit = commit,
    .abort = abort_change,
};

static const struct memory_listener_ops port_ops = {
    .coalesced_del = coalesced_del,
    .coalesced_add = coalesced_add,
    .ioeventfd_del = ioeventfd_del,
    .ioeventfd_add = ioeventfd_add,
};

int kvm_listener_create(struct address_space *space, const struct kvm_listener_config *config,
                        struct kvm_listener **out, struct error *err)
{
    struct kvm_listener *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "not enough memory for a KVM listener");
    self->config = *config;
    self->listener = (struct memory_listener){
        .name = config->ports ? "kvm-ports" : "kvm-memory",
        .priority = MEMORY_LISTENER_PRIORITY_ACCELERATOR,
        .ops = config->ports ? &port_ops : &memory_ops,
    };
    kvm_dirty_init(&self->dirty, &self->config);
    kvm_slots_init(&self->slots, &self->config, &self->dirty);
    int result = memory_listener_register(&self->listener, space, err);
    if (result) {
        kvm_listener_destroy(self);
        return result;
    }
    if (!config->ports)
        dirty_source_add(&self->dirty.source, space->memory);
    *out = self;
    return 0;
}

void kvm_listener_destroy(struct kvm_listener *self)
{
    if (!self)
        return;
    memory_listener_unregister(&self->listener);
    dirty_source_remove(&self->dirty.source);
    kvm_slots_destroy(&self->slots);
    kvm_dirty_destroy(&self->dirty);
    free(self);
}

int kvm_listener_add_ring(struct kvm_listener *self, struct kvm_dirty_gfn *ring, size_t count,
                          struct error *err)
{
    struct memory *memory = self->listener.space->memory;
    pthread_mutex_lock(&memory->lock);
    int result = kvm_dirty_rings_add(&self->dirty.rings, ring, count);
    pthread_mutex_unlock(&memory->lock);
    return result ? error_set(err, -result, "not enough memory for a vCPU's dirty ring") : 0;
}

int kvm_listener_reap(struct kvm_listener *self, struct error *err)
{
    struct memory *memory = self->listener.space->memory;
    pthread_mutex_lock(&memory->lock);
    int result = kvm_dirty_rings_reap(&self->dirty.rings, &self->config);
    pthread_mutex_unlock(&memory->lock);
    return result < 0 ? error_set_errno(err, -result, "KVM does not take back its dirty rings") : result;
}
