#include "vmm/x86/interrupts.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "vmm/kvm.h"
#include "vmm/kvm_caps.h"
#include "vmm/msi_routes.h"
#include "vmm/x86/layout.h"

#define PIC_PINS  8
#define PIC_LINES 16

/*
 * The TSS and identity map are where Intel's virtual 8086 mode keeps its own; they must be outside of RAM.
 * All this comes after the slots: it puts KVM's own devices on its buses, and a slot that is set afterwards
 * waits up to 12 ms for a grace period of RCU.
 */
int interrupts_create(const struct kvm_vm *vm, struct error *err)
{
    uint64_t identity_map = LAYOUT_IDENTITY_MAP;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (ioctl(vm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity_map) < 0 ||
        ioctl(vm->vm_fd, KVM_SET_TSS_ADDR, LAYOUT_TSS) < 0)
        return error_set_errno(err, errno, "KVM refuses a place for its real-mode TSS");
    if (ioctl(vm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
        return error_set_errno(err, errno, "KVM cannot create the interrupt controllers");
    if (ioctl(vm->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
        return error_set_errno(err, errno, "KVM cannot create the interval timer");
    return 0;
}

/* In the edge/level control register of each PIC, which has a bit for each pin. */
int interrupts_set_level(const struct kvm_vm *vm, const uint8_t *lines, size_t count, struct error *err)
{
    for (unsigned pic = 0; pic < PIC_LINES / PIC_PINS; pic++) {
        struct kvm_irqchip chip = {.chip_id = pic};
        if (ioctl(vm->vm_fd, KVM_GET_IRQCHIP, &chip) < 0)
            return error_set_errno(err, errno, "KVM does not tell the state of a PIC");
        for (size_t i = 0; i < count; i++) {
            if (lines[i] / PIC_PINS == pic)
                chip.chip.pic.elcr |= (__u8)(1u << lines[i] % PIC_PINS);
        }
        if (ioctl(vm->vm_fd, KVM_SET_IRQCHIP, &chip) < 0)
            return error_set_errno(err, errno, "KVM refuses the state of a PIC");
    }
    return 0;
}

/* The table that KVM_CREATE_IRQCHIP makes, and that KVM does not give out. Returns the number of entries. */
static unsigned list_line_routes(struct kvm_irq_routing_entry entries[INTERRUPT_LINES + PIC_LINES])
{
    unsigned count = 0;
    for (unsigned line = 0; line < INTERRUPT_LINES; line++) {
        entries[count++] = (struct kvm_irq_routing_entry){
            .gsi = line,
            .type = KVM_IRQ_ROUTING_IRQCHIP,
            .u.irqchip = {KVM_IRQCHIP_IOAPIC, line},
        };
        if (line < PIC_LINES)
            entries[count++] = (struct kvm_irq_routing_entry){
                .gsi = line,
                .type = KVM_IRQ_ROUTING_IRQCHIP,
                .u.irqchip = {line < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE,
                              line % PIC_PINS},
            };
    }
    return count;
}

int interrupts_create_msi(struct kvm_vm *vm, struct msi_routes **routes, struct error *err)
{
    struct kvm_irq_routing_entry lines[INTERRUPT_LINES + PIC_LINES];
    const struct msi_routes_config config = {
        .kvm = &msi_routes_kvm_ops,
        .opaque = vm,
        .fixed = lines,
        .fixed_count = list_line_routes(lines),
        .entries_max = (unsigned)kvm_capability_value(vm->vm_fd, KVM_CAP_IRQ_ROUTING),
        .first_gsi = INTERRUPT_LINES,
    };
    return msi_routes_create(&config, routes, err);
}
