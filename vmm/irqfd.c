#include "vmm/irqfd.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "vmm/kvm.h"

static int set_irqfd(const struct irqfd *irqfd, unsigned flags)
{
    struct kvm_irqfd request = {.fd = (uint32_t)irqfd->fd, .gsi = irqfd->line, .flags = flags};
    return ioctl(irqfd->vm_fd, KVM_IRQFD, &request);
}

int irqfd_init(struct irqfd *irqfd, const struct kvm_vm *vm, unsigned line, struct error *err)
{
    *irqfd = (struct irqfd){.fd = -1, .vm_fd = vm->vm_fd, .line = line};
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot create an eventfd for an interrupt");
    irqfd->fd = fd;
    if (set_irqfd(irqfd, 0) == 0)
        return 0;
    int result = error_set_errno(err, errno, "KVM refuses an irqfd for interrupt %u", line);
    close(fd);
    irqfd->fd = -1;
    return result;
}

void irqfd_release(struct irqfd *irqfd)
{
    if (irqfd->fd < 0)
        return;
    set_irqfd(irqfd, KVM_IRQFD_FLAG_DEASSIGN);
    close(irqfd->fd);
    irqfd->fd = -1;
}
