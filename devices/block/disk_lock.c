#include "devices/block/disk_lock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include "base/error.h"
#include "devices/holder.h"

/* /proc/locks has no process for such locks; the descriptors of the processes that we may look at do. */
static bool find_holder(int fd, struct holder *holder)
{
    struct stat status;
    char key[64];
    if (fstat(fd, &status) < 0)
        return false;
    snprintf(key, sizeof(key), " %02x:%02x:%llu ", major(status.st_dev), minor(status.st_dev),
             (unsigned long long)status.st_ino);
    return holder_find("lock:", key, holder);
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
        if (!holder_wait(attempt))
            return say_busy(NULL, path, exclusive, err);
    }
    return 0;
}
