#include "vmm/dirty_log.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/error.h"
#include "base/macros.h"
#include "vmm/kvm_caps.h"

/* 64 Ki pages of 4 KiB: a guest that writes 1 GiB a second fills it four times in between. */
#define RING_ENTRIES_MAX 65536u

static const struct {
    const char *name;
    const char *requirement; /* for who asked for a mode that is not there */
} modes[] = {
    [KVM_DIRTY_GET] = {"get", "KVM_CAP_USER_MEMORY"},
    [KVM_DIRTY_CLEAR] = {"clear", "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, Linux 5.2"},
    [KVM_DIRTY_RING] = {"ring", "KVM_CAP_DIRTY_LOG_RING, Linux 5.11"},
};

const char *dirty_log_mode_name(enum kvm_dirty_mode mode)
{
    return modes[mode].name;
}

static enum kvm_dirty_mode mode_of(enum dirty_log_choice choice)
{
    return (enum kvm_dirty_mode)(choice - DIRTY_LOG_GET);
}

int dirty_log_parse(const char *name, enum dirty_log_choice *choice)
{
    *choice = DIRTY_LOG_AUTO;
    if (strcmp(name, "auto") == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(modes); i++) {
        *choice = (enum dirty_log_choice)(DIRTY_LOG_GET + i);
        if (strcmp(name, modes[i].name) == 0)
            return 0;
    }
    return -EINVAL;
}

/* The best of both capabilities of the ring; 0 where there is none. */
static int ring_capability(int fd)
{
    if (kvm_capability_value(fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
        return KVM_CAP_DIRTY_LOG_RING_ACQ_REL;
    return kvm_capability_value(fd, KVM_CAP_DIRTY_LOG_RING) ? KVM_CAP_DIRTY_LOG_RING : 0;
}

static int manual_protect(int fd)
{
    return kvm_capability_value(fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
}

bool dirty_log_has_mode(int fd, enum kvm_dirty_mode mode)
{
    switch (mode) {
    case KVM_DIRTY_CLEAR:
        return manual_protect(fd) & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    case KVM_DIRTY_RING:
        return ring_capability(fd) != 0;
    default:
        return true;
    }
}

enum kvm_dirty_mode dirty_log_default(int fd)
{
    return dirty_log_has_mode(fd, KVM_DIRTY_CLEAR) ? KVM_DIRTY_CLEAR : KVM_DIRTY_GET;
}

static int enable(int vm_fd, int capability, uint64_t value, struct error *err)
{
    struct kvm_enable_cap request = {.cap = (uint32_t)capability, .args = {value}};
    if (ioctl(vm_fd, KVM_ENABLE_CAP, &request) == 0)
        return 0;
    return error_set_errno(err, errno, "KVM refuses the dirty log that it has: use another --dirty-log");
}

static int enable_clear(int vm_fd, struct dirty_log *log, struct error *err)
{
    uint64_t flags = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE;
    log->initially_set = manual_protect(vm_fd) & KVM_DIRTY_LOG_INITIALLY_SET;
    if (log->initially_set)
        flags |= KVM_DIRTY_LOG_INITIALLY_SET;
    return enable(vm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags, err);
}

static int enable_ring(int vm_fd, struct dirty_log *log, struct error *err)
{
    log->ring_capability = ring_capability(vm_fd);
    unsigned most = (unsigned)kvm_capability_value(vm_fd, log->ring_capability);
    unsigned size = RING_ENTRIES_MAX * sizeof(struct kvm_dirty_gfn);
    while (size > most)
        size /= 2;
    log->ring_entries = size / sizeof(struct kvm_dirty_gfn);
    int result = enable(vm_fd, log->ring_capability, size, err);
    if (result == 0 && kvm_capability_value(vm_fd, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP)) {
        log->ring_with_bitmap = true;
        result = enable(vm_fd, KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP, 0, err);
    }
    return result;
}

int dirty_log_enable(int vm_fd, enum dirty_log_choice choice, struct dirty_log *log, struct error *err)
{
    *log = (struct dirty_log){.mode = choice == DIRTY_LOG_AUTO ? dirty_log_default(vm_fd) : mode_of(choice)};
    if (!dirty_log_has_mode(vm_fd, log->mode))
        return error_set(
            err, ENOTSUP,
            "--dirty-log %s: this host's KVM cannot do that (it takes %s): use --dirty-log auto, "
            "and see 'godwit host'",
            modes[log->mode].name, modes[log->mode].requirement);
    switch (log->mode) {
    case KVM_DIRTY_CLEAR:
        return enable_clear(vm_fd, log, err);
    case KVM_DIRTY_RING:
        return enable_ring(vm_fd, log, err);
    default:
        return 0;
    }
}
