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

/* Messages for the vectors that follow get routes at once. */
#define ROUTES_AT_ONCE     32
#define VECTOR_MASK        0xFF /* of a message's data */

struct msi_routes {
    struct msi_routes_config config;
    unsigned count_max; /* routes */
    pthread_mutex_t lock;
    /* Guarded by it. Route number N is entry fixed_count + N, and GSI first_gsi + N. */
    struct kvm_irq_routing *table;
    unsigned *users; /* of each route */
    unsigned count;  /* of routes that KVM has */
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

static struct kvm_irq_routing_entry *entry_of(struct msi_routes *routes, uint32_t route)
{
    return &routes->table->entries[routes->config.fixed_count + route];
}

static uint32_t find_message(struct msi_routes *routes, uint32_t address, uint32_t data)
{
    for (uint32_t i = 0; i < routes->count; i++) {
        const struct kvm_irq_routing_msi *msi = &entry_of(routes, i)->u.msi;
        if (msi->address_lo == address && msi->data == data)
            return i;
    }
    return MSI_NO_ROUTE;
}

static void put_message(struct msi_routes *routes, uint32_t route, uint32_t address, uint32_t data)
{
    *entry_of(routes, route) = (struct kvm_irq_routing_entry){
        .gsi = routes->config.first_gsi + route,
        .type = KVM_IRQ_ROUTING_MSI,
        .u.msi = {.address_lo = address, .data = data},
    };
}

static int tell_kvm(struct msi_routes *routes, unsigned count, struct error *err)
{
    routes->table->nr = routes->config.fixed_count + count;
    int result = routes->config.kvm->set_routing(routes->config.opaque, routes->table);
    if (result < 0)
        return error_set_errno(err, -result, "KVM refuses the route of an interrupt");
    routes->count = count;
    return 0;
}

/* Adds a route for the message, and for those that are likely to be wanted next. */
static int append(struct msi_routes *routes, uint32_t address, uint32_t data, struct error *err)
{
    unsigned count = routes->count;
    for (unsigned i = 0; i < ROUTES_AT_ONCE && count < routes->count_max; i++, data++) {
        if (i > 0 && !(data & VECTOR_MASK))
            break;
        if (find_message(routes, address, data) == MSI_NO_ROUTE)
            put_message(routes, count++, address, data);
    }
    return tell_kvm(routes, count, err);
}

/* Gives the message the route of one that nobody uses. */
static int replace(struct msi_routes *routes, uint32_t address, uint32_t data, uint32_t *route,
                   struct error *err)
{
    uint32_t unused = 0;
    while (unused < routes->count && routes->users[unused])
        unused++;
    if (unused == routes->count)
        return error_set(err, ENOSPC, "KVM has room for %u interrupt messages, and all of it is used",
                         routes->count_max);
    struct kvm_irq_routing_entry before = *entry_of(routes, unused);
    put_message(routes, unused, address, data);
    int result = tell_kvm(routes, routes->count, err);
    if (result < 0)
        *entry_of(routes, unused) = before;
    *route = unused;
    return result;
}

static int provide(struct msi_routes *routes, const struct msi_message *message, uint32_t *route,
                   struct error *err)
{
    uint32_t address = (uint32_t)message->address;
    *route = find_message(routes, address, message->data);
    if (*route != MSI_NO_ROUTE)
        return 0;
    *route = routes->count;
    return routes->count < routes->count_max ? append(routes, address, message->data, err)
                                             : replace(routes, address, message->data, route, err);
}

/* ---- struct msi_ops ---- */

static int set_route(void *opaque, const struct msi_message *message, uint32_t *route, struct error *err)
{
    struct msi_routes *routes = opaque;
    uint32_t before = *route, provided;
    if (message->address >> LAPIC_MESSAGES_BIT != LAPIC_MESSAGES)
        return error_set(err, EINVAL, "its message is for address 0x%llx, where no interrupt controller is",
                         (unsigned long long)message->address);
    pthread_mutex_lock(&routes->lock);
    if (before != MSI_NO_ROUTE)
        routes->users[before]--; /* so it can be replaced */
    int result = provide(routes, message, &provided, err);
    if (result == 0)
        *route = provided;
    if (*route != MSI_NO_ROUTE)
        routes->users[*route]++;
    pthread_mutex_unlock(&routes->lock);
    return result;
}

static void drop_route(void *opaque, uint32_t route)
{
    struct msi_routes *routes = opaque;
    pthread_mutex_lock(&routes->lock);
    assert(route < routes->count && routes->users[route]);
    routes->users[route]--;
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
    /* What is not used of these stays without memory. */
    size_t entries = config->fixed_count + (size_t)routes->count_max;
    routes->table = calloc(1, sizeof(*routes->table) + entries * sizeof(*config->fixed));
    routes->users = calloc(routes->count_max, sizeof(*routes->users));
    if (!routes->table || !routes->users) {
        msi_routes_destroy(routes);
        return error_set(err, ENOMEM, "not enough memory for the routes of interrupts");
    }
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
    free(routes->users);
    free(routes);
}
