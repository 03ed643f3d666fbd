/*
 * Interrupt controllers and messages on a real KVM: what a local APIC has received is read from its
 * registers (Intel SDM volume 3A, chapter 11).
 */
#include <criterion/criterion.h>
#include <linux/kvm.h>
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/kvm.h"
#include "vmm/msi_routes.h"
#include "vmm/x86/interrupts.h"

#define SPURIOUS 0xF0 /* register with the software enable bit */
#define ENABLED  0x100
#define REQUESTS 0x200 /* 8 registers of 32 vectors, 16 bytes apart */
#define MESSAGES 0xFEE00000

static struct kvm_vm vm;
static int vcpu;
static struct msi_routes *routes;

static void clear_requests(void)
{
    struct kvm_lapic_state state;
    cr_assert_eq(ioctl(vcpu, KVM_GET_LAPIC, &state), 0);
    uint32_t spurious = 0xFF | ENABLED;
    memcpy(state.regs + SPURIOUS, &spurious, sizeof(spurious));
    for (unsigned i = 0; i < 8; i++)
        memset(state.regs + REQUESTS + (size_t)i * 16, 0, 4);
    cr_assert_eq(ioctl(vcpu, KVM_SET_LAPIC, &state), 0);
}

static bool is_requested(unsigned vector)
{
    struct kvm_lapic_state state;
    uint32_t requests;
    cr_assert_eq(ioctl(vcpu, KVM_GET_LAPIC, &state), 0);
    memcpy(&requests, state.regs + REQUESTS + (size_t)(vector / 32) * 16, sizeof(requests));
    return requests >> vector % 32 & 1;
}

/* KVM may send from a thread of its own. */
static void wait_for(unsigned vector)
{
    while (!is_requested(vector))
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void set_up(void)
{
    struct error err;
    cr_assert_eq(kvm_vm_create(&vm, DIRTY_LOG_AUTO, &err), 0, "%s", err.message);
    cr_assert_eq(interrupts_create(&vm, &err), 0, "%s", err.message);
    vcpu = ioctl(vm.vm_fd, KVM_CREATE_VCPU, 0);
    cr_assert_geq(vcpu, 0);
    cr_assert_eq(interrupts_create_msi(&vm, &routes, &err), 0, "%s", err.message);
    clear_requests();
}

static void tear_down(void)
{
    msi_routes_destroy(routes);
    close(vcpu);
    kvm_vm_destroy(&vm);
}

TestSuite(interrupts, .init = set_up, .fini = tear_down);

static void set_message(uint32_t vector, uint32_t *route)
{
    const struct msi_message message = {.address = MESSAGES, .data = vector};
    struct error err;
    cr_assert_eq(msi_routes_ops.set_route(routes, &message, route, &err), 0, "%s", err.message);
}

static void attach(int fd, uint32_t route)
{
    struct error err;
    cr_assert_eq(msi_routes_ops.attach(routes, fd, route, &err), 0, "%s", err.message);
}

static bool is_signalled(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};
    return poll(&look, 1, 0) == 1;
}

Test(interrupts, messages_arrive)
{
    uint32_t route = MSI_NO_ROUTE, other = MSI_NO_ROUTE;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK), other_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    set_message(0x41, &route);
    set_message(0x95, &other);
    attach(fd, route);
    attach(other_fd, other);
    eventfd_write(fd, 1);
    wait_for(0x41);
    cr_assert_not(is_requested(0x95));
    eventfd_write(other_fd, 1);
    wait_for(0x95);
    msi_routes_ops.detach(routes, fd, route);
    msi_routes_ops.detach(routes, other_fd, other);
    msi_routes_ops.drop_route(routes, route);
    msi_routes_ops.drop_route(routes, other);
    close(fd);
    close(other_fd);
}

/* What comes while nothing is attached waits in the eventfd, and goes where the message then leads. */
Test(interrupts, pending_messages_arrive_once)
{
    uint32_t route = MSI_NO_ROUTE;
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    set_message(0x41, &route);
    attach(fd, route);
    msi_routes_ops.detach(routes, fd, route);
    eventfd_write(fd, 1);
    cr_assert(is_signalled(fd));
    set_message(0x42, &route);
    attach(fd, route);
    wait_for(0x42);
    cr_assert_not(is_requested(0x41));
    msi_routes_ops.detach(routes, fd, route);
    cr_assert_not(is_signalled(fd));
    clear_requests();
    attach(fd, route);
    msi_routes_ops.detach(routes, fd, route); /* waits for what KVM would send */
    cr_assert_not(is_requested(0x42));
    msi_routes_ops.drop_route(routes, route);
    close(fd);
}

static void set_line(unsigned line, bool level)
{
    struct kvm_irq_level request = {.irq = line, .level = level};
    cr_assert_eq(ioctl(vm.vm_fd, KVM_IRQ_LINE, &request), 0);
}

/* Lines 0 to 15 at their PIC; all at the IOAPIC. */
static void check_line(unsigned line)
{
    struct kvm_irqchip pic = {.chip_id = line / 8}, ioapic = {.chip_id = KVM_IRQCHIP_IOAPIC};
    set_line(line, true);
    cr_assert_eq(ioctl(vm.vm_fd, KVM_GET_IRQCHIP, &ioapic), 0);
    cr_assert_eq(ioapic.chip.ioapic.irr, 1u << line, "line %u", line);
    if (line < 16) {
        cr_assert_eq(ioctl(vm.vm_fd, KVM_GET_IRQCHIP, &pic), 0);
        cr_assert(pic.chip.pic.irr & 1u << line % 8, "line %u", line);
    }
    set_line(line, false);
}

Test(interrupts, lines_keep_their_pins)
{
    const uint8_t level[] = {5, 10, 12};
    const unsigned all[] = {0, 1, 3, 4, 5, 7, 8, 9, 10, 12, 15, 16, 20, 23};
    struct error err;
    uint32_t route = MSI_NO_ROUTE;
    cr_assert_eq(interrupts_set_level(&vm, level, ARRAY_SIZE(level), &err), 0, "%s", err.message);
    set_message(0x41, &route);
    for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
        struct kvm_irqchip ioapic = {.chip_id = KVM_IRQCHIP_IOAPIC};
        cr_assert_eq(ioctl(vm.vm_fd, KVM_GET_IRQCHIP, &ioapic), 0);
        ioapic.chip.ioapic.irr = 0;
        cr_assert_eq(ioctl(vm.vm_fd, KVM_SET_IRQCHIP, &ioapic), 0);
        check_line(all[i]);
    }
    struct kvm_irqchip pics[] = {{.chip_id = 0}, {.chip_id = 1}};
    cr_assert_eq(ioctl(vm.vm_fd, KVM_GET_IRQCHIP, &pics[0]), 0);
    cr_assert_eq(ioctl(vm.vm_fd, KVM_GET_IRQCHIP, &pics[1]), 0);
    cr_assert_eq(pics[0].chip.pic.elcr, 1 << 5);
    cr_assert_eq(pics[1].chip.pic.elcr, 1 << 2 | 1 << 4);
    msi_routes_ops.drop_route(routes, route);
}
