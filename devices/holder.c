#include "devices/holder.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define ATTEMPTS 50
#define PAUSE_NS 20000000

/* What is looked for. */
struct key {
    const char *prefix, *text;
};

/* Whether `folder`/`name`, which describes a descriptor, has the line. */
static bool has_line(const char *folder, const char *name, const struct key *key)
{
    char path[300], line[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool found = false;
    while (!found && fgets(line, sizeof(line), file))
        found = !strncmp(line, key->prefix, strlen(key->prefix)) && strstr(line, key->text);
    fclose(file);
    return found;
}

static bool holds(long pid, const struct key *key)
{
    char folder[40];
    snprintf(folder, sizeof(folder), "/proc/%ld/fdinfo", pid);
    DIR *entries = opendir(folder);
    if (!entries)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(entries));)
        found = entry->d_name[0] != '.' && has_line(folder, entry->d_name, key);
    closedir(entries);
    return found;
}

static void read_name(struct holder *holder)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/%ld/comm", holder->pid);
    FILE *file = fopen(path, "re");
    if (!file || !fgets(holder->name, sizeof(holder->name), file))
        holder->name[0] = 0;
    holder->name[strcspn(holder->name, "\n")] = 0;
    if (file)
        fclose(file);
}

bool holder_find(const char *prefix, const char *text, struct holder *holder)
{
    const struct key key = {prefix, text};
    DIR *entries = opendir("/proc");
    if (!entries)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(entries));) {
        holder->pid = strtol(entry->d_name, NULL, 10);
        found = holder->pid > 0 && holds(holder->pid, &key);
    }
    closedir(entries);
    if (found)
        read_name(holder);
    return found;
}

bool holder_wait(unsigned attempt)
{
    if (attempt < ATTEMPTS)
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    return attempt < ATTEMPTS;
}
