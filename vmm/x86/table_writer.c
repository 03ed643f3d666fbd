#include "vmm/x86/table_writer.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"

void table_insert(struct table_writer *writer, size_t position, const void *data, size_t size)
{
    if (writer->full || size > writer->room - writer->used) {
        writer->full = true;
        return;
    }
    memmove(writer->bytes + position + size, writer->bytes + position, writer->used - position);
    memcpy(writer->bytes + position, data, size);
    writer->used += size;
}

void table_append(struct table_writer *writer, const void *data, size_t size)
{
    table_insert(writer, writer->used, data, size);
}

void table_align(struct table_writer *writer, size_t alignment)
{
    const uint8_t zero = 0;
    while (!writer->full && writer->used % alignment)
        table_append(writer, &zero, sizeof(zero));
}

uint8_t table_checksum(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    unsigned sum = 0;
    for (size_t i = 0; i < size; i++)
        sum += bytes[i];
    return (uint8_t)-sum;
}

int table_copy_to_guest(const struct table_writer *writer, struct address_space *memory, uint64_t address,
                        const char *name, struct error *err)
{
    if (writer->full)
        return error_set(err, ENOSPC, "%s do not fit into %llu KiB: give the guest fewer CPUs or devices",
                         name, (unsigned long long)(writer->room / KIB));
    if (address_space_write(memory, address, writer->bytes, writer->used))
        return error_set(err, EFAULT, "no RAM at 0x%llx for %s: give the guest more memory",
                         (unsigned long long)address, name);
    return 0;
}
