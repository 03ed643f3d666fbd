/*
 * The KVM capabilities that godwit uses: one table, read by `godwit host` to report them and by the machine's
 * start-up to refuse a host that lacks a required one.
 */
#pragma once

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>

#ifndef KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP
#define KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP 225 /* since Linux 6.2 */
#endif

struct error;

struct kvm_capability {
    const char *name;
    const char *purpose; /* completes "NAME is for …" */
    int number;          /* KVM_CAP_* */
    bool required;
};

extern const struct kvm_capability kvm_capabilities[];
extern const size_t kvm_capability_count;

/* What KVM_CHECK_EXTENSION says of capability `number` on the descriptor of /dev/kvm or of a VM; 0 where
 * that fails. */
int kvm_capability_value(int fd, int number);

/* Whether every required capability is there: 0, or -ENOTSUP with a message that names those missing. */
int kvm_check_required(int kvm_fd, struct error *err);
