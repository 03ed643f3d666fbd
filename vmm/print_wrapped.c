#include "vmm/print_wrapped.h"

#include <string.h>

void print_wrapped(FILE *out, const char *text, size_t first, size_t last)
{
    size_t column = first;
    while (*text) {
        size_t word = strcspn(text, " ");
        if (column > first && column + 1 + word > last) {
            fprintf(out, "\n%*s", (int)first, "");
            column = first;
        }
        if (column > first)
            column += (size_t)fprintf(out, " ");
        column += (size_t)fprintf(out, "%.*s", (int)word, text);
        text += word;
        text += strspn(text, " ");
    }
}
