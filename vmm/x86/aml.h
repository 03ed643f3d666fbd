/*
 * AML, the byte code of ACPI's definition blocks: what godwit's DSDT needs of it.
 *
 * Objects are appended to a table writer in the order in which ASL would list them. A scope, device, package,
 * method, condition or resource template is opened, filled and closed with the mark that opening gave; the
 * length that precedes its contents is put in when it is closed. Names are of one segment, up to four
 * characters.
 *
 * Specification: ACPI 6.4, chapter 20 (encoding) and section 6.4 (resource descriptors).
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct table_writer;

/* Where an open object's contents begin. */
typedef size_t aml_mark;

aml_mark aml_scope_open(struct table_writer *writer, const char *name);
aml_mark aml_device_open(struct table_writer *writer, const char *name);
aml_mark aml_package_open(struct table_writer *writer, uint8_t elements);
void aml_close(struct table_writer *writer, aml_mark mark);

/* Begins a named object, whose value comes next. */
void aml_name(struct table_writer *writer, const char *name);

/* A method that one thread at a time executes. */
aml_mark aml_method_open(struct table_writer *writer, const char *name, unsigned arguments);

/*
 * Terms of methods. What a term works on comes behind it: two operands (arguments, numbered from 0, or
 * others), and for `or` the name of the result; for a condition its predicate, then the terms that depend on
 * it.
 */
aml_mark aml_if_open(struct table_writer *writer);
void aml_equal(struct table_writer *writer);
void aml_or(struct table_writer *writer);
void aml_return(struct table_writer *writer);
void aml_argument(struct table_writer *writer, unsigned index);
void aml_reference(struct table_writer *writer, const char *name);

/* Names the 32 bits that are `offset` bytes into an argument that is a buffer. */
void aml_create_dword_field(struct table_writer *writer, unsigned argument, unsigned offset,
                            const char *name);

void aml_buffer(struct table_writer *writer, const void *bytes, size_t size);
void aml_integer(struct table_writer *writer, uint64_t value);
void aml_string(struct table_writer *writer, const char *value);

/* A hardware id: three letters and four hexadecimal digits as an EISA id ("PNP0501"), others as a string. */
void aml_hardware_id(struct table_writer *writer, const char *id);

/* A resource template, a buffer of descriptors, is closed by aml_resources_close(). */
aml_mark aml_resources_open(struct table_writer *writer);
void aml_resources_close(struct table_writer *writer, aml_mark mark);
void aml_io_ports(struct table_writer *writer, uint16_t base, uint8_t count);
void aml_memory(struct table_writer *writer, uint32_t base, uint32_t size);

/* What a bus bridge passes on: its bus numbers, ports, and memory below or above 4 GiB, uncached. */
void aml_bus_numbers(struct table_writer *writer, uint8_t first, uint8_t last);
void aml_port_window(struct table_writer *writer, uint16_t base, uint16_t size);
void aml_memory_window(struct table_writer *writer, uint32_t base, uint32_t size);
void aml_high_memory_window(struct table_writer *writer, uint64_t base, uint64_t size);

/* An ISA interrupt line, edge-triggered and active high. */
void aml_irq(struct table_writer *writer, unsigned line);
