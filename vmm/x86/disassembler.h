/*
 * One instruction as text, by Zydis, in Intel's syntax.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct kvm_sregs;

#define INSTRUCTION_SIZE_MAX 15

struct instruction {
    unsigned length;
    char mnemonic[32]; /* "POPCNT" */
    char text[128];    /* "popcnt rax, rbx" */
};

/*
 * Decodes what the CPU whose state is `sregs` would execute at `address` (linear, for branch targets), of
 * which `size` bytes are known. Returns false where they are no instruction, or not all of one.
 */
bool disassemble(const struct kvm_sregs *sregs, uint64_t address, const void *bytes, size_t size,
                 struct instruction *instruction);
