#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>

#include "front_end.h"

struct stdio {
    struct loop_thread loop;
    struct chardev_config config;
    struct chardev *chardev;
    struct front_end front_end;
    int input, output;           /* the device's descriptors */
    int host_input, host_output; /* the other ends */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    unsigned failures;
    char message[ERROR_MESSAGE_SIZE];
    size_t filtered;
};

static void note_failure(void *opaque, const char *message)
{
    struct stdio *stdio = opaque;
    pthread_mutex_lock(&stdio->lock);
    stdio->failures++;
    snprintf(stdio->message, sizeof(stdio->message), "%s", message);
    pthread_cond_broadcast(&stdio->changed);
    pthread_mutex_unlock(&stdio->lock);
}

static void init(struct stdio *stdio)
{
    *stdio = (struct stdio){.config = {.failed = note_failure, .opaque = stdio}};
    pthread_mutex_init(&stdio->lock, NULL);
    pthread_cond_init(&stdio->changed, NULL);
    loop_create(&stdio->loop);
    stdio->config.loop = stdio->loop.loop;
}

static void create(struct stdio *stdio)
{
    struct error err = {0};
    cr_assert_eq(chardev_create_stdio(&stdio->config, stdio->input, stdio->output, &stdio->chardev, &err), 0,
                 "%s", err.message);
    front_end_attach(&stdio->front_end, stdio->chardev);
}

static void create_with_pipes(struct stdio *stdio)
{
    int in[2], out[2];
    cr_assert_eq(pipe2(in, O_CLOEXEC), 0);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    stdio->input = in[0];
    stdio->host_input = in[1];
    stdio->output = out[1];
    stdio->host_output = out[0];
    create(stdio);
}

static void finish(struct stdio *stdio)
{
    chardev_destroy(stdio->chardev);
    event_loop_destroy(stdio->loop.loop);
}

static size_t readable_bytes(int fd)
{
    int count;
    cr_assert_eq(ioctl(fd, FIONREAD, &count), 0);
    return (size_t)count;
}

static void fill_pattern(uint8_t *data, size_t count)
{
    for (size_t i = 0; i < count; i++)
        data[i] = pattern(i);
}

Test(chardev, first_byte_leaves_at_once)
{
    struct stdio stdio;
    init(&stdio);
    create_with_pipes(&stdio);
    cr_assert_eq(chardev_write(stdio.chardev, "a", 1), 1);
    cr_assert_eq(readable_bytes(stdio.host_output), 1);
    finish(&stdio);
}

Test(chardev, full_buffer_leaves_at_once)
{
    struct stdio stdio;
    init(&stdio);
    create_with_pipes(&stdio);
    uint8_t data[1 + 4096];
    for (size_t i = 0; i < sizeof(data); i++)
        cr_assert_eq(chardev_write(stdio.chardev, data + i, 1), 1);
    cr_assert_geq(readable_bytes(stdio.host_output), 4096);
    cr_assert_eq(chardev_write(stdio.chardev, data, sizeof(data)), sizeof(data));
    finish(&stdio);
}

Test(chardev, last_byte_leaves_by_itself)
{
    struct stdio stdio;
    init(&stdio);
    create_with_pipes(&stdio);
    loop_start(&stdio.loop);
    for (int i = 0; i < 100; i++) {
        char text[10];
        cr_assert_eq(chardev_write(stdio.chardev, "0123456789", 10), 10);
        read_all(stdio.host_output, text, 10);
        cr_assert_eq(memcmp(text, "0123456789", 10), 0);
    }
    loop_stop(&stdio.loop);
    finish(&stdio);
}

Test(chardev, leaves_the_flags_of_shared_descriptors_alone)
{
    struct stdio stdio;
    init(&stdio);
    create_with_pipes(&stdio);
    cr_assert_eq(chardev_write(stdio.chardev, "a", 1), 1);
    cr_assert_eq(fcntl(stdio.input, F_GETFL) & O_NONBLOCK, 0);
    cr_assert_eq(fcntl(stdio.output, F_GETFL) & O_NONBLOCK, 0);
    finish(&stdio);
}

Test(chardev, end_of_input_ends_input_alone)
{
    struct stdio stdio;
    init(&stdio);
    create_with_pipes(&stdio);
    write_all(stdio.host_input, "last words", 10);
    close(stdio.host_input);
    loop_start(&stdio.loop);
    char text[10];
    front_end_read(&stdio.front_end, text, 10, 3);
    cr_assert_eq(memcmp(text, "last words", 10), 0);
    front_end_write(&stdio.front_end, "still here", 10);
    read_all(stdio.host_output, text, 10);
    loop_stop(&stdio.loop);
    cr_assert_eq(stdio.failures, 0);
    finish(&stdio);
}

Test(chardev, works_without_input)
{
    struct stdio stdio;
    int out[2];
    init(&stdio);
    cr_assert_eq(pipe2(out, O_CLOEXEC), 0);
    stdio.input = 1000;
    stdio.output = out[1];
    create(&stdio);
    loop_start(&stdio.loop);
    front_end_write(&stdio.front_end, "x", 1);
    char byte;
    read_all(out[0], &byte, 1);
    loop_stop(&stdio.loop);
    finish(&stdio);
}

Test(chardev, reads_a_file)
{
    struct stdio stdio;
    init(&stdio);
    FILE *file = tmpfile();
    uint8_t data[20000], got[20000];
    fill_pattern(data, sizeof(data));
    write_all(fileno(file), data, sizeof(data));
    lseek(fileno(file), 0, SEEK_SET);
    stdio.input = fileno(file);
    stdio.output = open("/dev/null", O_WRONLY | O_CLOEXEC);
    create(&stdio);
    loop_start(&stdio.loop);
    front_end_read(&stdio.front_end, got, sizeof(got), 16);
    cr_assert_eq(memcmp(got, data, sizeof(data)), 0);
    loop_stop(&stdio.loop);
    finish(&stdio);
}

Test(chardev, says_once_that_nobody_reads_any_more)
{
    struct stdio stdio;
    init(&stdio);
    create_with_pipes(&stdio);
    close(stdio.host_output);
    for (int i = 0; i < 10000; i++)
        cr_assert_eq(chardev_write(stdio.chardev, "abc", 3), 3);
    cr_assert_eq(stdio.failures, 1);
    cr_assert_str_eq(stdio.message, "standard output is closed: nobody reads it any more");
    finish(&stdio);
}

Test(chardev, a_reader_that_goes_lets_the_writer_go_on)
{
    struct stdio stdio;
    init(&stdio);
    create_with_pipes(&stdio);
    loop_start(&stdio.loop);
    uint8_t data[4096] = {0};
    while (chardev_write(stdio.chardev, data, sizeof(data)) == sizeof(data))
        ;
    close(stdio.host_output);
    wait_event(&stdio.front_end, &stdio.front_end.writable);
    cr_assert_eq(chardev_write(stdio.chardev, data, sizeof(data)), sizeof(data));
    loop_stop(&stdio.loop);
    cr_assert_eq(stdio.failures, 1);
    finish(&stdio);
}

Test(chardev, reports_a_full_disk_under_standard_output)
{
    struct stdio stdio;
    init(&stdio);
    stdio.input = -1;
    stdio.output = open("/dev/full", O_WRONLY | O_CLOEXEC);
    create(&stdio);
    cr_assert_eq(chardev_write(stdio.chardev, "abc", 3), 3);
    cr_assert_eq(stdio.failures, 1);
    cr_assert_str_eq(stdio.message, "cannot write to standard output: No space left on device");
    finish(&stdio);
}

Test(chardev, refuses_a_standard_output_that_cannot_be_written)
{
    struct stdio stdio;
    struct error err;
    init(&stdio);
    cr_assert_eq(chardev_create_stdio(&stdio.config, 0, 1000, &stdio.chardev, &err), -EBADF);
    cr_assert(strstr(err.message, "standard output is closed"), "%s", err.message);
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    cr_assert_eq(chardev_create_stdio(&stdio.config, 0, fd, &stdio.chardev, &err), -EBADF);
    cr_assert(strstr(err.message, "not open for writing"), "%s", err.message);
    event_loop_destroy(stdio.loop.loop);
}

/* Neither a terminal nor a socket of which nobody reads the other end may hold the writer up. */
static void check_never_blocks(struct stdio *stdio)
{
    create(stdio);
    uint8_t data[16] = {0};
    size_t taken = 0;
    while (chardev_write(stdio->chardev, data, sizeof(data)) == sizeof(data))
        taken += sizeof(data);
    cr_assert_geq(taken, 4096 - sizeof(data));
    cr_assert_eq(fcntl(stdio->output, F_GETFL) & O_NONBLOCK, 0);
    int interrupt = eventfd(1, EFD_CLOEXEC);
    cr_assert_eq(chardev_flush(stdio->chardev, interrupt), -EINTR);
    close(interrupt);
    finish(stdio);
}

Test(chardev, never_blocks_on_a_terminal)
{
    struct stdio stdio;
    struct termios raw;
    int master;
    init(&stdio);
    cfmakeraw(&raw);
    cr_assert_eq(openpty(&master, &stdio.output, NULL, &raw, NULL), 0);
    stdio.input = stdio.output;
    check_never_blocks(&stdio);
}

Test(chardev, never_blocks_on_a_socket)
{
    struct stdio stdio;
    int ends[2];
    init(&stdio);
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends), 0);
    stdio.input = stdio.output = ends[0];
    check_never_blocks(&stdio);
}

Test(chardev, never_blocks_on_a_pipe)
{
    struct stdio stdio;
    int ends[2];
    init(&stdio);
    cr_assert_eq(pipe2(ends, O_CLOEXEC), 0);
    stdio.input = -1;
    stdio.output = ends[1];
    check_never_blocks(&stdio);
}

static void *read_slowly(void *opaque)
{
    struct stdio *stdio = opaque;
    static uint8_t data[300000];
    for (size_t done = 0; done < sizeof(data);) {
        ssize_t count = read(stdio->host_output, data + done, 100);
        if (count <= 0)
            abort();
        done += (size_t)count;
    }
    for (size_t i = 0; i < sizeof(data); i++)
        stdio->filtered += data[i] != pattern(i);
    return NULL;
}

Test(chardev, flush_waits_for_the_reader)
{
    struct stdio stdio;
    static uint8_t data[300000];
    init(&stdio);
    create_with_pipes(&stdio);
    fill_pattern(data, sizeof(data));
    pthread_t reader;
    pthread_create(&reader, NULL, read_slowly, &stdio);
    for (size_t done = 0; done < sizeof(data);) {
        done += chardev_write(stdio.chardev, data + done, sizeof(data) - done);
        cr_assert_eq(chardev_flush(stdio.chardev, -1), 0);
    }
    pthread_join(reader, NULL);
    cr_assert_eq(stdio.filtered, 0);
    finish(&stdio);
}

/* Removes every 'x', and counts what it sees. */
static size_t filter(void *opaque, uint8_t *data, size_t count)
{
    struct stdio *stdio = opaque;
    size_t kept = 0;
    for (size_t i = 0; i < count; i++)
        if (data[i] != 'x')
            data[kept++] = data[i];
    pthread_mutex_lock(&stdio->lock);
    stdio->filtered += count;
    pthread_cond_broadcast(&stdio->changed);
    pthread_mutex_unlock(&stdio->lock);
    return kept;
}

Test(chardev, filter_sees_input_that_the_guest_does_not_take)
{
    struct stdio stdio;
    init(&stdio);
    stdio.config.filter = filter;
    stdio.config.filter_opaque = &stdio;
    create_with_pipes(&stdio);
    loop_start(&stdio.loop);
    static char text[100000];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = i % 4 ? 'a' + (char)(i % 7) : 'x';
    write_all(stdio.host_input, text, sizeof(text));
    pthread_mutex_lock(&stdio.lock);
    while (stdio.filtered < sizeof(text))
        pthread_cond_wait(&stdio.changed, &stdio.lock);
    pthread_mutex_unlock(&stdio.lock);
    static char got[75000];
    front_end_read(&stdio.front_end, got, sizeof(got), 16);
    for (size_t i = 0, j = 0; i < sizeof(text); i++)
        if (i % 4)
            cr_assert_eq(got[j++], text[i]);
    loop_stop(&stdio.loop);
    finish(&stdio);
}

struct file {
    struct loop_thread loop;
    struct test_log log;
    struct chardev_config config;
    struct chardev *chardev;
    char folder[32], path[64], text[4096];
};

static void init_file(struct file *file)
{
    *file = (struct file){.folder = "/tmp/godwit-test-XXXXXX"};
    cr_assert(mkdtemp(file->folder));
    snprintf(file->path, sizeof(file->path), "%s/console", file->folder);
    test_log_init(&file->log);
    loop_create(&file->loop);
    file->config = (struct chardev_config){.loop = file->loop.loop, .log = &file->log.log};
}

static void finish_file(struct file *file)
{
    chardev_destroy(file->chardev);
    event_loop_destroy(file->loop.loop);
    unlink(file->path);
    rmdir(file->folder);
}

Test(chardev, file_gets_all_output)
{
    struct file file;
    struct error err;
    init_file(&file);
    int fd = open(file.path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    write_all(fd, "something that was there before", 31);
    close(fd);
    cr_assert_eq(chardev_create_file(&file.config, file.path, &file.chardev, &err), 0, "%s", err.message);
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(chardev_write(file.chardev, "0123456789", 10), 10);
    char byte;
    cr_assert_eq(chardev_read(file.chardev, &byte, 1), 0);
    cr_assert_eq(chardev_flush(file.chardev, -1), 0);
    struct stat status;
    cr_assert_eq(stat(file.path, &status), 0);
    cr_assert_eq(status.st_size, 10000);
    finish_file(&file);
}

Test(chardev, file_that_cannot_be_opened_is_an_error)
{
    struct file file;
    struct error err;
    init_file(&file);
    cr_assert_eq(chardev_create_file(&file.config, "/nowhere/console", &file.chardev, &err), -ENOENT);
    cr_assert_str_eq(err.message,
                     "cannot write the guest's output to /nowhere/console: No such file or directory");
    cr_assert_eq(chardev_create_file(&file.config, file.folder, &file.chardev, &err), -EISDIR);
    cr_assert_eq(mkfifo(file.path, 0600), 0);
    cr_assert_eq(chardev_create_file(&file.config, file.path, &file.chardev, &err), -ENXIO);
    cr_assert(strstr(err.message, "nobody has it open for reading"));
    finish_file(&file);
}

Test(chardev, file_on_a_full_disk_is_reported_once_and_does_not_stop_the_guest)
{
    struct file file;
    struct error err;
    init_file(&file);
    cr_assert_eq(chardev_create_file(&file.config, "/dev/full", &file.chardev, &err), 0);
    for (int i = 0; i < 10000; i++)
        cr_assert_eq(chardev_write(file.chardev, "abc", 3), 3);
    cr_assert_str_eq(test_log_take(&file.log, file.text),
                     "godwit: error: cannot write to /dev/full: No space left on device; "
                     "the guest's output is dropped until that changes\n");
    finish_file(&file);
}

Test(chardev, none_takes_everything_and_gives_nothing)
{
    struct chardev *chardev;
    struct error err;
    char byte;
    cr_assert_eq(chardev_create_none(&(struct chardev_config){0}, &chardev, &err), 0);
    for (int i = 0; i < 100000; i++)
        cr_assert_eq(chardev_write(chardev, "abc", 3), 3);
    cr_assert_eq(chardev_read(chardev, &byte, 1), 0);
    cr_assert_eq(chardev_flush(chardev, -1), 0);
    chardev_destroy(chardev);
}
