#include "memory/shared_log.h"

#include <endian.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/error.h"
#include "base/macros.h"
#include "memory/address_space.h"
#include "memory/dirty_block.h"
#include "memory/internal.h"
#include "memory/listener.h"
#include "memory/sealed_memfd.h"

/* One memfd; words are little endian. */
struct log_memory {
    int fd;
    uint64_t size;
    _Atomic uint64_t *words;
};

struct shared_log {
    struct memory_listener listener;
    struct dirty_source source;
    struct address_space *space;
    struct log_memory log;    /* no words: there is none yet */
    struct log_memory larger; /* of the commit under way; no words: the log stays */
};

static int open_log(struct log_memory *log, uint64_t pages)
{
    uint64_t size = align_up(pages / 8 + 1, RAM_PAGE_SIZE);
    int fd = sealed_memfd_create("godwit-dirty-log", size, 0);
    if (fd < 0)
        return fd;
    void *words = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (words == MAP_FAILED) {
        int result = -errno;
        close(fd);
        return result;
    }
    *log = (struct log_memory){fd, size, words};
    return 0;
}

static void close_log(struct log_memory *log)
{
    if (!log->words)
        return;
    munmap((void *)log->words, log->size);
    close(log->fd);
    *log = (struct log_memory){0};
}

enum drain_mode {
    LEAVE_BITS,
    TAKE_BITS,
};

/* Those of `mask` that are set in a word. */
static uint64_t get_bits(_Atomic uint64_t *word, uint64_t mask, enum drain_mode mode)
{
    uint64_t set = le64toh(atomic_load_explicit(word, memory_order_relaxed)) & mask;
    if (set && mode == TAKE_BITS)
        set &= le64toh(atomic_fetch_and(word, ~htole64(set)));
    return set;
}

static uint64_t block_offset(const struct flat_range *range)
{
    return range->region->block_offset + range->offset_in_region;
}

/* Marks what `range` shows of the guest's page `page`, which need not lie at a page of the block. */
static void mark_page(const struct flat_range *range, uint64_t page)
{
    struct span shown = {range->start, (__int128)flat_range_end(range)};
    __int128 start = (__int128)page * RAM_PAGE_SIZE;
    struct span part = span_intersect(shown, (struct span){start, start + RAM_PAGE_SIZE});
    if (!span_empty(part))
        dirty_mark(range->region->block, block_offset(range) + (uint64_t)(part.start - shown.start),
                   (uint64_t)(part.end - part.start));
}

/* Marks the guest's pages from page `first` on, which is in `range`, whose bits are set. */
static void mark(const struct flat_range *range, uint64_t first, uint64_t bits)
{
    uint64_t offset = block_offset(range);
    if ((range->start | offset) % RAM_PAGE_SIZE == 0) {
        uint64_t page = offset / RAM_PAGE_SIZE + (first - range->start / RAM_PAGE_SIZE);
        dirty_merge(range->region->block, page, DIRTY_WORD_PAGES, &bits);
        return;
    }
    for (; bits; bits &= bits - 1)
        mark_page(range, first + (uint64_t)__builtin_ctzll(bits));
}

/* Drains pages `first` to `last`, all of which `range` shows as a whole. */
static void drain_pages(struct shared_log *self, const struct flat_range *range, uint64_t first,
                        uint64_t last, enum drain_mode mode)
{
    for (uint64_t page = first, next; page <= last; page = next) {
        next = align_down(page, DIRTY_WORD_PAGES) + DIRTY_WORD_PAGES;
        unsigned skipped = page % DIRTY_WORD_PAGES;
        uint64_t mask = UINT64_MAX << skipped;
        if (last < next)
            mask &= UINT64_MAX >> (next - 1 - last);
        uint64_t bits = get_bits(&self->log.words[page / DIRTY_WORD_PAGES], mask, mode) >> skipped;
        if (bits)
            mark(range, page, bits);
    }
}

/* Drains a page that several ranges may share. */
static void drain_shared(struct shared_log *self, const struct flat_view *view, uint64_t page,
                         enum drain_mode mode)
{
    uint64_t bit = (uint64_t)1 << page % DIRTY_WORD_PAGES;
    if (!get_bits(&self->log.words[page / DIRTY_WORD_PAGES], bit, mode))
        return;
    const struct flat_range *range = flat_view_from(view, page * RAM_PAGE_SIZE);
    for (; range && range->start / RAM_PAGE_SIZE <= page; range = flat_view_next(view, range))
        if (flat_range_host(range, true))
            mark_page(range, page);
}

static void drain_range(struct shared_log *self, const struct flat_view *view, const struct flat_range *range,
                        enum drain_mode mode)
{
    memory_size end = flat_range_end(range);
    uint64_t first = range->start / RAM_PAGE_SIZE, behind = (uint64_t)(end / RAM_PAGE_SIZE);
    if (range->start % RAM_PAGE_SIZE)
        drain_shared(self, view, first++, mode);
    if (end % RAM_PAGE_SIZE)
        drain_shared(self, view, behind, mode);
    if (first < behind)
        drain_pages(self, range, first, behind - 1, mode);
}

static void drain(struct shared_log *self, const struct flat_view *view, const struct memory_window *windows,
                  size_t count, enum drain_mode mode)
{
    struct flat_cursor cursor = flat_cursor_begin(view, windows, count);
    for (const struct flat_range *range; flat_cursor_next_range(&cursor, &range);)
        if (flat_range_host(range, true))
            drain_range(self, view, range, mode);
}

static int sync_log(struct dirty_source *source, struct error *err)
{
    static const struct memory_window everything = {0, MEMORY_SIZE_MAX};
    struct shared_log *self = container_of(source, struct shared_log, source);
    struct flat_view *view = flat_view_get(self->space);
    drain(self, view, &everything, 1, TAKE_BITS);
    flat_view_put(view);
    return 0;
}

/* The highest RAM that a change shows; NULL: none. */
static const struct flat_range *highest_ram(const struct memory_change *change)
{
    struct flat_cursor cursor = flat_cursor_begin(change->new_view, change->windows, change->window_count);
    const struct flat_range *highest = NULL;
    for (const struct flat_range *range; flat_cursor_next_range(&cursor, &range);)
        if (flat_range_host(range, true))
            highest = range;
    return highest;
}

static int prepare(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct shared_log *self = container_of(listener, struct shared_log, listener);
    const struct flat_range *highest = highest_ram(change);
    uint64_t pages = highest ? (uint64_t)((flat_range_end(highest) - 1) / RAM_PAGE_SIZE) + 1 : 0;
    bool exists = self->log.words;
    if (exists && pages <= self->log.size * 8)
        return 0;
    if (exists && dirty_tracked(self->space->memory))
        return error_set(
            err, ENOSPC,
            "region %s: its RAM up to 0x%llx does not fit into the dirty log that is shared with "
            "other processes (end dirty tracking first)",
            highest->region->name, (unsigned long long)(flat_range_end(highest) - 1));
    int result = open_log(&self->larger, pages);
    return result ? error_set_errno(err, -result, "not enough memory to share a dirty log of %llu pages",
                                    (unsigned long long)pages)
                  : 0;
}

/* A bit may mean what either view shows: all of `last` have been set, those of `next` may still come. */
static void drain_both(struct shared_log *self, const struct memory_change *change,
                       const struct flat_view *last, const struct flat_view *next)
{
    if (!self->log.words || !dirty_tracked(self->space->memory))
        return;
    drain(self, last, change->windows, change->window_count, LEAVE_BITS);
    drain(self, next, change->windows, change->window_count, TAKE_BITS);
}

static int apply(struct memory_listener *listener, const struct memory_change *change, struct error *err)
{
    struct shared_log *self = container_of(listener, struct shared_log, listener);
    drain_both(self, change, change->old_view, change->new_view);
    return 0;
}

static void commit(struct memory_listener *listener, const struct memory_change *change)
{
    struct shared_log *self = container_of(listener, struct shared_log, listener);
    if (!self->larger.words)
        return;
    close_log(&self->log);
    self->log = self->larger;
    self->larger = (struct log_memory){0};
}

/* By now back ends have gone back to the old view, which they had not yet when calls were taken back. */
static void abort_change(struct memory_listener *listener, const struct memory_change *change)
{
    struct shared_log *self = container_of(listener, struct shared_log, listener);
    drain_both(self, change, change->new_view, change->old_view);
    close_log(&self->larger);
}

static const struct memory_listener_ops listener_ops = {
    .prepare = prepare,
    .apply = apply,
    .commit = commit,
    .abort = abort_change,
};

static const struct dirty_source_ops source_ops = {.sync = sync_log};

int shared_log_create(struct address_space *space, struct shared_log **out, struct error *err)
{
    struct shared_log *self = calloc(1, sizeof(*self));
    if (!self)
        return error_set(err, ENOMEM, "not enough memory to share a dirty log");
    self->space = space;
    self->source.ops = &source_ops;
    self->listener = (struct memory_listener){
        .name = "shared-log",
        .priority = MEMORY_LISTENER_PRIORITY_LOG,
        .ops = &listener_ops,
    };
    int result = memory_listener_register(&self->listener, space, err);
    if (result) {
        free(self);
        return result;
    }
    dirty_source_add(&self->source, space->memory);
    *out = self;
    return 0;
}

void shared_log_destroy(struct shared_log *self)
{
    if (!self)
        return;
    memory_listener_unregister(&self->listener);
    dirty_source_remove(&self->source);
    close_log(&self->log);
    free(self);
}

int shared_log_fd(const struct shared_log *log)
{
    return log->log.fd;
}

uint64_t shared_log_size(const struct shared_log *log)
{
    return log->log.size;
}
