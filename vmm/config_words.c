#include "vmm/config_words.h"

#include <stdbool.h>
#include <string.h>

const char *config_take_word(const char *text, char *word)
{
    bool ended = false;
    while (*text && !ended) {
        ended = *text == ',' && *++text != ',';
        if (!ended)
            *word++ = *text++;
    }
    *word = '\0';
    return ended ? text : NULL;
}

const char *config_value_of(const char *word, const char *name)
{
    size_t length = strlen(name);
    return strncmp(word, name, length) == 0 ? word + length : NULL;
}
