/*
 * A machine's memory for the tests of loading kernels: RAM in one address space, files that live in memory,
 * and reading of what was left in RAM at offsets taken from the specifications, not from the code's
 * structures.
 */
#pragma once

#include <criterion/criterion.h>
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
#include "vmm/x86/layout.h"
#include "vmm/x86/platform.h"

struct boot_fixture {
    struct memory *memory;
    struct ram_block *block;
    struct memory_region root, low, high;
    struct address_space *space;
    uint8_t *ram; /* RAM below 4 GiB */
    struct platform platform;
    struct boot_entry entry;
    void *dtb;
    size_t dtb_size;
    struct error err;
};

static inline void fixture_init(struct boot_fixture *fixture, uint64_t size_in_memory)
{
    memset(fixture, 0, sizeof(*fixture));
    fixture->platform = (struct platform){
        .cpus = 1,
        .memory = size_in_memory,
        .acpi = true,
        .command_line = "",
    };
    uint64_t low = platform_ram_low(&fixture->platform), high = platform_ram_high(&fixture->platform);
    struct error *err = &fixture->err;
    fixture->memory = memory_create();
    int result = ram_block_create("ram", size_in_memory, 0, &fixture->block, err);
    if (!result)
        result =
            memory_region_init_container(&fixture->root, fixture->memory, "memory", MEMORY_SIZE_MAX, err);
    if (!result)
        result = memory_region_init_ram(&fixture->low, fixture->memory, "low", fixture->block, 0, low, err);
    if (!result)
        result = memory_region_add_subregion(&fixture->root, 0, &fixture->low, 0, err);
    if (!result && high)
        result =
            memory_region_init_ram(&fixture->high, fixture->memory, "high", fixture->block, low, high, err);
    if (!result && high)
        result = memory_region_add_subregion(&fixture->root, LAYOUT_RAM_HIGH, &fixture->high, 0, err);
    if (!result)
        result = address_space_create(fixture->memory, "memory", &fixture->root, &fixture->space, err);
    cr_assert_eq(result, 0, "%s", fixture->err.message);
    fixture->ram = fixture->block->host;
}

static inline void fixture_destroy(struct boot_fixture *fixture)
{
    address_space_destroy(fixture->space);
    memory_region_remove_subregion(&fixture->low, NULL);
    if (platform_ram_high(&fixture->platform))
        memory_region_remove_subregion(&fixture->high, NULL);
    memory_synchronize(fixture->memory);
    memory_region_destroy(&fixture->low);
    memory_region_destroy(&fixture->high);
    memory_region_destroy(&fixture->root);
    memory_destroy(fixture->memory);
    ram_block_destroy(fixture->block);
    free(fixture->dtb);
}

/* A file with these bytes; `path` gets its name. Close the result. */
static inline int fixture_file(const void *data, size_t size, char path[32])
{
    int fd = memfd_create("file", MFD_CLOEXEC);
    cr_assert_geq(fd, 0);
    for (size_t done = 0; done < size;) {
        ssize_t written = write(fd, (const char *)data + done, size - done);
        cr_assert_gt(written, 0);
        done += (size_t)written;
    }
    snprintf(path, 32, "/proc/self/fd/%d", fd);
    return fd;
}

/* boot_load() of a kernel and, unless NULL, an initrd. */
static inline int fixture_boot(struct boot_fixture *fixture, const void *kernel, size_t kernel_size,
                               const void *initrd, size_t initrd_size)
{
    char kernel_path[32], initrd_path[32];
    int kernel_fd = fixture_file(kernel, kernel_size, kernel_path);
    int initrd_fd = initrd ? fixture_file(initrd, initrd_size, initrd_path) : -1;
    struct boot_files files = {.kernel = kernel_path, .initrd = initrd ? initrd_path : NULL};
    free(fixture->dtb);
    fixture->dtb = NULL;
    int result = boot_load(&files, &fixture->platform, fixture->space, &fixture->entry, &fixture->dtb,
                           &fixture->dtb_size, &fixture->err);
    close(kernel_fd);
    if (initrd)
        close(initrd_fd);
    return result;
}

/* Expects a kernel of `size` bytes to be refused with one line that has `wanted` in it. */
static inline void fixture_refuses(uint64_t size_in_memory, const void *kernel, size_t size,
                                   const char *wanted)
{
    struct boot_fixture fixture;
    fixture_init(&fixture, size_in_memory);
    int result = fixture_boot(&fixture, kernel, size, NULL, 0);
    cr_expect_lt(result, 0, "accepted, where this was wanted: %s", wanted);
    cr_expect(strstr(fixture.err.message, wanted), "'%s' is not in: %s", wanted, fixture.err.message);
    cr_expect(strstr(fixture.err.message, "kernel /proc/self/fd/"), "no file named: %s", fixture.err.message);
    cr_expect_null(strchr(fixture.err.message, '\n'));
    cr_expect_null(fixture.dtb);
    fixture_destroy(&fixture);
}

/* One change to a good image, and what is to be said about it. */
struct damage {
    size_t offset, size; /* bytes of `value` to put there */
    uint64_t value;
    const char *wanted;
};

static inline void fixture_refuses_damage(uint64_t size_in_memory, const void *good, size_t size,
                                          const struct damage *damage, size_t count)
{
    uint8_t *bad = malloc(size);
    for (size_t i = 0; i < count; i++) {
        memcpy(bad, good, size);
        memcpy(bad + damage[i].offset, &damage[i].value, damage[i].size);
        fixture_refuses(size_in_memory, bad, size, damage[i].wanted);
    }
    free(bad);
}

static inline uint64_t load_le(const void *from, size_t size)
{
    uint64_t value = 0;
    memcpy(&value, from, size);
    return value;
}

static inline uint64_t ram_get(const struct boot_fixture *fixture, uint64_t address, size_t size)
{
    return load_le(fixture->ram + address, size);
}

static inline void put(void *image, size_t offset, uint64_t value, size_t size)
{
    memcpy((uint8_t *)image + offset, &value, size);
}

/* Bytes without a pattern that a shift could hide. */
static inline void fill_noise(void *to, size_t size, uint32_t seed)
{
    uint8_t *bytes = to;
    for (size_t i = 0; i < size; i++) {
        seed = seed * 1664525 + 1013904223;
        bytes[i] = (uint8_t)(seed >> 24);
    }
}

/*
 * An ELF64 executable of two segments in 0x3000 bytes: 0x1000 bytes from 0x1000 at 0x200000, and 0x800 bytes
 * from 0x2000 at 0x300000, where 0x1000 follow that are not in the file. Entered at 0x200010; its addresses
 * are virtual at 0xffffffff80000000 and up. A note header is free for use at program header 2.
 */
#define ELF_SIZE      0x3000
#define ELF_CODE      0x200000
#define ELF_DATA      0x300000
#define ELF_VIRTUAL   0xffffffff80000000ull
#define ELF64_PHDR(i) (64 + (i)*56)

static inline void put_segment64(uint8_t *image, unsigned index, uint32_t type, uint64_t offset,
                                 uint64_t address, uint64_t size_in_file, uint64_t size_in_memory)
{
    size_t at = ELF64_PHDR(index);
    put(image, at, type, 4);
    put(image, at + 4, 7, 4);
    put(image, at + 8, offset, 8);
    put(image, at + 16, address ? ELF_VIRTUAL + address : 0, 8);
    put(image, at + 24, address, 8);
    put(image, at + 32, size_in_file, 8);
    put(image, at + 40, size_in_memory, 8);
    put(image, at + 48, 4, 8);
}

static inline void make_elf64(uint8_t image[ELF_SIZE])
{
    memset(image, 0, ELF_SIZE);
    fill_noise(image + 0x1000, 0x2000, 1);
    memcpy(image,
           "\x7f"
           "ELF\2\1\1",
           7);
    put(image, 16, 2, 2);  /* ET_EXEC */
    put(image, 18, 62, 2); /* EM_X86_64 */
    put(image, 20, 1, 4);
    put(image, 24, ELF_CODE + 0x10, 8);
    put(image, 32, 64, 8); /* e_phoff */
    put(image, 52, 64, 2);
    put(image, 54, 56, 2); /* e_phentsize */
    put(image, 56, 3, 2);  /* e_phnum */
    put_segment64(image, 0, 1, 0x1000, ELF_CODE, 0x1000, 0x1000);
    put_segment64(image, 1, 1, 0x2000, ELF_DATA, 0x800, 0x1800);
    put_segment64(image, 2, 0, 0, 0, 0, 0);
}

/* The same as ELF32 for the 80386. */
#define ELF32_PHDR(i) (52 + (i)*32)

static inline void put_segment32(uint8_t *image, unsigned index, uint32_t type, uint32_t offset,
                                 uint32_t address, uint32_t size_in_file, uint32_t size_in_memory)
{
    const uint32_t words[] = {type, offset, address, address, size_in_file, size_in_memory, 7, 4};
    memcpy(image + ELF32_PHDR(index), words, sizeof(words));
}

static inline void make_elf32(uint8_t image[ELF_SIZE])
{
    memset(image, 0, ELF_SIZE);
    fill_noise(image + 0x1000, 0x2000, 1);
    memcpy(image,
           "\x7f"
           "ELF\1\1\1",
           7);
    put(image, 16, 2, 2);
    put(image, 18, 3, 2); /* EM_386 */
    put(image, 20, 1, 4);
    put(image, 24, ELF_CODE + 0x10, 4);
    put(image, 28, 52, 4); /* e_phoff */
    put(image, 40, 52, 2);
    put(image, 42, 32, 2); /* e_phentsize */
    put(image, 44, 3, 2);
    put_segment32(image, 0, 1, 0x1000, ELF_CODE, 0x1000, 0x1000);
    put_segment32(image, 1, 1, 0x2000, ELF_DATA, 0x800, 0x1800);
    put_segment32(image, 2, 0, 0, 0, 0, 0);
}

/* Whether the segments of make_elf64() and make_elf32() are in RAM, and nothing behind them. */
static inline void expect_elf_loaded(const struct boot_fixture *fixture, const uint8_t *image)
{
    static const uint8_t zeroes[0x1000];
    cr_expect_arr_eq(fixture->ram + ELF_CODE, image + 0x1000, 0x1000);
    cr_expect_arr_eq(fixture->ram + ELF_DATA, image + 0x2000, 0x800);
    cr_expect_arr_eq(fixture->ram + ELF_DATA + 0x800, zeroes, 0x1000);
}
