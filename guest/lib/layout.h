/* What the assembly and the C of a guest agree on: selectors, vectors and the ways a guest is entered. */
#pragma once

/* Selectors of the guest's own GDT. */
#define SELECTOR_KERNEL_CODE    0x08
#define SELECTOR_KERNEL_DATA    0x10
#define SELECTOR_USER_CODE      0x1b
#define SELECTOR_USER_DATA      0x23
#define SELECTOR_CODE32         0x28
#define SELECTOR_TSS            0x30
#define GDT_ENTRIES             8

/* How the guest was entered. */
#define ENTRY_ELF64             0
#define ENTRY_FLAT              1
#define ENTRY_BZIMAGE           2
#define ENTRY_PVH               3
#define ENTRY_MULTIBOOT         4

/* Most CPUs that a guest uses. */
#define MAX_CPUS                64

/*
 * Task state segments: an array of one for each CPU, then the I/O permission bitmap that they share. The
 * bitmap is all zero, for KVMs that do not honour IOPL 3.
 */
#define TSS_SIZE                104
#define TSS_RSP0                4
#define TSS_IO_BITMAP_BASE      102
#define TSS_IO_BITMAP(cpu)      ((MAX_CPUS - (cpu)) * TSS_SIZE)
#define IO_BITMAP_SIZE          (65536 / 8 + 1)
#define TSS_LIMIT               (MAX_CPUS * TSS_SIZE + IO_BITMAP_SIZE - 1)

/* User mode starts with IOPL 3 and interrupts off. */
#define USER_FLAGS              0x3002

#define VECTOR_UNDEFINED_OPCODE 6

/* Control registers: paging, no emulated FPU, SSE for user mode. */
#define CR0_VALUE               0x80000033 /* PG NE ET MP PE */
#define CR4_VALUE               0x00000620 /* OSXMMEXCPT OSFXSR PAE */
#define EFER                    0xc0000080
#define EFER_LME                0x100
#define FS_BASE                 0xc0000100

#define STACK_SIZE              0x4000
