/* echo: moves bytes through the console, polled and by interrupts, at full speed. */
#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/apic.h"
#include "guest/lib/boot.h"
#include "guest/lib/checksum.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/interrupt.h"
#include "guest/lib/io.h"
#include "guest/lib/kernel.h"
#include "guest/lib/sequence.h"

#define VECTOR_SERIAL       0x61
#define END_OF_TRANSMISSION 4
#define CHUNK_SIZE          1024
#define RING_SIZE           4096

/* Bytes between the interrupt handler and the program: one adds at `in`, the other takes at `out`. */
struct ring {
    uint8_t bytes[RING_SIZE];
    volatile uint64_t in, out;
};

struct span {
    uint8_t *bytes;
    uint64_t size;
};

static struct ring ring;
static volatile uint64_t overruns;
static bool by_interrupt;

static bool ring_is_full(void)
{
    return ring.in - ring.out == RING_SIZE;
}

static bool ring_is_empty(void)
{
    return ring.in == ring.out;
}

static bool ring_is_not_empty(void)
{
    return !ring_is_empty();
}

static bool ring_add(uint8_t byte)
{
    if (ring_is_full())
        return false;
    ring.bytes[ring.in % RING_SIZE] = byte;
    ring.in++;
    return true;
}

static bool ring_take(uint8_t *byte)
{
    if (ring_is_empty())
        return false;
    *byte = ring.bytes[ring.out % RING_SIZE];
    ring.out++;
    return true;
}

/* Waits for interrupts of the console while they leave the ring as it should not be. */
static void wait_while(bool (*blocked)(void), uint8_t enabled)
{
    interrupts_off();
    while (blocked()) {
        out8(console_port() + UART_IER, enabled);
        interrupt_wait();
    }
    interrupts_on();
}

static bool receive(uint8_t *byte)
{
    uint8_t status = in8(console_port() + UART_LSR);

    if (status & LSR_OVERRUN)
        overruns++;
    if (!(status & LSR_DATA))
        return false;
    *byte = in8(console_port() + UART_DATA);
    return true;
}

/*
 * Empties the receiver as far as the ring has room; without room, interrupts stay off until the program made
 * some.
 */
static void handle_received(struct interrupt_frame *frame)
{
    uint8_t byte;

    while (!ring_is_full()) {
        if (!receive(&byte)) {
            lapic_end_of_interrupt();
            return;
        }
        ring_add(byte);
    }
    out8(console_port() + UART_IER, 0);
    lapic_end_of_interrupt();
}

/* In kernel mode, where exits are cheap on every KVM: waits for a byte and takes what follows at once. */
static uint64_t receive_available(uint64_t argument, struct interrupt_frame *caller)
{
    struct span *span = (struct span *)argument;
    uint64_t count = 0;

    while (!receive(&span->bytes[0]))
        __builtin_ia32_pause();
    do
        count++;
    while (count < span->size && receive(&span->bytes[count]));
    return count;
}

static uint64_t receive_by_interrupt(uint8_t *bytes, uint64_t size)
{
    uint64_t count = 0;

    if (ring_is_empty())
        wait_while(ring_is_empty, IER_RECEIVED);
    while (count < size && ring_take(&bytes[count]))
        count++;
    return count;
}

/* Waits for input and returns how many bytes came, at most `size`. */
static uint64_t receive_some(uint8_t *bytes, uint64_t size)
{
    struct span span = {bytes, size};

    return by_interrupt ? receive_by_interrupt(bytes, size) : in_kernel(receive_available, (uint64_t)&span);
}

/* Receives `bytes` bytes and prints their checksum. */
static int run_sum(uint64_t bytes)
{
    static struct checksum sum;
    uint8_t chunk[CHUNK_SIZE];

    checksum_begin(&sum);
    while (sum.length < bytes) {
        uint64_t left = bytes - sum.length;
        checksum_add(&sum, chunk, receive_some(chunk, left < sizeof(chunk) ? left : sizeof(chunk)));
    }
    print("echo: cksum %u %lu, %lu overruns\n", checksum_end(&sum), sum.length, overruns);
    return overruns ? 1 : 0;
}

/* Sends back what comes, up to `bytes` bytes or an end of transmission (Ctrl-D). */
static int run_echo(uint64_t bytes)
{
    uint8_t byte;

    for (uint64_t i = 0; i < bytes; i++) {
        receive_some(&byte, 1);
        if (byte == END_OF_TRANSMISSION)
            break;
        console_write(&byte, 1);
    }
    print("\necho: end, %lu overruns\n", overruns);
    return overruns ? 1 : 0;
}

static void wait_for_transmitter(uint8_t bit)
{
    while (!(in8(console_port() + UART_LSR) & bit))
        __builtin_ia32_pause();
}

static uint64_t send_polled(uint64_t argument, struct interrupt_frame *caller)
{
    const struct span *span = (const struct span *)argument;

    for (uint64_t i = 0; i < span->size; i++) {
        wait_for_transmitter(LSR_THRE);
        out8(console_port() + UART_DATA, span->bytes[i]);
    }
    return 0;
}

/* As many bytes at a time as the FIFO holds. */
static uint64_t send_strings(uint64_t argument, struct interrupt_frame *caller)
{
    const struct span *span = (const struct span *)argument;

    for (uint64_t i = 0; i < span->size; i += UART_FIFO_SIZE) {
        uint64_t left = span->size - i;
        wait_for_transmitter(LSR_THRE);
        out8_string(console_port() + UART_DATA, span->bytes + i,
                    left < UART_FIFO_SIZE ? left : UART_FIFO_SIZE);
    }
    return 0;
}

/* Fills the transmitter's FIFO, once it is empty. Off with the interrupt when there is nothing to send. */
static void handle_empty(struct interrupt_frame *frame)
{
    uint8_t byte;

    if (!(in8(console_port() + UART_IIR) & IIR_NONE)) {
        for (int i = 0; i < UART_FIFO_SIZE && ring_take(&byte); i++)
            out8(console_port() + UART_DATA, byte);
        if (ring_is_empty())
            out8(console_port() + UART_IER, 0);
    }
    lapic_end_of_interrupt();
}

static void send_by_interrupt(const uint8_t *bytes, uint64_t size)
{
    for (uint64_t i = 0; i < size; i++) {
        while (!ring_add(bytes[i]))
            wait_while(ring_is_full, IER_THRE);
    }
}

/* Sends the first `bytes` bytes of seq(1), and nothing else. */
static int run_flood(uint64_t bytes)
{
    kernel_function *send = argument_is("by", "string", false) ? send_strings : send_polled;
    struct sequence text;
    uint8_t chunk[CHUNK_SIZE];
    struct span span = {.bytes = chunk};

    sequence_begin(&text, 1);
    for (; bytes > 0; bytes -= span.size) {
        span.size = bytes < sizeof(chunk) ? bytes : sizeof(chunk);
        sequence_read(&text, chunk, span.size);
        if (by_interrupt)
            send_by_interrupt(chunk, span.size);
        else
            in_kernel(send, (uint64_t)&span);
    }
    if (by_interrupt)
        wait_while(ring_is_not_empty, IER_THRE);
    wait_for_transmitter(LSR_IDLE);
    return 0;
}

static void take_interrupts(bool transmitter)
{
    pic_mask();
    lapic_enable();
    interrupt_set(VECTOR_SERIAL, transmitter ? handle_empty : handle_received);
    console_interrupt(VECTOR_SERIAL);
    interrupts_on();
}

int main(void)
{
    bool flood = argument_is("mode", "flood", false), sum = argument_is("mode", "sum", false);
    uint64_t bytes = argument_number("bytes", flood || sum ? 100000 : UINT64_MAX);

    console_use(COM1);
    by_interrupt = argument_is("by", "irq", false);
    if (by_interrupt)
        take_interrupts(flood);
    if (flood)
        return run_flood(bytes);
    print("echo: ready\n");
    return sum ? run_sum(bytes) : run_echo(bytes);
}
