#include "guest/lib/smp.h"

#include "guest/lib/apic.h"
#include "guest/lib/exit.h"
#include "guest/lib/layout.h"
#include "guest/lib/string.h"

/* The page below 1 MiB that a CPU starts in. What lay there is put back once the CPU has left it. */
#define TRAMPOLINE    0x8000

#define TSS_BASE_MASK 0x000000ffffff0000
#define TSS_BUSY      0x0000020000000000

struct gdt_pointer {
    uint16_t padding[3];
    uint16_t limit;
    uint64_t base;
};

/* What lib/trampoline.S starts the next CPU with. */
struct smp_parameters {
    struct gdt_pointer gdt;
    uint64_t kernel_stack;
    uint64_t user_stack;
    void (*entry)(uint64_t argument);
    uint64_t argument;
};

struct cpu {
    uint8_t kernel_stack[4096] __attribute__((aligned(16)));
    uint8_t user_stack[8192];
    uint64_t gdt[GDT_ENTRIES];
    cpu_program *program;
    uint64_t argument;
    volatile uint64_t begun;
};

extern char trampoline[], trampoline_end[];
extern uint64_t gdt[GDT_ENTRIES];
extern char tss[];
extern struct smp_parameters smp_parameters;
static struct cpu cpus[MAX_CPUS];

static void put_tss(struct cpu *cpu, uint64_t index)
{
    char *own = tss + index * TSS_SIZE;
    uint64_t *descriptor = &cpu->gdt[SELECTOR_TSS / 8];
    uint16_t io_bitmap = TSS_IO_BITMAP(index);
    uint64_t stack = (uint64_t)(cpu->kernel_stack + sizeof(cpu->kernel_stack));

    memcpy(own + TSS_RSP0, &stack, sizeof(stack));
    memcpy(own + TSS_IO_BITMAP_BASE, &io_bitmap, sizeof(io_bitmap));
    *descriptor = (*descriptor & ~(TSS_BASE_MASK | TSS_BUSY | 0xffff)) | (uint64_t)own << 16 |
                  (TSS_LIMIT - index * TSS_SIZE);
}

static _Noreturn void begin(uint64_t index)
{
    cpus[index].begun = 1;
    cpus[index].program(cpus[index].argument);
    guest_halt();
}

static void send_startup(struct cpu *cpu, uint8_t apic_id)
{
    static uint8_t saved[4096];
    uint64_t size = trampoline_end - trampoline;

    memcpy(saved, (void *)TRAMPOLINE, size);
    memcpy((void *)TRAMPOLINE, trampoline, size);
    lapic_send_init(apic_id);
    lapic_send_startup(apic_id, TRAMPOLINE >> 12);
    while (!cpu->begun)
        __builtin_ia32_pause();
    memcpy((void *)TRAMPOLINE, saved, size);
}

void smp_start(unsigned index, uint8_t apic_id, cpu_program *program, uint64_t argument)
{
    struct cpu *cpu = &cpus[index];

    cpu->program = program;
    cpu->argument = argument;
    memcpy(cpu->gdt, gdt, sizeof(cpu->gdt));
    put_tss(cpu, index);
    smp_parameters = (struct smp_parameters){
        .gdt = {.limit = sizeof(cpu->gdt) - 1, .base = (uint64_t)cpu->gdt},
        .kernel_stack = (uint64_t)(cpu->kernel_stack + sizeof(cpu->kernel_stack)),
        .user_stack = (uint64_t)(cpu->user_stack + sizeof(cpu->user_stack)) - 8,
        .entry = begin,
        .argument = index,
    };
    send_startup(cpu, apic_id);
}
