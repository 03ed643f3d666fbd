/*
 * The gate against threads that stand in for vCPUs: their "guest" is a loop that ends when it is kicked, so
 * a kick that is lost hangs the test. What must hold: while somebody keeps the gate closed nobody is inside.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>

#include "vmm/vcpu_gate.h"

#define VCPUS    3
#define STOPPERS 2
#define ROUNDS   2000

struct rig;

struct fake_vcpu {
    struct rig *rig;
    struct vcpu_pass pass;
    atomic_bool kicked;
    atomic_uint entries;
    pthread_t thread;
};

struct rig {
    struct vcpu_gate gate;
    struct fake_vcpu vcpus[VCPUS];
    atomic_int inside;
    atomic_bool ended;
    void (*at_exit)(struct fake_vcpu *vcpu); /* what its device does */
};

static void kick(void *opaque)
{
    struct fake_vcpu *vcpu = opaque;
    atomic_store(&vcpu->kicked, true);
}

static void *run(void *opaque)
{
    struct fake_vcpu *vcpu = opaque;
    struct rig *rig = vcpu->rig;
    while (!atomic_load(&rig->ended)) {
        vcpu_gate_enter(&rig->gate, &vcpu->pass);
        atomic_fetch_add(&rig->inside, 1);
        atomic_fetch_add(&vcpu->entries, 1);
        /* Nothing but a kick, or an exit of its own now and then, ends it. */
        while (!atomic_load(&vcpu->kicked) && !atomic_load(&rig->ended) && !rig->at_exit)
            sched_yield();
        atomic_fetch_sub(&rig->inside, 1);
        vcpu_gate_leave(&rig->gate, &vcpu->pass);
        atomic_store(&vcpu->kicked, false);
        if (rig->at_exit)
            rig->at_exit(vcpu);
    }
    return NULL;
}

static void start(struct rig *rig)
{
    vcpu_gate_init(&rig->gate);
    for (int i = 0; i < VCPUS; i++) {
        struct fake_vcpu *vcpu = &rig->vcpus[i];
        vcpu->rig = rig;
        vcpu->pass = (struct vcpu_pass){.kick = kick, .opaque = vcpu};
        vcpu_gate_add(&rig->gate, &vcpu->pass);
        cr_assert_eq(pthread_create(&vcpu->thread, NULL, run, vcpu), 0);
    }
}

static void end(struct rig *rig)
{
    atomic_store(&rig->ended, true);
    for (int i = 0; i < VCPUS; i++) {
        pthread_join(rig->vcpus[i].thread, NULL);
        vcpu_gate_remove(&rig->gate, &rig->vcpus[i].pass);
    }
    vcpu_gate_destroy(&rig->gate);
}

static void *stop_again_and_again(void *opaque)
{
    struct rig *rig = opaque;
    for (int i = 0; i < ROUNDS; i++) {
        vcpu_gate_stop(&rig->gate);
        int inside = atomic_load(&rig->inside);
        if (inside != 0)
            return (void *)(intptr_t)inside;
        vcpu_gate_resume(&rig->gate);
    }
    return NULL;
}

Test(vcpu_gate, keeps_every_vcpu_out)
{
    static struct rig rig;
    start(&rig);
    cr_assert_null(stop_again_and_again(&rig));
    end(&rig);
}

Test(vcpu_gate, several_may_close_it)
{
    static struct rig rig;
    pthread_t stoppers[STOPPERS];
    start(&rig);
    for (int i = 0; i < STOPPERS; i++)
        cr_assert_eq(pthread_create(&stoppers[i], NULL, stop_again_and_again, &rig), 0);
    for (int i = 0; i < STOPPERS; i++) {
        void *inside;
        pthread_join(stoppers[i], &inside);
        cr_assert_null(inside);
    }
    end(&rig);
}

Test(vcpu_gate, opens_with_the_last_resume)
{
    static struct rig rig;
    vcpu_gate_init(&rig.gate);
    vcpu_gate_stop(&rig.gate);
    vcpu_gate_stop(&rig.gate);
    vcpu_gate_resume(&rig.gate);
    cr_assert_eq(rig.gate.stops, 1);
    vcpu_gate_resume(&rig.gate);
    start(&rig);
    for (int i = 0; i < VCPUS; i++)
        while (atomic_load(&rig.vcpus[i].entries) == 0)
            sched_yield();
    end(&rig);
}

Test(vcpu_gate, every_vcpu_goes_on_afterwards)
{
    static struct rig rig;
    start(&rig);
    for (int round = 0; round < 100; round++) {
        unsigned before[VCPUS];
        vcpu_gate_stop(&rig.gate);
        for (int i = 0; i < VCPUS; i++)
            before[i] = atomic_load(&rig.vcpus[i].entries);
        vcpu_gate_resume(&rig.gate);
        for (int i = 0; i < VCPUS; i++)
            while (atomic_load(&rig.vcpus[i].entries) == before[i])
                sched_yield();
    }
    end(&rig);
}

static void device_that_stops(struct fake_vcpu *vcpu)
{
    struct rig *rig = vcpu->rig;
    vcpu_gate_stop(&rig->gate);
    cr_assert_eq(atomic_load(&rig->inside), 0);
    vcpu_gate_resume(&rig->gate);
}

/* vCPUs whose devices close the gate wait neither for themselves nor for each other. */
Test(vcpu_gate, a_vcpus_own_device_may_close_it)
{
    static struct rig rig;
    rig.at_exit = device_that_stops;
    start(&rig);
    for (int i = 0; i < VCPUS; i++)
        while (atomic_load(&rig.vcpus[i].entries) < ROUNDS / 10)
            sched_yield();
    end(&rig);
}
