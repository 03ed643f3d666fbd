#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "front_end.h"

#define KEPT (1 << 20)

struct server {
    struct loop_thread loop;
    struct test_log log;
    struct chardev_config config;
    struct chardev *chardev;
    struct front_end front_end;
    char folder[32], path[64];
    struct error err;
};

static void init(struct server *server)
{
    *server = (struct server){.folder = "/tmp/godwit-test-XXXXXX"};
    cr_assert(mkdtemp(server->folder));
    snprintf(server->path, sizeof(server->path), "%s/console", server->folder);
    test_log_init(&server->log);
    loop_create(&server->loop);
    server->config = (struct chardev_config){.loop = server->loop.loop, .log = &server->log.log};
}

static void start(struct server *server)
{
    init(server);
    cr_assert_eq(chardev_create_unix(&server->config, server->path, &server->chardev, &server->err), 0, "%s",
                 server->err.message);
    front_end_attach(&server->front_end, server->chardev);
    loop_start(&server->loop);
}

static void remove_server(struct server *server)
{
    chardev_destroy(server->chardev);
    event_loop_destroy(server->loop.loop);
    cr_assert_eq(access(server->path, F_OK), -1, "the socket is removed");
    cr_assert_eq(rmdir(server->folder), 0, "nothing is left behind");
}

static void stop(struct server *server)
{
    loop_stop(&server->loop);
    remove_server(server);
}

static int connect_to(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
    return fd;
}

static void expect(int client, const char *text)
{
    char got[100] = {0};
    read_all(client, got, strlen(text));
    cr_assert_str_eq(got, text);
}

static void print(struct server *server, const char *text)
{
    front_end_write(&server->front_end, text, strlen(text));
}

Test(chardev_unix, keeps_output_until_a_client_comes)
{
    struct server server;
    start(&server);
    print(&server, "early ");
    print(&server, "words");
    int client = connect_to(server.path);
    expect(client, "early words");
    print(&server, ", later words");
    expect(client, ", later words");
    close(client);
    stop(&server);
}

Test(chardev_unix, a_client_that_came_at_the_last_moment_gets_what_was_kept)
{
    struct server server;
    start(&server);
    print(&server, "last words");
    loop_stop(&server.loop);
    int client = connect_to(server.path);
    cr_assert_eq(chardev_flush(server.chardev, -1), 0);
    expect(client, "last words");
    close(client);
    remove_server(&server);
}

Test(chardev_unix, survives_clients_coming_and_going)
{
    struct server server;
    start(&server);
    for (int i = 0; i < 200; i++) {
        char text[40];
        snprintf(text, sizeof(text), "while nobody listens %d\n", i);
        print(&server, text);
        int client = connect_to(server.path);
        expect(client, text);
        print(&server, "hello");
        expect(client, "hello");
        write_all(client, "bye", 3);
        char got[3];
        front_end_read(&server.front_end, got, 3, 3);
        cr_assert_eq(memcmp(got, "bye", 3), 0);
        close(client);
    }
    stop(&server);
}

/* Output that a client has not been sent, because it has gone, is for the next. */
Test(chardev_unix, loses_nothing_as_a_client_goes)
{
    struct server server;
    start(&server);
    for (int i = 0; i < 200; i++) {
        int first = connect_to(server.path);
        print(&server, "one");
        expect(first, "one");
        close(first);
        print(&server, "two");
        int second = connect_to(server.path);
        expect(second, "two");
        close(second);
    }
    stop(&server);
}

Test(chardev_unix, says_how_much_did_not_fit)
{
    struct server server;
    start(&server);
    enum {
        TOO_MUCH = 12345
    };
    static uint8_t data[KEPT + TOO_MUCH], got[KEPT];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    for (size_t i = 0; i < sizeof(data); i += 577)
        front_end_write(&server.front_end, data + i, sizeof(data) - i < 577 ? sizeof(data) - i : 577);
    int client = connect_to(server.path);
    expect(client, "[godwit: 12345 bytes of earlier output were dropped]\r\n");
    read_all(client, got, KEPT);
    cr_assert_eq(memcmp(got, data + TOO_MUCH, KEPT), 0);
    close(client);
    print(&server, "x");
    client = connect_to(server.path);
    expect(client, "x");
    close(client);
    stop(&server);
}

Test(chardev_unix, keeps_the_end_of_one_huge_write)
{
    struct server server;
    start(&server);
    static uint8_t data[KEPT + 100], got[KEPT];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    print(&server, "overwritten");
    cr_assert_eq(chardev_write(server.chardev, data, sizeof(data)), sizeof(data));
    int client = connect_to(server.path);
    expect(client, "[godwit: 111 bytes of earlier output were dropped]\r\n");
    read_all(client, got, KEPT);
    cr_assert_eq(memcmp(got, data + 100, KEPT), 0);
    close(client);
    stop(&server);
}

static void *read_slowly(void *opaque)
{
    int client = *(int *)opaque;
    uint8_t data[100];
    size_t wrong = 0;
    for (size_t done = 0; done < 3 * KEPT;) {
        ssize_t count = read(client, data, sizeof(data));
        if (count <= 0)
            return (void *)-1;
        for (ssize_t i = 0; i < count; i++)
            wrong += data[i] != pattern(done++);
    }
    return (void *)wrong;
}

Test(chardev_unix, slow_client_slows_the_guest)
{
    struct server server;
    start(&server);
    int client = connect_to(server.path);
    static uint8_t data[3 * KEPT];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    /* One byte makes sure that the client is there before there is more than is kept for it. */
    front_end_write(&server.front_end, data, 1);
    uint8_t byte;
    cr_assert_eq(recv(client, &byte, 1, MSG_PEEK), 1);
    cr_assert_lt(chardev_write(server.chardev, data + 1, sizeof(data) - 1), sizeof(data) - 1);
    stop(&server);
    start(&server);
    close(client);
    client = connect_to(server.path);
    front_end_write(&server.front_end, data, 1);
    cr_assert_eq(recv(client, &byte, 1, MSG_PEEK), 1);
    pthread_t reader;
    pthread_create(&reader, NULL, read_slowly, &client);
    front_end_write(&server.front_end, data + 1, sizeof(data) - 1);
    void *wrong;
    pthread_join(reader, &wrong);
    cr_assert_eq(wrong, NULL);
    close(client);
    stop(&server);
}

Test(chardev_unix, client_that_dies_does_not_stop_the_guest)
{
    struct server server;
    start(&server);
    int client = connect_to(server.path);
    char data[4096] = {0};
    print(&server, "x");
    expect(client, "x");
    while (chardev_write(server.chardev, data, sizeof(data)) == sizeof(data))
        ;
    close(client);
    wait_event(&server.front_end, &server.front_end.writable);
    for (int i = 0; i < 1000; i++)
        cr_assert_eq(chardev_write(server.chardev, data, sizeof(data)), sizeof(data));
    stop(&server);
}

Test(chardev_unix, second_client_waits_for_the_first_to_go)
{
    struct server server;
    start(&server);
    int first = connect_to(server.path);
    print(&server, "one");
    expect(first, "one");
    int second = connect_to(server.path);
    print(&server, "two");
    expect(first, "two");
    close(first);
    print(&server, "three");
    expect(second, "three");
    close(second);
    stop(&server);
}

Test(chardev_unix, half_closed_client_still_gets_output)
{
    struct server server;
    start(&server);
    int client = connect_to(server.path);
    write_all(client, "question", 8);
    shutdown(client, SHUT_WR);
    char got[8];
    front_end_read(&server.front_end, got, 8, 8);
    for (int i = 0; i < 100; i++) {
        print(&server, "answer");
        expect(client, "answer");
    }
    close(client);
    client = connect_to(server.path);
    print(&server, "more");
    expect(client, "more");
    close(client);
    stop(&server);
}

Test(chardev_unix, gives_the_guest_what_a_client_sent_before_it_went)
{
    struct server server;
    start(&server);
    static uint8_t data[100000], got[100000];
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = pattern(i);
    int client = connect_to(server.path);
    write_all(client, data, sizeof(data));
    close(client);
    front_end_read(&server.front_end, got, sizeof(got), 16);
    cr_assert_eq(memcmp(got, data, sizeof(data)), 0);
    print(&server, "done");
    client = connect_to(server.path);
    expect(client, "done");
    close(client);
    stop(&server);
}

Test(chardev_unix, input_that_nobody_reads_does_not_keep_others_out)
{
    struct server server;
    start(&server);
    static uint8_t data[100000];
    int first = connect_to(server.path);
    write_all(first, data, sizeof(data));
    close(first);
    int second = connect_to(server.path);
    print(&server, "welcome");
    expect(second, "welcome");
    write_all(second, "!", 1);
    uint8_t byte = 0;
    size_t before = 0;
    do {
        front_end_read(&server.front_end, &byte, 1, 1);
        before += byte != '!';
    } while (byte != '!');
    cr_assert_leq(before, sizeof(data));
    close(second);
    stop(&server);
}

Test(chardev_unix, is_for_this_user_alone)
{
    struct server server;
    start(&server);
    struct stat status;
    cr_assert_eq(stat(server.path, &status), 0);
    cr_assert_eq(status.st_mode & 0777, 0600);
    stop(&server);
}

Test(chardev_unix, replaces_a_socket_that_nobody_listens_on)
{
    struct server server;
    init(&server);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof(address.sun_path), "%s", server.path);
    int stale = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    cr_assert_eq(bind(stale, (struct sockaddr *)&address, sizeof(address)), 0);
    close(stale);
    cr_assert_eq(access(server.path, F_OK), 0);
    cr_assert_eq(chardev_create_unix(&server.config, server.path, &server.chardev, &server.err), 0, "%s",
                 server.err.message);
    close(connect_to(server.path));
    remove_server(&server);
}

Test(chardev_unix, leaves_a_live_listener_alone)
{
    struct server server;
    start(&server);
    print(&server, "for a real client");
    struct chardev *other;
    struct error err;
    cr_assert_eq(chardev_create_unix(&server.config, server.path, &other, &err), -EADDRINUSE);
    cr_assert(strstr(err.message, "another process does"), "%s", err.message);
    int client = connect_to(server.path);
    expect(client, "for a real client");
    close(client);
    stop(&server);
}

Test(chardev_unix, leaves_what_is_not_a_socket_alone)
{
    struct server server;
    init(&server);
    fclose(fopen(server.path, "w"));
    cr_assert_eq(chardev_create_unix(&server.config, server.path, &server.chardev, &server.err), -EEXIST);
    cr_assert(strstr(server.err.message, "is not a socket"), "%s", server.err.message);
    cr_assert_eq(unlink(server.path), 0, "it is still there");
    remove_server(&server);
}

Test(chardev_unix, does_not_remove_what_has_taken_its_place)
{
    struct server server;
    start(&server);
    loop_stop(&server.loop);
    unlink(server.path);
    fclose(fopen(server.path, "w"));
    chardev_destroy(server.chardev);
    server.chardev = NULL;
    cr_assert_eq(unlink(server.path), 0, "it is still there");
    remove_server(&server);
}

Test(chardev_unix, says_what_is_wrong_with_a_path)
{
    struct server server;
    init(&server);
    char path[200];
    memset(path, 'p', sizeof(path));
    path[108] = '\0';
    cr_assert_eq(chardev_create_unix(&server.config, path, &server.chardev, &server.err), -ENAMETOOLONG);
    cr_assert(strstr(server.err.message, "at most 107 bytes, and this one has 108"), "%s",
              server.err.message);
    cr_assert_eq(chardev_create_unix(&server.config, "", &server.chardev, &server.err), -EINVAL);
    cr_assert_eq(chardev_create_unix(&server.config, "/nowhere/socket", &server.chardev, &server.err),
                 -ENOENT);
    cr_assert_str_eq(server.err.message, "cannot listen on /nowhere/socket: No such file or directory");
    remove_server(&server);
}
