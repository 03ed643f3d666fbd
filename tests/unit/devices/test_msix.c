/*
 * MSI-X against a machine that keeps its promises to the letter: it delivers what is signalled to attached
 * eventfds when it is looked at, and fails the test at every call out of turn.
 */
#include <errno.h>
#include <pthread.h>
#include <sys/eventfd.h>

#include "base/error.h"
#include "devices/pci/msix.h"
#include "tests/unit/devices/pci_fixture.h"

#define DEVICE     2
#define VECTORS    70
#define OFFSET     0x1000u
#define TABLE      (WINDOW + OFFSET)
#define PENDING    (WINDOW + 0x2000u)
#define ENABLE     0x8000u
#define MASK_ALL   0x4000u
#define ROUTES_MAX 128

struct route {
    bool exists;
    struct msi_message message;
    int fd; /* attached; -1: none */
    unsigned delivered;
};

static struct machine {
    struct route routes[ROUTES_MAX];
    unsigned sets, attaches;
    bool refusing;
} machine;

static struct virtio_guest guest;
static struct pci_fixture f;
static struct pci_function function;
static struct memory_region container;
static struct msix *msix;
static unsigned capability;

static int set_route(void *opaque, const struct msi_message *message, uint32_t *handle, struct error *err)
{
    if (machine.refusing)
        return error_set(err, ENOSPC, "no route is left");
    if (*handle == MSI_NO_ROUTE) {
        for (*handle = 0; machine.routes[*handle].exists; ++*handle)
            cr_assert_lt(*handle + 1, ROUTES_MAX);
        machine.routes[*handle] = (struct route){.exists = true, .fd = -1};
    }
    struct route *route = &machine.routes[*handle];
    cr_assert(route->exists && route->fd < 0);
    route->message = *message;
    machine.sets++;
    return 0;
}

static void drop_route(void *opaque, uint32_t handle)
{
    cr_assert(machine.routes[handle].exists && machine.routes[handle].fd < 0);
    machine.routes[handle].exists = false;
}

static int attach(void *opaque, int fd, uint32_t handle, struct error *err)
{
    struct route *route = &machine.routes[handle];
    cr_assert(fd >= 0 && route->exists && route->fd < 0);
    route->fd = fd;
    machine.attaches++;
    return 0;
}

static void take_signals(struct route *route)
{
    eventfd_t count;
    if (route->exists && route->fd >= 0 && eventfd_read(route->fd, &count) == 0)
        route->delivered++;
}

static void detach(void *opaque, int fd, uint32_t handle)
{
    struct route *route = &machine.routes[handle];
    cr_assert(route->exists && route->fd == fd);
    take_signals(route);
    route->fd = -1;
}

/* Interrupts with this message since the last look. */
static unsigned delivered(uint64_t address, uint32_t data)
{
    unsigned count = 0;
    for (unsigned i = 0; i < ROUTES_MAX; i++) {
        struct route *route = &machine.routes[i];
        take_signals(route);
        if (route->message.address == address && route->message.data == data) {
            count += route->delivered;
            route->delivered = 0;
        }
    }
    return count;
}

static void written(struct pci_function *self, unsigned offset, unsigned size)
{
    msix_config_written(msix, offset, size);
}

static void create(void)
{
    static const struct msi_ops ops = {set_route, drop_route, attach, detach};
    static const struct pci_function_ops function_ops = {.config_written = written};
    static const struct pci_identity identity = {.vendor = 0x1234};
    struct memory *memory = f.guest->memory;
    pci_function_init(&function, "function", &identity, &function_ops, NULL);
    cr_assert_eq(memory_region_init_container(&container, memory, "bar", 0x4000, NULL), 0);
    pci_function_add_bar(&function, 0, PCI_BAR_MEMORY_32, &container);
    struct msix_config config = {.memory = memory,
                                 .function = &function,
                                 .ops = &ops,
                                 .name = "function",
                                 .vectors = VECTORS,
                                 .bar = 0,
                                 .container = &container,
                                 .offset = OFFSET};
    cr_assert_eq(msix_create(&config, &msix, NULL), 0);
    cr_assert_eq(pci_bus_add(f.bus, DEVICE, 0, &function, NULL), 0);
}

static void start(void)
{
    machine = (struct machine){.sets = 0};
    virtio_guest_create(&guest);
    pci_attach(&f, &guest);
    create();
    capability = config_get(&f, DEVICE, CAPABILITIES, 1);
    config_set(&f, DEVICE, BAR(0), WINDOW, 4);
    set_command(&f, DEVICE, DECODE);
}

static void end(void)
{
    pci_function_destroy(&function);
    memory_synchronize(f.guest->memory);
    msix_destroy(msix);
    memory_region_destroy(&container);
    for (unsigned i = 0; i < ROUTES_MAX; i++)
        cr_assert(!machine.routes[i].exists);
    pci_detach(&f);
    virtio_guest_destroy(&guest);
}

static void control(uint32_t flags)
{
    config_set(&f, DEVICE, capability + 2, flags, 2);
}

static uint32_t get(uint64_t address)
{
    return load(f.guest->space, address, 4);
}

static void set(uint64_t address, uint32_t value)
{
    store(f.guest->space, address, value, 4);
}

static void mask(unsigned vector, bool masked)
{
    set(TABLE + vector * 16 + 12, masked);
}

static void program(unsigned vector, uint32_t address, uint32_t data)
{
    set(TABLE + vector * 16, address);
    set(TABLE + vector * 16 + 4, 0);
    set(TABLE + vector * 16 + 8, data);
}

static bool pending(unsigned vector)
{
    return get(PENDING + vector / 32 * 4) >> vector % 32 & 1;
}

TestSuite(msix, .init = start, .fini = end);

Test(msix, shows_its_capability)
{
    cr_assert_eq(config_get(&f, DEVICE, capability, 1), 0x11);
    cr_assert_eq(config_get(&f, DEVICE, capability + 2, 2), VECTORS - 1);
    cr_assert_eq(config_get(&f, DEVICE, capability + 4, 4), OFFSET);
    cr_assert_eq(config_get(&f, DEVICE, capability + 8, 4), OFFSET + 0x1000);
    control(0xFFFF);
    cr_assert_eq(config_get(&f, DEVICE, capability + 2, 2), (VECTORS - 1) | ENABLE | MASK_ALL);
    cr_assert_eq(msix_size(1), 0x2000);
    cr_assert_eq(msix_size(257), 0x3000);
    cr_assert_eq(msix_size(2048), 0x9000);
}

Test(msix, the_table_keeps_what_is_written)
{
    for (unsigned i = 0; i < VECTORS; i++) {
        cr_assert_eq(get(TABLE + i * 16 + 12), 1, "masked at first");
        for (unsigned field = 0; field < 16; field += 4)
            set(TABLE + i * 16 + field, 0xFFFFFFF0 + i * 7 + field);
    }
    for (unsigned i = 0; i < VECTORS; i++) {
        uint32_t first = 0xFFFFFFF0 + i * 7;
        cr_assert_eq(get(TABLE + i * 16), first & ~3u);
        cr_assert_eq(get(TABLE + i * 16 + 4), first + 4);
        cr_assert_eq(get(TABLE + i * 16 + 8), first + 8);
        cr_assert_eq(get(TABLE + i * 16 + 12), (first + 12) & 1);
    }
}

Test(msix, what_lies_beyond_the_vectors_is_nothing)
{
    for (uint64_t address = TABLE + VECTORS * 16; address < PENDING; address += 4) {
        set(address, ONES);
        cr_assert_eq(get(address), 0);
    }
    for (unsigned i = 0; i < VECTORS; i++)
        msix_raise(msix, i);
    set(PENDING, 0);
    cr_assert_eq(get(PENDING), ONES);
    cr_assert_eq(get(PENDING + 8), (1u << (VECTORS - 64)) - 1);
    cr_assert_eq(get(PENDING + 12), 0);
    uint64_t both = 0;
    address_space_read(f.guest->space, PENDING, &both, 8);
    cr_assert_eq(both, UINT64_MAX);
    cr_assert_eq(msix_fd(msix, VECTORS), -1);
    msix_raise(msix, VECTORS);
    msix_raise(msix, UINT32_MAX);
}

Test(msix, only_words_are_accepted)
{
    uint64_t value = 0;
    cr_assert_neq(address_space_read(f.guest->space, TABLE, &value, 2), 0);
    cr_assert_neq(address_space_read(f.guest->space, PENDING, &value, 1), 0);
    value = 0x00000012FEE01000;
    cr_assert_eq(address_space_write(f.guest->space, TABLE, &value, 8), 0);
    cr_assert_eq(get(TABLE), 0xFEE01000);
    cr_assert_eq(get(TABLE + 4), 0x12);
}

Test(msix, sends_messages)
{
    control(ENABLE);
    cr_assert(msix_enabled(msix));
    program(5, 0xFEE01000, 0x41);
    mask(5, false);
    msix_raise(msix, 5);
    cr_assert_eq(delivered(0xFEE01000, 0x41), 1);
    cr_assert(!pending(5));
    msix_raise(msix, 4);
    cr_assert(pending(4));
    eventfd_write(msix_fd(msix, 5), 1);
    cr_assert_eq(delivered(0xFEE01000, 0x41), 1);
}

Test(msix, what_is_masked_waits)
{
    program(0, 0xFEE00000, 0x30);
    program(69, 0xFEE00000, 0x31);
    mask(0, false);
    mask(69, false);
    control(ENABLE | MASK_ALL);
    msix_raise(msix, 0);
    msix_raise(msix, 69);
    msix_raise(msix, 69);
    cr_assert(pending(0) && pending(69) && !pending(1));
    cr_assert_eq(machine.attaches, 0);
    mask(0, true);
    control(ENABLE);
    cr_assert_eq(delivered(0xFEE00000, 0x31), 1);
    cr_assert(pending(0) && !pending(69));
    mask(0, false);
    cr_assert_eq(delivered(0xFEE00000, 0x30), 1);
    cr_assert(!pending(0));
}

Test(msix, routes_change_only_when_the_message_does)
{
    control(ENABLE);
    program(1, 0xFEE00000, 0x30);
    mask(1, false);
    for (unsigned i = 0; i < 10; i++) {
        mask(1, true);
        mask(1, false);
        mask(1, false);
        control(ENABLE | MASK_ALL);
        control(ENABLE);
        program(1, 0xFEE00000, 0x30);
    }
    cr_assert_eq(machine.sets, 1);
    cr_assert_eq(machine.attaches, 21);
    mask(1, true);
    msix_raise(msix, 1);
    program(1, 0xFEE01000, 0x50);
    cr_assert_eq(machine.sets, 1);
    mask(1, false);
    cr_assert_eq(machine.sets, 2);
    cr_assert_eq(delivered(0xFEE01000, 0x50), 1);
}

Test(msix, off_forgets_what_is_pending)
{
    control(ENABLE);
    msix_raise(msix, 3);
    cr_assert(pending(3));
    control(0);
    cr_assert(!msix_enabled(msix));
    cr_assert(!pending(3));
    program(3, 0xFEE00000, 0x30);
    mask(3, false);
    cr_assert_eq(machine.attaches, 0);
    control(ENABLE);
    cr_assert_eq(delivered(0xFEE00000, 0x30), 0);
    control(0);
    cr_assert_eq(machine.routes[0].fd, -1);
}

Test(msix, a_refused_route_is_tried_again)
{
    control(ENABLE);
    program(0, 0xFEE00000, 0x30);
    machine.refusing = true;
    mask(0, false);
    msix_raise(msix, 0);
    cr_assert_eq(machine.attaches, 0);
    cr_assert(pending(0));
    mask(0, false);
    machine.refusing = false;
    mask(0, false);
    cr_assert_eq(delivered(0xFEE00000, 0x30), 1);
    mask(0, true);
    program(0, 0xFEE00000, 0x31);
    machine.refusing = true;
    mask(0, false);
    msix_raise(msix, 0);
    cr_assert(pending(0), "not sent with the old message");
    machine.refusing = false;
    mask(0, true);
    mask(0, false);
    cr_assert_eq(delivered(0xFEE00000, 0x31), 1);
}

static void *raise_many(void *opaque)
{
    for (unsigned i = 0; i < 2000; i++)
        msix_raise(msix, i % 4);
    return NULL;
}

Test(msix, nothing_is_lost_while_masks_change)
{
    pthread_t thread;
    control(ENABLE);
    for (unsigned i = 0; i < 4; i++)
        program(i, 0xFEE00000, i);
    cr_assert_eq(pthread_create(&thread, NULL, raise_many, NULL), 0);
    for (unsigned i = 0; i < 500; i++) {
        mask(i % 4, i % 3);
        control(i % 5 ? ENABLE : ENABLE | MASK_ALL);
    }
    pthread_join(thread, NULL);
    control(ENABLE);
    for (unsigned i = 0; i < 4; i++) {
        delivered(0xFEE00000, i);
        mask(i, true);
        msix_raise(msix, i);
        cr_assert_eq(delivered(0xFEE00000, i), 0);
        mask(i, false);
        cr_assert_eq(delivered(0xFEE00000, i), 1);
    }
}
