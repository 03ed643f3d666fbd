/*
 * A driver of a virtio device on PCI, written from sections 4.1.4 and 4.1.5: it finds the device, places its
 * BAR, walks its capabilities, negotiates and is interrupted, while BARs move and hostile bytes are written.
 * It kicks as a guest's write does on KVM: through the ioeventfd that is at the address, if there is one.
 */
#include <pthread.h>

#include "devices/pci/msix.h"
#include "devices/virtio/pci.h"
#include "memory/listener.h"
#include "tests/unit/devices/pci_fixture.h"
#include "tests/unit/devices/virtio_fixture.h"

#define DEVICE    4
#define LINE_USED 0 /* INTA of device 4 */
#define ROUTES    8
#define NO_VECTOR 0xFFFF

/* Types of capabilities, and fields of the common configuration. */
enum {
    COMMON_CFG = 1,
    NOTIFY_CFG,
    ISR_CFG,
    DEVICE_CFG,
    PCI_CFG,
    TYPES
};
enum {
    DEVICE_FEATURE_SELECT = 0,
    DEVICE_FEATURE = 4,
    DRIVER_FEATURE_SELECT = 8,
    DRIVER_FEATURE = 12,
    CONFIG_VECTOR = 16,
    NUM_QUEUES = 18,
    DEVICE_STATUS = 20,
    GENERATION = 21,
    QUEUE_SELECT = 22,
    QUEUE_SIZE = 24,
    QUEUE_VECTOR = 26,
    QUEUE_ENABLE = 28,
    QUEUE_NOTIFY_OFF = 30,
    QUEUE_DESC = 32,
    QUEUE_DRIVER = 40,
    QUEUE_DEVICE = 48,
    QUEUE_NOTIFY_DATA = 56,
    QUEUE_RESET = 58,
};

static struct virtio_fixture v;
static struct pci_fixture p;
static struct virtio_pci *pci;
static uint64_t base;                           /* of the BAR */
static unsigned caps[TYPES], msix_cap;          /* offsets in configuration space */
static uint32_t offsets[TYPES], lengths[TYPES]; /* in the BAR */
static uint32_t multiplier;

/* Routes of the machine: vectors are told apart by their data. */
static struct {
    bool exists;
    uint32_t data;
} routes[ROUTES];
static int attached[ROUTES]; /* the eventfd for messages with this data */

static int set_route(void *opaque, const struct msi_message *message, uint32_t *route, struct error *err)
{
    cr_assert_lt(message->data, ROUTES);
    if (*route == MSI_NO_ROUTE) {
        for (*route = 0; routes[*route].exists; ++*route)
            cr_assert_lt(*route + 1, ROUTES);
    }
    routes[*route].exists = true;
    routes[*route].data = message->data;
    return 0;
}

static void drop_route(void *opaque, uint32_t route)
{
    routes[route].exists = false;
}

static int attach(void *opaque, int fd, uint32_t route, struct error *err)
{
    attached[routes[route].data] = fd;
    return 0;
}

static void detach(void *opaque, int fd, uint32_t route)
{
    attached[routes[route].data] = -1;
}

static uint32_t cfg(unsigned offset, unsigned size)
{
    return config_get(&p, DEVICE, offset, size);
}

static void set_cfg(unsigned offset, uint32_t value, unsigned size)
{
    config_set(&p, DEVICE, offset, value, size);
}

static void place(uint64_t address)
{
    base = address;
    set_cfg(BAR(0), (uint32_t)address, 4);
    set_cfg(BAR(1), (uint32_t)(address >> 32), 4);
}

static void walk_capabilities(void)
{
    for (unsigned at = cfg(CAPABILITIES, 1); at; at = cfg(at + 1, 1)) {
        unsigned type = cfg(at + 3, 1);
        if (cfg(at, 1) == 0x11)
            msix_cap = at;
        if (cfg(at, 1) != 0x09)
            continue;
        cr_assert(type > 0 && type < TYPES && !caps[type], "capability of type %u at 0x%x", type, at);
        cr_assert_eq(cfg(at + 4, 1), 0, "in BAR 0");
        caps[type] = at;
        offsets[type] = cfg(at + 8, 4);
        lengths[type] = cfg(at + 12, 4);
    }
    multiplier = cfg(caps[NOTIFY_CFG] + 16, 4);
}

static void start(void)
{
    static const struct msi_ops msi = {set_route, drop_route, attach, detach};
    fixture_start(&v);
    pci_attach(&p, &v.guest);
    p.line_fd = v.irq_fd;
    struct virtio_pci_config config = {.memory = v.guest.memory, .device = v.device, .msi = &msi};
    cr_assert_eq(virtio_pci_create(&config, &pci, NULL), 0);
    cr_assert_eq(pci_bus_add(p.bus, DEVICE, 0, virtio_pci_function(pci), NULL), 0);
    walk_capabilities();
    place(0x800000000);
    set_command(&p, DEVICE, DECODE | MASTER);
}

static void end(void)
{
    virtio_pci_destroy(pci);
    pci_detach(&p);
    fixture_end(&v);
}

static uint32_t get(unsigned type, unsigned offset, unsigned size)
{
    uint32_t value = 0;
    cr_assert_eq(address_space_read(v.guest.space, base + offsets[type] + offset, &value, size), 0);
    return value;
}

static void set(unsigned type, unsigned offset, uint32_t value, unsigned size)
{
    cr_assert_eq(address_space_write(v.guest.space, base + offsets[type] + offset, &value, size), 0);
}

static void set_status(unsigned status)
{
    set(COMMON_CFG, DEVICE_STATUS, status, 1);
}

static void negotiate(uint64_t features)
{
    set_status(ACKNOWLEDGE);
    set_status(ACKNOWLEDGE | DRIVER);
    for (unsigned half = 0; half < 2; half++) {
        set(COMMON_CFG, DRIVER_FEATURE_SELECT, half, 4);
        set(COMMON_CFG, DRIVER_FEATURE, (uint32_t)(features >> 32 * half), 4);
    }
    set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    cr_assert(get(COMMON_CFG, DEVICE_STATUS, 1) & FEATURES_OK);
}

static void set_address(unsigned field, uint64_t address)
{
    set(COMMON_CFG, field, (uint32_t)address, 4);
    set(COMMON_CFG, field + 4, (uint32_t)(address >> 32), 4);
}

static void enable(unsigned index)
{
    set(COMMON_CFG, QUEUE_SELECT, index, 2);
    cr_assert_eq(get(COMMON_CFG, QUEUE_ENABLE, 2), 0);
    cr_assert_eq(get(COMMON_CFG, QUEUE_SIZE, 2), RING_MAX);
    driver_ring_init(&v.rings[index], &v.guest, index, RING_SIZE);
    set(COMMON_CFG, QUEUE_SIZE, RING_SIZE, 2);
    set_address(QUEUE_DESC, v.rings[index].descriptors);
    set_address(QUEUE_DRIVER, v.rings[index].driver);
    set_address(QUEUE_DEVICE, v.rings[index].device);
    set(COMMON_CFG, QUEUE_ENABLE, 1, 2);
    cr_assert_eq(get(COMMON_CFG, QUEUE_ENABLE, 2), 1);
}

static void bring_up(uint64_t features)
{
    negotiate(VERSION_1 | features);
    for (unsigned i = 0; i < QUEUES; i++)
        enable(i);
    set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
}

static uint64_t notify_address(unsigned index)
{
    return base + offsets[NOTIFY_CFG] + index * multiplier;
}

/* The ioeventfd for any write to an address; -1: none. */
static int ioeventfd_at(uint64_t address)
{
    struct memory_window all = {.start = 0, .end = MEMORY_SIZE_MAX};
    struct flat_view *view = flat_view_get(v.guest.space);
    struct flat_cursor cursor = flat_cursor_begin(view, &all, 1);
    struct flat_ioeventfd found;
    int fd = -1;
    while (flat_cursor_next_ioeventfd(&cursor, &found)) {
        if (found.address == address && found.length == 0 && !found.match)
            fd = found.fd;
    }
    flat_view_put(view);
    return fd;
}

static void kick(unsigned index)
{
    int fd = ioeventfd_at(notify_address(index));
    cr_assert_geq(fd, 0, "queue %u has no ioeventfd", index);
    eventfd_write(fd, 1);
}

/* Waits for a chain as a driver does whose interrupt is the pin: it looks after each edge, once it has read
 * the status. */
static void expect_echo_by_pin(unsigned index, const char *text)
{
    char data[DRIVER_BUFFER_SIZE];
    uint32_t size;
    while (!driver_take(&v.rings[index], data, &size)) {
        wait_for_interrupt(&v);
        get(ISR_CFG, 0, 1);
    }
    cr_assert_eq(size, strlen(text));
    cr_assert_eq(memcmp(data, text, size), 0);
}

static void echo_once(unsigned index, const char *text)
{
    offer(&v, index, text);
    kick(index);
    expect_echo_by_pin(index, text);
}

/* Vector i with message i for queue i, and one for the configuration. */
static void use_msix(void)
{
    uint64_t table = base + (cfg(msix_cap + 4, 4) & ~7u);
    cr_assert_eq(cfg(msix_cap + 4, 4) & 7, 0);
    set_cfg(msix_cap + 2, 0x8000, 2);
    for (unsigned i = 0; i <= QUEUES; i++) {
        store(v.guest.space, table + i * 16, 0xFEE00000, 4);
        store(v.guest.space, table + i * 16 + 8, i, 4);
        store(v.guest.space, table + i * 16 + 12, 0, 4);
    }
    set(COMMON_CFG, CONFIG_VECTOR, QUEUES, 2);
    cr_assert_eq(get(COMMON_CFG, CONFIG_VECTOR, 2), QUEUES);
    for (unsigned i = 0; i < QUEUES; i++) {
        set(COMMON_CFG, QUEUE_SELECT, i, 2);
        set(COMMON_CFG, QUEUE_VECTOR, i, 2);
        cr_assert_eq(get(COMMON_CFG, QUEUE_VECTOR, 2), i);
    }
}

static void wait_for_message(unsigned data)
{
    struct virtio_fixture messages = {.irq_fd = attached[data]};
    wait_for_interrupt(&messages);
}

static void expect_echo_by_message(unsigned index, const char *text)
{
    int line = v.irq_fd;
    v.irq_fd = attached[index];
    expect_echo(&v, index, text);
    v.irq_fd = line;
}

TestSuite(virtio_pci, .init = start, .fini = end);

Test(virtio_pci, says_what_it_is)
{
    cr_assert_eq(cfg(VENDOR, 4), (0x1040u + ECHO_ID) << 16 | 0x1AF4);
    cr_assert_geq(cfg(CLASS, 1), 1);
    cr_assert_eq(cfg(SUBSYSTEM, 2), 0x1AF4);
    cr_assert_geq(cfg(SUBSYSTEM + 2, 2), 0x40);
    cr_assert_eq(cfg(PIN, 1), 1);
    cr_assert_neq(msix_cap, 0);
    cr_assert_eq(cfg(msix_cap + 2, 2) & 0x7FF, QUEUES);
}

Test(virtio_pci, its_structures_lie_in_the_bar_and_apart)
{
    uint64_t size = 0x8000;
    set_cfg(BAR(0), ONES, 4);
    cr_assert_eq(cfg(BAR(0), 4), (uint32_t) ~(size - 1) | 4);
    cr_assert_geq(lengths[COMMON_CFG], 60);
    cr_assert_geq(lengths[ISR_CFG], 1);
    cr_assert_eq(lengths[DEVICE_CFG], ECHO_CONFIG_SIZE);
    cr_assert_geq(lengths[NOTIFY_CFG], (QUEUES - 1) * multiplier + 2);
    for (unsigned i = COMMON_CFG; i < PCI_CFG; i++) {
        cr_assert_neq(caps[i], 0);
        cr_assert_eq(cfg(caps[i] + 2, 1), i == NOTIFY_CFG ? 20 : 16);
        cr_assert_eq(offsets[i] % 4, 0);
        cr_assert_leq(offsets[i] + lengths[i], cfg(msix_cap + 4, 4));
        for (unsigned j = COMMON_CFG; j < i; j++)
            cr_assert(offsets[i] >= offsets[j] + lengths[j] || offsets[j] >= offsets[i] + lengths[i]);
    }
    cr_assert_eq(cfg(caps[PCI_CFG] + 2, 1), 20);
}

Test(virtio_pci, shows_features_by_halves)
{
    uint64_t offered = virtio_offered_features(v.device);
    for (unsigned half = 0; half < 4; half++) {
        set(COMMON_CFG, DEVICE_FEATURE_SELECT, half, 4);
        cr_assert_eq(get(COMMON_CFG, DEVICE_FEATURE_SELECT, 4), half);
        cr_assert_eq(get(COMMON_CFG, DEVICE_FEATURE, 4), half < 2 ? (uint32_t)(offered >> 32 * half) : 0);
    }
    negotiate(VERSION_1 | BIT(3));
    set(COMMON_CFG, DRIVER_FEATURE_SELECT, 0, 4);
    cr_assert_eq(get(COMMON_CFG, DRIVER_FEATURE, 4), BIT(3));
    cr_assert_eq(get(COMMON_CFG, NUM_QUEUES, 2), QUEUES);
}

Test(virtio_pci, serves_a_driver_by_messages)
{
    use_msix();
    bring_up(0);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < QUEUES; i++) {
            offer(&v, i, "message");
            kick(i);
            expect_echo_by_message(i, "message");
        }
    }
    uint32_t generation = get(COMMON_CFG, GENERATION, 1);
    virtio_config_changed(v.device);
    wait_for_message(QUEUES);
    cr_assert_neq(get(COMMON_CFG, GENERATION, 1), generation);
    cr_assert(!p.changes, "no line was used");
    cr_assert_eq(get(ISR_CFG, 0, 1), 0);
}

Test(virtio_pci, serves_a_driver_by_the_pin)
{
    bring_up(0);
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < QUEUES; i++) {
            char data[DRIVER_BUFFER_SIZE];
            uint32_t size;
            offer(&v, i, "pin");
            kick(i);
            while (!p.lines[LINE_USED])
                sched_yield();
            cr_assert(driver_take(&v.rings[i], data, &size));
            cr_assert(cfg(STATUS, 2) & 8);
            cr_assert_eq(get(ISR_CFG, 0, 1), 1);
            cr_assert(!p.lines[LINE_USED]);
            cr_assert_eq(get(ISR_CFG, 0, 1), 0);
        }
    }
    virtio_config_changed(v.device);
    cr_assert(p.lines[LINE_USED]);
    set_command(&p, DEVICE, DECODE | INTX_OFF);
    cr_assert(!p.lines[LINE_USED]);
    set_command(&p, DEVICE, DECODE);
    cr_assert_eq(get(ISR_CFG, 0, 1), 2);
    cr_assert(!p.lines[LINE_USED]);
}

Test(virtio_pci, messages_silence_the_pin)
{
    bring_up(0);
    virtio_config_changed(v.device);
    cr_assert(p.lines[LINE_USED]);
    set_cfg(msix_cap + 2, 0x8000, 2);
    cr_assert(!p.lines[LINE_USED]);
    set_cfg(msix_cap + 2, 0, 2);
    cr_assert(p.lines[LINE_USED]);
    set_status(0);
    cr_assert(!p.lines[LINE_USED]);
}

Test(virtio_pci, a_vector_that_is_not_there_is_none)
{
    cr_assert_eq(get(COMMON_CFG, CONFIG_VECTOR, 2), NO_VECTOR);
    use_msix();
    set(COMMON_CFG, CONFIG_VECTOR, QUEUES + 1, 2);
    cr_assert_eq(get(COMMON_CFG, CONFIG_VECTOR, 2), NO_VECTOR);
    set(COMMON_CFG, QUEUE_SELECT, 1, 2);
    set(COMMON_CFG, QUEUE_VECTOR, NO_VECTOR, 2);
    cr_assert_eq(get(COMMON_CFG, QUEUE_VECTOR, 2), NO_VECTOR);
    set(COMMON_CFG, QUEUE_SELECT, QUEUES, 2);
    set(COMMON_CFG, QUEUE_VECTOR, 0, 2);
    cr_assert_eq(get(COMMON_CFG, QUEUE_VECTOR, 2), NO_VECTOR);
    cr_assert_eq(get(COMMON_CFG, QUEUE_SIZE, 2), 0);
    bring_up(0);
    virtio_config_changed(v.device);
    offer(&v, 1, "silent");
    kick(1);
    offer(&v, 0, "loud");
    kick(0);
    expect_echo_by_message(0, "loud");
}

Test(virtio_pci, forgets_on_reset)
{
    use_msix();
    bring_up(0);
    set_status(0);
    cr_assert_eq(get(COMMON_CFG, DEVICE_STATUS, 1), 0);
    cr_assert_eq(get(COMMON_CFG, CONFIG_VECTOR, 2), NO_VECTOR);
    cr_assert_eq(get(COMMON_CFG, QUEUE_SELECT, 2), 0);
    for (unsigned i = 0; i < QUEUES; i++) {
        set(COMMON_CFG, QUEUE_SELECT, i, 2);
        cr_assert_eq(get(COMMON_CFG, QUEUE_ENABLE, 2), 0);
        cr_assert_eq(get(COMMON_CFG, QUEUE_VECTOR, 2), NO_VECTOR);
    }
    use_msix();
    bring_up(0);
    offer(&v, 2, "again");
    kick(2);
    expect_echo_by_message(2, "again");
}

Test(virtio_pci, resets_single_queues)
{
    bring_up(BIT(VIRTIO_F_RING_RESET));
    echo_once(1, "before");
    set(COMMON_CFG, QUEUE_SELECT, 1, 2);
    set(COMMON_CFG, QUEUE_ENABLE, 0, 2);
    cr_assert_eq(get(COMMON_CFG, QUEUE_ENABLE, 2), 1, "a driver cannot disable a queue");
    set(COMMON_CFG, QUEUE_RESET, 1, 2);
    cr_assert_eq(get(COMMON_CFG, QUEUE_RESET, 2), 0);
    cr_assert_eq(get(COMMON_CFG, QUEUE_ENABLE, 2), 0);
    echo_once(0, "meanwhile");
    enable(1);
    echo_once(1, "after");
}

Test(virtio_pci, fields_are_accessed_as_wholes)
{
    uint64_t value = 0;
    for (unsigned offset = 0; offset < 64; offset++) {
        unsigned right = offset >= 60                                      ? 0
                         : offset == DEVICE_STATUS || offset == GENERATION ? 1
                         : offset == 16 || offset == 18 || offset >= 56    ? 2
                         : offset >= 22 && offset < 32                     ? 2
                                                                           : 4;
        for (unsigned size = 1; size <= 4; size *= 2) {
            bool allowed = size == right && offset % size == 0;
            int result = address_space_read(v.guest.space, base + offsets[COMMON_CFG] + offset, &value, size);
            cr_assert_eq(result == 0, allowed, "%u bytes at %u", size, offset);
        }
    }
    value = 0x123456789ABCDEF0;
    cr_assert_eq(address_space_write(v.guest.space, base + offsets[COMMON_CFG] + QUEUE_DRIVER, &value, 8), 0);
    cr_assert_eq(get(COMMON_CFG, QUEUE_DRIVER, 4), 0x9ABCDEF0);
    cr_assert_eq(get(COMMON_CFG, QUEUE_DRIVER + 4, 4), 0x12345678);
}

Test(virtio_pci, shows_the_devices_configuration)
{
    for (unsigned i = 0; i < ECHO_CONFIG_SIZE; i++)
        set(DEVICE_CFG, i, 0x30 + i, 1);
    cr_assert_eq(get(DEVICE_CFG, 4, 4), 0x37363534);
    cr_assert_eq(get(DEVICE_CFG, 8, 4), 0x3938);
    set(DEVICE_CFG, 0x100, ONES, 4);
    cr_assert_eq(get(DEVICE_CFG, 0x100, 4), 0);
}

/* ---- BARs that move ---- */

static unsigned added, removed;

static int note_added(struct memory_listener *listener, const struct memory_change *change,
                      const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    added++;
    return 0;
}

static int note_removed(struct memory_listener *listener, const struct memory_change *change,
                        const struct flat_ioeventfd *ioeventfd, struct error *err)
{
    removed++;
    return 0;
}

Test(virtio_pci, kicks_follow_the_bar)
{
    static const struct memory_listener_ops ops = {.ioeventfd_add = note_added,
                                                   .ioeventfd_del = note_removed};
    struct memory_listener listener = {.name = "listener", .ops = &ops};
    cr_assert_eq(memory_listener_register(&listener, v.guest.space, NULL), 0);
    cr_assert_eq(added, QUEUES);
    bring_up(0);
    for (unsigned i = 0; i < 20; i++) {
        uint64_t before = notify_address(0);
        added = removed = 0;
        set_command(&p, DEVICE, 0);
        place(0x900000000 + i * 0x8000ull);
        set_command(&p, DEVICE, DECODE);
        cr_assert_eq(added, QUEUES);
        cr_assert_eq(removed, QUEUES);
        cr_assert_eq(ioeventfd_at(before), -1);
        echo_once(i % QUEUES, "moved");
    }
    memory_listener_unregister(&listener);
}

Test(virtio_pci, a_write_that_no_ioeventfd_takes_is_a_kick_too)
{
    bring_up(0);
    for (unsigned size = 1; size <= 4; size *= 2) {
        offer(&v, 3, "by hand");
        set(NOTIFY_CFG, 3 * multiplier, 0, size);
        expect_echo_by_pin(3, "by hand");
    }
    set(NOTIFY_CFG, QUEUES * multiplier, 0, 4);
    set(NOTIFY_CFG, 0xFFC, 0, 4);
}

static void *move_bar(void *opaque)
{
    for (unsigned i = 0; i < 300; i++) {
        uint32_t low = 0x100000u * (1 + i % 64);
        config_set(&p, DEVICE, BAR(0), low, 4);
    }
    config_set(&p, DEVICE, BAR(0), (uint32_t)base, 4);
    return NULL;
}

Test(virtio_pci, works_while_its_bar_moves)
{
    pthread_t thread;
    use_msix();
    bring_up(0);
    int fd = virtio_queue_kick_fd(v.device, 0);
    cr_assert_eq(pthread_create(&thread, NULL, move_bar, NULL), 0);
    for (unsigned i = 0; i < 300; i++) {
        uint32_t value;
        offer(&v, 0, "running");
        eventfd_write(fd, 1);
        expect_echo_by_message(0, "running");
        address_space_read(v.guest.space, base + offsets[ISR_CFG], &value, 1);
        address_space_read(v.guest.space, config_address(DEVICE, STATUS), &value, 2);
    }
    pthread_join(thread, NULL);
    offer(&v, 0, "there again");
    kick(0);
    expect_echo_by_message(0, "there again");
}

/* ---- The window in configuration space ---- */

static void aim(unsigned bar, uint32_t offset, uint32_t length)
{
    set_cfg(caps[PCI_CFG] + 4, bar, 1);
    set_cfg(caps[PCI_CFG] + 8, offset, 4);
    set_cfg(caps[PCI_CFG] + 12, length, 4);
}

static uint32_t window_get(unsigned type, uint32_t offset, uint32_t length)
{
    aim(0, offsets[type] + offset, length);
    return cfg(caps[PCI_CFG] + 16, 4);
}

static void window_set(unsigned type, uint32_t offset, uint32_t value, uint32_t length)
{
    aim(0, offsets[type] + offset, length);
    set_cfg(caps[PCI_CFG] + 16, value, 4);
}

Test(virtio_pci, the_window_needs_no_bar)
{
    set_command(&p, DEVICE, 0);
    window_set(COMMON_CFG, DEVICE_STATUS, ACKNOWLEDGE, 1);
    cr_assert_eq(window_get(COMMON_CFG, DEVICE_STATUS, 1) & 0xFF, ACKNOWLEDGE);
    window_set(COMMON_CFG, DRIVER_FEATURE_SELECT, 1, 4);
    window_set(COMMON_CFG, DRIVER_FEATURE, 1, 4);
    window_set(COMMON_CFG, DEVICE_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK, 1);
    cr_assert(window_get(COMMON_CFG, DEVICE_STATUS, 1) & FEATURES_OK);
    cr_assert_eq(window_get(COMMON_CFG, NUM_QUEUES, 2) & 0xFFFF, QUEUES);
    window_set(DEVICE_CFG, 0, 0x12345678, 4);
    cr_assert_eq(window_get(DEVICE_CFG, 0, 4), 0x12345678);
    set_command(&p, DEVICE, DECODE);
    bring_up(0);
    offer(&v, 0, "window");
    window_set(NOTIFY_CFG, 0, 0, 2);
    expect_echo_by_pin(0, "window");
    window_set(COMMON_CFG, DEVICE_STATUS, 0, 1);
    cr_assert_eq(get(COMMON_CFG, DEVICE_STATUS, 1), 0);
}

Test(virtio_pci, the_window_reaches_nothing_else)
{
    static const uint32_t offset_list[] = {0,      1,          3,          0x13,      0x1001,
                                           0x2FFE, 0x3FFE,     0x3FFF,     0x4000,    0x7FFF,
                                           0x8000, 0x7FFFFFFF, 0xFFFFFFFC, 0xFFFFFFFF};
    static const uint32_t length_list[] = {0, 1, 2, 3, 4, 5, 8, 0x80000000, 0xFFFFFFFF};
    bring_up(0);
    for (unsigned bar = 0; bar < 256; bar++) {
        for (unsigned i = 0; i < ARRAY_SIZE(offset_list); i++) {
            for (unsigned j = 0; j < ARRAY_SIZE(length_list); j++) {
                aim(bar, offset_list[i], length_list[j]);
                cfg(caps[PCI_CFG] + 16, 4);
                if (bar || offset_list[i] > 0x13)
                    set_cfg(caps[PCI_CFG] + 16, ONES, 4);
                cfg(caps[PCI_CFG] + 18, 1);
            }
        }
    }
    while (get(ISR_CFG, 0, 1))
        ;
    echo_once(0, "alive");
}

/* ---- Hostile writes ---- */

Test(virtio_pci, survives_writes_of_all_kinds)
{
    uint64_t random = 7;
    for (unsigned round = 0; round < 4; round++) {
        bring_up(0);
        for (unsigned i = 0; i < 3000; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            unsigned size = 1u << (random >> 60) % 3;
            unsigned offset = (unsigned)(random >> 32) % 0x100 & ~(size - 1);
            uint32_t value = (uint32_t)(random >> 16);
            if (offset >= msix_cap && offset < msix_cap + 4)
                continue;
            if (i % 2)
                set_cfg(offset, value, size);
            else
                store(v.guest.space, base + (unsigned)(random >> 24) % 0x4000, value, size);
        }
        set_command(&p, DEVICE, 0);
        place(0x800000000);
        set_command(&p, DEVICE, DECODE);
        set_status(0);
        bring_up(0);
        echo_once(round % QUEUES, "alive");
        set_status(0);
    }
}
