/*
 * The console: a 16550A, polled. COM1 until console_use() names another. What is printed by several CPUs at a
 * time does not mix within one call.
 */
#pragma once

#include <stdarg.h>
#include <stdint.h>

#define COM1           0x3f8

/* Registers of a 16550A, from its base port, and the bits the guests use. */
#define UART_DATA      0
#define UART_IER       1
#define UART_IIR       2
#define UART_FCR       2
#define UART_LCR       3
#define UART_MCR       4
#define UART_LSR       5

#define IER_RECEIVED   0x01
#define IER_THRE       0x02
#define IIR_NONE       0x01
#define FCR_ENABLE     0x01
#define LCR_8N1        0x03
#define MCR_DTR_RTS    0x03
#define MCR_OUT2       0x08
#define LSR_DATA       0x01
#define LSR_OVERRUN    0x02
#define LSR_THRE       0x20
#define LSR_IDLE       0x40

#define UART_FIFO_SIZE 16

/* Takes the 16550A at `port` as the console and sets it up: FIFOs on, 8N1, no interrupts. */
void console_use(uint16_t port);

/* Base port of the console. */
uint16_t console_port(void);

/*
 * Has the console's interrupt delivered to this CPU as `vector`. The device tree says where it is; IOAPIC pin
 * 4 without.
 */
void console_interrupt(uint8_t vector);

/* Takes the console from whoever is printing: for a CPU that reports its end. */
void console_unlock(void);

/* Writes bytes as they are. */
void console_write(const void *bytes, uint64_t size);

/* Formats as printf does: %s %d %u %x, with l for 64 bits; at most 256 bytes. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));
void print_list(const char *format, va_list values) __attribute__((format(printf, 1, 0)));
