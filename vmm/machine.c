#include "vmm/machine.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/error.h"
#include "base/event_loop.h"
#include "base/log.h"
#include "vmm/config.h"
#include "vmm/kvm.h"
#include "vmm/kvm_caps.h"
#include "vmm/vcpu.h"
#include "vmm/x86/board.h"
#include "vmm/x86/boot.h"
#include "vmm/x86/cpuid.h"
#include "vmm/x86/crash_report.h"
#include "vmm/x86/vcpu_setup.h"

struct machine {
    struct machine_config config;
    struct kvm_vm vm;
    bool has_vm;
    struct board *board;
    struct vcpu *vcpus[CONFIG_CPUS_MAX];
    unsigned vcpu_count;
    pthread_mutex_t lock;
    bool ended; /* guarded by `lock`, as are the next two */
    struct machine_end end;
    struct crash_info crash;
};

static void vcpu_failed(void *opaque, struct vcpu *vcpu, int error)
{
    struct machine *machine = opaque;
    struct crash_info crash;
    crash_info_collect(&crash, vcpu, error);
    pthread_mutex_lock(&machine->lock);
    if (!machine->ended)
        machine->crash = crash;
    pthread_mutex_unlock(&machine->lock);
    machine_end(machine, MACHINE_CRASHED, 0);
}

static int create_vcpu(struct machine *machine, const struct kvm_cpuid2 *supported,
                       const struct cpuid_options *options, const struct boot_entry *entry, struct error *err)
{
    struct vcpu_config config = {
        .vm = &machine->vm,
        .memory = board_memory(machine->board),
        .io = board_io(machine->board),
        .index = machine->vcpu_count,
        .reaper = board_dirty_reaper(machine->board),
        .failed = vcpu_failed,
        .opaque = machine,
    };
    struct vcpu *vcpu;
    int result = vcpu_create(&config, &vcpu, err);
    if (result < 0)
        return result;
    machine->vcpus[machine->vcpu_count++] = vcpu;
    return vcpu_setup(vcpu, supported, options, config.index == 0 ? entry : NULL, err);
}

static int create_vcpus(struct machine *machine, const struct boot_entry *entry, struct error *err)
{
    struct cpuid_options options = {
        .cpus = machine->config.config->cpus,
        .tsc_deadline = kvm_capability_value(machine->vm.kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER) > 0,
    };
    cpuid_host_brand(options.brand);
    int most = kvm_capability_value(machine->vm.vm_fd, KVM_CAP_MAX_VCPUS);
    if (most > 0 && options.cpus > (unsigned)most)
        return error_set(err, EINVAL,
                         "%u CPUs are more than the %d that this host's KVM can give: use --cpus %d or less",
                         options.cpus, most, most);
    struct kvm_cpuid2 *supported;
    int result = vcpu_supported_cpuid(machine->vm.kvm_fd, &supported, err);
    if (result < 0)
        return result;
    while (result == 0 && machine->vcpu_count < options.cpus)
        result = create_vcpu(machine, supported, &options, entry, err);
    free(supported);
    return result;
}

static int build(struct machine *machine, struct error *err)
{
    int result = kvm_vm_create(&machine->vm, machine->config.config->dirty_log, err);
    if (result < 0)
        return result;
    machine->has_vm = true;
    result = board_create(&machine->config, &machine->vm, machine, &machine->board, err);
    if (result < 0 || !machine->config.config->kernel)
        return result;
    struct boot_entry entry;
    result = board_load(machine->board, &entry, err);
    if (result == 0)
        result = create_vcpus(machine, &entry, err);
    if (result == 0)
        log_write(machine->config.log, LOG_DEBUG, "kernel enters by the %s protocol at 0x%llx",
                  entry.protocol, (unsigned long long)entry.rip);
    return result;
}

int machine_create(const struct machine_config *config, struct machine **out, struct error *err)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    if (!machine)
        return error_set(err, ENOMEM, "not enough memory for a machine");
    machine->config = *config;
    pthread_mutex_init(&machine->lock, NULL);
    int result = build(machine, err);
    if (result < 0) {
        machine_destroy(machine);
        return result;
    }
    *out = machine;
    return 0;
}

void machine_destroy(struct machine *machine)
{
    if (!machine)
        return;
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_destroy(machine->vcpus[i]);
    board_destroy(machine->board);
    if (machine->has_vm)
        kvm_vm_destroy(&machine->vm);
    pthread_mutex_destroy(&machine->lock);
    free(machine);
}

void machine_end(struct machine *machine, enum machine_outcome outcome, int status)
{
    pthread_mutex_lock(&machine->lock);
    bool first = !machine->ended;
    if (first) {
        machine->ended = true;
        machine->end = (struct machine_end){outcome, status};
    }
    pthread_mutex_unlock(&machine->lock);
    if (!first)
        return;
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_request_pause(machine->vcpus[i]);
    board_release_vcpus(machine->board);
    event_loop_quit(machine->config.loop);
}

static void report_exits(const struct machine *machine)
{
    struct log log = log_with_level(machine->config.log, LOG_INFO);
    for (unsigned i = 0; i < machine->vcpu_count; i++) {
        const struct vcpu_exits *exits = vcpu_exits(machine->vcpus[i]);
        log_write(&log, LOG_INFO,
                  "vcpu%u left the guest: %" PRIu64 " for ports, %" PRIu64 " for mmio, %" PRIu64
                  " for full dirty rings, %" PRIu64 " interrupted, %" PRIu64 " for other reasons",
                  i, exits->ports, exits->mmio, exits->dirty_ring, exits->interrupted, exits->other);
    }
}

int machine_run(struct machine *machine, struct machine_end *end, struct error *err)
{
    int result = 0;
    unsigned started = 0;
    while (result == 0 && started < machine->vcpu_count)
        result = vcpu_start(machine->vcpus[started++], err);
    if (result == 0) {
        result = event_loop_run(machine->config.loop);
        if (result < 0)
            error_set_errno(err, -result, "the event loop failed");
    }
    machine_end(machine, MACHINE_FAILED, 0);
    for (unsigned i = 0; i < machine->vcpu_count; i++)
        vcpu_wait_paused(machine->vcpus[i]);
    if (machine->config.config->trace_exits)
        report_exits(machine);
    *end = machine->end;
    return result;
}

void machine_flush(struct machine *machine, int interrupt)
{
    board_flush(machine->board, interrupt);
}

void machine_press_power_button(struct machine *machine)
{
    board_press_power_button(machine->board);
}

void machine_report_crash(const struct machine *machine, FILE *out)
{
    crash_report_write(&machine->crash, board_memory(machine->board), out);
}

void machine_print_memory(const struct machine *machine, FILE *out)
{
    board_print_memory(machine->board, out);
}

int machine_write_device_tree(const struct machine *machine, const char *path, struct error *err)
{
    size_t size;
    const char *data = board_device_tree(machine->board, &size);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set_errno(err, errno, "cannot write the device tree to %s", path);
    int result = 0;
    while (result == 0 && size > 0) {
        ssize_t written = write(fd, data, size);
        if (written < 0) {
            result = error_set_errno(err, errno, "cannot write the device tree to %s", path);
        } else {
            data += written;
            size -= (size_t)written;
        }
    }
    if (close(fd) < 0 && result == 0)
        result = error_set_errno(err, errno, "cannot write the device tree to %s", path);
    return result;
}
