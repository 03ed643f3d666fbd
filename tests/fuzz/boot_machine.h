/* RAM for the fuzz targets that load kernels, and what must hold whatever the kernel is. */
#pragma once

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/memory.h"
#include "memory/ram_block.h"
#include "memory/region.h"
#include "vmm/x86/boot.h"
#include "vmm/x86/platform.h"

#define BOOT_MACHINE_RAM (16 * MIB)

static inline void require(int condition, const char *what)
{
    if (!condition) {
        fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

static inline void load_file(const char *path, struct address_space *space)
{
    struct platform platform = {.cpus = 1, .memory = BOOT_MACHINE_RAM, .acpi = true, .command_line = "quiet"};
    struct boot_files files = {.kernel = path};
    struct boot_entry entry;
    struct error err = {""};
    void *dtb;
    size_t dtb_size;
    int result = boot_load(&files, &platform, space, &entry, &dtb, &dtb_size, &err);
    if (result) {
        require(result < 0 && err.message[0], "a refusal has a message");
        require(!strchr(err.message, '\n'), "a message is one line");
        return;
    }
    require(entry.rip >= MIB && entry.rip < BOOT_MACHINE_RAM, "the entry point is in RAM for kernels");
    free(dtb);
}

/* Loads these bytes as a kernel into RAM that was never used. */
static inline void load_kernel(const void *data, size_t size)
{
    struct memory *memory = memory_create();
    struct ram_block *block = NULL;
    struct memory_region root, ram;
    struct address_space *space = NULL;
    char path[32];
    int fd = memfd_create("kernel", MFD_CLOEXEC);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    require(memory && fd >= 0 && write(fd, data, size) == (ssize_t)size, "the file can be written");
    require(!ram_block_create("ram", BOOT_MACHINE_RAM, 0, &block, NULL) &&
                !memory_region_init_container(&root, memory, "memory", MEMORY_SIZE_MAX, NULL) &&
                !memory_region_init_ram(&ram, memory, "ram", block, 0, BOOT_MACHINE_RAM, NULL) &&
                !memory_region_add_subregion(&root, 0, &ram, 0, NULL) &&
                !address_space_create(memory, "memory", &root, &space, NULL),
            "there is RAM");
    load_file(path, space);
    address_space_destroy(space);
    memory_region_remove_subregion(&ram, NULL);
    memory_synchronize(memory);
    memory_region_destroy(&ram);
    memory_region_destroy(&root);
    memory_destroy(memory);
    ram_block_destroy(block);
    close(fd);
}
