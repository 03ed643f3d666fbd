#include "guest/lib/string.h"

#include <stdint.h>

#include "guest/lib/exit.h"

void *memcpy(void *to, const void *from, size_t size)
{
    void *next = to;
    uint64_t quads = size / 8;
    uint64_t bytes = size % 8;

    /*
     * By quads as far as possible: a KVM that interprets kernel mode takes as long for a byte as for a quad.
     */
    __asm__ volatile("rep movsq; mov %3, %2; rep movsb"
                     : "+D"(next), "+S"(from), "+c"(quads)
                     : "r"(bytes)
                     : "memory");
    return to;
}

void *memmove(void *to, const void *from, size_t size)
{
    if ((uintptr_t)to - (uintptr_t)from >= size)
        return memcpy(to, from, size);
    for (size_t i = size; i > 0; i--)
        ((volatile char *)to)[i - 1] = ((const char *)from)[i - 1];
    return to;
}

void *memset(void *to, int value, size_t size)
{
    void *next = to;
    uint64_t quads = size / 8;
    uint64_t bytes = size % 8;
    uint64_t pattern = (uint8_t)value * 0x0101010101010101u;

    __asm__ volatile("rep stosq; mov %3, %1; rep stosb"
                     : "+D"(next), "+c"(quads)
                     : "a"(pattern), "r"(bytes)
                     : "memory");
    return to;
}

int memcmp(const void *left, const void *right, size_t size)
{
    const uint8_t *l = left, *r = right;

    for (size_t i = 0; i < size; i++) {
        if (l[i] != r[i])
            return l[i] - r[i];
    }
    return 0;
}

void *memchr(const void *bytes, int value, size_t size)
{
    const uint8_t *b = bytes;

    for (size_t i = 0; i < size; i++) {
        if (b[i] == (uint8_t)value)
            return (void *)(b + i);
    }
    return NULL;
}

size_t strnlen(const char *text, size_t limit)
{
    size_t length = 0;

    while (length < limit && ((volatile const char *)text)[length])
        length++;
    return length;
}

size_t strlen(const char *text)
{
    return strnlen(text, SIZE_MAX);
}

char *strchr(const char *text, int value)
{
    return memchr(text, value, strlen(text) + 1);
}

char *strrchr(const char *text, int value)
{
    for (size_t i = strlen(text) + 1; i > 0; i--) {
        if (text[i - 1] == (char)value)
            return (char *)text + i - 1;
    }
    return NULL;
}

int strcmp(const char *left, const char *right)
{
    return memcmp(left, right, strnlen(left, strlen(right)) + 1);
}

static int digit_value(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'z' ? c - 'a' + 10 : 36;
}

unsigned long strtoul(const char *text, char **end, int base)
{
    unsigned long value = 0;

    if ((base == 0 || base == 16) && text[0] == '0' && (text[1] | 0x20) == 'x' && digit_value(text[2]) < 16) {
        text += 2;
        base = 16;
    } else if (base == 0) {
        base = text[0] == '0' ? 8 : 10;
    }
    for (; digit_value(*text) < base; text++)
        value = value * base + digit_value(*text);
    if (end)
        *end = (char *)text;
    return value;
}

_Noreturn void __stack_chk_fail(void);
_Noreturn void __stack_chk_fail(void)
{
    guest_panic("stack overwritten in libfdt");
}
