/* The few functions of the C library that the compiler and libfdt call. */
#pragma once

#include <stddef.h>

void *memcpy(void *to, const void *from, size_t size);
void *memmove(void *to, const void *from, size_t size);
void *memset(void *to, int value, size_t size);
int memcmp(const void *left, const void *right, size_t size);
void *memchr(const void *bytes, int value, size_t size);
size_t strlen(const char *text);
size_t strnlen(const char *text, size_t limit);
char *strchr(const char *text, int value);
char *strrchr(const char *text, int value);
int strcmp(const char *left, const char *right);
unsigned long strtoul(const char *text, char **end, int base);
