/* slots: reads and writes pages that the host changes all the time, and ends with the first surprise. */
#include "guest/slots.h"

#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"

/* Of each page the first and the last word. */
#define WORDS     2
#define LAST_WORD (SLOTS_PAGE_SIZE - sizeof(uint64_t))

struct slots {
    volatile struct slots_control *control;
    uint64_t written[SLOTS_PAGES_MAX][WORDS];
    uint64_t next;
};

static bool surprise(struct slots *slots, volatile uint64_t *word, uint64_t expected, uint64_t found)
{
    slots->control->address = (uint64_t)word;
    slots->control->expected = expected;
    slots->control->found = found;
    print("slots: %lx: expected %lx, found %lx\n", (uint64_t)word, expected, found);
    return false;
}

/* What was written last must be there, and, unless it cannot be written at times, what is written now. */
static bool check_ram(struct slots *slots, volatile uint64_t *word, uint64_t *written, bool writable)
{
    uint64_t found = *word, value = ++slots->next;

    if (found != *written)
        return surprise(slots, word, *written, found);
    *word = value;
    found = *word;
    if (found != value && (writable || found != *written))
        return surprise(slots, word, value, found);
    *written = found;
    return true;
}

/* Pages move: any of the driver's words will do. */
static bool check_word(struct slots *slots, volatile uint64_t *word, uint64_t otherwise)
{
    uint64_t found = *word;

    if (found == otherwise || (found >= slots_word(0) && found < slots_word(SLOTS_PAGES_MAX)))
        return true;
    return surprise(slots, word, otherwise, found);
}

static bool check(struct slots *slots, unsigned page, unsigned index)
{
    volatile uint64_t *word =
        (volatile uint64_t *)(slots->control->area + page * SLOTS_PAGE_SIZE + index * LAST_WORD);

    switch (slots->control->kinds[page]) {
    case SLOTS_OVERLAID:
        return check_word(slots, word, SLOTS_DEVICE);
    case SLOTS_ABSENT:
        return check_word(slots, word, SLOTS_NOTHING);
    default:
        return check_ram(slots, word, &slots->written[page][index], slots->control->kinds[page] == SLOTS_RAM);
    }
}

static bool check_all(struct slots *slots)
{
    for (unsigned page = 0; page < slots->control->pages; page++)
        for (unsigned index = 0; index < WORDS; index++)
            if (!check(slots, page, index))
                return false;
    slots->control->rounds++;
    return true;
}

int main(void)
{
    static struct slots slots;

    slots.control = (volatile struct slots_control *)argument_number("control", 0);
    if (!slots.control)
        guest_panic("slots needs a program that drives it (control=ADDRESS)");
    while (!slots.control->pages)
        __asm__ volatile("pause");
    while (!slots.control->quit)
        if (!check_all(&slots))
            return 1;
    return 0;
}
