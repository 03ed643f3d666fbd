/* The text that seq(1) prints, "1\n2\n3\n…": a long sequence of bytes that a script can compare with. */
#pragma once

#include <stdint.h>

struct sequence {
    char line[24]; /* the digits of the number and a newline at the end */
    unsigned next; /* where in the line the next byte is */
    unsigned first;
};

/* Goes to the beginning, or to the line of `number`. */
void sequence_begin(struct sequence *sequence, uint64_t number);

/* Writes the next `size` bytes to `to`. */
void sequence_read(struct sequence *sequence, void *to, uint64_t size);
