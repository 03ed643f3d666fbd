/*
 * The way of a started CPU from real mode to user mode. The first part is copied to a page below 1 MiB; CS is that page.
 */
#include "guest/lib/layout.h"

    .text
    .code16
    .globl trampoline, trampoline_end
trampoline:
    cli
    mov %cs, %ax
    mov %ax, %ds
    lgdtl trampoline_gdt - trampoline
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $SELECTOR_CODE32, $cpu_start32
    .balign 4
trampoline_gdt:
    .word GDT_ENTRIES * 8 - 1
    .long gdt
trampoline_end:

    .code32
cpu_start32:
    mov $SELECTOR_KERNEL_DATA, %eax
    mov %eax, %ds
    mov $cpu_start64, %ebx
    jmp enter_long_mode

    .code64
cpu_start64:
    lgdt smp_parameters + 6
    mov smp_parameters + 16, %rsp
    mov smp_parameters + 24, %rbx
    mov smp_parameters + 32, %rbp
    mov smp_parameters + 40, %rdi
    jmp enter_user_mode

    .bss
    .balign 8
    .globl smp_parameters
smp_parameters:
    .skip 48
    .section .note.GNU-stack, "", @progbits
