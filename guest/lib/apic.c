#include "guest/lib/apic.h"

#include "guest/lib/io.h"

#define LAPIC_ID           0x20
#define LAPIC_EOI          0xb0
#define LAPIC_SVR          0xf0
#define LAPIC_ISR          0x100
#define LAPIC_ICR_LOW      0x300
#define LAPIC_ICR_HIGH     0x310
#define LAPIC_TIMER        0x320
#define LAPIC_TIMER_COUNT  0x380
#define LAPIC_TIMER_LEFT   0x390
#define LAPIC_TIMER_DIVIDE 0x3e0

#define SVR_ENABLE         0x100
#define SPURIOUS_VECTOR    0xff
#define TIMER_PERIODIC     0x20000
#define LVT_MASKED         0x10000
#define TIMER_DIVIDE_BY_16 3
#define TIMER_DIVIDE_BY_1  0xb
#define ICR_INIT           0x4500 /* asserted */
#define ICR_STARTUP        0x4600

#define IOAPIC_INDEX       0x00
#define IOAPIC_DATA        0x10
#define IOAPIC_REDIRECTION 0x10 /* index of the first of two registers a pin */
#define REDIRECTION_LEVEL  0x8000
#define REDIRECTION_MASKED 0x10000

#define PIC1_MASK          0x21
#define PIC2_MASK          0xa1
#define PIT_CHANNEL0       0x40
#define PIT_CONTROL        0x43
#define PIT_RATE_GENERATOR 0x34 /* channel 0, low then high byte, mode 2 */
#define PIT_ONE_SHOT       0x30 /* mode 0: nothing is counted until a count is written */

static uint32_t lapic_read(uint32_t reg)
{
    return mmio_read32(LAPIC_BASE + reg);
}

static void lapic_write(uint32_t reg, uint32_t value)
{
    mmio_write32(LAPIC_BASE + reg, value);
}

void lapic_enable(void)
{
    lapic_write(LAPIC_SVR, SVR_ENABLE | SPURIOUS_VECTOR);
}

uint8_t lapic_id(void)
{
    return lapic_read(LAPIC_ID) >> 24;
}

void lapic_end_of_interrupt(void)
{
    lapic_write(LAPIC_EOI, 0);
}

bool lapic_in_service(uint8_t vector)
{
    return lapic_read(LAPIC_ISR + vector / 32 * 0x10) >> vector % 32 & 1;
}

void lapic_timer(uint8_t vector, uint32_t hz)
{
    lapic_write(LAPIC_TIMER_DIVIDE, TIMER_DIVIDE_BY_16);
    lapic_write(LAPIC_TIMER, hz ? TIMER_PERIODIC | vector : LVT_MASKED);
    lapic_write(LAPIC_TIMER_COUNT, hz ? LAPIC_TIMER_HZ / 16 / hz : 0);
}

void lapic_timer_once(uint32_t count)
{
    lapic_write(LAPIC_TIMER_DIVIDE, TIMER_DIVIDE_BY_1);
    lapic_write(LAPIC_TIMER, LVT_MASKED);
    lapic_write(LAPIC_TIMER_COUNT, count);
}

uint32_t lapic_timer_left(void)
{
    return lapic_read(LAPIC_TIMER_LEFT);
}

static void send(uint8_t apic_id, uint32_t command)
{
    lapic_write(LAPIC_ICR_HIGH, (uint32_t)apic_id << 24);
    lapic_write(LAPIC_ICR_LOW, command);
}

void lapic_send_init(uint8_t apic_id)
{
    send(apic_id, ICR_INIT);
}

void lapic_send_startup(uint8_t apic_id, uint8_t page)
{
    send(apic_id, ICR_STARTUP | page);
}

void pic_mask(void)
{
    out8(PIC1_MASK, 0xff);
    out8(PIC2_MASK, 0xff);
}

static void ioapic_write(uint8_t index, uint32_t value)
{
    mmio_write32(IOAPIC_BASE + IOAPIC_INDEX, index);
    mmio_write32(IOAPIC_BASE + IOAPIC_DATA, value);
}

void ioapic_route(uint8_t pin, uint8_t vector, uint8_t apic_id, bool level)
{
    ioapic_write(IOAPIC_REDIRECTION + 2 * pin + 1, (uint32_t)apic_id << 24);
    ioapic_write(IOAPIC_REDIRECTION + 2 * pin, vector | (level ? REDIRECTION_LEVEL : 0));
}

void ioapic_mask(uint8_t pin)
{
    ioapic_write(IOAPIC_REDIRECTION + 2 * pin, REDIRECTION_MASKED);
}

void pit_start(uint32_t hz)
{
    uint32_t divisor = hz ? PIT_HZ / hz : 0;

    out8(PIT_CONTROL, hz ? PIT_RATE_GENERATOR : PIT_ONE_SHOT);
    if (hz) {
        out8(PIT_CHANNEL0, divisor & 0xff);
        out8(PIT_CHANNEL0, divisor >> 8);
    }
}
