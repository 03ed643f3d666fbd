#include "guest/lib/madt.h"

#include <stddef.h>

#include "guest/lib/string.h"

#define RSDP_FIRST      0xe0000
#define RSDP_END        0x100000
#define MADT_LOCAL_APIC 0
#define CPU_ENABLED     1

/* ACPI 6.4: 5.2.5.3, 5.2.6, 5.2.12. */
struct rsdp {
    char signature[8];
    uint8_t checksum;
    char oem[6];
    uint8_t revision;
    uint32_t rsdt;
    uint32_t length;
    uint64_t xsdt;
} __attribute__((packed));

struct table {
    char signature[4];
    uint32_t length;
    uint8_t rest[28];
    uint8_t body[];
} __attribute__((packed));

struct local_apic {
    uint8_t type;
    uint8_t length;
    uint8_t processor;
    uint8_t apic_id;
    uint32_t flags;
} __attribute__((packed));

static const struct rsdp *find_rsdp(void)
{
    for (uint64_t address = RSDP_FIRST; address < RSDP_END; address += 16) {
        if (memcmp((const void *)address, "RSD PTR ", 8) == 0)
            return (const struct rsdp *)address;
    }
    return NULL;
}

/* The MADT among the tables that `root` (RSDT or XSDT) points to with `width` bytes each. */
static const struct table *find_madt(const struct table *root, unsigned width)
{
    for (unsigned at = 0; at + width <= root->length - sizeof(*root); at += width) {
        uint64_t address = 0;
        memcpy(&address, root->body + at, width);
        if (memcmp((const void *)address, "APIC", 4) == 0)
            return (const struct table *)address;
    }
    return NULL;
}

unsigned madt_cpus(uint8_t *apic_ids, unsigned limit)
{
    const struct rsdp *rsdp = find_rsdp();
    const struct table *madt;
    unsigned count = 0;

    if (!rsdp)
        return 0;
    madt = rsdp->revision >= 2 && rsdp->xsdt ? find_madt((const struct table *)rsdp->xsdt, 8)
                                             : find_madt((const struct table *)(uint64_t)rsdp->rsdt, 4);
    if (!madt)
        return 0;
    /* The entries follow the LAPIC address and the flags. */
    for (unsigned at = 8; at + 2 <= madt->length - sizeof(*madt) && madt->body[at + 1];
         at += madt->body[at + 1]) {
        const struct local_apic *cpu = (const struct local_apic *)(madt->body + at);
        if (cpu->type == MADT_LOCAL_APIC && cpu->flags & CPU_ENABLED && count < limit)
            apic_ids[count++] = cpu->apic_id;
    }
    return count;
}
