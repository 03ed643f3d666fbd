/*
 * Text in a column.
 */
#pragma once

#include <stdio.h>

/*
 * Prints `text` between the columns `first` and `last`, breaking lines between words: the cursor is at
 * `first` already, and what comes after stays on the last line. A word that is longer than a line stands
 * over.
 */
void print_wrapped(FILE *out, const char *text, size_t first, size_t last);
