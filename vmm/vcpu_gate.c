#include "vmm/vcpu_gate.h"

void vcpu_gate_init(struct vcpu_gate *gate)
{
    *gate = (struct vcpu_gate){0};
    pthread_mutex_init(&gate->lock, NULL);
    pthread_cond_init(&gate->changed, NULL);
}

void vcpu_gate_destroy(struct vcpu_gate *gate)
{
    pthread_cond_destroy(&gate->changed);
    pthread_mutex_destroy(&gate->lock);
}

void vcpu_gate_add(struct vcpu_gate *gate, struct vcpu_pass *pass)
{
    pthread_mutex_lock(&gate->lock);
    pass->in_guest = false;
    pass->next = gate->passes;
    gate->passes = pass;
    pthread_mutex_unlock(&gate->lock);
}

void vcpu_gate_remove(struct vcpu_gate *gate, struct vcpu_pass *pass)
{
    pthread_mutex_lock(&gate->lock);
    struct vcpu_pass **at = &gate->passes;
    while (*at != pass)
        at = &(*at)->next;
    *at = pass->next;
    pthread_mutex_unlock(&gate->lock);
}

static bool closed(const struct vcpu_gate *gate)
{
    return __atomic_load_n(&gate->stops, __ATOMIC_SEQ_CST) > 0;
}

static bool is_in_guest(const struct vcpu_pass *pass)
{
    return __atomic_load_n(&pass->in_guest, __ATOMIC_SEQ_CST);
}

static void wait_until_open(struct vcpu_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    while (closed(gate))
        pthread_cond_wait(&gate->changed, &gate->lock);
    pthread_mutex_unlock(&gate->lock);
}

void vcpu_gate_enter(struct vcpu_gate *gate, struct vcpu_pass *pass)
{
    for (;;) {
        __atomic_store_n(&pass->in_guest, true, __ATOMIC_SEQ_CST);
        if (!closed(gate))
            return;
        vcpu_gate_leave(gate, pass);
        wait_until_open(gate);
    }
}

void vcpu_gate_leave(struct vcpu_gate *gate, struct vcpu_pass *pass)
{
    __atomic_store_n(&pass->in_guest, false, __ATOMIC_SEQ_CST);
    if (!closed(gate))
        return;
    /* The lock is for the stopper that has looked at the flag and is about to wait. */
    pthread_mutex_lock(&gate->lock);
    pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}

void vcpu_gate_stop(struct vcpu_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    __atomic_add_fetch(&gate->stops, 1, __ATOMIC_SEQ_CST);
    for (struct vcpu_pass *pass = gate->passes; pass; pass = pass->next)
        if (is_in_guest(pass))
            pass->kick(pass->opaque);
    struct vcpu_pass *pass = gate->passes;
    while (pass) {
        if (is_in_guest(pass)) {
            pthread_cond_wait(&gate->changed, &gate->lock);
            pass = gate->passes; /* it may have gone meanwhile */
        } else {
            pass = pass->next;
        }
    }
    pthread_mutex_unlock(&gate->lock);
}

void vcpu_gate_resume(struct vcpu_gate *gate)
{
    pthread_mutex_lock(&gate->lock);
    if (__atomic_sub_fetch(&gate->stops, 1, __ATOMIC_SEQ_CST) == 0)
        pthread_cond_broadcast(&gate->changed);
    pthread_mutex_unlock(&gate->lock);
}
