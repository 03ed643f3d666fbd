#include "guest/lib/exit.h"

#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/io.h"
#include "guest/lib/kernel.h"
#include "guest/lib/tree.h"

#define QEMU_EXIT_PORT 0xf4

/* An address that raises an exception on every KVM, also on one that interprets kernel mode. */
#define NON_CANONICAL  (1ull << 63)

/* PM1a control: sleep type 5 (power off) and sleep enable. */
#define PM1_POWER_OFF  (5 << 10 | 1 << 13)

static uint64_t triple_fault(uint64_t argument, struct interrupt_frame *caller)
{
    static const struct {
        uint16_t limit;
        uint64_t base;
    } __attribute__((packed)) no_idt;

    __asm__ volatile("lidt %0; movb (%1), %%al" : : "m"(no_idt), "r"(NON_CANONICAL));
    __builtin_unreachable();
}

_Noreturn void guest_triple_fault(void)
{
    in_kernel(triple_fault, 0);
    __builtin_unreachable();
}

static uint64_t halt(uint64_t argument, struct interrupt_frame *caller)
{
    while (1)
        __asm__ volatile("cli; hlt");
    __builtin_unreachable();
}

_Noreturn void guest_halt(void)
{
    in_kernel(halt, 0);
    __builtin_unreachable();
}

static void power_off(void)
{
    struct tree_range control;

    if (tree_range(tree_find("godwit,acpi-pm"), 1, &control) && control.is_port)
        out16(control.start, PM1_POWER_OFF);
}

_Noreturn void guest_exit(uint8_t status)
{
    struct tree_range port = {.start = QEMU_EXIT_PORT};

    if (!boot_tree() || tree_range(tree_find("godwit,exit-port"), 0, &port)) {
        out8(port.start, status);
        guest_halt();
    }
    if (status == 0) {
        power_off();
        guest_halt();
    }
    print("guest: no exit port; exit status %u\n", status);
    guest_triple_fault();
}

_Noreturn void guest_panic(const char *reason)
{
    print("guest: %s\n", reason);
    guest_exit(EXIT_PANIC);
}
