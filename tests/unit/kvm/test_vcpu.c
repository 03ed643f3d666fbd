/*
 * vCPUs on a real KVM. The guests are a few bytes of real-mode code that talk to one port; what the port has
 * seen tells, independently of any register, how far the guest has come.
 */
#include <criterion/criterion.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "memory/address_space.h"
#include "memory/kvm_listener.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "vmm/kvm.h"
#include "vmm/vcpu.h"

#define CODE     0x1000
#define COUNTER  0x2000
#define RAM_SIZE 0x10000
#define PORT     0x80
#define CYCLES   200

struct rig {
    struct kvm_vm vm;
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root, ram, io, port;
    struct address_space *memory_space, *io_space;
    struct kvm_listener *listener;
    struct vcpu *vcpu;
    atomic_uint reads, writes; /* of the port */
    atomic_int failures;
    struct vcpu *pause_on_write;
};

static uint64_t port_read(void *opaque, uint64_t offset, unsigned size)
{
    struct rig *rig = opaque;
    return atomic_fetch_add(&rig->reads, 1) + 1;
}

static void port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct rig *rig = opaque;
    atomic_fetch_add(&rig->writes, 1);
    if (rig->pause_on_write)
        vcpu_request_pause(rig->pause_on_write);
}

static const struct memory_region_ops port_ops = {.read = port_read, .write = port_write};

static void vcpu_failed(void *opaque, struct vcpu *vcpu, int error)
{
    struct rig *rig = opaque;
    atomic_fetch_add(&rig->failures, 1);
}

#define MUST(call)                                                                                           \
    do {                                                                                                     \
        struct error err = {0};                                                                              \
        int result = (call);                                                                                 \
        cr_assert_eq(result, 0, "%s", err.message);                                                          \
    } while (0)

static void create_memory(struct rig *rig)
{
    rig->memory = memory_create();
    MUST(ram_block_create("ram", RAM_SIZE, 0, &rig->block, &err));
    MUST(memory_region_init_container(&rig->root, rig->memory, "memory", MEMORY_SIZE_MAX, &err));
    MUST(memory_region_init_ram(&rig->ram, rig->memory, "ram", rig->block, 0, RAM_SIZE, &err));
    MUST(memory_region_add_subregion(&rig->root, 0, &rig->ram, 0, &err));
    MUST(memory_region_init_container(&rig->io, rig->memory, "io", 0x10000, &err));
    MUST(memory_region_init_mmio(&rig->port, rig->memory, "port", &port_ops, rig, 2, &err));
    MUST(memory_region_add_subregion(&rig->io, PORT, &rig->port, 0, &err));
    MUST(address_space_create(rig->memory, "memory", &rig->root, &rig->memory_space, &err));
    MUST(address_space_create(rig->memory, "io", &rig->io, &rig->io_space, &err));
    struct kvm_listener_config config = kvm_vm_listener_config(&rig->vm);
    MUST(kvm_listener_create(rig->memory_space, &config, &rig->listener, &err));
}

/* Real mode, flat from 0, at CODE. */
static void set_real_mode(struct rig *rig)
{
    struct kvm_sregs sregs;
    cr_assert_eq(ioctl(vcpu_fd(rig->vcpu), KVM_GET_SREGS, &sregs), 0);
    sregs.cs.base = 0;
    sregs.cs.selector = 0;
    cr_assert_eq(ioctl(vcpu_fd(rig->vcpu), KVM_SET_SREGS, &sregs), 0);
    struct kvm_regs regs = {.rip = CODE, .rflags = 2};
    cr_assert_eq(ioctl(vcpu_fd(rig->vcpu), KVM_SET_REGS, &regs), 0);
}

static void create(struct rig *rig, const void *code, size_t size)
{
    memset(rig, 0, sizeof(*rig));
    MUST(kvm_vm_create(&rig->vm, DIRTY_LOG_AUTO, &err));
    create_memory(rig);
    cr_assert_eq(address_space_write(rig->memory_space, CODE, code, size), 0);
    struct vcpu_config config = {.vm = &rig->vm,
                                 .memory = rig->memory_space,
                                 .io = rig->io_space,
                                 .failed = vcpu_failed,
                                 .opaque = rig};
    MUST(vcpu_create(&config, &rig->vcpu, &err));
    set_real_mode(rig);
}

static void destroy(struct rig *rig)
{
    vcpu_destroy(rig->vcpu);
    kvm_listener_destroy(rig->listener);
    address_space_destroy(rig->memory_space);
    address_space_destroy(rig->io_space);
    memory_region_remove_subregion(&rig->ram, NULL);
    memory_region_remove_subregion(&rig->port, NULL);
    memory_region_destroy(&rig->ram);
    memory_region_destroy(&rig->port);
    memory_region_destroy(&rig->root);
    memory_region_destroy(&rig->io);
    ram_block_destroy(rig->block);
    memory_destroy(rig->memory);
    kvm_vm_destroy(&rig->vm);
}

static struct kvm_regs paused_regs(struct rig *rig)
{
    vcpu_request_pause(rig->vcpu);
    vcpu_wait_paused(rig->vcpu);
    struct kvm_regs regs;
    cr_assert_eq(ioctl(vcpu_fd(rig->vcpu), KVM_GET_REGS, &regs), 0);
    return regs;
}

static void wait_for(atomic_uint *count, unsigned least)
{
    while (atomic_load(count) < least) {
    }
}

Test(vcpu, pauses_between_instructions_while_it_writes)
{
    static const uint8_t code[] = {0x40,        /* inc ax */
                                   0xe6, PORT,  /* out PORT, al */
                                   0xeb, 0xfb}; /* jmp to the start */
    struct rig rig;
    create(&rig, code, sizeof(code));
    MUST(vcpu_start(rig.vcpu, &err));
    for (int i = 0; i < CYCLES; i++) {
        wait_for(&rig.writes, atomic_load(&rig.writes) + 1);
        struct kvm_regs regs = paused_regs(&rig);
        unsigned done = (unsigned)(regs.rax & 0xffff) - (regs.rip == CODE + 1);
        cr_assert_eq(done & 0xffff, atomic_load(&rig.writes) & 0xffff, "at 0x%llx", regs.rip);
        vcpu_resume(rig.vcpu);
    }
    destroy(&rig);
    cr_assert_eq(atomic_load(&rig.failures), 0);
}

Test(vcpu, completes_a_read_before_it_pauses)
{
    static const uint8_t code[] = {0xe5, PORT,  /* in ax, PORT */
                                   0xeb, 0xfc}; /* jmp to the start */
    struct rig rig;
    create(&rig, code, sizeof(code));
    MUST(vcpu_start(rig.vcpu, &err));
    for (int i = 0; i < CYCLES; i++) {
        wait_for(&rig.reads, atomic_load(&rig.reads) + 1);
        struct kvm_regs regs = paused_regs(&rig);
        cr_assert_eq(regs.rax & 0xffff, atomic_load(&rig.reads) & 0xffff, "at 0x%llx", regs.rip);
        vcpu_resume(rig.vcpu);
    }
    destroy(&rig);
}

Test(vcpu, a_device_may_pause_the_vcpu_that_calls_it)
{
    static const uint8_t code[] = {0xe6, PORT, 0xeb, 0xfc}; /* out PORT, al; jmp to the start */
    struct rig rig;
    create(&rig, code, sizeof(code));
    rig.pause_on_write = rig.vcpu;
    MUST(vcpu_start(rig.vcpu, &err));
    for (unsigned i = 1; i <= CYCLES; i++) {
        wait_for(&rig.writes, i);
        vcpu_wait_paused(rig.vcpu);
        cr_assert_eq(atomic_load(&rig.writes), i, "the guest went on after the pause");
        vcpu_resume(rig.vcpu);
    }
    destroy(&rig);
}

Test(vcpu, can_be_paused_before_it_starts)
{
    static const uint8_t code[] = {0xe6, PORT, 0xeb, 0xfc};
    struct rig rig;
    create(&rig, code, sizeof(code));
    vcpu_request_pause(rig.vcpu);
    MUST(vcpu_start(rig.vcpu, &err));
    vcpu_wait_paused(rig.vcpu);
    cr_assert_eq(atomic_load(&rig.writes), 0);
    vcpu_resume(rig.vcpu);
    wait_for(&rig.writes, 1);
    destroy(&rig);
}

Test(vcpu, stops_wherever_it_is)
{
    static const uint8_t spin[] = {0xeb, 0xfe}; /* jmp to itself: never exits by itself */
    for (int i = 0; i < 20; i++) {
        struct rig rig;
        create(&rig, spin, sizeof(spin));
        MUST(vcpu_start(rig.vcpu, &err));
        destroy(&rig);
    }
}

Test(vcpu, reports_once_that_kvm_gave_up)
{
    static const uint8_t code[] = {0xe6, PORT,
                                   0xf4}; /* out PORT, al; hlt, which exits without interrupt controllers */
    struct rig rig;
    create(&rig, code, sizeof(code));
    MUST(vcpu_start(rig.vcpu, &err));
    while (atomic_load(&rig.failures) == 0) {
    }
    vcpu_request_pause(rig.vcpu);
    vcpu_wait_paused(rig.vcpu);
    cr_assert_eq(vcpu_run_area(rig.vcpu)->exit_reason, KVM_EXIT_HLT);
    cr_assert_eq(atomic_load(&rig.writes), 1);
    destroy(&rig);
    cr_assert_eq(atomic_load(&rig.failures), 1);
}

/* inc word [COUNTER]; jmp to the start: never exits by itself. */
static const uint8_t count_code[] = {0xff, 0x06, COUNTER & 0xff, COUNTER >> 8, 0xeb, 0xfa};

static uint16_t counter(struct rig *rig)
{
    uint16_t value;
    cr_assert_eq(address_space_read(rig->memory_space, COUNTER, &value, sizeof(value)), 0);
    return value;
}

static void wait_for_count(struct rig *rig)
{
    uint16_t before = counter(rig);
    while (counter(rig) == before) {
    }
}

Test(vcpu, stays_out_of_the_guest_while_the_gate_is_closed)
{
    struct rig rig;
    create(&rig, count_code, sizeof(count_code));
    MUST(vcpu_start(rig.vcpu, &err));
    for (int i = 0; i < CYCLES; i++) {
        wait_for_count(&rig);
        vcpu_gate_stop(&rig.vm.gate);
        uint16_t stopped = counter(&rig);
        for (int j = 0; j < 1000; j++)
            cr_assert_eq(counter(&rig), stopped);
        vcpu_gate_resume(&rig.vm.gate);
    }
    destroy(&rig);
    cr_assert_eq(atomic_load(&rig.failures), 0);
}

static void *pause_again_and_again(void *opaque)
{
    struct rig *rig = opaque;
    for (int i = 0; i < CYCLES; i++) {
        struct kvm_regs regs = paused_regs(rig);
        for (int j = 0; j < 100; j++)
            cr_assert_eq(paused_regs(rig).rip, regs.rip);
        vcpu_resume(rig->vcpu);
    }
    return NULL;
}

Test(vcpu, pauses_and_stops_do_not_take_each_others_kicks)
{
    struct rig rig;
    pthread_t pauser;
    create(&rig, count_code, sizeof(count_code));
    MUST(vcpu_start(rig.vcpu, &err));
    cr_assert_eq(pthread_create(&pauser, NULL, pause_again_and_again, &rig), 0);
    for (int i = 0; i < CYCLES * 10; i++) {
        vcpu_gate_stop(&rig.vm.gate);
        uint16_t stopped = counter(&rig);
        cr_assert_eq(counter(&rig), stopped);
        vcpu_gate_resume(&rig.vm.gate);
    }
    pthread_join(pauser, NULL);
    wait_for_count(&rig);
    destroy(&rig);
}
