/*
 * The gate through which vCPUs enter the guest: it keeps all vCPUs of a VM out of KVM_RUN for a moment, while
 * memory slots are exchanged or what KVM knows of dirty pages is collected.
 *
 * Out of the guest is not paused. A vCPU whose thread is in godwit counts as out wherever it is: in the
 * device callback that made the very change, or waiting for the lock that the stopping thread holds. So
 * stopping waits for nothing but KVM_RUN's return, and cannot deadlock; and a vCPU that is out may have a
 * half-done access, which a paused one has not.
 *
 * Entering and stopping are a handshake without a lock, as Dekker's: each side sets its own flag, then looks
 * at the other's, all sequentially consistent, so one of both sees the other. A vCPU that sees a stop goes
 * back; a stopper that sees a vCPU in the guest kicks it and waits. The vCPU's kick must make the next
 * KVM_RUN return at once if it comes just before it (immediate_exit), and must not be taken back by anybody
 * but the vCPU's own thread.
 */
#pragma once

#include <pthread.h>
#include <stdbool.h>

/* A vCPU's pass through the gate. Embedded in its owner, who sets the first two fields. */
struct vcpu_pass {
    /*
     * Takes the vCPU out of KVM_RUN, now or, if it has not quite begun, as it begins. Called by stopping
     * threads with the gate's lock held, until the pass is removed; too often, never too seldom.
     */
    void (*kick)(void *opaque);
    void *opaque;

    bool in_guest; /* private from here on; atomic */
    struct vcpu_pass *next;
};

struct vcpu_gate {
    unsigned stops; /* how many keep it closed; atomic */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct vcpu_pass *passes; /* guarded by `lock` */
};

void vcpu_gate_init(struct vcpu_gate *gate);

/* All passes must be removed. */
void vcpu_gate_destroy(struct vcpu_gate *gate);

/* Any thread, also while the gate is closed. */
void vcpu_gate_add(struct vcpu_gate *gate, struct vcpu_pass *pass);

/* The vCPU is out, and enters no more. */
void vcpu_gate_remove(struct vcpu_gate *gate, struct vcpu_pass *pass);

/* Just before KVM_RUN, on the vCPU's thread: waits while the gate is closed. */
void vcpu_gate_enter(struct vcpu_gate *gate, struct vcpu_pass *pass);

/* Just after KVM_RUN. */
void vcpu_gate_leave(struct vcpu_gate *gate, struct vcpu_pass *pass);

/*
 * Closes the gate and waits until every vCPU is out. Any thread that is not between enter and leave. Several
 * may keep the gate closed at a time, and one thread several times: it opens with the last
 * vcpu_gate_resume().
 */
void vcpu_gate_stop(struct vcpu_gate *gate);
void vcpu_gate_resume(struct vcpu_gate *gate);
