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
    assert(!memory->blocks && !memory->sources && !atomic_load(&memory->clients));
    free(memory->calls);
    memory_render_free(memory);
    flat_view_bury(memory);
    free(memory->spare_view);
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
    struct flat_view *view;
    if (memory_render(space, &view))
        return error_set(err, ENOMEM, "address space %s: not enough memory for a new view", space->name);
    if (!view)
        return 0;
    memory_change_begin(&space->change, space, space->view, view, space->windows, space->window_count);
    if (!memory_change_visible(&space->change)) {
        flat_view_destroy(view);
        return 0;
    }
    space->pending = view;
    space->replaced = flat_view_get(space);
    return 0;
}

/* Tells the listeners of `space` and all later ones that nothing came of it, the last first. */
static void abort_falling(struct address_space *space)
{
    if (!space)
        return;
    abort_falling(space->next);
    listeners_abort(space);
    flat_view_destroy(space->pending);
}

static void roll_back(struct memory *memory, struct error *err)
{
    listeners_undo(memory, err);
    abort_falling(memory->spaces);
    memory_undo_restore(memory);
}

static void forget_commit(struct memory *memory)
{
    for (struct address_space *space = memory->spaces; space; space = space->next) {
        flat_view_put(space->replaced);
        space->window_count = 0;
        space->pending = space->replaced = NULL;
        space->prepared = NULL;
    }
    memory->call_count = 0;
    flat_view_bury(memory);
}

static int try_commit(struct memory *memory, struct error *err)
{
    int result = 0;
    for (struct address_space *space = memory->spaces; space && !result; space = space->next)
        result = space->window_count ? render(space, err) : 0;
    for (struct address_space *space = memory->spaces; space && !result; space = space->next)
        result = space->pending ? listeners_prepare(space, err) : 0;
    for (struct address_space *space = memory->spaces; space && !result; space = space->next)
        result = space->pending ? listeners_apply(space, err) : 0;
    return result;
}

static void finish_commit(struct memory *memory)
{
    for (struct address_space *space = memory->spaces; space; space = space->next)
        if (space->pending)
            flat_view_publish(space, space->pending);
    for (struct address_space *space = memory->spaces; space; space = space->next)
        if (space->pending)
            listeners_commit(space);
    memory_undo_forget(memory);
}

static int commit(struct memory *memory, struct error *err)
{
    int result = try_commit(memory, err);
    if (result)
        roll_back(memory, err);
    else
        finish_commit(memory);
    forget_commit(memory);
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
