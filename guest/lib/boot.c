#include "guest/lib/boot.h"

#include <libfdt.h>
#include <stddef.h>

#include "guest/lib/exit.h"
#include "guest/lib/layout.h"
#include "guest/lib/string.h"

/*
 * Linux boot protocol (boot_params), PVH (hvm_start_info) and multiboot 1 (information structure): where each
 * says that it is what it should be and where its command line lies.
 */
#define BOOT_PARAMS_MAGIC      0x202
#define BOOT_PARAMS_HDRS       0x53726448
#define BOOT_PARAMS_CMD_LINE   0x228
#define HVM_START_MAGIC        0x336ec578
#define HVM_START_CMDLINE      24
#define MULTIBOOT_FLAG_CMDLINE 4
#define MULTIBOOT_CMDLINE      16

struct boot_registers {
    uint64_t entry;
    uint64_t info;
    uint64_t tree;
};

extern struct boot_registers boot_registers;

void guest_main(void);
void guest_main(void)
{
    guest_exit(main());
}

const char *boot_entry(void)
{
    static const char *const names[] = {
        [ENTRY_ELF64] = "elf64", [ENTRY_FLAT] = "flat",           [ENTRY_BZIMAGE] = "bzimage",
        [ENTRY_PVH] = "pvh",     [ENTRY_MULTIBOOT] = "multiboot",
    };
    return names[boot_registers.entry];
}

const void *boot_tree(void)
{
    uint64_t address = boot_registers.tree;

    /* The register holds anything where the loader knows nothing of device trees. */
    if (address == 0 || address % 8 || address > UINT32_MAX - sizeof(struct fdt_header))
        return NULL;
    return fdt_check_header((const void *)address) == 0 ? (const void *)address : NULL;
}

static uint32_t info32(uint64_t offset)
{
    return *(const uint32_t *)(boot_registers.info + offset);
}

static const char *boot_params_arguments(void)
{
    bool valid = *(const uint32_t *)(boot_registers.info + BOOT_PARAMS_MAGIC) == BOOT_PARAMS_HDRS;

    return valid ? (const char *)(uint64_t)info32(BOOT_PARAMS_CMD_LINE) : NULL;
}

static const char *pvh_arguments(void)
{
    return info32(0) == HVM_START_MAGIC ? *(const char **)(boot_registers.info + HVM_START_CMDLINE) : NULL;
}

static const char *multiboot_arguments(void)
{
    return info32(0) & MULTIBOOT_FLAG_CMDLINE ? (const char *)(uint64_t)info32(MULTIBOOT_CMDLINE) : NULL;
}

const char *boot_protocol_arguments(void)
{
    if (boot_registers.info == 0 || boot_registers.info > UINT32_MAX - 4096)
        return NULL;
    if (boot_registers.entry == ENTRY_PVH)
        return pvh_arguments();
    if (boot_registers.entry == ENTRY_MULTIBOOT)
        return multiboot_arguments();
    return boot_params_arguments();
}

const char *boot_arguments(void)
{
    const void *tree = boot_tree();
    const char *text = tree ? fdt_getprop(tree, fdt_path_offset(tree, "/chosen"), "bootargs", NULL)
                            : boot_protocol_arguments();

    return text ? text : "";
}

/* What follows NAME= in the command line, or NULL. */
static const char *argument(const char *name)
{
    const char *word = boot_arguments();
    size_t length = strlen(name);

    for (; *word; word++) {
        if (memcmp(word, name, strnlen(word, length)) == 0 && word[strnlen(word, length)] == '=')
            return word + length + 1;
        while (word[0] && word[0] != ' ')
            word++;
        if (!word[0])
            break;
    }
    return NULL;
}

static unsigned suffix_shift(char suffix)
{
    switch (suffix | 0x20) {
    case 'k':
        return 10;
    case 'm':
        return 20;
    case 'g':
        return 30;
    default:
        return 0;
    }
}

uint64_t argument_number(const char *name, uint64_t otherwise)
{
    const char *text = argument(name);
    uint64_t value;
    unsigned shift;
    char *end;

    if (!text)
        return otherwise;
    value = strtoul(text, &end, text[0] == '0' ? 0 : 10);
    shift = suffix_shift(*end);
    end += shift > 0;
    if (end == text || (*end && *end != ' '))
        guest_panic("malformed number in the command line");
    return value << shift;
}

bool argument_is(const char *name, const char *value, bool by_default)
{
    const char *text = argument(name);
    size_t length = strlen(value);

    if (!text)
        return by_default;
    return strnlen(text, length) == length && memcmp(text, value, length) == 0 &&
           (text[length] == 0 || text[length] == ' ');
}
