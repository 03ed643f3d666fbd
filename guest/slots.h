/*
 * What the guest `slots` and the program that drives it agree on: a page of guest RAM that says what to
 * expect of a range of pages while the host changes what they show.
 */
#pragma once

#include <stdint.h>

#define SLOTS_PAGE_SIZE 4096
#define SLOTS_PAGES_MAX 64

enum slots_kind {
    SLOTS_RAM,       /* is RAM before and after each change: what was written last is there at any time */
    SLOTS_READ_ONLY, /* RAM that cannot be written at times: what was written last, or before, is there */
    SLOTS_OVERLAID,  /* RAM behind a device at times: shows a word of slots_word() or SLOTS_DEVICE */
    SLOTS_ABSENT,    /* nothing at times: shows a word of slots_word() or SLOTS_NOTHING */
};

#define SLOTS_DEVICE  0x0dec1ce0dec1ce00
#define SLOTS_NOTHING UINT64_MAX

/* The driver fills in the first part, then sets `pages`; the guest works until `quit` is set, or to the first
 * surprise, which it describes before it ends with exit status 1. */
struct slots_control {
    uint32_t pages;
    uint32_t quit;
    uint64_t area; /* address of the first page */
    uint8_t kinds[SLOTS_PAGES_MAX];

    uint64_t rounds __attribute__((aligned(64))); /* complete ones; the guest's, as are the next */
    uint64_t address;                             /* of the surprise */
    uint64_t expected, found;
};

/* What the driver puts into all words of page `page` of those that are overlaid or absent at times. */
static inline uint64_t slots_word(uint64_t page)
{
    return 0x51075e7500000000 | page;
}
