/*
 * How KVM tells which pages of guest RAM have been written: the modes of memory/kvm_listener.h, which of them
 * a host has, and which one is taken where nobody says. docs/memory.md has the figures behind that choice.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "memory/kvm_listener.h"

struct error;

enum dirty_log_choice {
    DIRTY_LOG_AUTO,
    DIRTY_LOG_GET,
    DIRTY_LOG_CLEAR,
    DIRTY_LOG_RING,
};

struct dirty_log {
    enum kvm_dirty_mode mode;
    bool initially_set;    /* mode clear */
    int ring_capability;   /* mode ring: the capability that it is switched on by; the next two as well */
    uint32_t ring_entries; /* of each vCPU */
    bool ring_with_bitmap;
};

/* "get", "clear", "ring". */
const char *dirty_log_mode_name(enum kvm_dirty_mode mode);

/* The choice called `name` ("auto" or a mode's name) in `*choice`, or -EINVAL. */
int dirty_log_parse(const char *name, enum dirty_log_choice *choice);

/* Whether KVM (`fd` is that of /dev/kvm or of a VM) has `mode`. */
bool dirty_log_has_mode(int fd, enum kvm_dirty_mode mode);

/* The mode that DIRTY_LOG_AUTO means for this KVM. */
enum kvm_dirty_mode dirty_log_default(int fd);

/*
 * Switches `choice` on for a VM that has neither vCPUs nor slots, and fills `log`. -ENOTSUP for a mode that
 * KVM has not, or KVM's -errno; the message names the option and the remedy.
 */
int dirty_log_enable(int vm_fd, enum dirty_log_choice choice, struct dirty_log *log, struct error *err);
