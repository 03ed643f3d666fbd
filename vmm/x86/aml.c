#include "vmm/x86/aml.h"

#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "vmm/x86/table_writer.h"

#define OP_ZERO           0x00
#define OP_ONE            0x01
#define OP_NAME           0x08
#define OP_BYTE           0x0A
#define OP_WORD           0x0B
#define OP_DWORD          0x0C
#define OP_STRING         0x0D
#define OP_QWORD          0x0E
#define OP_SCOPE          0x10
#define OP_BUFFER         0x11
#define OP_PACKAGE        0x12
#define OP_METHOD         0x14
#define OP_EXTENDED       0x5B
#define OP_DEVICE         0x82 /* behind OP_EXTENDED */
#define OP_ARGUMENT       0x68
#define OP_OR             0x7D
#define OP_DWORD_FIELD    0x8A
#define OP_EQUAL          0x93
#define OP_IF             0xA0
#define OP_RETURN         0xA4

#define METHOD_SERIALIZED (1 << 3)

#define RESOURCE_IRQ      0x22 /* edge, active high, exclusive: the form without flags */
#define RESOURCE_IO       0x47
#define RESOURCE_END      0x79
#define RESOURCE_MEMORY32 0x86
#define RESOURCE_DWORD    0x87 /* address space, with 32-bit numbers */
#define RESOURCE_WORD     0x88
#define RESOURCE_QWORD    0x8A

#define WINDOW_MEMORY     0
#define WINDOW_PORTS      1
#define WINDOW_BUSES      2
#define WINDOW_FIXED      0x0C /* both ends */
#define WINDOW_WRITABLE   1    /* memory */
#define WINDOW_ALL_PORTS  3

#define NAME_SIZE         4

static void append_byte(struct table_writer *writer, uint8_t byte)
{
    table_append(writer, &byte, sizeof(byte));
}

static void append_name(struct table_writer *writer, const char *name)
{
    char segment[NAME_SIZE];
    memset(segment, '_', sizeof(segment));
    memcpy(segment, name, strnlen(name, sizeof(segment)));
    table_append(writer, segment, sizeof(segment));
}

/*
 * PkgLength counts its own bytes. One byte holds 6 bits; with N more, the first byte has N above the four
 * lowest bits.
 */
void aml_close(struct table_writer *writer, aml_mark mark)
{
    size_t length = writer->used - mark;
    uint8_t bytes[4];
    unsigned more = 0;
    if (length + 1 > 0x3F) {
        more = 1;
        while ((length + 1 + more) >> (4 + 8 * more))
            more++;
    }
    length += 1 + more;
    bytes[0] = more ? (uint8_t)(more << 6 | (length & 0xF)) : (uint8_t)length;
    for (unsigned i = 1; i <= more; i++)
        bytes[i] = (uint8_t)(length >> (4 + 8 * (i - 1)));
    table_insert(writer, mark, bytes, 1 + more);
}

aml_mark aml_scope_open(struct table_writer *writer, const char *name)
{
    append_byte(writer, OP_SCOPE);
    aml_mark mark = writer->used;
    append_name(writer, name);
    return mark;
}

aml_mark aml_device_open(struct table_writer *writer, const char *name)
{
    append_byte(writer, OP_EXTENDED);
    append_byte(writer, OP_DEVICE);
    aml_mark mark = writer->used;
    append_name(writer, name);
    return mark;
}

aml_mark aml_package_open(struct table_writer *writer, uint8_t elements)
{
    append_byte(writer, OP_PACKAGE);
    aml_mark mark = writer->used;
    append_byte(writer, elements);
    return mark;
}

void aml_name(struct table_writer *writer, const char *name)
{
    append_byte(writer, OP_NAME);
    append_name(writer, name);
}

aml_mark aml_method_open(struct table_writer *writer, const char *name, unsigned arguments)
{
    append_byte(writer, OP_METHOD);
    aml_mark mark = writer->used;
    append_name(writer, name);
    append_byte(writer, (uint8_t)(arguments | METHOD_SERIALIZED));
    return mark;
}

aml_mark aml_if_open(struct table_writer *writer)
{
    append_byte(writer, OP_IF);
    return writer->used;
}

void aml_equal(struct table_writer *writer)
{
    append_byte(writer, OP_EQUAL);
}

void aml_or(struct table_writer *writer)
{
    append_byte(writer, OP_OR);
}

void aml_return(struct table_writer *writer)
{
    append_byte(writer, OP_RETURN);
}

void aml_argument(struct table_writer *writer, unsigned index)
{
    append_byte(writer, (uint8_t)(OP_ARGUMENT + index));
}

void aml_reference(struct table_writer *writer, const char *name)
{
    append_name(writer, name);
}

void aml_create_dword_field(struct table_writer *writer, unsigned argument, unsigned offset, const char *name)
{
    append_byte(writer, OP_DWORD_FIELD);
    aml_argument(writer, argument);
    aml_integer(writer, offset);
    append_name(writer, name);
}

void aml_buffer(struct table_writer *writer, const void *bytes, size_t size)
{
    append_byte(writer, OP_BUFFER);
    aml_mark mark = writer->used;
    aml_integer(writer, size);
    table_append(writer, bytes, size);
    aml_close(writer, mark);
}

static size_t encode_integer(uint64_t value, uint8_t bytes[9])
{
    static const uint8_t ops[] = {OP_BYTE, OP_WORD, OP_DWORD, OP_QWORD};
    unsigned log = 0;
    if (value <= 1) {
        bytes[0] = value ? OP_ONE : OP_ZERO;
        return 1;
    }
    while (log < 3 && value >> (8u << log))
        log++;
    bytes[0] = ops[log];
    for (unsigned i = 0; i < 1u << log; i++)
        bytes[1 + i] = (uint8_t)(value >> 8 * i);
    return 1 + (1u << log);
}

void aml_integer(struct table_writer *writer, uint64_t value)
{
    uint8_t bytes[9];
    table_append(writer, bytes, encode_integer(value, bytes));
}

void aml_string(struct table_writer *writer, const char *value)
{
    append_byte(writer, OP_STRING);
    table_append(writer, value, strlen(value) + 1);
}

/* Three letters of five bits and the digits, with the bytes in big-endian order. */
static uint32_t eisa_id(const char *id)
{
    uint32_t letters = (uint32_t)(id[0] & 0x1F) << 10 | (uint32_t)(id[1] & 0x1F) << 5 | (id[2] & 0x1F);
    return __builtin_bswap32(letters << 16 | (uint32_t)strtoul(id + 3, NULL, 16));
}

void aml_hardware_id(struct table_writer *writer, const char *id)
{
    if (strlen(id) == 7)
        aml_integer(writer, eisa_id(id));
    else
        aml_string(writer, id);
}

aml_mark aml_resources_open(struct table_writer *writer)
{
    append_byte(writer, OP_BUFFER);
    return writer->used;
}

void aml_resources_close(struct table_writer *writer, aml_mark mark)
{
    const uint8_t end[] = {RESOURCE_END, 0 /* no checksum */};
    uint8_t size[9];
    table_append(writer, end, sizeof(end));
    table_insert(writer, mark, size, encode_integer(writer->used - mark, size));
    aml_close(writer, mark);
}

void aml_io_ports(struct table_writer *writer, uint16_t base, uint8_t count)
{
    const uint8_t low = (uint8_t)base, high = (uint8_t)(base >> 8);
    const uint8_t descriptor[] = {RESOURCE_IO, 1 /* all 16 bits decoded */, low, high, low, high, 1, count};
    table_append(writer, descriptor, sizeof(descriptor));
}

void aml_memory(struct table_writer *writer, uint32_t base, uint32_t size)
{
    const struct {
        uint8_t type;
        uint16_t length;
        uint8_t writable;
        uint32_t base, size;
    } __attribute__((packed)) descriptor = {RESOURCE_MEMORY32, 9, 1, base, size};
    table_append(writer, &descriptor, sizeof(descriptor));
}

/* An address space descriptor: granularity, both ends, translation and length, each of `width` bytes. */
static void append_window(struct table_writer *writer, uint8_t resource, unsigned width, uint8_t kind,
                          uint8_t flags, uint64_t base, uint64_t size)
{
    const uint64_t numbers[] = {0, base, base + size - 1, 0, size};
    const uint8_t header[] = {resource, (uint8_t)(3 + ARRAY_SIZE(numbers) * width), 0, kind, WINDOW_FIXED,
                              flags};
    table_append(writer, header, sizeof(header));
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++)
        table_append(writer, &numbers[i], width);
}

void aml_bus_numbers(struct table_writer *writer, uint8_t first, uint8_t last)
{
    append_window(writer, RESOURCE_WORD, 2, WINDOW_BUSES, 0, first, last - first + 1u);
}

void aml_port_window(struct table_writer *writer, uint16_t base, uint16_t size)
{
    append_window(writer, RESOURCE_WORD, 2, WINDOW_PORTS, WINDOW_ALL_PORTS, base, size);
}

void aml_memory_window(struct table_writer *writer, uint32_t base, uint32_t size)
{
    append_window(writer, RESOURCE_DWORD, 4, WINDOW_MEMORY, WINDOW_WRITABLE, base, size);
}

void aml_high_memory_window(struct table_writer *writer, uint64_t base, uint64_t size)
{
    append_window(writer, RESOURCE_QWORD, 8, WINDOW_MEMORY, WINDOW_WRITABLE, base, size);
}

void aml_irq(struct table_writer *writer, unsigned line)
{
    const uint8_t descriptor[] = {RESOURCE_IRQ, (uint8_t)(1u << line), (uint8_t)(1u << line >> 8)};
    table_append(writer, descriptor, sizeof(descriptor));
}
