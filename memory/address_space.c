#include "memory/address_space.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "memory/internal.h"
#include "memory/memory.h"

static void link_space(struct address_space *space)
{
    struct address_space **link = &space->memory->spaces;
    while (*link)
        link = &(*link)->next;
    *link = space;
    space->next_of_root = space->root->spaces;
    space->root->spaces = space;
}

static void unlink_space(struct address_space *space)
{
    struct address_space **link = &space->memory->spaces;
    while (*link != space)
        link = &(*link)->next;
    *link = space->next;
    link = &space->root->spaces;
    while (*link != space)
        link = &(*link)->next_of_root;
    *link = space->next_of_root;
}

/* Publishes the first view. */
static int show(struct address_space *space)
{
    struct flat_view *view;
    if (!memory_windows_create(space))
        return -ENOMEM;
    memory_windows_add(space, memory_region_span(space->root));
    int result = memory_render(space, &view);
    space->window_count = 0;
    if (!result && !view) {
        view = flat_view_create(space, NULL);
        result = view ? 0 : -ENOMEM;
    }
    if (!result)
        flat_view_publish(space, view);
    return result;
}

static void free_space(struct address_space *space)
{
    free(space->windows);
    free(space);
}

int address_space_create(struct memory *memory, const char *name, struct memory_region *root,
                         struct address_space **out, struct error *err)
{
    struct address_space *space = malloc(sizeof(*space));
    if (!space)
        return error_set(err, ENOMEM, "address space %s: not enough memory", name);
    *space = (struct address_space){.memory = memory, .name = name, .root = root};
    pthread_mutex_lock(&memory->lock);
    int result = 0;
    if (memory->depth)
        result = error_set(err, EBUSY, "address space %s cannot be created within a transaction", name);
    else if (root->memory != memory)
        result =
            error_set(err, EINVAL, "address space %s: its root %s is another machine's", name, root->name);
    else if (show(space))
        result = error_set(err, ENOMEM, "address space %s: not enough memory for its view", name);
    else
        link_space(space);
    pthread_mutex_unlock(&memory->lock);
    if (result)
        free_space(space);
    else
        *out = space;
    return result;
}

void address_space_destroy(struct address_space *space)
{
    if (!space)
        return;
    struct memory *memory = space->memory;
    pthread_mutex_lock(&memory->lock);
    assert(!space->listeners && !memory->depth);
    unlink_space(space);
    flat_view_publish(space, NULL);
    flat_view_bury(memory);
    pthread_mutex_unlock(&memory->lock);
    free_space(space);
}
