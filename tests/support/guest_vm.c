#include "tests/support/guest_vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/kvm_listener.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "vmm/dirty_reaper.h"
#include "vmm/vcpu.h"
#include "vmm/x86/boot.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/platform.h"
#include "vmm/x86/vcpu_setup.h"

#define EXIT_PORT 0xf4

static void exit_written(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct guest_vm *vm = opaque;
    atomic_store(&vm->status, (int)(value & 0xff));
    vcpu_request_pause(vm->vcpu);
}

static const struct memory_region_ops exit_port_ops = {.write = exit_written};

static void vcpu_failed(void *opaque, struct vcpu *vcpu, int error)
{
    struct guest_vm *vm = opaque;
    atomic_store(&vm->status, GUEST_VM_FAILED);
}

static int add_ram(struct guest_vm *vm, struct error *err)
{
    struct platform platform = {.memory = vm->ram->size};
    uint64_t low = platform_ram_low(&platform), high = platform_ram_high(&platform);
    int result = memory_region_init_ram(&vm->ram_low, vm->memory, "ram-low", vm->ram, 0, low, err);
    if (result == 0)
        result = memory_region_add_subregion(&vm->root, 0, &vm->ram_low, 0, err);
    if (result < 0 || !high)
        return result;
    result = memory_region_init_ram(&vm->ram_high, vm->memory, "ram-high", vm->ram, low, high, err);
    return result < 0 ? result
                      : memory_region_add_subregion(&vm->root, GUEST_VM_RAM_HIGH, &vm->ram_high, 0, err);
}

static int create_spaces(struct guest_vm *vm, const struct guest_vm_exits *exits, struct error *err)
{
    int result = memory_region_init_container(&vm->root, vm->memory, "memory", MEMORY_SIZE_MAX, err);
    if (result == 0)
        result = memory_region_init_container(&vm->io, vm->memory, "io", 64 * KIB, err);
    if (result == 0)
        result = address_space_create(vm->memory, "memory", &vm->root, &vm->memory_space, err);
    if (result == 0)
        result = address_space_create(vm->memory, "io", &vm->io, &vm->io_space, err);
    if (result < 0 || !exits)
        return result;
    result = memory_region_init_mmio(&vm->exits, vm->memory, "exits", exits->ops, exits->opaque,
                                     MEMORY_SIZE_MAX, err);
    return result < 0 ? result : address_space_create(vm->memory, "exits", &vm->exits, &vm->exit_space, err);
}

int guest_vm_create(struct guest_vm *vm, uint64_t size, const struct guest_vm_exits *exits, struct error *err)
{
    memset(vm, 0, sizeof(*vm));
    vm->memory = memory_create();
    if (!vm->memory)
        return error_set(err, ENOMEM, "not enough memory for the memory system");
    int result = create_spaces(vm, exits, err);
    if (result == 0)
        result = ram_block_create("ram", size, 0, &vm->ram, err);
    if (result == 0)
        result = add_ram(vm, err);
    if (result == 0)
        result = memory_region_init_mmio(&vm->exit_port, vm->memory, "exit", &exit_port_ops, vm, 1, err);
    return result < 0 ? result : memory_region_add_subregion(&vm->io, EXIT_PORT, &vm->exit_port, 0, err);
}

static int set_slot(void *opaque, const struct kvm_userspace_memory_region *region)
{
    struct kvm_vm *kvm = opaque;
    struct guest_vm *vm = container_of(kvm, struct guest_vm, kvm);
    if (region->slot < GUEST_VM_SLOTS)
        vm->slots[region->slot] = *region;
    return vm->kvm_ops->set_user_memory_region(kvm, region);
}

static int create_listener(struct guest_vm *vm, struct error *err)
{
    struct kvm_listener_config config = kvm_vm_listener_config(&vm->kvm);
    vm->kvm_ops = config.ops;
    vm->ops = *config.ops;
    vm->ops.set_user_memory_region = set_slot;
    config.ops = &vm->ops;
    int result = kvm_listener_create(vm->memory_space, &config, &vm->listener, err);
    if (result == 0 && config.dirty_mode == KVM_DIRTY_RING)
        result = dirty_reaper_create(&vm->kvm, vm->listener, &vm->reaper, err);
    return result;
}

static int create_vcpu(struct guest_vm *vm, const struct boot_entry *entry, struct error *err)
{
    struct vcpu_config config = {
        .vm = &vm->kvm,
        .memory = vm->exit_space ? vm->exit_space : vm->memory_space,
        .io = vm->io_space,
        .reaper = vm->reaper,
        .failed = vcpu_failed,
        .opaque = vm,
    };
    int result = vcpu_create(&config, &vm->vcpu, err);
    struct kvm_cpuid2 *supported = NULL;
    if (result == 0)
        result = vcpu_supported_cpuid(vm->kvm.kvm_fd, &supported, err);
    if (result < 0)
        return result;
    const struct cpuid_options options = {.cpus = 1};
    result = vcpu_setup(vm->vcpu, supported, &options, entry, err);
    free(supported);
    return result;
}

/* The device tree names the exit port and passes the arguments. */
static int load(struct guest_vm *vm, const char *kernel, const char *arguments, struct boot_entry *entry,
                struct error *err)
{
    const struct boot_files files = {.kernel = kernel};
    struct platform platform = {
        .cpus = 1,
        .memory = vm->ram->size,
        .devices =
            {{.kind = PLATFORM_EXIT_PORT, .ranges = {{false, EXIT_PORT, 1}}, .range_count = 1, .irq = -1}},
        .device_count = 1,
        .command_line = arguments,
    };
    void *tree = NULL;
    size_t size;
    int result = boot_load(&files, &platform, vm->memory_space, entry, &tree, &size, err);
    free(tree);
    return result;
}

int guest_vm_boot(struct guest_vm *vm, enum dirty_log_choice dirty_log, const char *kernel,
                  const char *arguments, struct error *err)
{
    struct boot_entry entry;
    atomic_store(&vm->status, GUEST_VM_RUNNING);
    memset(guest_vm_at(vm, GUEST_VM_CONTROL), 0, RAM_PAGE_SIZE);
    int result = kvm_vm_create(&vm->kvm, dirty_log, err);
    if (result < 0)
        return result;
    result = create_listener(vm, err);
    if (result == 0)
        result = load(vm, kernel, arguments, &entry, err);
    if (result == 0)
        result = create_vcpu(vm, &entry, err);
    if (result == 0)
        result = vcpu_start(vm->vcpu, err);
    if (result < 0)
        guest_vm_halt(vm);
    return result;
}

void guest_vm_halt(struct guest_vm *vm)
{
    vcpu_destroy(vm->vcpu);
    dirty_reaper_destroy(vm->reaper);
    kvm_listener_destroy(vm->listener);
    kvm_vm_destroy(&vm->kvm);
    vm->vcpu = NULL;
    vm->reaper = NULL;
    vm->listener = NULL;
}

void guest_vm_destroy(struct guest_vm *vm)
{
    if (vm->listener)
        guest_vm_halt(vm);
    address_space_destroy(vm->memory_space);
    address_space_destroy(vm->io_space);
    address_space_destroy(vm->exit_space);
    if (vm->io.memory) {
        memory_region_remove_all_subregions(&vm->root, NULL);
        memory_region_remove_all_subregions(&vm->io, NULL);
    }
    struct memory_region *const regions[] = {&vm->ram_low, &vm->ram_high, &vm->exit_port,
                                             &vm->exits,   &vm->root,     &vm->io};
    for (size_t i = 0; i < ARRAY_SIZE(regions); i++)
        memory_region_destroy(regions[i]);
    ram_block_destroy(vm->ram);
    memory_destroy(vm->memory);
}

void *guest_vm_at(const struct guest_vm *vm, uint64_t address)
{
    uint64_t high = address - GUEST_VM_RAM_HIGH;
    uint64_t offset = address < GUEST_VM_RAM_HIGH ? address : (uint64_t)vm->ram_low.state.size + high;
    return (char *)vm->ram->host + offset;
}
