/*
 * What the guest `dirtier` and the program that drives it agree on: orders in a page of guest RAM, and which
 * page each write goes to.
 *
 * Writes are numbered from 1 on, through all orders. Write N stores N into the page dirtier_page(N) of the
 * area, then into `written`: so the driver knows at any time which pages have been written, how often and in
 * what order. As many writes in a row as there are pages hit each page once.
 */
#pragma once

#include <stdint.h>

#define DIRTIER_PAGE_SIZE 4096
#define DIRTIER_FOREVER   UINT64_MAX

/* The driver fills in the first part and counts `order` up last; the guest then obeys, at once. */
struct dirtier_control {
    uint32_t order;
    uint32_t quit;  /* ends the guest */
    uint64_t area;  /* address of the first page */
    uint64_t pages; /* a power of two */
    uint64_t count; /* writes to make; 0: none, DIRTIER_FOREVER: until the next order */

    uint32_t obeyed __attribute__((aligned(64))); /* the last order that is done; the guest's, as the next */
    uint64_t written;                             /* writes so far */
};

static inline uint64_t dirtier_page(uint64_t write, uint64_t pages)
{
    return write * 0x9e3779b97f4a7c15 & (pages - 1);
}

/* Where in the page. */
static inline uint64_t dirtier_offset(uint64_t write)
{
    return write % (DIRTIER_PAGE_SIZE / sizeof(uint64_t)) * sizeof(uint64_t);
}
