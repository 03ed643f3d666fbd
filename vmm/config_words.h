/*
 * Values of options that are lists of words, "WORD,NAME=VALUE,...". A comma that belongs to a word is written
 * twice.
 */
#pragma once

/*
 * Copies the text up to the next single comma to `word`, which has room for all of `text`; of two commas one.
 * Returns what follows the comma; NULL at the end.
 */
const char *config_take_word(const char *text, char *word);

/* What is behind `name`, which ends in "=", if `word` begins with it; otherwise NULL. */
const char *config_value_of(const char *word, const char *name);
