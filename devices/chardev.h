/*
 * Character devices of the host: where the bytes of a guest's serial port go to and come from.
 *
 * To the front end (a serial port) a character device looks like a non-blocking descriptor: it takes what it
 * has room for, gives what it has, and tells the front end when there is more of either. Behind it is
 * standard input and output, a file, a client of a Unix socket, or nothing.
 *
 * Output goes through a buffer of 4 KiB. The first byte after a pause is written at once, on the thread that
 * brings it; what follows within a millisecond leaves together, when the millisecond is over or the buffer is
 * full. Where the reader is slow the buffer fills and the front end is refused: nothing is lost, the guest
 * waits. Input is read only while there is room for it and otherwise stays in the kernel.
 *
 * Locks: a character device owns one lock, never held during a callback, so a front end may call in here with
 * its own lock held and take that lock in its callbacks. No call blocks on the descriptors behind the device,
 * which may be shared with other processes: their O_NONBLOCK flag is never touched.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct chardev;
struct error;
struct event_loop;
struct log;

/*
 * Sees input before the front end does, on the event loop's thread: changes the `count` bytes at `data` in
 * place and returns how many of them are left.
 */
typedef size_t chardev_filter(void *opaque, uint8_t *data, size_t count);

struct chardev_config {
    struct event_loop *loop; /* borrowed */
    const struct log *log;   /* borrowed; may be NULL */
    /*
     * Standard input and output only: output has failed for good, for the reason that the one line `message`
     * says. Called once, from any thread, perhaps with the front end's lock held: it must not call back into
     * either. From then on output is discarded.
     */
    void (*failed)(void *opaque, const char *message);
    void *opaque;
    /*
     * Optional, standard input only. With a filter, up to 1 MiB of input is read ahead, so that the filter
     * sees what is typed although the guest does not read.
     */
    chardev_filter *filter;
    void *filter_opaque;
};

/* Called on the event loop's thread, with no lock held. Both are hints: the call that follows may get 0. */
struct chardev_front_end {
    void (*readable)(void *opaque); /* chardev_read() has something */
    void (*writable)(void *opaque); /* chardev_write() has room again, after it took less than it was given */
    void *opaque;
};

/*
 * The constructors below add to the event loop, and chardev_destroy() takes away: on its thread, or while it
 * does not run.
 */

/*
 * Reads `input` and writes `output` (borrowed; usually 0 and 1). The end of input ends reading, nothing else.
 * -EBADF where `output` is not open for writing; an `input` that is not open is at its end.
 */
int chardev_create_stdio(const struct chardev_config *config, int input, int output, struct chardev **out,
                         struct error *err);

/*
 * Writes to the file at `path`, created or emptied; there is no input. -errno where it cannot be opened. What
 * cannot be written later (a full disk) is dropped, and logged once until writing succeeds again.
 */
int chardev_create_file(const struct chardev_config *config, const char *path, struct chardev **out,
                        struct error *err);

/*
 * Listens on a Unix stream socket at `path`, which only this user may connect to. One client at a time is
 * served, others wait for it to go. Without a client, output is kept: the last 1 MiB, which the next client
 * gets first, after one line that says how many bytes before it were dropped, if any. What a client sent
 * before it went is still given to the guest, unless the next one comes first. A socket that nobody listens
 * on is replaced. -ENAMETOOLONG, -EADDRINUSE (a live listener), -EEXIST (not a socket), or another -errno.
 */
int chardev_create_unix(const struct chardev_config *config, const char *path, struct chardev **out,
                        struct error *err);

/* Takes all output and has no input. -ENOMEM. */
int chardev_create_none(const struct chardev_config *config, struct chardev **out, struct error *err);

/*
 * Connects the front end (copied) that is told of events; NULL disconnects it. One at a time, and only while
 * the event loop does not run. What none has read waits for the next one.
 */
void chardev_attach(struct chardev *chardev, const struct chardev_front_end *front_end);

/*
 * Takes up to `count` bytes of output and returns how many. If that is less than `count` the front end is
 * told when there is room again. Any thread; does not block.
 */
size_t chardev_write(struct chardev *chardev, const void *data, size_t count);

/* Gives up to `count` bytes of input and returns how many. Any thread; does not block. */
size_t chardev_read(struct chardev *chardev, void *data, size_t count);

/*
 * Waits until the output taken so far has left for the descriptor, has failed, or has nobody to go to, or
 * until `interrupt` (a descriptor; -1: none) is readable. Returns 0, or -EINTR in the last case. On the event
 * loop's thread, or while it does not run; blocks for as long as the reader is slow.
 */
int chardev_flush(struct chardev *chardev, int interrupt);

/*
 * Frees the device with the output that is still in it (see chardev_flush()), and removes a Unix socket. NULL
 * is allowed.
 */
void chardev_destroy(struct chardev *chardev);
