#include "guest/lib/interrupt.h"

#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/kernel.h"
#include "guest/lib/layout.h"

#define FLAG_INTERRUPTS 0x200

extern char kernel_gate[], kernel_gate_end[];
extern char idle_halt[], idle_halt_end[]; /* the HLT of interrupt_wait() */
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

static void kernel_call(struct interrupt_frame *frame)
{
    frame->rip = (uint64_t)kernel_gate_end;
    frame->rax = ((kernel_function *)frame->rdi)(frame->rsi, frame);
}

/*
 * Nothing interrupts a CPU between STI and HLT, unless an emulator forgets so, as QEMU 7.2 now and then does
 * where an emulated hypervisor's guest is left just there. What HLT would wait for has come then.
 */
static void pass_halt(struct interrupt_frame *frame)
{
    if (frame->rip == (uint64_t)idle_halt)
        frame->rip = (uint64_t)idle_halt_end;
}

void interrupt_dispatch(struct interrupt_frame *frame);
void interrupt_dispatch(struct interrupt_frame *frame)
{
    pass_halt(frame);
    if (frame->vector == VECTOR_UNDEFINED_OPCODE && frame->rip == (uint64_t)kernel_gate)
        kernel_call(frame);
    else if (handlers[frame->vector])
        handlers[frame->vector](frame);
    else
        unexpected(frame);
}

static uint64_t set_interrupt_flag(uint64_t on, struct interrupt_frame *caller)
{
    caller->rflags = on ? caller->rflags | FLAG_INTERRUPTS : caller->rflags & ~(uint64_t)FLAG_INTERRUPTS;
    return 0;
}

/* Not by STI and CLI: not every KVM honours IOPL 3. */
void interrupts_on(void)
{
    in_kernel(set_interrupt_flag, 1);
}

void interrupts_off(void)
{
    in_kernel(set_interrupt_flag, 0);
}

static __attribute__((noinline)) uint64_t wait(uint64_t argument, struct interrupt_frame *caller)
{
    __asm__ volatile("sti\n idle_halt: hlt\n idle_halt_end: cli" : : : "memory");
    return 0;
}

void interrupt_wait(void)
{
    in_kernel(wait, 0);
}
