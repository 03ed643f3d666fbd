#include "vmm/x86/kaslr.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "vmm/x86/elf.h"
#include "vmm/x86/image.h"
#include "vmm/x86/kernel.h"

#define KERNEL_MAP     0xFFFFFFFF80000000ull /* the virtual address of physical 0 in a kernel at rest */
#define KERNEL_SPACE   GIB                   /* how far kernels with relocations map it */
#define TABLE_SIZE_MAX (16 * MIB)

enum list {
    LIST_64,
    LIST_32_NEGATIVE,
    LIST_32
};

struct table {
    size_t count;
    const uint32_t *entries;
    unsigned lists;
};

/* The kernel in RAM, and how far it moves. */
struct move {
    uint8_t *kernel;
    uint64_t address, size; /* physical */
    uint64_t delta;
};

static uint64_t choose_delta(const struct kernel *kernel)
{
    const struct setup_header *header = &kernel->header;
    uint64_t end = header->pref_address + header->init_size;
    uint64_t random;
    if (end > KERNEL_SPACE || getrandom(&random, sizeof(random), 0) != sizeof(random))
        return 0;
    return random % ((KERNEL_SPACE - end) / header->kernel_alignment + 1) * header->kernel_alignment;
}

static int relocate(const struct move *move, enum list list, uint32_t entry, struct error *err)
{
    uint64_t offset = (uint64_t)(int64_t)(int32_t)entry - KERNEL_MAP - move->address;
    size_t width = list == LIST_64 ? sizeof(uint64_t) : sizeof(uint32_t);
    if (offset >= move->size || move->size - offset < width)
        return error_set(err, EBADMSG, "it has a relocation outside of the kernel, at 0x%x: damaged", entry);
    uint64_t value = 0;
    memcpy(&value, move->kernel + offset, width);
    value += list == LIST_32_NEGATIVE ? -move->delta : move->delta;
    memcpy(move->kernel + offset, &value, width);
    return 0;
}

static int relocate_all(const struct move *move, const struct table *table, struct error *err)
{
    enum list list = LIST_64;
    int result = 0;
    /* The zero at the beginning is the first list's own. */
    for (size_t i = 1; !result && i < table->count; i++) {
        if (table->entries[i])
            result = relocate(move, list, table->entries[i], err);
        else
            list = list == LIST_64 && table->lists == 3 ? LIST_32_NEGATIVE : LIST_32;
    }
    return result;
}

/* Counts the lists, each of which a zero begins; 0 for what is no table. */
static unsigned count_lists(const uint32_t *entries, size_t count)
{
    unsigned lists = 0;
    if (entries[0] != 0)
        return 0;
    for (size_t i = 0; i < count && lists < 4; i++)
        lists += entries[i] == 0;
    return lists == 2 || lists == 3 ? lists : 0;
}

static int move_kernel(const struct table *table, const struct kernel_target *target, struct kernel *kernel,
                       struct error *err)
{
    struct guest_mapping mapping;
    uint64_t size = kernel->end - kernel->start;
    int result = guest_map(target->memory, kernel->start, size, true, &mapping);
    if (result)
        return error_set_errno(err, -result, "cannot map the kernel in guest RAM");
    struct move move = {
        .kernel = mapping.iov[0].iov_base,
        .address = kernel->start,
        .size = mapping.iov[0].iov_len,
        .delta = choose_delta(kernel),
    };
    result = relocate_all(&move, table, err);
    guest_unmap(&mapping, size);
    kernel->header.loadflags |= KASLR_FLAG;
    return result;
}

int kaslr_apply(struct image *payload, const struct elf *elf, const struct kernel_target *target,
                struct kernel *kernel, struct error *err)
{
    uint64_t start = elf->sections_end;
    if (!target->randomize || !kernel->header.relocatable_kernel || start < payload->position ||
        start >= payload->size)
        return 0;
    uint64_t size = payload->size - start;
    if (size % sizeof(uint32_t) || size > TABLE_SIZE_MAX)
        return 0;

    uint32_t *entries = malloc(size);
    if (!entries)
        return error_set(err, ENOMEM, "no memory for the kernel's relocations");
    int result = image_read(payload, start, entries, size, err);
    if (!result) {
        struct table table = {size / sizeof(*entries), entries,
                              count_lists(entries, size / sizeof(*entries))};
        if (table.lists)
            result = move_kernel(&table, target, kernel, err);
    }
    free(entries);
    return result;
}
