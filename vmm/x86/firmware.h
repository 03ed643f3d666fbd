/*
 * The tables by which a guest finds its hardware: ACPI, or the MP table where ACPI is off, and the device
 * tree.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct address_space;
struct error;
struct platform;

/*
 * Writes the RSDP at LAYOUT_FIRMWARE and the tables it leads to (XSDT, FADT with its FACS and DSDT, MADT)
 * behind it. ACPI 6.4. Here and below: -ENOMEM; -ENOSPC where the tables outgrow the space there is for them;
 * -EFAULT where the guest has no RAM in that place.
 */
int acpi_write(const struct platform *platform, struct address_space *memory, struct error *err);

/*
 * Writes the MP floating pointer at LAYOUT_MP_TABLE and the configuration table at LAYOUT_FIRMWARE, where the
 * ACPI tables would be. MultiProcessor Specification 1.4.
 */
int mptable_write(const struct platform *platform, struct address_space *memory, struct error *err);

/*
 * Builds the device tree of `platform` as a malloced blob for the caller to free. Devicetree Specification
 * 0.4. -ENOMEM.
 */
int device_tree_build(const struct platform *platform, void **dtb, size_t *size, struct error *err);
