#include "vmm/kvm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
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

static int create_vm(struct kvm_vm *vm, enum dirty_log_choice dirty_log, struct error *err)
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
    return dirty_log_enable(vm->vm_fd, dirty_log, &vm->dirty_log, err);
}

int kvm_vm_create(struct kvm_vm *vm, enum dirty_log_choice dirty_log, struct error *err)
{
    *vm = (struct kvm_vm){.kvm_fd = -1, .vm_fd = -1};
    pthread_mutex_init(&vm->ring_lock, NULL);
    vcpu_gate_init(&vm->gate);
    int result = vm->kvm_fd = kvm_open(err);
    if (result >= 0)
        result = create_vm(vm, dirty_log, err);
    if (result < 0)
        kvm_vm_destroy(vm);
    return result;
}

static size_t dirty_ring_size(const struct kvm_vm *vm)
{
    return vm->dirty_log.ring_entries * sizeof(struct kvm_dirty_gfn);
}

void kvm_vm_destroy(struct kvm_vm *vm)
{
    for (unsigned i = 0; i < vm->dirty_ring_count; i++)
        munmap(vm->dirty_rings[i], dirty_ring_size(vm));
    free(vm->dirty_rings);
    if (vm->vm_fd >= 0)
        close(vm->vm_fd);
    if (vm->kvm_fd >= 0)
        close(vm->kvm_fd);
    vcpu_gate_destroy(&vm->gate);
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

static int get_dirty_log(void *opaque, struct kvm_dirty_log *log)
{
    const struct kvm_vm *vm = opaque;
    return ioctl(vm->vm_fd, KVM_GET_DIRTY_LOG, log) < 0 ? -errno : 0;
}

static int clear_dirty_log(void *opaque, struct kvm_clear_dirty_log *log)
{
    const struct kvm_vm *vm = opaque;
    return ioctl(vm->vm_fd, KVM_CLEAR_DIRTY_LOG, log) < 0 ? -errno : 0;
}

static int reset_dirty_rings(void *opaque)
{
    const struct kvm_vm *vm = opaque;
    return ioctl(vm->vm_fd, KVM_RESET_DIRTY_RINGS, 0) < 0 ? -errno : 0;
}

static void stop_vcpus(void *opaque)
{
    struct kvm_vm *vm = opaque;
    vcpu_gate_stop(&vm->gate);
}

static void resume_vcpus(void *opaque)
{
    struct kvm_vm *vm = opaque;
    vcpu_gate_resume(&vm->gate);
}

static const struct kvm_listener_ops listener_ops = {
    .set_user_memory_region = set_user_memory_region,
    .ioeventfd = set_ioeventfd,
    .register_coalesced = register_coalesced,
    .unregister_coalesced = unregister_coalesced,
    .get_dirty_log = get_dirty_log,
    .clear_dirty_log = clear_dirty_log,
    .reset_dirty_rings = reset_dirty_rings,
    .stop_vcpus = stop_vcpus,
    .resume_vcpus = resume_vcpus,
};

struct kvm_listener_config kvm_vm_listener_config(struct kvm_vm *vm)
{
    return (struct kvm_listener_config){
        .ops = &listener_ops,
        .opaque = vm,
        .slots_max = vm->slots_max,
        .dirty_mode = vm->dirty_log.mode,
        .initially_set = vm->dirty_log.initially_set,
        .ring_with_bitmap = vm->dirty_log.ring_with_bitmap,
    };
}

int kvm_vm_map_dirty_ring(struct kvm_vm *vm, int vcpu_fd, struct kvm_dirty_gfn **ring, struct error *err)
{
    size_t count = vm->dirty_ring_count + 1;
    struct kvm_dirty_gfn **rings = reallocarray(vm->dirty_rings, count, sizeof(struct kvm_dirty_gfn *));
    if (!rings)
        return error_set(err, ENOMEM, "not enough memory for a dirty ring");
    vm->dirty_rings = rings;
    *ring = mmap(NULL, dirty_ring_size(vm), PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd,
                 KVM_DIRTY_LOG_PAGE_OFFSET * sysconf(_SC_PAGESIZE));
    if (*ring == MAP_FAILED)
        return error_set_errno(err, errno, "cannot map the dirty ring of a vCPU");
    vm->dirty_rings[vm->dirty_ring_count++] = *ring;
    return 0;
}

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
