#include "lib/interrupt.h"

#include "lib/console.h"
#include "lib/exit.h"
#include "lib/kernel.h"

static interrupt_handler *handlers[256];

void interrupt_set(uint8_t vector, interrupt_handler *handler)
{
    handlers[vector] = handler;
}

static void unexpected(const struct interrupt_frame *frame)
{
    uint64_t address;

    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    console_unlock();
    print("guest: unexpected vector %lu, error %lx, at %lx:%lx, rsp %lx, flags %lx, cr2 %lx\n", frame->vector,
          frame->error, frame->cs, frame->rip, frame->rsp, frame->rflags, address);
    guest_exit(EXIT_EXCEPTION);
}

void interrupt_dispatch(struct interrupt_frame *frame);
void interrupt_dispatch(struct interrupt_frame *frame)
{
    if (frame->vector == VECTOR_KERNEL_CALL)
        frame->rax = ((kernel_function *)frame->rdi)(frame->rsi);
    else if (handlers[frame->vector])
        handlers[frame->vector](frame);
    else
        unexpected(frame);
}

static uint64_t wait(uint64_t argument)
{
    (void)argument;
    __asm__ volatile("sti; hlt; cli" : : : "memory");
    return 0;
}

void interrupt_wait(void)
{
    in_kernel(wait, 0);
}
