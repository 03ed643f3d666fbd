#include "devices/block/disk_lock.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "base/error.h"

/* How often, and how far apart, a lock is tried that nobody is seen to hold. */
#define ATTEMPTS 50
#define PAUSE_NS 20000000

struct holder {
    long pid;
    char name[32];
};

/* Whether `folder`/`name`, which describes a descriptor, tells of a lock on the file that `key` names. */
static bool tells_of_lock(const char *folder, const char *name, const char *key)
{
    char path[300], line[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (!file)
        return false;
    bool found = false;
    while (!found && fgets(line, sizeof(line), file))
        found = !strncmp(line, "lock:", 5) && strstr(line, key);
    fclose(file);
    return found;
}

static bool holds_lock(long pid, const char *key)
{
    char folder[40];
    snprintf(folder, sizeof(folder), "/proc/%ld/fdinfo", pid);
    DIR *entries = opendir(folder);
    if (!entries)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(entries));)
        found = entry->d_name[0] != '.' && tells_of_lock(folder, entry->d_name, key);
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

/* /proc/locks has no process for such locks; the descriptors of the processes that we may look at do. */
static bool find_holder(int fd, struct holder *holder)
{
    struct stat status;
    char key[64];
    if (fstat(fd, &status) < 0)
        return false;
    snprintf(key, sizeof(key), " %02x:%02x:%llu ", major(status.st_dev), minor(status.st_dev),
             (unsigned long long)status.st_ino);
    DIR *entries = opendir("/proc");
    if (!entries)
        return false;
    bool found = false;
    for (struct dirent *entry; !found && (entry = readdir(entries));) {
        holder->pid = strtol(entry->d_name, NULL, 10);
        found = holder->pid > 0 && holds_lock(holder->pid, key);
    }
    closedir(entries);
    if (found)
        read_name(holder);
    return found;
}

static int say_busy(const struct holder *holder, const char *path, bool exclusive, struct error *err)
{
    const char *remedy = exclusive ? "an image that can be written belongs to one machine alone"
                                   : "an image that another one writes cannot be read meanwhile";
    if (!holder)
        return error_set(err, EBUSY, "disk image %s is in use by another process: %s", path, remedy);
    return error_set(err, EBUSY, "disk image %s is in use by process %ld (%s): %s", path, holder->pid,
                     holder->name, remedy);
}

int disk_lock(int fd, const char *path, bool exclusive, struct error *err)
{
    struct flock lock = {.l_type = (short)(exclusive ? F_WRLCK : F_RDLCK), .l_whence = SEEK_SET};
    for (unsigned attempt = 0; fcntl(fd, F_OFD_SETLK, &lock) < 0; attempt++) {
        struct holder holder;
        if (errno != EAGAIN && errno != EACCES)
            return error_set_errno(err, errno, "cannot lock disk image %s (a file system without locks?)",
                                   path);
        if (find_holder(fd, &holder))
            return say_busy(&holder, path, exclusive, err);
        if (attempt == ATTEMPTS)
            return say_busy(NULL, path, exclusive, err);
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_NS}, NULL);
    }
    return 0;
}
