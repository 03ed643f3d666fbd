/*
 * Routes of messages against a KVM that has only the rules of the two calls (Documentation/virt/kvm/api.rst,
 * virt/kvm/irqchip.c, eventfd.c): it takes whole tables, has room for few entries, sends what it finds in an
 * eventfd that is attached and leaves it there, and takes out what comes later.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/msi_routes.h"

#define ENTRIES_MAX 90
#define LINES       3
#define FIRST_GSI   24
#define MESSAGES    (ENTRIES_MAX - FIRST_GSI)
#define IRQFDS_MAX  64
#define LAPIC       0xFEE00000

static const struct kvm_irq_routing_entry lines[LINES] = {
    {.gsi = 0, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {KVM_IRQCHIP_IOAPIC, 0}},
    {.gsi = 0, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {KVM_IRQCHIP_PIC_MASTER, 0}},
    {.gsi = 1, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {KVM_IRQCHIP_IOAPIC, 1}},
};

struct kvm {
    pthread_mutex_t lock;
    unsigned nr, tables;
    struct kvm_irq_routing_entry entries[ENTRIES_MAX];
    struct kvm_irqfd irqfds[IRQFDS_MAX];
    unsigned irqfd_count;
    uint32_t sent[IRQFDS_MAX]; /* data of messages, in order */
    unsigned sent_count;
    int refuse; /* the next call fails with this -errno */
};

static struct kvm kvm;
static struct msi_routes *routes;

static void send(unsigned gsi)
{
    for (unsigned i = 0; i < kvm.nr; i++) {
        if (kvm.entries[i].gsi == gsi && kvm.entries[i].type == KVM_IRQ_ROUTING_MSI)
            kvm.sent[kvm.sent_count++ % IRQFDS_MAX] = kvm.entries[i].u.msi.data;
    }
}

static int refused(void)
{
    int result = kvm.refuse;
    kvm.refuse = 0;
    return result;
}

static int set_routing(void *opaque, const struct kvm_irq_routing *table)
{
    pthread_mutex_lock(&kvm.lock);
    int result = refused();
    cr_assert(table->nr <= ENTRIES_MAX && table->flags == 0);
    for (unsigned i = 0; i < table->nr; i++)
        cr_assert(table->entries[i].gsi < ENTRIES_MAX && table->entries[i].flags == 0);
    if (result == 0) {
        kvm.nr = table->nr;
        kvm.tables++;
        memcpy(kvm.entries, table->entries, table->nr * sizeof(kvm.entries[0]));
    }
    pthread_mutex_unlock(&kvm.lock);
    return result;
}

static bool is_signalled(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};
    return poll(&look, 1, 0) == 1;
}

static int change_irqfd(const struct kvm_irqfd *irqfd)
{
    unsigned i = 0;
    while (i < kvm.irqfd_count && kvm.irqfds[i].fd != irqfd->fd)
        i++;
    if (irqfd->flags & KVM_IRQFD_FLAG_DEASSIGN) {
        cr_assert(i < kvm.irqfd_count && kvm.irqfds[i].gsi == irqfd->gsi);
        kvm.irqfds[i] = kvm.irqfds[--kvm.irqfd_count];
        return 0;
    }
    if (i < kvm.irqfd_count)
        return -EBUSY;
    kvm.irqfds[kvm.irqfd_count++] = *irqfd;
    if (is_signalled((int)irqfd->fd))
        send(irqfd->gsi);
    return 0;
}

static int set_irqfd(void *opaque, const struct kvm_irqfd *irqfd)
{
    pthread_mutex_lock(&kvm.lock);
    int result = refused();
    if (result == 0)
        result = change_irqfd(irqfd);
    pthread_mutex_unlock(&kvm.lock);
    return result;
}

/* The device signals. */
static void signal_fd(int fd)
{
    cr_assert_eq(eventfd_write(fd, 1), 0);
    for (unsigned i = 0; i < kvm.irqfd_count; i++) {
        eventfd_t count;
        if (kvm.irqfds[i].fd == (uint32_t)fd && eventfd_read(fd, &count) == 0)
            send(kvm.irqfds[i].gsi);
    }
}

static void set_up(void)
{
    static const struct msi_routes_kvm_ops ops = {set_routing, set_irqfd};
    const struct msi_routes_config config = {
        .kvm = &ops,
        .fixed = lines,
        .fixed_count = LINES,
        .entries_max = ENTRIES_MAX,
        .first_gsi = FIRST_GSI,
    };
    memset(&kvm, 0, sizeof(kvm));
    pthread_mutex_init(&kvm.lock, NULL);
    cr_assert_eq(msi_routes_create(&config, &routes, NULL), 0);
    cr_assert_eq(kvm.tables, 0);
}

static void tear_down(void)
{
    msi_routes_destroy(routes);
    pthread_mutex_destroy(&kvm.lock);
}

TestSuite(msi_routes, .init = set_up, .fini = tear_down);

static int set_message(uint32_t data, uint32_t *route, struct error *err)
{
    const struct msi_message message = {.address = LAPIC + 0x1000, .data = data};
    return msi_routes_ops.set_route(routes, &message, route, err);
}

static uint32_t new_route(uint32_t data)
{
    uint32_t route = MSI_NO_ROUTE;
    struct error err;
    cr_assert_eq(set_message(data, &route, &err), 0, "%s", err.message);
    return route;
}

static void drop(uint32_t route)
{
    msi_routes_ops.drop_route(routes, route);
}

static int new_fd(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    cr_assert_geq(fd, 0);
    return fd;
}

static void attach(int fd, uint32_t route)
{
    struct error err;
    cr_assert_eq(msi_routes_ops.attach(routes, fd, route, &err), 0, "%s", err.message);
}

/* What KVM has at a GSI for messages. */
static const struct kvm_irq_routing_entry *entry_of(uint32_t route)
{
    for (unsigned i = LINES; i < kvm.nr; i++) {
        if (kvm.entries[i].gsi == FIRST_GSI + route)
            return &kvm.entries[i];
    }
    cr_assert(false, "KVM has no route %u", route);
    return NULL;
}

Test(msi_routes, lines_stay_in_the_table)
{
    uint32_t first = new_route(0x41), second = new_route(0x141);
    cr_assert_eq(memcmp(kvm.entries, lines, sizeof(lines)), 0);
    cr_assert_neq(first, second);
    const struct kvm_irq_routing_entry *entry = entry_of(second);
    cr_assert(entry->type == KVM_IRQ_ROUTING_MSI && entry->u.msi.data == 0x141);
    cr_assert(entry->u.msi.address_lo == LAPIC + 0x1000 && entry->u.msi.address_hi == 0);
    cr_assert_eq(entry_of(first)->u.msi.data, 0x41);
    for (unsigned i = LINES; i < kvm.nr; i++)
        cr_assert_eq(kvm.entries[i].gsi, FIRST_GSI + i - LINES);
    drop(first);
    drop(second);
}

Test(msi_routes, kvm_is_told_rarely)
{
    uint32_t all[32];
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++) {
        all[i] = new_route(0x21 + i);
        cr_assert_eq(entry_of(all[i])->u.msi.data, 0x21 + i);
    }
    cr_assert_eq(kvm.tables, 1, "vectors in order");
    cr_assert_eq(new_route(0x30), all[0x30 - 0x21], "the same message");
    drop(all[0x30 - 0x21]);
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
        drop(all[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
        cr_assert_eq(new_route(0x21 + i), all[i]);
    cr_assert_eq(kvm.tables, 1, "messages that there have been");
    for (unsigned i = 0; i < ARRAY_SIZE(all); i++)
        drop(all[i]);
}

/* Nothing is made up beyond the last vector of a CPU. */
Test(msi_routes, vectors_end)
{
    uint32_t route = new_route(0x4FC);
    cr_assert_eq(kvm.nr, LINES + 4);
    for (unsigned i = 0; i < 4; i++)
        cr_assert_eq(kvm.entries[LINES + i].u.msi.data, 0x4FC + i);
    drop(route);
}

Test(msi_routes, a_message_is_changed)
{
    int fd = new_fd();
    uint32_t route = new_route(1);
    attach(fd, route);
    signal_fd(fd);
    msi_routes_ops.detach(routes, fd, route);
    cr_assert_eq(set_message(2, &route, NULL), 0);
    attach(fd, route);
    signal_fd(fd);
    cr_assert(kvm.sent_count == 2 && kvm.sent[0] == 1 && kvm.sent[1] == 2);
    msi_routes_ops.detach(routes, fd, route);
    drop(route);
    close(fd);
}

/* What was signalled while detached is sent once, and is not there any more. */
Test(msi_routes, pending_is_sent_once)
{
    int fd = new_fd();
    uint32_t route = new_route(7);
    signal_fd(fd);
    signal_fd(fd);
    cr_assert_eq(kvm.sent_count, 0);
    for (unsigned round = 1; round <= 3; round++) {
        attach(fd, route);
        cr_assert_eq(kvm.sent_count, round, "round %u", round);
        msi_routes_ops.detach(routes, fd, route);
        cr_assert_not(is_signalled(fd));
        attach(fd, route);
        cr_assert_eq(kvm.sent_count, round);
        msi_routes_ops.detach(routes, fd, route);
        signal_fd(fd);
        cr_assert(is_signalled(fd));
    }
    drop(route);
    close(fd);
}

Test(msi_routes, refusals_change_nothing)
{
    struct error err;
    uint32_t route = new_route(0x100), other = MSI_NO_ROUTE;
    struct kvm before = kvm;
    kvm.refuse = -ENOMEM;
    cr_assert_eq(set_message(0x200, &route, &err), -ENOMEM);
    cr_assert(strstr(err.message, "KVM refuses the route"), "%s", err.message);
    cr_assert_eq(entry_of(route)->u.msi.data, 0x100);
    kvm.refuse = -EINVAL;
    cr_assert_eq(set_message(0x300, &other, NULL), -EINVAL);
    cr_assert_eq(other, MSI_NO_ROUTE);
    /* The next table that KVM takes does not bring what it refused. */
    other = new_route(0x4FF);
    cr_assert_eq(kvm.nr, before.nr + 1);
    cr_assert_eq(memcmp(kvm.entries, before.entries, before.nr * sizeof(kvm.entries[0])), 0);
    cr_assert_eq(entry_of(other)->u.msi.data, 0x4FF);
    int fd = new_fd();
    signal_fd(fd);
    kvm.refuse = -EBUSY;
    cr_assert_eq(msi_routes_ops.attach(routes, fd, route, &err), -EBUSY);
    cr_assert(strstr(err.message, "irqfd"), "%s", err.message);
    cr_assert(is_signalled(fd), "nothing is lost");
    drop(route);
    drop(other);
    close(fd);
}

Test(msi_routes, messages_for_memory_are_refused)
{
    const uint64_t addresses[] = {0, 0x1000, 0xFED00000, 0xFEF00000, 0x1FEE00000, UINT64_MAX};
    for (size_t i = 0; i < ARRAY_SIZE(addresses); i++) {
        const struct msi_message message = {.address = addresses[i], .data = 1};
        uint32_t route = MSI_NO_ROUTE;
        struct error err;
        cr_assert_eq(msi_routes_ops.set_route(routes, &message, &route, &err), -EINVAL);
        cr_assert(strstr(err.message, "no interrupt controller"), "%s", err.message);
    }
    cr_assert_eq(kvm.tables, 0);
}

Test(msi_routes, room_runs_out)
{
    uint32_t all[MESSAGES], more = MSI_NO_ROUTE;
    struct error err;
    for (unsigned i = 0; i < MESSAGES; i++) {
        all[i] = new_route(i << 8); /* each on a CPU of its own */
        for (unsigned j = 0; j < i; j++)
            cr_assert_neq(all[i], all[j]);
    }
    cr_assert_eq(set_message(1, &more, &err), -ENOSPC);
    cr_assert(strstr(err.message, "room for 66 interrupt messages"), "%s", err.message);
    cr_assert_eq(set_message(2, &all[9], &err), 0, "%s", err.message);
    cr_assert_eq(entry_of(all[9])->u.msi.data, 2);
    cr_assert_eq(set_message(9 << 8, &all[9], NULL), 0);
    drop(all[5]);
    kvm.refuse = -ENOMEM;
    cr_assert_eq(set_message(1, &more, NULL), -ENOMEM);
    cr_assert_eq(entry_of(all[5])->u.msi.data, 5 << 8);
    cr_assert_eq(new_route(1), all[5]);
    cr_assert_eq(entry_of(all[5])->u.msi.data, 1);
    for (unsigned i = 0; i < MESSAGES; i++) {
        if (i != 5)
            cr_assert_eq(entry_of(all[i])->u.msi.data, i << 8);
        drop(all[i]);
    }
}

static void *churn(void *opaque)
{
    int fd = new_fd();
    for (unsigned i = 0; i < 500; i++) {
        uint32_t route = new_route(i << 4);
        attach(fd, route);
        msi_routes_ops.detach(routes, fd, route);
        drop(route);
    }
    close(fd);
    return NULL;
}

Test(msi_routes, threads)
{
    pthread_t threads[4];
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        cr_assert_eq(pthread_create(&threads[i], NULL, churn, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
        pthread_join(threads[i], NULL);
    cr_assert_eq(kvm.irqfd_count, 0);
}
