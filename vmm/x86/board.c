#include "vmm/x86/board.h"

#include <errno.h>
#include <linux/kvm.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>

#include "base/error.h"
#include "base/log.h"
#include "base/macros.h"
#include "devices/acpi_pm.h"
#include "devices/debug_exit.h"
#include "devices/i8042.h"
#include "devices/rtc.h"
#include "devices/serial.h"
#include "devices/shutdown.h"
#include "devices/test_mmio.h"
#include "devices/virtio/mmio.h"
#include "memory/address_space.h"
#include "memory/kvm_listener.h"
#include "memory/memory.h"
#include "memory/mtree.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "memory/trace.h"
#include "vmm/config.h"
#include "vmm/dirty_reaper.h"
#include "vmm/kvm.h"
#include "vmm/msi_routes.h"
#include "vmm/pci_host.h"
#include "vmm/virtio_devices.h"
#include "vmm/x86/boot.h"
#include "vmm/x86/firmware.h"
#include "vmm/x86/host_cpu.h"
#include "vmm/x86/interrupts.h"
#include "vmm/x86/layout.h"
#include "vmm/x86/platform.h"

struct board {
    struct machine_config config;
    struct kvm_vm *vm;
    struct machine *machine;
    struct platform platform;
    char *command_line;
    void *device_tree;
    size_t device_tree_size;

    struct memory *memory;
    struct ram_block *ram;
    struct memory_region root, io_root;
    struct memory_region ram_low, ram_high, ioapic, lapic;
    struct address_space *memory_space, *io_space;
    struct kvm_listener *memory_listener, *io_listener;
    struct dirty_reaper *reaper;
    struct log trace_log;
    struct memory_trace *memory_trace, *io_trace;

    struct serial *serial;
    struct rtc *rtc;
    struct acpi_pm *pm;
    struct i8042 *i8042;
    struct debug_exit *exit_port;
    struct test_mmio *test;
    struct pci_host *pci; /* NULL: none, and no routes */
    struct msi_routes *msi;
    struct virtio_devices *virtio;
};

static const unsigned virtio_irqs[] = {LAYOUT_VIRTIO_IRQS};

/* Where one region of a device is. */
struct placement {
    bool mmio;
    uint64_t base;
    struct memory_region *region;
};

static void set_irq(void *opaque, unsigned number, bool level)
{
    struct kvm_vm *vm = opaque;
    struct kvm_irq_level line = {.irq = number, .level = level};
    ioctl(vm->vm_fd, KVM_IRQ_LINE, &line);
}

static struct irq_line irq_line(struct board *board, unsigned number)
{
    return (struct irq_line){.set = set_irq, .opaque = board->vm, .number = number};
}

static void guest_requests(void *opaque, enum shutdown_cause cause, int status)
{
    static const enum machine_outcome outcomes[] = {
        [SHUTDOWN_POWER_OFF] = MACHINE_POWERED_OFF,
        [SHUTDOWN_RESET] = MACHINE_RESET,
        [SHUTDOWN_EXIT] = MACHINE_EXIT_PORT,
    };
    struct board *board = opaque;
    machine_end(board->machine, outcomes[cause], status);
}

static struct shutdown_handler shutdown_handler(struct board *board)
{
    return (struct shutdown_handler){.request = guest_requests, .opaque = board};
}

static int create_roots(struct board *board, struct error *err)
{
    board->memory = memory_create();
    if (!board->memory)
        return error_set(err, ENOMEM, "not enough memory for the memory system");
    int result = memory_region_init_container(&board->root, board->memory, "memory", MEMORY_SIZE_MAX, err);
    if (result == 0)
        result = memory_region_init_container(&board->io_root, board->memory, "io", 64 * KIB, err);
    if (result == 0)
        result = address_space_create(board->memory, "memory", &board->root, &board->memory_space, err);
    if (result == 0)
        result = address_space_create(board->memory, "io", &board->io_root, &board->io_space, err);
    return result;
}

/* Before anything is shown, so that all of it is told. */
static int create_traces(struct board *board, struct error *err)
{
    if (!board->config.config->trace_memory)
        return 0;
    board->trace_log = log_with_level(board->config.log, LOG_INFO);
    int result = memory_trace_create(board->memory_space, &board->trace_log, &board->memory_trace, err);
    return result < 0 ? result
                      : memory_trace_create(board->io_space, &board->trace_log, &board->io_trace, err);
}

static int add_ram(struct board *board, struct memory_region *region, const char *name, uint64_t base,
                   uint64_t offset, uint64_t size, struct error *err)
{
    if (size == 0)
        return 0;
    int result = memory_region_init_ram(region, board->memory, name, board->ram, offset, size, err);
    return result < 0 ? result : memory_region_add_subregion(&board->root, base, region, 0, err);
}

static int add_reservation(struct board *board, struct memory_region *region, const char *name, uint64_t base,
                           struct error *err)
{
    int result = memory_region_init_reservation(region, board->memory, name, RAM_PAGE_SIZE, err);
    return result < 0 ? result : memory_region_add_subregion(&board->root, base, region, 0, err);
}

static int create_ram(struct board *board, struct error *err)
{
    uint64_t low = platform_ram_low(&board->platform), high = platform_ram_high(&board->platform);
    unsigned flags = board->config.config->huge_pages ? RAM_BLOCK_HUGE_PAGES : 0;
    int result = ram_block_create("ram", board->platform.memory, flags, &board->ram, err);
    if (result == 0)
        result = add_ram(board, &board->ram_low, "ram-low", 0, 0, low, err);
    if (result == 0)
        result = add_ram(board, &board->ram_high, "ram-high", LAYOUT_RAM_HIGH, low, high, err);
    if (result == 0)
        result = add_reservation(board, &board->ioapic, "ioapic", LAYOUT_IOAPIC, err);
    if (result == 0)
        result = add_reservation(board, &board->lapic, "lapic", LAYOUT_LAPIC, err);
    return result;
}

static int check_apart(const struct placement *place, const struct platform_range *range, const char *title,
                       struct error *err)
{
    uint64_t size = (uint64_t)memory_region_size(place->region);
    if (range->mmio != place->mmio || place->base >= range->base + range->size ||
        range->base >= place->base + size)
        return 0;
    return error_set(err, EBUSY, "the %s at %s 0x%llx collides with the %s at 0x%llx: choose another place",
                     place->region->name, place->mmio ? "address" : "port", (unsigned long long)place->base,
                     title, (unsigned long long)range->base);
}

static int check_free(const struct platform *platform, const struct placement *place, struct error *err)
{
    const struct platform_range pci_ports = {false, PCI_PORTS, PCI_PORTS_SIZE};
    int result = platform->pci.present ? check_apart(place, &pci_ports, "PCI host bridge", err) : 0;
    for (unsigned i = 0; i < platform->device_count; i++) {
        const struct platform_device *device = &platform->devices[i];
        for (unsigned r = 0; r < device->range_count && result == 0; r++)
            result = check_apart(place, &device->ranges[r], platform_device_type(device)->title, err);
    }
    return result;
}

/* Maps a device's regions, and describes it to whoever tells the guest. */
static int place_device(struct board *board, enum platform_device_kind kind, int irq,
                        const struct placement *places, unsigned count, struct error *err)
{
    struct platform *platform = &board->platform;
    struct platform_device device = {.kind = kind, .irq = irq, .range_count = count};
    for (unsigned i = 0; i < count; i++) {
        const struct placement *place = &places[i];
        int result = check_free(platform, place, err);
        if (result == 0)
            result = memory_region_add_subregion(place->mmio ? &board->root : &board->io_root, place->base,
                                                 place->region, 0, err);
        if (result < 0)
            return result;
        device.ranges[i] =
            (struct platform_range){place->mmio, place->base, (uint64_t)memory_region_size(place->region)};
    }
    platform->devices[platform->device_count++] = device;
    return 0;
}

static int add_serial(struct board *board, struct error *err)
{
    struct serial_config config = {.chardev = board->config.console, .irq = irq_line(board, LAYOUT_COM1_IRQ)};
    int result = serial_create(&config, board->memory, &board->serial, err);
    if (result < 0)
        return result;
    const struct placement place = {false, LAYOUT_COM1, serial_region(board->serial)};
    return place_device(board, PLATFORM_SERIAL, LAYOUT_COM1_IRQ, &place, 1, err);
}

static int add_rtc(struct board *board, struct error *err)
{
    struct rtc_config config = {.loop = board->config.loop, .irq = irq_line(board, LAYOUT_RTC_IRQ)};
    int result = rtc_create(&config, board->memory, &board->rtc, err);
    if (result < 0)
        return result;
    const struct placement place = {false, LAYOUT_RTC, rtc_region(board->rtc)};
    return place_device(board, PLATFORM_RTC, LAYOUT_RTC_IRQ, &place, 1, err);
}

static int add_i8042(struct board *board, struct error *err)
{
    struct shutdown_handler shutdown = shutdown_handler(board);
    int result = i8042_create(&shutdown, board->memory, &board->i8042, err);
    if (result < 0)
        return result;
    const struct placement place = {false, LAYOUT_I8042_COMMAND, i8042_region(board->i8042)};
    return place_device(board, PLATFORM_RESET, -1, &place, 1, err);
}

static int add_pm(struct board *board, struct error *err)
{
    struct acpi_pm_config config = {
        .sci = irq_line(board, LAYOUT_SCI_IRQ),
        .shutdown = shutdown_handler(board),
        .s5_sleep_type = LAYOUT_S5_SLEEP_TYPE,
        .reset_value = LAYOUT_RESET_VALUE,
    };
    int result = acpi_pm_create(&config, board->memory, &board->pm, err);
    if (result < 0)
        return result;
    const struct placement places[] = {
        {false, LAYOUT_PM1A_EVENT, acpi_pm_event_region(board->pm)},
        {false, LAYOUT_PM1A_CONTROL, acpi_pm_control_region(board->pm)},
        {false, LAYOUT_PM_TIMER, acpi_pm_timer_region(board->pm)},
        {false, LAYOUT_RESET - 1, acpi_pm_reset_region(board->pm)},
    };
    return place_device(board, PLATFORM_PM, LAYOUT_SCI_IRQ, places, ARRAY_SIZE(places), err);
}

static bool wants_pci(const struct config *config)
{
    if (virtio_devices_count(config) == 0 || config->transport == TRANSPORT_MMIO)
        return false;
    return config->transport == TRANSPORT_PCI || (config->kernel && boot_is_bzimage(config->kernel));
}

/* The ports are seen above the reset register, which they pass on what is meant for it. */
static int map_pci(struct board *board, struct error *err)
{
    struct pci_bus *bus = pci_host_bus(board->pci);
    int result = memory_region_add_subregion(&board->io_root, PCI_PORTS, pci_bus_ports(bus), 1, err);
    return result < 0 ? result
                      : memory_region_add_subregion(&board->root, board->platform.pci.ecam, pci_bus_ecam(bus),
                                                    0, err);
}

static int add_pci(struct board *board, struct error *err)
{
    if (!wants_pci(board->config.config))
        return 0;
    platform_add_pci(&board->platform, host_cpu_address_bits());
    const struct platform_pci *pci = &board->platform.pci;
    struct pci_host_config config = {
        .bus = {.memory = board->memory,
                .memory_container = &board->root,
                .io_container = &board->io_root,
                .narrow_ports = acpi_pm_reset_region(board->pm),
                .log = board->config.log},
        .windows = pci->windows,
    };
    for (unsigned i = 0; i < PCI_LINES; i++) {
        config.bus.lines[i] = irq_line(board, pci->irqs[i]);
        config.irqs[i] = pci->irqs[i];
    }
    int result = interrupts_create_msi(board->vm, &board->msi, err);
    if (result == 0)
        result = pci_host_create(&config, &board->pci, err);
    return result < 0 ? result : map_pci(board, err);
}

static int add_exit_port(struct board *board, struct error *err)
{
    if (board->config.config->exit_port < 0)
        return 0;
    struct shutdown_handler shutdown = shutdown_handler(board);
    int result = debug_exit_create(&shutdown, board->memory, &board->exit_port, err);
    if (result < 0)
        return result;
    const struct placement place = {false, (uint64_t)board->config.config->exit_port,
                                    debug_exit_region(board->exit_port)};
    return place_device(board, PLATFORM_EXIT_PORT, -1, &place, 1, err);
}

static int add_test_device(struct board *board, struct error *err)
{
    if (!board->config.config->test_device)
        return 0;
    int result = test_mmio_create(board->memory, &board->test, err);
    if (result < 0)
        return result;
    const struct placement places[] = {
        {true, LAYOUT_TEST_MMIO, test_mmio_region_a(board->test)},
        {true, LAYOUT_TEST_MMIO + TEST_MMIO_REGION_SIZE, test_mmio_region_b(board->test)},
    };
    return place_device(board, PLATFORM_TEST_MMIO, -1, places, ARRAY_SIZE(places), err);
}

static int place_virtio(void *opaque, struct memory_region *registers, unsigned index, struct error *err)
{
    struct board *board = opaque;
    const struct placement place = {true, LAYOUT_VIRTIO_MMIO + index * VIRTIO_MMIO_REGION_SIZE, registers};
    return place_device(board, PLATFORM_VIRTIO_MMIO, (int)virtio_irqs[index], &place, 1, err);
}

static int add_virtio_devices(struct board *board, struct error *err)
{
    const struct virtio_devices_config config = {
        .config = board->config.config,
        .backends = board->config.backends,
        .log = board->config.log,
        .loop = board->config.loop,
        .memory = board->memory,
        .space = board->memory_space,
        .pci = board->pci,
        .msi = &msi_routes_ops,
        .msi_opaque = board->msi,
        .vm = board->vm,
        .irqs = virtio_irqs,
        .irq_count = ARRAY_SIZE(virtio_irqs),
        .place = place_virtio,
        .opaque = board,
    };
    return virtio_devices_create(&config, &board->virtio, err);
}

/* Every device of the machine but those of virtio, which come later: a new one is a line here. */
static int (*const device_adders[])(struct board *, struct error *) = {
    add_serial, add_rtc, add_i8042, add_pm, add_pci, add_exit_port, add_test_device,
};

static int add_devices(struct board *board, struct error *err)
{
    int result = create_ram(board, err);
    for (size_t i = 0; i < ARRAY_SIZE(device_adders) && result == 0; i++)
        result = device_adders[i](board, err);
    return result;
}

/* What firmware does. */
static int set_up_pci(struct board *board, struct error *err)
{
    int result = pci_host_set_up(board->pci, err);
    return result < 0 ? result : interrupts_set_level(board->vm, board->platform.pci.irqs, PCI_LINES, err);
}

static int create_listeners(struct board *board, struct error *err)
{
    struct kvm_listener_config config = kvm_vm_listener_config(board->vm);
    int result = kvm_listener_create(board->memory_space, &config, &board->memory_listener, err);
    config.ports = true;
    if (result == 0)
        result = kvm_listener_create(board->io_space, &config, &board->io_listener, err);
    if (result == 0 && config.dirty_mode == KVM_DIRTY_RING)
        result = dirty_reaper_create(board->vm, board->memory_listener, &board->reaper, err);
    return result;
}

/* Makes a part of the machine in one transaction. */
static int make(struct board *board, int (*part)(struct board *, struct error *), struct error *err)
{
    memory_transaction_begin(board->memory);
    int result = part(board, err);
    int committed = memory_transaction_commit(board->memory, result == 0 ? err : NULL);
    return result < 0 ? result : committed;
}

/*
 * KVM gets its slots first: what puts something on its buses makes a slot that is set afterwards wait for a
 * grace period of RCU, up to 12 ms. Interrupt controllers do that, and the ioeventfds of virtio devices.
 */
static int build(struct board *board, struct error *err)
{
    int result = create_roots(board, err);
    if (result == 0)
        result = create_traces(board, err);
    if (result == 0)
        result = make(board, add_devices, err);
    if (result == 0)
        result = create_listeners(board, err);
    if (result == 0)
        result = interrupts_create(board->vm, err);
    if (result == 0)
        result = make(board, add_virtio_devices, err);
    return result == 0 && board->pci ? set_up_pci(board, err) : result;
}

int board_create(const struct machine_config *config, struct kvm_vm *vm, struct machine *machine,
                 struct board **out, struct error *err)
{
    struct board *board = calloc(1, sizeof(*board));
    if (!board)
        return error_set(err, ENOMEM, "not enough memory for the board");
    board->config = *config;
    board->vm = vm;
    board->machine = machine;
    board->platform.cpus = config->config->cpus;
    board->platform.memory = config->config->memory;
    board->platform.acpi = !config->config->no_acpi;
    board->platform.command_line = config->config->append;
    int result = build(board, err);
    if (result < 0) {
        board_destroy(board);
        return result;
    }
    *out = board;
    return 0;
}

void board_destroy(struct board *board)
{
    if (!board)
        return;
    virtio_devices_stop(board->virtio); /* while there is the memory that requests under way use */
    dirty_reaper_destroy(board->reaper);
    kvm_listener_destroy(board->memory_listener);
    kvm_listener_destroy(board->io_listener);
    memory_trace_destroy(board->memory_trace);
    memory_trace_destroy(board->io_trace);
    address_space_destroy(board->memory_space);
    address_space_destroy(board->io_space);
    if (board->io_root.memory) { /* the last of the roots to be initialised */
        memory_region_remove_all_subregions(&board->root, NULL);
        memory_region_remove_all_subregions(&board->io_root, NULL);
    }
    virtio_devices_destroy(board->virtio);
    pci_host_destroy(board->pci);
    msi_routes_destroy(board->msi);
    serial_destroy(board->serial);
    rtc_destroy(board->rtc);
    acpi_pm_destroy(board->pm);
    i8042_destroy(board->i8042);
    debug_exit_destroy(board->exit_port);
    test_mmio_destroy(board->test);
    struct memory_region *const own[] = {&board->ram_low, &board->ram_high, &board->ioapic,
                                         &board->lapic,   &board->root,     &board->io_root};
    for (size_t i = 0; i < ARRAY_SIZE(own); i++)
        memory_region_destroy(own[i]);
    ram_block_destroy(board->ram);
    memory_destroy(board->memory);
    free(board->command_line);
    free(board->device_tree);
    free(board);
}

static int write_firmware(const struct board *board, struct error *err)
{
    return board->platform.acpi ? acpi_write(&board->platform, board->memory_space, err)
                                : mptable_write(&board->platform, board->memory_space, err);
}

int board_load(struct board *board, struct boot_entry *entry, struct error *err)
{
    const struct boot_files files = {board->config.config->kernel, board->config.config->initrd};
    struct platform *platform = &board->platform;
    if (getrandom(platform->rng_seed, sizeof(platform->rng_seed), 0) != sizeof(platform->rng_seed))
        return error_set_errno(err, errno, "the host gives no random numbers for the guest's seed");
    board->command_line = platform_compose_command_line(platform, board->config.config->append);
    if (!board->command_line)
        return error_set(err, ENOMEM, "not enough memory for the kernel's command line");
    platform->command_line = board->command_line;
    int result = boot_load(&files, platform, board->memory_space, entry, &board->device_tree,
                           &board->device_tree_size, err);
    if (result == 0)
        result = write_firmware(board, err);
    explicit_bzero(platform->rng_seed, sizeof(platform->rng_seed));
    return result;
}

const void *board_device_tree(const struct board *board, size_t *size)
{
    *size = board->device_tree_size;
    return board->device_tree;
}

struct address_space *board_memory(struct board *board)
{
    return board->memory_space;
}

struct dirty_reaper *board_dirty_reaper(struct board *board)
{
    return board->reaper;
}

struct address_space *board_io(struct board *board)
{
    return board->io_space;
}

void board_release_vcpus(struct board *board)
{
    serial_allow_waiting(board->serial, false);
}

int board_flush(struct board *board, int interrupt)
{
    return serial_flush(board->serial, interrupt);
}

void board_press_power_button(struct board *board)
{
    acpi_pm_press_power_button(board->pm);
}

void board_print_memory(const struct board *board, FILE *out)
{
    mtree_print(board->memory, out);
}
