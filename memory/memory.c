#include "memory/memory.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/internal.h"

#define FIRST_CAPACITY 16

bool memory_reserve(void *array, size_t *capacity, size_t count, size_t size)
{
    if (count <= *capacity)
        return true;
    size_t wanted = *capacity ? *capacity : FIRST_CAPACITY;
    while (wanted < count)
        wanted *= 2;
    void **place = array;
    void *grown = reallocarray(*place, wanted, size);
    if (!grown)
        return false;
    *place = grown;
    *capacity = wanted;
    return true;
}

struct memory *memory_create(void)
{
    struct memory *memory = calloc(1, sizeof(*memory));
    if (!memory)
        return NULL;
    pthread_mutexattr_t recursive;
    pthread_mutexattr_init(&recursive);
    pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&memory->lock, &recursive);
    pthread_mutexattr_destroy(&recursive);
    pthread_mutex_init(&memory->synchronize_lock, NULL);
    return memory;
}

void memory_destroy(struct memory *memory)
{
    if (!memory)
        return;
    assert(!memory->spaces && !memory->depth);
    free(memory->calls);
    pthread_mutex_destroy(&memory->synchronize_lock);
    pthread_mutex_destroy(&memory->lock);
    free(memory);
}

void memory_transaction_begin(struct memory *memory)
{
    pthread_mutex_lock(&memory->lock);
    memory->depth++;
}

/* Renders the new view of a space that was touched, if it differs from the old one. */
static int render(struct address_space *space, struct error *err)
{
    struct span touched = space->touched;
    if (span_empty(touched))
        return 0;
    struct flat_view *view;
    if (memory_render(space, &touched, &view))
        return error_set(err, ENOMEM, "address space %s: not enough memory for a new view", space->name);
    space->change = (struct memory_change){
        .space = space,
        .old_view = space->view,
        .new_view = view,
        .start = (uint64_t)touched.start,
        .end = (memory_size)touched.end,
    };
    if (memory_change_visible(&space->change))
        return 0;
    flat_view_destroy(view);
    space->change.new_view = NULL;
    return 0;
}

/* Runs `step` for every space that changed, until one fails. */
static int for_changed(struct memory *memory, int (*step)(struct address_space *, struct error *),
                       struct error *err)
{
    int result = 0;
    for (struct address_space *space = memory->spaces; space && !result; space = space->next)
        if (space->change.new_view)
            result = step(space, err);
    return result;
}

/* Makes the new views the current ones. The old ones are kept for the commit callbacks. */
static void publish(struct memory *memory)
{
    for (struct address_space *space = memory->spaces; space; space = space->next) {
        struct memory_change *change = &space->change;
        if (!change->new_view)
            continue;
        struct flat_view *old = flat_view_get(space);
        flat_view_publish(space, (struct flat_view *)change->new_view);
        change->old_view = old;
    }
    for (struct address_space *space = memory->spaces; space; space = space->next) {
        if (!space->change.new_view)
            continue;
        listeners_commit(space);
        flat_view_put((struct flat_view *)space->change.old_view);
    }
    memory_undo_forget(memory);
}

/* Tells the listeners of `space` and all later ones that nothing came of it, the last first. */
static void abort_falling(struct address_space *space)
{
    if (!space)
        return;
    abort_falling(space->next);
    listeners_abort(space);
    flat_view_destroy((struct flat_view *)space->change.new_view);
}

static void roll_back(struct memory *memory, struct error *err)
{
    listeners_undo(memory, err);
    abort_falling(memory->spaces);
    memory_undo_restore(memory);
}

static int commit(struct memory *memory, struct error *err)
{
    int result = 0;
    for (struct address_space *space = memory->spaces; space && !result; space = space->next)
        result = render(space, err);
    if (!result)
        result = for_changed(memory, listeners_prepare, err);
    if (!result)
        result = for_changed(memory, listeners_apply, err);
    if (result)
        roll_back(memory, err);
    else
        publish(memory);
    for (struct address_space *space = memory->spaces; space; space = space->next) {
        space->touched = (struct span){0};
        space->change = (struct memory_change){0};
        space->prepared = NULL;
    }
    memory->call_count = 0;
    return result;
}

int memory_transaction_commit(struct memory *memory, struct error *err)
{
    assert(memory->depth);
    int result = 0;
    if (memory->depth == 1 && !memory->committing) {
        memory->committing = true;
        result = commit(memory, err);
        memory->committing = false;
    }
    memory->depth--;
    pthread_mutex_unlock(&memory->lock);
    return result;
}
