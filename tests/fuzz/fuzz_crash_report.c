/*
 * The crash report of a guest that has made its registers, page tables and code as it likes: the input is
 * what KVM says of the crash, and then the guest's memory, over and over.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "vmm/x86/crash_report.h"

#define RAM_SIZE (64 * KIB)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fill(uint8_t *ram, const uint8_t *data, size_t size)
{
    for (size_t done = 0; size > 0 && done < RAM_SIZE; done += size)
        memcpy(ram + done, data, size < RAM_SIZE - done ? size : RAM_SIZE - done);
}

static void report(const struct crash_info *crash, struct address_space *space)
{
    char *text = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&text, &length);
    if (!out)
        abort();
    crash_report_write(crash, space, out);
    fclose(out);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct crash_info crash = {.has_registers = true};
    struct memory *memory = memory_create();
    struct memory_region root, ram;
    struct ram_block *block;
    struct address_space *space;
    if (!memory || ram_block_create("ram", RAM_SIZE, 0, &block, NULL) ||
        memory_region_init_container(&root, memory, "memory", MEMORY_SIZE_MAX, NULL) ||
        memory_region_init_ram(&ram, memory, "ram", block, 0, RAM_SIZE, NULL) ||
        memory_region_add_subregion(&root, 0, &ram, 0, NULL) ||
        address_space_create(memory, "memory", &root, &space, NULL))
        abort();
    struct {
        uint8_t kind, hardware;
        uint32_t details[8];
        struct kvm_regs regs;
        struct kvm_sregs sregs;
    } __attribute__((packed)) input = {0};
    memcpy(&input, data, size < sizeof(input) ? size : sizeof(input));
    crash.hardware = input.hardware & 1;
    crash.run.exit_reason = input.kind & 3 ? KVM_EXIT_INTERNAL_ERROR : input.kind >> 2;
    memcpy(&crash.run.internal, input.details, sizeof(input.details));
    crash.regs = input.regs;
    crash.sregs = input.sregs;
    fill(block->host, data, size);
    report(&crash, space);

    address_space_destroy(space);
    memory_region_remove_subregion(&ram, NULL);
    memory_region_destroy(&ram);
    memory_region_destroy(&root);
    ram_block_destroy(block);
    memory_destroy(memory);
    return 0;
}
