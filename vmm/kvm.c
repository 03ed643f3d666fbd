#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/error.h"
#include "memory/address_space.h"
#include "memory/kvm_listener.h"
#include "vmm/kvm_caps.h"

#define KVM_PATH "/dev/kvm"

static int explain_open_failure(int code, struct error *err)
{
    switch (code) {
    case ENOENT:
    case ENXIO:
    case ENODEV:
        return error_set(err, code,
                         KVM_PATH
                         " is missing: load the kvm_intel or kvm_amd module, enable virtualisation in the "
                         "firmware, or, inside a virtual machine, nested virtualisation in its host");
    case EACCES:
    case EPERM:
        return error_set(
            err, code,
            KVM_PATH ": permission denied: become a member of the group that owns it (often: sudo usermod "
                     "-aG kvm $USER, then log in again)");
    default:
        return error_set_errno(err, code, "cannot open " KVM_PATH);
    }
}

int kvm_open(struct error *err)
{
    int fd = open(KVM_PATH, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return explain_open_failure(errno, err);
    int version = ioctl(fd, KVM_GET_API_VERSION, 0);
    if (version == KVM_API_VERSION)
        return fd;
    close(fd);
    if (version < 0)
        return error_set(err, ENODEV, KVM_PATH " does not answer as KVM does: is it another device?");
    return error_set(err, ENOTSUP,
                     KVM_PATH
                     " speaks version %d of the KVM API, godwit version %d: use a kernel since 2.6.22",
                     version, KVM_API_VERSION);
}

static int create_vm(struct kvm_vm *vm, struct error *err)
{
    int result = kvm_check_required(vm->kvm_fd, err);
    if (result < 0)
        return result;
    do
        vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    while (vm->vm_fd < 0 && errno == EINTR);
    if (vm->vm_fd < 0)
        return error_set_errno(err, errno, "KVM cannot create a virtual machine");
    int size = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    if (size < 0)
        return error_set_errno(err, errno, "KVM does not tell the size of a vCPU's shared area");
    vm->run_size = (size_t)size;
    vm->slots_max = (unsigned)kvm_capability_value(vm->vm_fd, KVM_CAP_NR_MEMSLOTS);
    vm->coalesced_memory = kvm_capability_value(vm->vm_fd, KVM_CAP_COALESCED_MMIO) > 0;
    vm->coalesced_ports = vm->coalesced_memory && kvm_capability_value(vm->vm_fd, KVM_CAP_COALESCED_PIO) > 0;
    return 0;
}

int kvm_vm_create(struct kvm_vm *vm, struct error *err)
{
    *vm = (struct kvm_vm){.kvm_fd = -1, .vm_fd = -1};
    pthread_mutex_init(&vm->ring_lock, NULL);
    int result = vm->kvm_fd = kvm_open(err);
    if (result >= 0)
        result = create_vm(vm, err);
    if (result < 0)
        kvm_vm_destroy(vm);
    return result;
}

void kvm_vm_destroy(struct kvm_vm *vm)
{
    if (vm->vm_fd >= 0)
        close(vm->vm_fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    pthread_mutex_destroy(&vm->ring_lock);
}

static int set_user_memory_region(void *opaque, const struct kvm_userspace_memory_region *region)
{
    const struct kvm_vm *vm = opaque;
    return ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, region) < 0 ? -errno : 0;
}

static int set_ioeventfd(void *opaque, const struct kvm_ioeventfd *ioeventfd)
{
    const struct kvm_vm *vm = opaque;
    return ioctl(vm->vm_fd, KVM_IOEVENTFD, ioeventfd) < 0 ? -errno : 0;
}

/* A zone that KVM cannot hold back needs nothing: its writes exit one by one. */
static int change_coalesced(const struct kvm_vm *vm, unsigned long request,
                            const struct kvm_coalesced_mmio_zone *zone)
{
    if (!(zone->pio ? vm->coalesced_ports : vm->coalesced_memory))
        return 0;
    return ioctl(vm->vm_fd, request, zone) < 0 ? -errno : 0;
}

static int register_coalesced(void *opaque, const struct kvm_coalesced_mmio_zone *zone)
{
    return change_coalesced(opaque, KVM_REGISTER_COALESCED_MMIO, zone);
}

static int unregister_coalesced(void *opaque, const struct kvm_coalesced_mmio_zone *zone)
{
    return change_coalesced(opaque, KVM_UNREGISTER_COALESCED_MMIO, zone);
}

const struct kvm_listener_ops kvm_vm_listener_ops = {
    .set_user_memory_region = set_user_memory_region,
    .ioeventfd = set_ioeventfd,
    .register_coalesced = register_coalesced,
    .unregister_coalesced = unregister_coalesced,
};

void kvm_vm_adopt_run_area(struct kvm_vm *vm, void *run_area)
{
    int page = kvm_capability_value(vm->vm_fd, KVM_CAP_COALESCED_MMIO);
    if (page > 0 && !vm->ring)
        vm->ring = (void *)((char *)run_area + page * sysconf(_SC_PAGESIZE));
}

void kvm_vm_drain_coalesced(struct kvm_vm *vm, struct address_space *memory, struct address_space *io)
{
    struct kvm_coalesced_mmio_ring *ring = vm->ring;
    if (!ring ||
        __atomic_load_n(&ring->first, __ATOMIC_ACQUIRE) == __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE))
        return;
    const uint32_t entries =
        (uint32_t)(((size_t)sysconf(_SC_PAGESIZE) - sizeof(*ring)) / sizeof(ring->coalesced_mmio[0]));
    pthread_mutex_lock(&vm->ring_lock);
    while (ring->first != __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE)) {
        const struct kvm_coalesced_mmio *write = &ring->coalesced_mmio[ring->first];
        address_space_write(write->pio ? io : memory, write->phys_addr, write->data, write->len);
        __atomic_store_n(&ring->first, (ring->first + 1) % entries, __ATOMIC_RELEASE);
    }
    pthread_mutex_unlock(&vm->ring_lock);
}
