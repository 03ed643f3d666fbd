#include "vmm/suggest.h"

#include <stddef.h>
#include <string.h>

/* Longer words are not compared; commands and options are all shorter. */
#define WORD_MAX 32

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* The optimal string alignment distance of `a` and `b`, of at most WORD_MAX letters each. */
static unsigned edit_distance(const char *a, size_t a_length, const char *b, size_t b_length)
{
    unsigned distance[WORD_MAX + 1][WORD_MAX + 1];
    for (unsigned i = 0; i <= a_length; i++) {
        for (unsigned j = 0; j <= b_length; j++) {
            if (i == 0 || j == 0) {
                distance[i][j] = i + j;
                continue;
            }
            unsigned replaced = distance[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            unsigned best = least(replaced, 1 + least(distance[i - 1][j], distance[i][j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                best = least(best, distance[i - 2][j - 2] + 1);
            distance[i][j] = best;
        }
    }
    return distance[a_length][b_length];
}

void suggestion_consider(struct suggestion *suggestion, const char *candidate)
{
    size_t length = strlen(suggestion->word), candidate_length = strlen(candidate);
    if (length < 2 || length > WORD_MAX || candidate_length > WORD_MAX)
        return;
    unsigned distance = edit_distance(suggestion->word, length, candidate, candidate_length);
    if (strncmp(suggestion->word, candidate, length) == 0)
        distance = 1;
    if (distance > (length + 1) / 3 || (suggestion->nearest && distance >= suggestion->distance))
        return;
    suggestion->nearest = candidate;
    suggestion->distance = distance;
}
