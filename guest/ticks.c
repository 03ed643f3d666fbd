/* ticks: takes interrupts from the LAPIC timer, and by the IOAPIC from the PIT and the serial port. */
#include <stdint.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/io.h"

#define VECTOR_TIMER  0x40
#define VECTOR_PIN    0x50 /* and the pin */
#define VECTOR_SERIAL 0x61

static volatile uint64_t ticks[256];
static volatile uint64_t spurious;
static uint64_t wanted;

static void count(struct interrupt_frame *frame)
{
    ticks[frame->vector]++;
    lapic_end_of_interrupt();
}

/* Sends one byte for each interrupt that says there is room, and so gets the next. */
static void count_serial(struct interrupt_frame *frame)
{
    if (in8(console_port() + UART_IIR) & IIR_NONE) {
        spurious++;
    } else if (++ticks[frame->vector] < wanted) {
        out8(console_port() + UART_DATA, '.');
    } else {
        out8(console_port() + UART_IER, 0);
    }
    lapic_end_of_interrupt();
}

/*
 * Waits for `wanted` interrupts of either vector, once halted and once at work in user mode, and returns
 * which it was.
 */
static uint8_t wait_for(uint8_t vector, uint8_t other)
{
    while (ticks[vector] < wanted / 2 && ticks[other] < wanted / 2)
        interrupt_wait();
    interrupts_on();
    while (ticks[vector] < wanted && ticks[other] < wanted)
        __builtin_ia32_pause();
    interrupts_off();
    return ticks[vector] >= wanted ? vector : other;
}

static int verdict(const char *source, uint8_t vector)
{
    print("ticks: %s: %lu interrupts\n", source, wanted);
    if (!lapic_in_service(vector))
        return 0;
    print("ticks: vector %u is still in service\n", vector);
    return 1;
}

static int test_lapic(uint32_t hz)
{
    interrupt_set(VECTOR_TIMER, count);
    lapic_timer(VECTOR_TIMER, hz);
    wait_for(VECTOR_TIMER, VECTOR_TIMER);
    lapic_timer(VECTOR_TIMER, 0);
    return verdict("lapic timer", VECTOR_TIMER);
}

static int test_pit(uint32_t hz)
{
    uint8_t vector;

    for (uint8_t pin = 0; pin <= 2; pin += 2) {
        interrupt_set(VECTOR_PIN + pin, count);
        ioapic_route(pin, VECTOR_PIN + pin, lapic_id(), false);
    }
    pit_start(hz);
    vector = wait_for(VECTOR_PIN, VECTOR_PIN + 2);
    pit_start(0);
    ioapic_mask(0);
    ioapic_mask(2);
    print("ticks: the pit is at pin %u\n", vector - VECTOR_PIN);
    return verdict("pit", vector);
}

static int test_serial(void)
{
    interrupt_set(VECTOR_SERIAL, count_serial);
    console_interrupt(VECTOR_SERIAL);
    out8(console_port() + UART_IER, IER_THRE);
    wait_for(VECTOR_SERIAL, VECTOR_SERIAL);
    print("\nticks: %lu interrupts of the serial port had no cause\n", spurious);
    return verdict("serial", VECTOR_SERIAL);
}

int main(void)
{
    uint32_t hz = argument_number("hz", 100);
    int failures = 0;

    wanted = argument_number("count", 10);
    pic_mask();
    lapic_enable();
    if (argument_is("source", "lapic", true))
        failures += test_lapic(hz);
    if (argument_is("source", "pit", true))
        failures += test_pit(hz);
    if (argument_is("source", "serial", true))
        failures += test_serial();
    return failures ? 1 : 0;
}
