#include "memory/describe.h"

#include <stdio.h>

const char *memory_region_kind_name(enum memory_region_kind kind)
{
    static const char *const names[] = {
        [MEMORY_REGION_CONTAINER] = "container",
        [MEMORY_REGION_RAM] = "ram",
        [MEMORY_REGION_ROM] = "rom",
        [MEMORY_REGION_ROM_DEVICE] = "rom device",
        [MEMORY_REGION_MMIO] = "mmio",
        [MEMORY_REGION_ALIAS] = "alias",
        [MEMORY_REGION_RESERVATION] = "reservation",
    };
    return names[kind];
}

void describe_extent(char *text, size_t size, __int128 start, memory_size length)
{
    snprintf(text, size, "%016llx-%016llx", (unsigned long long)start,
             (unsigned long long)(start + (__int128)length - 1));
}

void describe_range(char *text, size_t size, const struct flat_range *range)
{
    char extent[40], log[24] = "";
    describe_extent(extent, sizeof(extent), range->start, range->size);
    if (range->log)
        snprintf(log, sizeof(log), ", log 0x%x", range->log);
    bool rom_device = range->region->kind == MEMORY_REGION_ROM_DEVICE;
    snprintf(text, size, "%s (%s%s%s%s%s): %s @%016llx", extent, memory_region_kind_name(range->region->kind),
             range->readonly && range->region->kind != MEMORY_REGION_ROM ? ", read-only" : "",
             range->unmergeable ? ", unmergeable" : "",
             !rom_device        ? ""
             : range->romd_mode ? ", romd"
                                : ", romd off",
             log, range->region->name, (unsigned long long)range->offset_in_region);
}

void describe_ioeventfd(char *text, size_t size, const struct flat_ioeventfd *ioeventfd)
{
    char length[24] = "", value[32] = "";
    if (ioeventfd->length)
        snprintf(length, sizeof(length), " length %u", ioeventfd->length);
    if (ioeventfd->match)
        snprintf(value, sizeof(value), " value 0x%llx", (unsigned long long)ioeventfd->data);
    snprintf(text, size, "%016llx%s%s fd %d", (unsigned long long)ioeventfd->address, length, value,
             ioeventfd->fd);
}
