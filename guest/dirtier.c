/* dirtier: writes pages in a known order at full speed, as a driver in the host orders, or by itself. */
#include "guest/dirtier.h"

#include <stdbool.h>
#include <stdint.h>

#include "guest/lib/boot.h"
#include "guest/lib/console.h"
#include "guest/lib/exit.h"
#include "guest/lib/high_memory.h"
#include "guest/lib/memory.h"

static void write_page(uint64_t area, uint64_t pages, uint64_t write)
{
    uint64_t page = area + dirtier_page(write, pages) * DIRTIER_PAGE_SIZE;

    *(volatile uint64_t *)(page + dirtier_offset(write)) = write;
}

/* Writes as `control` says. Returns when it is done, or when there is another order. */
static void obey(volatile struct dirtier_control *control, uint32_t order)
{
    uint64_t area = control->area, pages = control->pages, written = control->written;
    uint64_t end = control->count == DIRTIER_FOREVER ? DIRTIER_FOREVER : written + control->count;

    while (written < end && control->order == order) {
        write_page(area, pages, ++written);
        control->written = written;
    }
}

static int serve(volatile struct dirtier_control *control)
{
    uint32_t order = control->obeyed;

    for (;;) {
        while (control->order == order)
            __asm__ volatile("pause");
        order = control->order;
        if (control->quit)
            return 0;
        obey(control, order);
        control->obeyed = order;
    }
}

/* The last write to each page must be there. */
static uint64_t count_mismatches(uint64_t area, uint64_t pages, uint64_t writes)
{
    uint64_t mismatches = 0;

    for (uint64_t write = writes > pages ? writes - pages + 1 : 1; write <= writes; write++) {
        uint64_t page = area + dirtier_page(write, pages) * DIRTIER_PAGE_SIZE;
        mismatches += *(volatile uint64_t *)(page + dirtier_offset(write)) != write;
    }
    return mismatches;
}

static int work_alone(void)
{
    uint64_t pages = argument_number("pages", 1024), writes = pages * argument_number("passes", 1),
             mismatches;
    uint64_t area;

    if (pages == 0 || pages & (pages - 1))
        guest_panic("pages is not a power of two");
    area = (uint64_t)memory_free(pages * DIRTIER_PAGE_SIZE);
    for (uint64_t write = 1; write <= writes; write++)
        write_page(area, pages, write);
    mismatches = count_mismatches(area, pages, writes);
    print("dirtier: %lu writes to %lu pages, %lu mismatches\n", writes, pages, mismatches);
    return mismatches > 0;
}

int main(void)
{
    uint64_t control = argument_number("control", 0);

    if (!control)
        return work_alone();
    high_memory_map(argument_number("high", 0));
    return serve((volatile struct dirtier_control *)control);
}
