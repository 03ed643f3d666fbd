/* crash: does what KVM gives up on. */
#include <stdint.h>

#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/kernel.h"

/* Where an x86 machine has neither RAM nor a device. */
#define NOWHERE        0xfed90000

/* A code segment that is both 64-bit (L) and 32-bit (D). */
#define CODE_64_AND_32 0x00ef9b000000ffff

/* An instruction that KVM does not emulate, on memory that needs emulation. */
static uint64_t emulate(uint64_t argument, struct interrupt_frame *caller)
{
    __asm__ volatile("fldl %0" : : "m"(*(volatile double *)NOWHERE));
    return 0;
}

static uint64_t fetch(uint64_t argument, struct interrupt_frame *caller)
{
    __asm__ volatile("jmp *%0" : : "r"((uint64_t)NOWHERE));
    __builtin_unreachable();
}

/* An instruction that a KVM which interprets kernel mode does not know. */
static uint64_t popcnt(uint64_t argument, struct interrupt_frame *caller)
{
    uint64_t ones;

    __asm__ volatile("popcnt %1, %0" : "=r"(ones) : "r"(argument) : "cc");
    return ones;
}

/* Loads CS with a descriptor that the manuals forbid: the CPU refuses it at once, or the next entry fails. */
static uint64_t invalid_state(uint64_t argument, struct interrupt_frame *caller)
{
    static uint64_t gdt[] = {0, CODE_64_AND_32};
    struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) pointer = {sizeof(gdt) - 1, (uint64_t)gdt};

    __asm__ volatile("lgdt %0; pushq $8; lea 1f(%%rip), %%rax; push %%rax; lretq; 1: in $0x80, %%al"
                     :
                     : "m"(pointer)
                     : "rax", "memory");
    return 0;
}

int main(void)
{
    print("crash: now\n");
    if (argument_is("kind", "triple", true))
        guest_triple_fault();
    else if (argument_is("kind", "emulate", false))
        in_kernel(emulate, 0);
    else if (argument_is("kind", "fetch", false))
        in_kernel(fetch, 0);
    else if (argument_is("kind", "popcnt", false))
        in_kernel(popcnt, 1);
    else if (argument_is("kind", "state", false))
        in_kernel(invalid_state, 0);
    else if (argument_is("kind", "exception", false))
        __asm__ volatile("ud2");
    print("crash: survived\n");
    return 1;
}
