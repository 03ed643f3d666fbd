#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/macros.h"
#include "devices/block/disk.h"
#include "tests/unit/devices/disk_file.h"

/* Opening fails, with an error that names the file and says `says`. */
static void refuses(const char *path, enum disk_cache cache, bool readonly, int code, const char *says)
{
    struct disk_config config = {.path = path, .cache = cache, .readonly = readonly};
    struct disk *disk;
    struct error err = {0};
    cr_assert_eq(disk_open(&config, &disk, &err), -code, "%s", err.message);
    cr_assert(strstr(err.message, path), "%s", err.message);
    cr_assert(strstr(err.message, says), "%s", err.message);
}

Test(disk_open, refuses_what_is_no_disk)
{
    refuses("/nowhere/disk", DISK_CACHE_WRITEBACK, false, ENOENT, "No such file");
    refuses("/var/tmp", DISK_CACHE_WRITEBACK, false, EISDIR, "is a directory");
    refuses("/var/tmp", DISK_CACHE_WRITEBACK, true, EISDIR, "is a directory");
    refuses("/dev/zero", DISK_CACHE_WRITEBACK, false, EINVAL, "neither a file nor a block device");
    refuses("/proc/self/exe", DISK_CACHE_WRITEBACK, false, ETXTBSY, "read-only would do");
    refuses("/proc/version", DISK_CACHE_NONE, true, EINVAL, "no direct I/O");
}

Test(disk_open, does_not_wait_for_the_other_end_of_a_fifo)
{
    char path[64];
    snprintf(path, sizeof(path), "/var/tmp/godwit-fifo-%d", getpid());
    cr_assert_eq(mkfifo(path, 0600), 0);
    refuses(path, DISK_CACHE_WRITEBACK, true, EINVAL, "neither");
    refuses(path, DISK_CACHE_WRITEBACK, false, EINVAL, "neither");
    unlink(path);
}

Test(disk_open, refuses_odd_sizes)
{
    static const struct {
        uint64_t size;
        const char *says;
    } cases[] = {
        {0, "is empty"},          {1, "less than one block of"}, {511, "less than one block of"},
        {8191, "not a multiple"}, {8193, "not a multiple"},
    };
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        struct disk_file file;
        disk_file_create(&file, cases[i].size);
        refuses(file.path, DISK_CACHE_WRITEBACK, false, EINVAL, cases[i].says);
        refuses(file.path, DISK_CACHE_NONE, true, EINVAL, cases[i].says);
        disk_file_destroy(&file);
    }
}

/* Opens the disk in another process, which holds it until `leave` is closed. Returns its number. */
static pid_t open_elsewhere(const struct disk_file *file, bool readonly, int *leave)
{
    int ready[2], go[2];
    char byte = 0;
    cr_assert(pipe(ready) == 0 && pipe(go) == 0);
    pid_t child = fork();
    if (child == 0) {
        struct disk_config config = {.path = file->path, .readonly = readonly};
        struct disk *disk;
        close(go[1]);
        byte = disk_open(&config, &disk, NULL) == 0;
        if (write(ready[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 0)
            disk_close(disk);
        _exit(0);
    }
    close(go[0]);
    close(ready[1]);
    cr_assert_eq(read(ready[0], &byte, 1), 1);
    cr_assert_eq(byte, 1);
    close(ready[0]);
    *leave = go[1];
    return child;
}

Test(disk_open, says_who_uses_it_already)
{
    struct disk_file file;
    char process[32];
    int leave;
    disk_file_create(&file, 4096);
    pid_t child = open_elsewhere(&file, false, &leave);
    snprintf(process, sizeof(process), "process %d (test_disk_open)", child);
    refuses(file.path, DISK_CACHE_WRITEBACK, false, EBUSY, process);
    refuses(file.path, DISK_CACHE_WRITEBACK, true, EBUSY, process);
    close(leave);
    waitpid(child, NULL, 0);
    disk_close(disk_file_open(&file, DISK_CACHE_WRITEBACK, false));
    disk_file_destroy(&file);
}

Test(disk_open, lets_many_read_as_long_as_none_writes)
{
    struct disk_file file;
    int leave;
    disk_file_create(&file, 4096);
    pid_t child = open_elsewhere(&file, true, &leave);
    disk_close(disk_file_open(&file, DISK_CACHE_WRITEBACK, true));
    refuses(file.path, DISK_CACHE_WRITEBACK, false, EBUSY, "in use by process");
    close(leave);
    waitpid(child, NULL, 0);
    struct disk *disk = disk_file_open(&file, DISK_CACHE_WRITEBACK, false);
    refuses(file.path, DISK_CACHE_UNSAFE, true, EBUSY, "in use");
    disk_close(disk);
    disk_file_destroy(&file);
}

Test(disk_open, looks_at_what_another_one_uses_and_leaves_it_alone)
{
    struct disk_file file;
    struct stat before, behind;
    struct error err = {0};
    disk_file_create(&file, 8192);
    struct disk *writer = disk_file_open(&file, DISK_CACHE_WRITEBACK, false), *looker;
    struct disk_config config = {.path = file.path, .look_only = true};
    cr_assert_eq(fstat(file.fd, &before), 0);
    cr_assert_eq(disk_open(&config, &looker, &err), 0, "%s", err.message);
    cr_assert_eq(fstat(file.fd, &behind), 0);
    cr_assert(!memcmp(&before.st_ctim, &behind.st_ctim, sizeof(before.st_ctim)), "the file was changed");
    cr_assert_eq(disk_geometry(looker)->sectors, 16);
    disk_close(writer);
    disk_close(disk_file_open(&file, DISK_CACHE_WRITEBACK, false));
    disk_close(looker);
    disk_file_destroy(&file);
}

/* Sends `fd` through a socket where nobody receives it: its open file is no process's then. */
static int hide(int fd)
{
    int ends[2];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {
        .header = {.cmsg_len = CMSG_LEN(sizeof(int)), .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS}};
    struct msghdr message = {.msg_iov = &(struct iovec){"", 1},
                             .msg_iovlen = 1,
                             .msg_control = &control,
                             .msg_controllen = sizeof(control)};
    memcpy(CMSG_DATA(&control.header), &fd, sizeof(fd));
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    cr_assert_eq(sendmsg(ends[0], &message, 0), 1);
    close(ends[0]);
    close(fd);
    return ends[1];
}

static int hide_lock(const struct disk_file *file)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(file->path, O_RDWR | O_CLOEXEC);
    cr_assert_eq(fcntl(fd, F_OFD_SETLK, &lock), 0);
    return hide(fd);
}

static void *close_it(void *fd)
{
    close(*(int *)fd);
    return NULL;
}

/* So it looks for a moment after a process was killed. */
Test(disk_open, waits_a_while_for_a_lock_that_nobody_holds)
{
    struct disk_file file;
    pthread_t thread;
    disk_file_create(&file, 4096);
    int hidden = hide_lock(&file);
    refuses(file.path, DISK_CACHE_WRITEBACK, false, EBUSY, "in use by another process");
    close(hidden);
    hidden = hide_lock(&file);
    cr_assert_eq(pthread_create(&thread, NULL, close_it, &hidden), 0);
    disk_close(disk_file_open(&file, DISK_CACHE_WRITEBACK, false));
    pthread_join(thread, NULL);
    disk_file_destroy(&file);
}
