/*
 * What made a guest crash, in words: the judgement behind the crash report.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "vmm/x86/disassembler.h"

struct address_space;
struct crash_info;

/* The instruction at which the vCPU stands, as far as it can be found. */
struct crash_site {
    bool known; /* KVM and the CPU kept where that is; nothing else is set otherwise */
    uint64_t linear;
    int translated; /* result of linear_translate() */
    uint64_t physical;
    uint8_t bytes[INSTRUCTION_SIZE_MAX];
    size_t size; /* of what is known of `bytes` */
    struct instruction instruction;
    bool decoded; /* `instruction` is set */
};

struct crash_cause {
    char what[256];   /* "triple fault" */
    char why[512];    /* the likely cause: a sentence */
    char remedy[512]; /* what to do: a sentence */
};

void crash_find_site(const struct crash_info *crash, struct address_space *memory, struct crash_site *site);

void crash_find_cause(const struct crash_info *crash, const struct crash_site *site,
                      struct address_space *memory, struct crash_cause *cause);
