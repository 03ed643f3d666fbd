#include "guest/lib/console.h"

#include <stdarg.h>
#include <stdbool.h>

#include "guest/lib/apic.h"
#include "guest/lib/io.h"
#include "guest/lib/kernel.h"
#include "guest/lib/string.h"
#include "guest/lib/tree.h"

#define COM1_PIN         4
#define SENSE_LEVEL_HIGH 2 // second cell of "interrupts" (binding intel,ce4100-ioapic)

struct line {
    char text[256];
    uint64_t length;
    va_list values; /* still to be formatted */
};

struct span {
    const uint8_t *bytes;
    uint64_t size;
};

static struct {
    uint16_t port;
    bool locked;
} console;

/*
 * Ports are written in kernel mode: where kernel mode is interpreted, its exits are cheap and those of user
 * mode are dear.
 */
static uint64_t set_up(uint64_t port, struct interrupt_frame *caller)
{
    out8(port + UART_LCR, LCR_8N1);
    out8(port + UART_IER, 0);
    out8(port + UART_FCR, FCR_ENABLE);
    out8(port + UART_MCR, MCR_DTR_RTS | MCR_OUT2);
    return 0;
}

void console_use(uint16_t port)
{
    console.port = port;
    in_kernel(set_up, port);
}

uint16_t console_port(void)
{
    return console.port;
}

static uint64_t write_bytes(uint64_t argument, struct interrupt_frame *caller)
{
    const struct span *span = (const struct span *)argument;

    if (!console.port)
        console_use(COM1);
    for (uint64_t i = 0; i < span->size; i++) {
        /* With its FIFO on, the transmitter takes 16 bytes once it is empty. */
        while (i % UART_FIFO_SIZE == 0 && !(in8(console.port + UART_LSR) & LSR_THRE))
            __builtin_ia32_pause();
        out8(console.port + UART_DATA, span->bytes[i]);
    }
    return 0;
}

void console_interrupt(uint8_t vector)
{
    int node = tree_find("ns16550a");
    uint32_t pin = COM1_PIN, sense = 0;

    tree_cell(node, "interrupts", 0, &pin);
    tree_cell(node, "interrupts", 1, &sense);
    ioapic_route(pin, vector, lapic_id(), sense == SENSE_LEVEL_HIGH);
}

void console_unlock(void)
{
    __atomic_clear(&console.locked, __ATOMIC_RELEASE);
}

void console_write(const void *bytes, uint64_t size)
{
    struct span span = {bytes, size};

    while (__atomic_test_and_set(&console.locked, __ATOMIC_ACQUIRE))
        __builtin_ia32_pause();
    in_kernel(write_bytes, (uint64_t)&span);
    __atomic_clear(&console.locked, __ATOMIC_RELEASE);
}

static void put(struct line *line, char c)
{
    if (line->length < sizeof(line->text))
        line->text[line->length++] = c;
}

static void put_text(struct line *line, const char *text)
{
    while (*text)
        put(line, *text++);
}

static void put_number(struct line *line, uint64_t value, unsigned base)
{
    char digits[21];
    char *first = digits + sizeof(digits) - 1;

    *first = 0;
    do {
        *--first = "0123456789abcdef"[value % base];
        value /= base;
    } while (value);
    put_text(line, first);
}

static void put_signed(struct line *line, int64_t value)
{
    if (value < 0)
        put(line, '-');
    put_number(line, value < 0 ? -(uint64_t)value : (uint64_t)value, 10);
}

/* Formats the conversion behind a '%' and returns what follows it. */
static const char *put_conversion(struct line *line, const char *format)
{
    bool is_long = *format == 'l';
    char kind = *(format += is_long);

    if (kind == 's')
        put_text(line, va_arg(line->values, const char *));
    else if (kind == 'd')
        put_signed(line, is_long ? va_arg(line->values, int64_t) : va_arg(line->values, int));
    else if (kind == 'u' || kind == 'x')
        put_number(line, is_long ? va_arg(line->values, uint64_t) : va_arg(line->values, uint32_t),
                   kind == 'u' ? 10 : 16);
    else
        put(line, kind);
    return format + 1;
}

void print_list(const char *format, va_list values)
{
    struct line line = {.length = 0};

    va_copy(line.values, values);
    while (*format) {
        if (*format == '%')
            format = put_conversion(&line, format + 1);
        else
            put(&line, *format++);
    }
    va_end(line.values);
    console_write(line.text, line.length);
}

void print(const char *format, ...)
{
    va_list values;

    va_start(values, format);
    print_list(format, values);
    va_end(values);
}
