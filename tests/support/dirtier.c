#include "tests/support/dirtier.h"

#include <inttypes.h>
#include <stdio.h>
#include <time.h>

#include "memory/dirty.h"
#include "tests/support/guest_vm.h"

static struct dirtier_control *control_of(const struct guest_vm *vm)
{
    return guest_vm_at(vm, GUEST_VM_CONTROL);
}

int dirtier_boot(struct guest_vm *vm, enum dirty_log_choice dirty_log, struct error *err)
{
    char arguments[64];
    snprintf(arguments, sizeof(arguments), "control=%#x high=%" PRIu64, GUEST_VM_CONTROL,
             (uint64_t)vm->ram_high.state.size);
    return guest_vm_boot(vm, dirty_log, GUEST_FOLDER "/dirtier", arguments, err);
}

static void give_order(struct guest_vm *vm)
{
    struct dirtier_control *control = control_of(vm);
    __atomic_add_fetch(&control->order, 1, __ATOMIC_SEQ_CST);
    dirty_mark(vm->ram, GUEST_VM_CONTROL, sizeof(*control));
}

void dirtier_order(struct guest_vm *vm, uint64_t area, uint64_t pages, uint64_t count)
{
    struct dirtier_control *control = control_of(vm);
    control->area = area;
    control->pages = pages;
    control->count = count;
    give_order(vm);
}

static bool runs(const struct guest_vm *vm)
{
    return atomic_load(&vm->status) == GUEST_VM_RUNNING;
}

/* The guest tells nobody that it is done, so that it need not leave its loop; it has one processor, we leave
 * it alone meanwhile. */
static void doze(void)
{
    nanosleep(&(struct timespec){.tv_nsec = 20000}, NULL);
}

bool dirtier_wait(struct guest_vm *vm)
{
    struct dirtier_control *control = control_of(vm);
    while (__atomic_load_n(&control->obeyed, __ATOMIC_SEQ_CST) != control->order) {
        if (!runs(vm))
            return false;
        doze();
    }
    return true;
}

bool dirtier_stop(struct guest_vm *vm)
{
    const struct dirtier_control *control = control_of(vm);
    dirtier_order(vm, control->area, control->pages, 0);
    return dirtier_wait(vm);
}

uint64_t dirtier_written(const struct guest_vm *vm)
{
    return __atomic_load_n(&control_of(vm)->written, __ATOMIC_SEQ_CST);
}

int dirtier_quit(struct guest_vm *vm)
{
    control_of(vm)->quit = 1;
    give_order(vm);
    while (runs(vm))
        doze();
    return atomic_load(&vm->status);
}
