/*
 * bzImage: a Linux kernel that carries itself compressed, with a setup header that says how to load it. Linux
 * Documentation/arch/x86/boot.rst.
 */
#pragma once

#include <stdbool.h>

struct error;
struct image;
struct kernel;
struct kernel_target;

/* Whether the file has the magic of a setup header. */
bool bzimage_is(const struct image *image);

/*
 * Loads one: unpacked, if godwit knows the compression and it unpacks to an ELF kernel; otherwise as it is,
 * to unpack itself. -errno with a message as kernel_load().
 */
int bzimage_load(struct image *image, const struct kernel_target *target, struct kernel *kernel,
                 struct error *err);
