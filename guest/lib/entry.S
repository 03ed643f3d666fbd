/*
 * Where a guest starts, whatever the boot protocol, and the tables it runs on.
 *
 * Every table is complete at link time: a KVM that interprets kernel mode starts a guest in a few dozen instructions.
 * The guest's own page tables map the low 4 GiB one to one, for user mode as well; the program then runs at CPL 3.
 */
#include "guest/lib/layout.h"

    .section .entry, "awx"

/* A flat binary is entered at its first byte, in 64-bit mode. */
    .code64
image_start:
    mov $ENTRY_FLAT, %ebp
    jmp start64

    .globl entry_elf64
entry_elf64:
    mov $ENTRY_ELF64, %ebp
    jmp start64

/* PVH and multiboot enter in protected mode without paging, with the FDT in EDI. */
    .code32
    .globl entry_pvh
entry_pvh:
    mov $ENTRY_PVH, %ebp
    mov %ebx, %esi
    jmp start32

    .globl entry_multiboot
entry_multiboot:
    mov $ENTRY_MULTIBOOT, %ebp
    mov %ebx, %esi
    cmp $0x2badb002, %eax
    je start32
    xor %esi, %esi
start32:
    mov $start64_low, %ebx

/* Goes from protected mode to long mode and on to the address in EBX. EDI, ESI and EBP are kept. */
    .globl enter_long_mode
enter_long_mode:
    lgdt gdt_pointer
    mov $CR4_VALUE, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $EFER, %ecx
    rdmsr
    or $EFER_LME, %eax
    wrmsr
    mov $CR0_VALUE, %eax
    mov %eax, %cr0
    ljmp $SELECTOR_KERNEL_CODE, $1f
    .code64
1:  mov %ebx, %ebx
    jmp *%rbx

start64_low:
    mov %edi, %edi
    mov %esi, %esi
    jmp start64

/* The multiboot 1 header: zeroes unless the link defines its three words. */
    .balign 4
    .weak multiboot_magic, multiboot_flags, multiboot_checksum
    .long multiboot_magic, multiboot_flags, multiboot_checksum

/* The 64-bit entry of a bzImage lies 0x200 bytes into its protected-mode part. */
    .org 0x200
    mov $ENTRY_BZIMAGE, %ebp
start64:
    mov %ebp, boot_registers
    mov %rsi, boot_registers + 8
    mov %rdi, boot_registers + 16
    lgdt gdt_pointer
    mov $kernel_stack + STACK_SIZE, %esp
    mov $user_stack + STACK_SIZE, %ebx
    mov $user_start, %ebp

/* Makes this CPU ours (its GDT is loaded already) and goes on in user mode: at RBP, stack RBX, argument RDI. */
    .globl enter_user_mode
enter_user_mode:
    mov $pml4, %eax
    mov %rax, %cr3
    mov $CR4_VALUE, %eax
    mov %rax, %cr4
    mov $CR0_VALUE, %eax
    mov %rax, %cr0
    pushq $SELECTOR_KERNEL_CODE
    pushq $1f
    lretq
1:  mov $SELECTOR_USER_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov $SELECTOR_KERNEL_DATA, %eax
    mov %eax, %ss
    mov $SELECTOR_TSS, %eax
    ltr %ax
    lidt idt_pointer
    mov $FS_BASE, %ecx
    mov $stack_guard, %eax
    xor %edx, %edx
    wrmsr
    pushq $SELECTOR_USER_DATA
    pushq %rbx
    pushq $USER_FLAGS
    pushq $SELECTOR_USER_CODE
    pushq %rbp
    iretq

/* User mode begins. Memory behind the image need not be zero where a loader put more than the image there. */
user_start:
    mov $bss_start, %edi
    mov $bss_quads, %ecx
    xor %eax, %eax
    xor %ebp, %ebp
    cld
    rep stosq
    movq $kernel_stack + STACK_SIZE, tss + TSS_RSP0
    movw $TSS_IO_BITMAP(0), tss + TSS_IO_BITMAP_BASE
    call guest_main
    ud2

/*
 * Kernel calls: function RDI, argument RSI. The gate is an undefined opcode, for a KVM without hardware support may refuse
 * INT in user mode; interrupt_dispatch() knows its place.
 */
    .globl in_kernel, kernel_gate, kernel_gate_end
in_kernel:
    mov %cs, %eax
    test $3, %al
    jz 1f
kernel_gate:
    ud2
kernel_gate_end:
    ret
1:  mov %rdi, %rax
    mov %rsi, %rdi
    xor %esi, %esi
    jmp *%rax

/* Interrupt stubs: each completes the frame with an error code, where the CPU gives none, and its vector. */
    .balign 16
stubs:
    .set vector, 0
    .rept 256
    .balign 16
    .if (vector != 8) && (vector != 17) && (vector != 21) && ((vector < 10) || (vector > 14))
    pushq $0
    .endif
    pushq $vector
    jmp save_frame
    .set vector, vector + 1
    .endr

save_frame:
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    cld
    mov %rsp, %rdi
    call interrupt_dispatch
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

/*
 * Interrupt gates, all open to user mode. The image starts at a multiple of 64 KiB below 16 MiB, so that an address is
 * its distance from the start and, above, the start itself.
 */
    .balign 16
idt:
    .set vector, 0
    .rept 256
    .word stubs + 16 * vector - image_start
    .word SELECTOR_KERNEL_CODE
    .word 0xee00
    .word IMAGE_BASE >> 16
    .quad 0
    .set vector, vector + 1
    .endr
idt_pointer:
    .word . - idt - 1
    .quad idt

    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* kernel code */
    .quad 0x00cf93000000ffff    /* kernel data */
    .quad 0x00affb000000ffff    /* user code */
    .quad 0x00cff3000000ffff    /* user data */
    .quad 0x00cf9b000000ffff    /* 32-bit code */
    .word TSS_LIMIT             /* TSS: limit, then base 0-23 and, above it, the type */
    .long tss + 0x89000000
    .word 0
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt

/* How the guest was entered: protocol, RSI (or EBX), RDI. Not in .bss, which is cleared later. */
    .balign 8
    .globl boot_registers
boot_registers:
    .quad 0, 0, 0

/* libfdt as Debian builds it compares a canary at FS:0x28. */
    .balign 8
stack_guard:
    .fill 0x28, 1, 0
    .quad 0x5ac3f00d7e57ca11

    .balign 4096
pml4:
    .quad pdpt + 7
    .fill 511, 8, 0
    .globl pdpt
pdpt:
    .quad pd + 0x0007
    .quad pd + 0x1007
    .quad pd + 0x2007
    .quad pd + 0x3007
    .fill 508, 8, 0
pd:
    .set page, 0
    .rept 4 * 512
    .quad page + 0x87
    .set page, page + 0x200000
    .endr

/* The TSS of each CPU, and behind them the one bitmap that opens every port to user mode. */
    .bss
    .balign 16
    .globl tss
tss:
    .skip MAX_CPUS * TSS_SIZE + IO_BITMAP_SIZE

    .section .stack, "aw", @nobits
    .balign 16
kernel_stack:
    .skip STACK_SIZE
user_stack:
    .skip STACK_SIZE
    .section .note.GNU-stack, "", @progbits
