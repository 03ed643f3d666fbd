#include "vmm/vcpu.h"

#include <errno.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "memory/address_space.h"
#include "vmm/dirty_reaper.h"
#include "vmm/kvm.h"
#include "vmm/vcpu_gate.h"

enum vcpu_wish {
    VCPU_RUN,
    VCPU_PAUSE,
    VCPU_STOP,
};

struct vcpu {
    struct vcpu_config config;
    int fd;
    struct kvm_run *run;
    struct vcpu_pass pass;
    struct vcpu_exits exits; /* the thread's */
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    enum vcpu_wish wish; /* guarded by `lock`, as are the next two */
    bool paused;         /* out of the guest, and staying out until `wish` changes */
    bool in_thread;      /* `thread` can be signalled */
};

static void ignore_kick(int signal)
{
}

/*
 * Ends this and the next KVM_RUN, if there is a thread. Only park() takes it back: a kick that comes when the
 * vCPU is just outside of KVM_RUN makes it return once too often, and is never lost. With `lock` held.
 */
static void kick(struct vcpu *vcpu)
{
    __atomic_store_n(&vcpu->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    if (vcpu->in_thread && !pthread_equal(vcpu->thread, pthread_self()))
        pthread_kill(vcpu->thread, VCPU_KICK_SIGNAL);
}

static void kick_out(void *opaque)
{
    struct vcpu *vcpu = opaque;
    pthread_mutex_lock(&vcpu->lock);
    kick(vcpu);
    pthread_mutex_unlock(&vcpu->lock);
}

static int create_in_kvm(struct vcpu *vcpu, struct error *err)
{
    const struct vcpu_config *config = &vcpu->config;
    vcpu->fd = ioctl(config->vm->vm_fd, KVM_CREATE_VCPU, (unsigned long)config->index);
    if (vcpu->fd >= 0)
        vcpu->run = mmap(NULL, config->vm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu->fd, 0);
    if (vcpu->run == MAP_FAILED)
        return error_set_errno(err, errno, "KVM cannot create vCPU %u", config->index);
    kvm_vm_adopt_run_area(config->vm, vcpu->run);
    return config->reaper ? dirty_reaper_add_vcpu(config->reaper, vcpu->fd, err) : 0;
}

int vcpu_create(const struct vcpu_config *config, struct vcpu **out, struct error *err)
{
    struct vcpu *vcpu = calloc(1, sizeof(*vcpu));
    if (!vcpu)
        return error_set(err, ENOMEM, "not enough memory for vCPU %u", config->index);
    vcpu->config = *config;
    vcpu->run = MAP_FAILED;
    vcpu->paused = true;
    pthread_mutex_init(&vcpu->lock, NULL);
    pthread_cond_init(&vcpu->changed, NULL);
    vcpu->pass = (struct vcpu_pass){.kick = kick_out, .opaque = vcpu};
    vcpu_gate_add(&config->vm->gate, &vcpu->pass);
    /* Without SA_RESTART the signal interrupts KVM_RUN; without a handler it would end the process. */
    struct sigaction action = {.sa_handler = ignore_kick};
    sigaction(VCPU_KICK_SIGNAL, &action, NULL);

    int result = create_in_kvm(vcpu, err);
    if (result < 0) {
        vcpu_destroy(vcpu);
        return result;
    }
    *out = vcpu;
    return 0;
}

static void set_wish(struct vcpu *vcpu, enum vcpu_wish wish)
{
    pthread_mutex_lock(&vcpu->lock);
    /* A stop is final. */
    if (vcpu->wish != VCPU_STOP)
        vcpu->wish = wish;
    if (vcpu->wish != VCPU_RUN)
        kick(vcpu);
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_destroy(struct vcpu *vcpu)
{
    if (!vcpu)
        return;
    if (vcpu->started) {
        set_wish(vcpu, VCPU_STOP);
        pthread_join(vcpu->thread, NULL);
    }
    vcpu_gate_remove(&vcpu->config.vm->gate, &vcpu->pass);
    if (vcpu->run != MAP_FAILED)
        munmap(vcpu->run, vcpu->config.vm->run_size);
    if (vcpu->fd >= 0)
        close(vcpu->fd);
    pthread_cond_destroy(&vcpu->changed);
    pthread_mutex_destroy(&vcpu->lock);
    free(vcpu);
}

static void handle_port(struct vcpu *vcpu)
{
    const struct kvm_run *run = vcpu->run;
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT)
            address_space_write(vcpu->config.io, run->io.port, data, run->io.size);
        else
            address_space_read(vcpu->config.io, run->io.port, data, run->io.size);
    }
}

static void handle_mmio(struct vcpu *vcpu)
{
    struct kvm_run *run = vcpu->run;
    if (run->mmio.is_write)
        address_space_write(vcpu->config.memory, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
    else
        address_space_read(vcpu->config.memory, run->mmio.phys_addr, run->mmio.data, run->mmio.len);
}

/* KVM_RUN: 0 or -errno. */
static int enter_guest(struct vcpu *vcpu)
{
    struct vcpu_gate *gate = &vcpu->config.vm->gate;
    vcpu_gate_enter(gate, &vcpu->pass);
    int result = ioctl(vcpu->fd, KVM_RUN, 0) < 0 ? -errno : 0;
    vcpu_gate_leave(gate, &vcpu->pass);
    return result;
}

/* Does what the guest left for. Returns 0; 1 if KVM has given up; or -errno. */
static int handle_exit(struct vcpu *vcpu)
{
    kvm_vm_drain_coalesced(vcpu->config.vm, vcpu->config.memory, vcpu->config.io);
    switch (vcpu->run->exit_reason) {
    case KVM_EXIT_IO:
        vcpu->exits.ports++;
        handle_port(vcpu);
        return 0;
    case KVM_EXIT_MMIO:
        vcpu->exits.mmio++;
        handle_mmio(vcpu);
        return 0;
    case KVM_EXIT_DIRTY_RING_FULL:
        vcpu->exits.dirty_ring++;
        return dirty_reaper_ring_full(vcpu->config.reaper);
    default:
        vcpu->exits.other++;
        return 1;
    }
}

/* Runs the guest until the vCPU is kicked. Returns false when KVM cannot go on. */
static bool run_guest(struct vcpu *vcpu)
{
    for (;;) {
        int result = enter_guest(vcpu);
        if (result == -EINTR) {
            vcpu->exits.interrupted++;
            return true;
        }
        if (result == 0)
            result = handle_exit(vcpu);
        if (result == 0 || result == -EAGAIN)
            continue;
        vcpu->config.failed(vcpu->config.opaque, vcpu, result < 0 ? -result : 0);
        return false;
    }
}

/*
 * Waits until the vCPU is to run, and returns whether it is: false means stop. It comes here only from a
 * kick, which KVM answers after it has completed the last access: at an instruction boundary.
 */
static bool park(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    bool was_paused = vcpu->wish == VCPU_PAUSE;
    while (vcpu->wish == VCPU_PAUSE) {
        vcpu->paused = true;
        pthread_cond_broadcast(&vcpu->changed);
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    }
    bool run = vcpu->wish == VCPU_RUN;
    vcpu->paused = !run;
    if (run)
        __atomic_store_n(&vcpu->run->immediate_exit, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&vcpu->lock);
    /* Tells a guest with kvmclock that it was not its watchdog's fault; fails, harmlessly, for one without.
     */
    if (run && was_paused)
        ioctl(vcpu->fd, KVM_KVMCLOCK_CTRL, 0);
    return run;
}

static void leave_thread(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    vcpu->paused = true;
    vcpu->in_thread = false;
    pthread_cond_broadcast(&vcpu->changed);
    pthread_mutex_unlock(&vcpu->lock);
}

static void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;
    char name[16];
    snprintf(name, sizeof(name), "vcpu%u", vcpu->config.index);
    pthread_setname_np(pthread_self(), name);
    while (park(vcpu) && run_guest(vcpu)) {
    }
    leave_thread(vcpu);
    return NULL;
}

int vcpu_start(struct vcpu *vcpu, struct error *err)
{
    pthread_mutex_lock(&vcpu->lock);
    int result = pthread_create(&vcpu->thread, NULL, vcpu_thread, vcpu);
    vcpu->started = vcpu->in_thread = result == 0;
    vcpu->paused = result != 0;
    pthread_mutex_unlock(&vcpu->lock);
    if (result)
        return error_set_errno(err, result, "cannot start the thread of vCPU %u", vcpu->config.index);
    return 0;
}

void vcpu_request_pause(struct vcpu *vcpu)
{
    set_wish(vcpu, VCPU_PAUSE);
}

void vcpu_wait_paused(struct vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->lock);
    while (!vcpu->paused)
        pthread_cond_wait(&vcpu->changed, &vcpu->lock);
    pthread_mutex_unlock(&vcpu->lock);
}

void vcpu_resume(struct vcpu *vcpu)
{
    set_wish(vcpu, VCPU_RUN);
}

unsigned vcpu_index(const struct vcpu *vcpu)
{
    return vcpu->config.index;
}

const struct vcpu_exits *vcpu_exits(const struct vcpu *vcpu)
{
    return &vcpu->exits;
}

int vcpu_fd(const struct vcpu *vcpu)
{
    return vcpu->fd;
}

const struct kvm_run *vcpu_run_area(const struct vcpu *vcpu)
{
    return vcpu->run;
}
