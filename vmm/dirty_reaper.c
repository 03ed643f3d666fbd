#include "vmm/dirty_reaper.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "base/error.h"
#include "memory/kvm_listener.h"
#include "vmm/kvm.h"

#define PERIOD_NS   50000000
#define QUIET_TURNS 20 /* without a page, before the thread sleeps */
#define SECOND_NS   1000000000

struct dirty_reaper {
    struct kvm_vm *vm;
    struct kvm_listener *listener;
    pthread_t thread;
    bool started;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned turns; /* until the thread sleeps; guarded by `lock` */
    bool ended;     /* guarded by `lock` */
};

static void reset_turns(struct dirty_reaper *reaper)
{
    pthread_mutex_lock(&reaper->lock);
    if (reaper->turns == 0)
        pthread_cond_signal(&reaper->changed);
    reaper->turns = QUIET_TURNS;
    pthread_mutex_unlock(&reaper->lock);
}

/* Waits for one period, or for as long as there is nothing to do. Returns whether to go on. */
static bool next_turn(struct dirty_reaper *reaper)
{
    pthread_mutex_lock(&reaper->lock);
    while (reaper->turns == 0 && !reaper->ended)
        pthread_cond_wait(&reaper->changed, &reaper->lock);
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += PERIOD_NS;
    until.tv_sec += until.tv_nsec / SECOND_NS;
    until.tv_nsec %= SECOND_NS;
    int result = 0;
    while (!reaper->ended && result == 0)
        result = pthread_cond_timedwait(&reaper->changed, &reaper->lock, &until);
    if (reaper->turns > 0)
        reaper->turns--;
    bool goes_on = !reaper->ended;
    pthread_mutex_unlock(&reaper->lock);
    return goes_on;
}

/* An error is left to the vCPU whose ring will be full. */
static void *reaper_thread(void *opaque)
{
    struct dirty_reaper *reaper = opaque;
    pthread_setname_np(pthread_self(), "dirty-reaper");
    while (next_turn(reaper))
        if (kvm_listener_reap(reaper->listener, NULL) > 0)
            reset_turns(reaper);
    return NULL;
}

/* Signals are for other threads. */
static int start_thread(struct dirty_reaper *reaper)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int result = pthread_create(&reaper->thread, NULL, reaper_thread, reaper);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    reaper->started = result == 0;
    return result;
}

int dirty_reaper_create(struct kvm_vm *vm, struct kvm_listener *listener, struct dirty_reaper **out,
                        struct error *err)
{
    struct dirty_reaper *reaper = calloc(1, sizeof(*reaper));
    if (!reaper)
        return error_set(err, ENOMEM, "not enough memory for the reaper of dirty rings");
    reaper->vm = vm;
    reaper->listener = listener;
    pthread_mutex_init(&reaper->lock, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&reaper->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int result = start_thread(reaper);
    if (result) {
        dirty_reaper_destroy(reaper);
        return error_set_errno(err, result, "cannot start the reaper of dirty rings");
    }
    *out = reaper;
    return 0;
}

void dirty_reaper_destroy(struct dirty_reaper *reaper)
{
    if (!reaper)
        return;
    pthread_mutex_lock(&reaper->lock);
    reaper->ended = true;
    pthread_cond_signal(&reaper->changed);
    pthread_mutex_unlock(&reaper->lock);
    if (reaper->started)
        pthread_join(reaper->thread, NULL);
    pthread_cond_destroy(&reaper->changed);
    pthread_mutex_destroy(&reaper->lock);
    free(reaper);
}

int dirty_reaper_add_vcpu(struct dirty_reaper *reaper, int vcpu_fd, struct error *err)
{
    struct kvm_dirty_gfn *ring;
    int result = kvm_vm_map_dirty_ring(reaper->vm, vcpu_fd, &ring, err);
    return result < 0
               ? result
               : kvm_listener_add_ring(reaper->listener, ring, reaper->vm->dirty_log.ring_entries, err);
}

int dirty_reaper_ring_full(struct dirty_reaper *reaper)
{
    int result = kvm_listener_reap(reaper->listener, NULL);
    reset_turns(reaper);
    return result < 0 ? result : 0;
}
