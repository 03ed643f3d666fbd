#include "vmm/x86/disassembler.h"

#include <Zydis/Zydis.h>
#include <ctype.h>
#include <linux/kvm.h>
#include <stdio.h>

#include "vmm/x86/cpu_bits.h"

static ZyanStatus init_decoder(ZydisDecoder *decoder, const struct kvm_sregs *sregs)
{
    bool long_mode = sregs->efer & EFER_LMA;
    if (long_mode && sregs->cs.l)
        return ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64);
    if (!(sregs->cr0 & CR0_PE))
        return ZydisDecoderInit(decoder, ZYDIS_MACHINE_MODE_REAL_16, ZYDIS_STACK_WIDTH_16);
    ZydisStackWidth stack = sregs->ss.db ? ZYDIS_STACK_WIDTH_32 : ZYDIS_STACK_WIDTH_16;
    if (sregs->cs.db)
        return ZydisDecoderInit(
            decoder, long_mode ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LEGACY_32, stack);
    return ZydisDecoderInit(
        decoder, long_mode ? ZYDIS_MACHINE_MODE_LONG_COMPAT_16 : ZYDIS_MACHINE_MODE_LEGACY_16, stack);
}

static void copy_upper(char *to, size_t size, const char *from)
{
    size_t i = 0;
    for (; from[i] && i + 1 < size; i++)
        to[i] = (char)toupper((unsigned char)from[i]);
    to[i] = '\0';
}

bool disassemble(const struct kvm_sregs *sregs, uint64_t address, const void *bytes, size_t size,
                 struct instruction *instruction)
{
    ZydisDecoder decoder;
    ZydisFormatter formatter;
    ZydisDecodedInstruction decoded;
    ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
    if (!ZYAN_SUCCESS(init_decoder(&decoder, sregs)) ||
        !ZYAN_SUCCESS(ZydisDecoderDecodeFull(&decoder, bytes, size, &decoded, operands)) ||
        !ZYAN_SUCCESS(ZydisFormatterInit(&formatter, ZYDIS_FORMATTER_STYLE_INTEL)) ||
        !ZYAN_SUCCESS(ZydisFormatterFormatInstruction(&formatter, &decoded, operands,
                                                      decoded.operand_count_visible, instruction->text,
                                                      sizeof(instruction->text), address, ZYAN_NULL)))
        return false;
    instruction->length = decoded.length;
    copy_upper(instruction->mnemonic, sizeof(instruction->mnemonic),
               ZydisMnemonicGetString(decoded.mnemonic));
    return true;
}
