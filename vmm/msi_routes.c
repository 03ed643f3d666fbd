#include "vmm/msi_routes.h"

#include <assert.h>
#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "vmm/kvm.h"

#define LAPIC_MESSAGES     0xFEE /* bits 20 and above of the address of every message to a local APIC */
#define LAPIC_MESSAGES_BIT 20

#define ROOM_STEP          32 /* routes that memory is taken for at once */

struct msi_routes {
    struct msi_routes_config config;
    unsigned count_max; /* routes */
    pthread_mutex_t lock;
    /* Guarded by it. Route number N is entry fixed_count + N, and GSI first_gsi + N. */
    struct kvm_irq_routing *table;
    bool *used;
    unsigned count, room; /* routes in the table, and that there is memory for */
};

/* ---- On a real KVM ---- */

static int set_routing(void *opaque, const struct kvm_irq_routing *table)
{
    const struct kvm_vm *vm = opaque;
    return ioctl(vm->vm_fd, KVM_SET_GSI_ROUTING, table) < 0 ? -errno : 0;
}

static int set_irqfd(void *opaque, const struct kvm_irqfd *irqfd)
{
    const struct kvm_vm *vm = opaque;
    return ioctl(vm->vm_fd, KVM_IRQFD, irqfd) < 0 ? -errno : 0;
}

const struct msi_routes_kvm_ops msi_routes_kvm_ops = {set_routing, set_irqfd};

/* ---- The table, with the lock held ---- */

static int make_room(struct msi_routes *routes, struct error *err)
{
    unsigned room = routes->room + ROOM_STEP;
    size_t before = routes->config.fixed_count + routes->room, entries = before + ROOM_STEP;
    struct kvm_irq_routing *table =
        realloc(routes->table, sizeof(*table) + entries * sizeof(table->entries[0]));
    if (table)
        routes->table = table;
    bool *used = realloc(routes->used, room * sizeof(*used));
    if (used)
        routes->used = used;
    if (!table || !used)
        return error_set(err, ENOMEM, "not enough memory for the routes of interrupts");
    memset(table->entries + before, 0, ROOM_STEP * sizeof(table->entries[0]));
    memset(used + routes->room, 0, ROOM_STEP * sizeof(*used));
    routes->room = room;
    return 0;
}

/* The number of a route that is free, behind those there have been if need be. */
static int find_free(struct msi_routes *routes, uint32_t *route, struct error *err)
{
    uint32_t free_one = 0;
    while (free_one < routes->count && routes->used[free_one])
        free_one++;
    if (free_one == routes->count_max)
        return error_set(err, ENOSPC, "KVM has room for %u interrupt messages, and all of it is used",
                         routes->count_max);
    *route = free_one;
    return free_one < routes->room ? 0 : make_room(routes, err);
}

static int put(struct msi_routes *routes, uint32_t route, const struct msi_message *message,
               struct error *err)
{
    struct kvm_irq_routing_entry *entry = &routes->table->entries[routes->config.fixed_count + route];
    struct kvm_irq_routing_entry before = *entry;
    unsigned count = route < routes->count ? routes->count : route + 1;
    *entry = (struct kvm_irq_routing_entry){
        .gsi = routes->config.first_gsi + route,
        .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = {.address_lo = (uint32_t)message->address, .data = message->data},
    };
    routes->table->nr = routes->config.fixed_count + count;
    int result = routes->config.kvm->set_routing(routes->config.opaque, routes->table);
    if (result < 0) {
        *entry = before;
        return error_set_errno(err, -result, "KVM refuses the route of an interrupt");
    }
    routes->count = count;
    routes->used[route] = true;
    return 0;
}

/* ---- struct msi_ops ---- */

static int set_route(void *opaque, const struct msi_message *message, uint32_t *route, struct error *err)
{
    struct msi_routes *routes = opaque;
    if (message->address >> LAPIC_MESSAGES_BIT != LAPIC_MESSAGES)
        return error_set(err, EINVAL, "its message is for address 0x%llx, where no interrupt controller is",
                         (unsigned long long)message->address);
    uint32_t number = *route;
    pthread_mutex_lock(&routes->lock);
    int result = number == MSI_NO_ROUTE ? find_free(routes, &number, err) : 0;
    if (result == 0)
        result = put(routes, number, message, err);
    pthread_mutex_unlock(&routes->lock);
    if (result == 0)
        *route = number;
    return result;
}

static void drop_route(void *opaque, uint32_t route)
{
    struct msi_routes *routes = opaque;
    pthread_mutex_lock(&routes->lock);
    assert(route < routes->count && routes->used[route]);
    routes->used[route] = false;
    pthread_mutex_unlock(&routes->lock);
}

static int change_irqfd(struct msi_routes *routes, int fd, uint32_t route, unsigned flags)
{
    const struct kvm_irqfd irqfd = {
        .fd = (uint32_t)fd, .gsi = routes->config.first_gsi + route, .flags = flags};
    return routes->config.kvm->set_irqfd(routes->config.opaque, &irqfd);
}

/*
 * KVM sends what it finds in an eventfd, but leaves it there, and it would be sent again after the next
 * detaching and attaching. What is signalled from then on KVM takes out itself.
 */
static int attach(void *opaque, int fd, uint32_t route, struct error *err)
{
    eventfd_t count;
    int result = change_irqfd(opaque, fd, route, 0);
    if (result < 0)
        return error_set_errno(err, -result, "KVM refuses an irqfd for its message");
    eventfd_read(fd, &count);
    return 0;
}

static void detach(void *opaque, int fd, uint32_t route)
{
    change_irqfd(opaque, fd, route, KVM_IRQFD_FLAG_DEASSIGN);
}

const struct msi_ops msi_routes_ops = {set_route, drop_route, attach, detach};

/* ---- Creation ---- */

int msi_routes_create(const struct msi_routes_config *config, struct msi_routes **out, struct error *err)
{
    struct msi_routes *routes = calloc(1, sizeof(*routes));
    if (!routes)
        return error_set(err, ENOMEM, "not enough memory for the routes of interrupts");
    routes->config = *config;
    unsigned most = config->fixed_count > config->first_gsi ? config->fixed_count : config->first_gsi;
    routes->count_max = config->entries_max - most; /* GSIs are below the number of entries, too */
    pthread_mutex_init(&routes->lock, NULL);
    int result = make_room(routes, err);
    if (result < 0) {
        msi_routes_destroy(routes);
        return result;
    }
    routes->table->flags = 0;
    memcpy(routes->table->entries, config->fixed, config->fixed_count * sizeof(*config->fixed));
    *out = routes;
    return 0;
}

void msi_routes_destroy(struct msi_routes *routes)
{
    if (!routes)
        return;
    pthread_mutex_destroy(&routes->lock);
    free(routes->table);
    free(routes->used);
    free(routes);
}
