#include "guest/lib/sequence.h"

#define NEWLINE (sizeof(((struct sequence *)0)->line) - 1)

void sequence_begin(struct sequence *sequence, uint64_t number)
{
    sequence->line[NEWLINE] = '\n';
    sequence->first = NEWLINE;
    do {
        sequence->line[--sequence->first] = '0' + number % 10;
        number /= 10;
    } while (number);
    sequence->next = sequence->first;
}

static void next_line(struct sequence *sequence)
{
    unsigned digit = NEWLINE - 1;

    for (; digit >= sequence->first && sequence->line[digit] == '9'; digit--)
        sequence->line[digit] = '0';
    if (digit < sequence->first)
        sequence->line[sequence->first = digit] = '1';
    else
        sequence->line[digit]++;
    sequence->next = sequence->first;
}

void sequence_read(struct sequence *sequence, void *to, uint64_t size)
{
    char *bytes = to;

    for (uint64_t i = 0; i < size; i++) {
        bytes[i] = sequence->line[sequence->next];
        if (sequence->next++ == NEWLINE)
            next_line(sequence);
    }
}
