/*
 * Interrupts and exceptions. Each CPU shares one IDT; a vector without a handler ends the guest with a line
 * that names it and exit status EXIT_EXCEPTION. Handlers run at CPL 0 with interrupts off: keep them short.
 */
#pragma once

#include <stdint.h>

struct interrupt_frame {
    uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rdi, rsi, rbp, rbx, rdx, rcx, rax;
    uint64_t vector;
    uint64_t error;
    uint64_t rip, cs, rflags, rsp, ss;
};

typedef void interrupt_handler(struct interrupt_frame *frame);

/* Sets the handler of a vector; NULL removes it. */
void interrupt_set(uint8_t vector, interrupt_handler *handler);

/* Turn interrupts on and off on this CPU. */
void interrupts_on(void);
void interrupts_off(void);

/*
 * Waits with HLT for one interrupt: turns interrupts on for the wait and off again behind it, so that an
 * interrupt which comes between the caller's check and the wait ends the wait.
 */
void interrupt_wait(void);
