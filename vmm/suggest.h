/*
 * "Did you mean …?": which known word is nearest to a mistyped one. Words are compared by the number of
 * letters to insert, delete, replace or swap with a neighbour; a beginning of a known word counts as near,
 * too.
 */
#pragma once

/* Begin with `word` set and the rest zero. */
struct suggestion {
    const char *word;    /* as typed; not owned */
    const char *nearest; /* the best candidate so far, or NULL: none is near enough to be meant */
    unsigned distance;   /* of `nearest` */
};

/* Makes `candidate` (borrowed, as long as the result is used) the nearest if it is. Any thread. */
void suggestion_consider(struct suggestion *suggestion, const char *candidate);
